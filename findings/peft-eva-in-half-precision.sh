#!/usr/bin/env bash
# peft 0.21.2: EVA on a base in bfloat16 leaves some layers of the adapter in bfloat16. get_peft_model promises adapters
# in float32 whatever the base's precision (autocast_adapter_dtype), and keeps that until the vectors are put in:
# initialize_lora_eva_weights makes every layer whose rank it changes anew, in the base's precision. Nothing is said, and
# the two kinds train unlike each other: at a rate of 1e-4 a step is less than bfloat16 can tell at most of A's numbers,
# so that most of these layers' A stays as it began, and all of the others' moves. With rho=1.0, which changes no rank,
# all is float32.
# Seen with transformers 5.23.0 and torch 2.13.0 on 2026-11-29. Fails if that changes.
#
# What tunelift does: it makes them float32 again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights
from transformers import LlamaConfig, LlamaForCausalLM

print("peft", version("peft"), "transformers", version("transformers"))
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
ids = torch.randint(1, 64, (8, 24), generator=torch.Generator().manual_seed(0))
rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def begun(rho):
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.3)).to(torch.bfloat16)
    how = dict(target_modules="all-linear", r=4, init_lora_weights="eva", eva_config=EvaConfig(rho=rho))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **how))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    initialize_lora_eva_weights(model, [rows], show_progress_bar=False)
    return model


def moved(model):
    """Return which share of A's numbers thirty steps of AdamW at 1e-4 move, by their precision."""
    firsts = {name: p for name, p in model.named_parameters() if "lora_A" in name}
    before = {name: p.detach().clone() for name, p in firsts.items()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0)
    for _ in range(30):
        model(**rows).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    found = {}
    for name, p in firsts.items():
        found.setdefault(p.dtype, []).append((p != before[name]).flatten())
    return {dtype: float(torch.cat(parts).float().mean()) for dtype, parts in found.items()}


shares = moved(begun(2.0))
for dtype, share in shares.items():
    print(f"A's numbers in {dtype}: {share:.0%} moved")
same = moved(begun(1.0))
print("with rho=1.0:", {str(dtype): f"{share:.0%} moved" for dtype, share in same.items()})
assert shares.keys() == {torch.float32, torch.bfloat16}, "all in one precision now"
assert shares[torch.bfloat16] < 0.5 < 0.9 < shares[torch.float32], "it makes no difference now"
assert same.keys() == {torch.float32}
PY
