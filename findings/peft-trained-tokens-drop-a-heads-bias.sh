#!/usr/bin/env bash
# peft 0.21.2: trainable tokens leave out the bias of a head, before the first step and without a word.
# Where the head is tied to the embeddings, as BERT's for masked words is, peft wraps it too, and that wrapper computes
# F.linear(x, weight) with the rows put in, without the layer's bias. A new adapter, which should change nothing, gives
# other logits for every token of the vocabulary; with the adapter off they are the base's. The same holds for
# LoraConfig(trainable_token_indices=...) and for heads that are named, such as those of Phi and GPT-J.
# Seen with transformers 5.23.0 and torch 2.13.0 on 2026-11-29. Fails if that changes.
#
# What tunelift does: it refuses to train tokens where the head has a bias.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from peft import TrainableTokensConfig, get_peft_model
from transformers import BertConfig, BertForMaskedLM

print("peft", version("peft"), "transformers", version("transformers"))
torch.manual_seed(0)
sizes = dict(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
base = BertForMaskedLM(BertConfig(**sizes)).eval()
torch.nn.init.normal_(base.cls.predictions.bias)
ids = torch.arange(5, 12)[None]
with torch.no_grad():
    bias = base.cls.predictions.bias.clone()
    before = base(input_ids=ids).logits
    new = get_peft_model(base, TrainableTokensConfig(token_indices=[50])).eval()
    after = new(input_ids=ids).logits
    with new.disable_adapter():
        off = new(input_ids=ids).logits
print("a new adapter changes the logits by", float((after - before).abs().max()))
print("and by this once the bias is added:", float((after + bias - before).abs().max()))
assert torch.equal(off, before), "it does not switch off"
assert (after - before).abs().max() > 0.1, "it keeps the bias now"
assert torch.allclose(after + bias, before, atol=1e-5), "something else is missing too"
PY
