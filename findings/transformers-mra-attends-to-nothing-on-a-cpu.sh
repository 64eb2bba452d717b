#!/usr/bin/env bash
# transformers 5.23.0: an MRA model on a CPU has no attention. Each token's answer is that of the token alone.
# Its attention needs a kernel in CUDA, which is fetched where there is a GPU. Without it `mra2_attention` returns zeros
# of the right shape, marked as if they had a gradient, and nothing is said: no warning, no error. A classifier reads
# its first token, which is the same in every row, and so gives every text the same logits. Query, key and value get no
# gradient at all: a LoRA on them stays as it began. BERT of the same sizes, beside it, tells the texts apart.
# Seen with torch 2.13.0 on 2026-12-01. Fails if that changes.
#
# What tunelift does: nothing. It measures and trains what transformers computes, on a CPU a model of single tokens; a
# run says so in its own way, by a classifier that finds no more than the most frequent label.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet transformers==5.23.0 torch==2.13.0
CUDA_VISIBLE_DEVICES="" "$folder/env/bin/python" - <<'PY'
from importlib.metadata import version

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MraConfig,
    MraForSequenceClassification,
)

print("transformers", version("transformers"), "torch", version("torch"))
sizes = dict(vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
sizes |= dict(max_position_embeddings=128, initializer_range=0.3, num_labels=3)
ids = torch.randint(3, 64, (8, 64), generator=torch.Generator().manual_seed(0))
ids[:, 0] = 1  # what every text begins with, as a tokenizer puts it
rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(8) % 3}


def looked_at(model):
    """Return how far eight texts' logits lie apart, and which of the first layer's attention has a gradient."""
    model.eval()
    found = model(**rows)
    found.loss.backward()
    layers = {name.split(".")[-2]: p for name, p in model.named_parameters() if ".0.attention.self." in name}
    learns = [name for name, p in layers.items() if p.grad is not None and p.grad.abs().max() > 0]
    return (found.logits - found.logits[:1]).abs().max().item(), learns


torch.manual_seed(0)
bert = looked_at(BertForSequenceClassification(BertConfig(**sizes)))
mra = looked_at(MraForSequenceClassification(MraConfig(**sizes)))
for name, (apart, learns) in (("BERT", bert), ("MRA", mra)):
    print(f"{name}: logits of eight texts lie {apart:.1e} apart; with a gradient: {', '.join(learns) or 'none'}")
assert bert[0] > 0.1 and bert[1] == ["query", "key", "value"], "the comparison is not sound"
assert mra[0] < 1e-5, "its tokens see each other now"
assert mra[1] == [], "its attention is trained now"
PY
