#!/usr/bin/env bash
# seqeval 1.2.2: a tag without an IOB prefix loses its first letter instead of being refused. "LOC" and "DOC" are then the
# same entity, "OC", so that a wrong prediction has an F1 of 1.0; "ORG" begins with "O" and is outside, so that finding it
# counts for nothing. Only a warning on standard error says anything. Seen with numpy 2.4.6 on 2026-11-28. Fails if that
# changes.
#
# What tunelift does: it has no task of token tags yet, and refuses files of tagged tokens by name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet seqeval==1.2.2 numpy==2.4.6 scikit-learn==1.9.1
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities

print("seqeval", version("seqeval"))
wrong = f1_score([["LOC", "O"]], [["DOC", "O"]])
print("F1 of DOC where LOC is right:", wrong)
found = get_entities(["O", "ORG", "ORG", "O", "LOC"])
print("entities of O ORG ORG O LOC:", found)
assert wrong == 1.0, "a wrong tag is wrong now"
assert found == [("OC", 4, 4)], "entities are found otherwise now"
PY
