#!/usr/bin/env bash
# transformers 5.23.0: CPM-Ant takes an attention_mask and does nothing with it.
# Its forward pass makes its own mask of where the padding id, 0, begins on the left; a mask that says otherwise changes
# no logit, and rows that are padded on the right, as in training, are padded in nobody's eyes: what is real sees the
# padding wherever the model looks ahead.
# Seen with torch 2.13.0 on 2026-11-30. Fails if that changes.
#
# What tunelift does: every model is tried on a padded row first, and where its answers differ rows go one by one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from transformers import CpmAntConfig, CpmAntForCausalLM

print("transformers", version("transformers"))
torch.manual_seed(0)
config = CpmAntConfig(
    vocab_size=60, hidden_size=16, num_attention_heads=2, dim_head=8, dim_ff=32, num_hidden_layers=1, prompt_length=2,
    prompt_types=4, segment_types=4,
)
model = CpmAntForCausalLM(config).eval()
ids = torch.tensor([[7, 8, 9, 10]])
with torch.no_grad():
    whole = model(input_ids=ids).logits
    hidden = model(input_ids=ids, attention_mask=torch.tensor([[0, 0, 1, 1]])).logits
print("two of four tokens hidden by the mask change the logits by", float((whole - hidden).abs().max()))
assert torch.equal(whole, hidden), "the mask is read now"
PY
