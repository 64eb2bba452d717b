#!/usr/bin/env bash
# torchmetrics 1.9.0: by SQuAD's metric "-5" is "5", "3.5" is "35", and "50%" is "50".
# It takes all punctuation out of both answers first, as the metric was defined for words in passages. A model that
# loses every sign and decimal point has an exact match of 100. So does every other copy of SQuAD's script.
# Seen with torch 2.13.0 on 2026-11-30. Fails if that changes.
#
# What tunelift does: in its squad_exact_match and squad_f1 the point and the sign of a number count (docs/tasks.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from torchmetrics.functional.text import squad

print("torchmetrics", version("torchmetrics"))
for said, right in (("-5", "5"), ("3.5", "35"), ("50%", "50")):
    found = squad(
        [{"id": "1", "prediction_text": said}], [{"id": "1", "answers": {"text": [right], "answer_start": [0]}}]
    )
    print(f"{said!r} for {right!r}: exact match {float(found['exact_match']):.0f}, F1 {float(found['f1']):.0f}")
    assert float(found["exact_match"]) == 100, "punctuation counts now"
other = squad([{"id": "1", "prediction_text": "6"}], [{"id": "1", "answers": {"text": ["5"], "answer_start": [0]}}])
assert float(other["exact_match"]) == 0
PY
