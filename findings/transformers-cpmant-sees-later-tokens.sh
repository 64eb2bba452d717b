#!/usr/bin/env bash
# transformers 5.23.0: CpmAntForCausalLM reads the whole row, later tokens too, and takes no notice of attention_mask.
# Its forward pass marks every token as context, which all others see. So the logits at a token change with the next
# one, and the loss of `forward(labels=...)` is that of a model that was told the answer; a mask changes no logit.
# Generation alone, a token at a time behind a cache, is what it was made for.
# Seen with torch 2.13.0 on 2026-11-30. Fails if that changes.
#
# What tunelift does: a causal model is asked two rows first that differ in their last token; where the logits before it
# differ (XLNet's do too, XLM's without `causal`, and BERT's without `is_decoder`) it is refused for the next token.
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
with torch.no_grad():
    one = model(input_ids=torch.tensor([[7, 8, 9, 10]])).logits
    other = model(input_ids=torch.tensor([[7, 8, 9, 33]])).logits
    hidden = model(input_ids=torch.tensor([[7, 8, 9, 10]]), attention_mask=torch.tensor([[0, 0, 1, 1]])).logits
moved = float((one[0, 0] - other[0, 0]).abs().max())
print("another fourth token changes the first token's logits by", moved)
print("two tokens hidden by the mask change all logits by", float((one - hidden).abs().max()))
assert moved > 0.1, "it reads forward now"
assert torch.equal(one, hidden), "the mask is read now"
PY
