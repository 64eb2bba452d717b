#!/usr/bin/env bash
# evalci 0.1.0: the interval of a paired comparison excludes 0 where its own p is above 5%. Five items of five that went
# from wrong to right get an interval without width, "exactly +1.0", beside p = 0.0625; four of six and five of eight are
# contradicted in the same way. The interval is a percentile bootstrap, which knows no differences but those it saw, and p
# is a permutation test's. Seen with numpy 2.4.6 on 2026-11-28. Fails if that changes.
#
# What tunelift does: one exact test for right/wrong items, and an interval that inverts it, so that the two cannot differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet evalci==0.1.0 numpy==2.4.6 scipy==1.17.1
"$folder/env/bin/python" - <<'PY'
import evalci
from importlib.metadata import version

print("evalci", version("evalci"))
for gained, items in ((5, 5), (4, 6), (5, 8)):
    found = evalci.compare([1] * gained + [0] * (items - gained), [0] * items, random_state=0)
    print(f"{gained} of {items} items gained, none lost: interval {found.ci}, p = {found.p_value}")
    assert found.ci[0] > 0 and found.p_value > 0.05, "interval and p agree now"
print("The interval says shown, p says not shown.")
PY
