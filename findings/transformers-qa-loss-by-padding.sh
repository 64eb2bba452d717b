#!/usr/bin/env bash
# transformers 5.23.0: the loss of a model for extractive question answering depends on how far rows are padded, and a
# position to be ignored trains the first token. The softmax over where an answer begins runs over padding as well,
# whatever the attention mask says, and the loss clamps positions to 0 at the least before it ignores those equal to the
# row's length: -100, which every other loss of the library ignores, becomes "the answer begins at token 0".
# Seen with torch 2.13.0 on 2026-11-29. Fails if that changes.
#
# What tunelift does: its loss is that of transformers without padding, padding is no place for an answer, and an
# ignored position is ignored.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from transformers import BertConfig, BertForQuestionAnswering

print("transformers", version("transformers"))
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
model = BertForQuestionAnswering(BertConfig(**sizes)).eval()


def loss(padding, start, end):
    ids = torch.tensor([[*range(1, 13), *[0] * padding]])
    mask = torch.tensor([[1] * 12 + [0] * padding])
    at = {"start_positions": torch.tensor([start]), "end_positions": torch.tensor([end])}
    return float(model(input_ids=ids, attention_mask=mask, **at).loss)


own = [loss(padding, 5, 7) for padding in (0, 12, 100)]
print("the same row without padding, with 12 and with 100 tokens of it:", *(f"{one:.4f}" for one in own))
ignored, first = loss(0, -100, -100), loss(0, 0, 0)
print(f"positions of -100: {ignored:.4f}; positions of 0: {first:.4f}")
assert own[0] + 0.3 < own[1] < own[2] - 0.3, "padding makes no difference now"
assert ignored == first, "-100 is ignored now"
PY
