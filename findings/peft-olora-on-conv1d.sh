#!/usr/bin/env bash
# peft 0.21.2: OLoRA on a square Conv1D layer (GPT-2's attn.c_proj) makes another model before the first step. It begins
# with factors of the weight and takes them out of the base, so that the function stays the same; of a Conv1D, whose
# weight lies the other way round, it takes the factors of the wrong side. A layer that is not square raises an error
# about shapes, a square one is accepted and nothing is said. PiSSA on the same layer is right.
# Seen with transformers 5.23.0 and torch 2.13.0 on 2026-11-29. Fails if that changes.
#
# What tunelift does: OLoRA is refused on models with such layers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

print("peft", version("peft"), "transformers", version("transformers"))
ids, apart = torch.arange(1, 12)[None], {}
for begin in ("olora", "pissa"):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5)
    base = GPT2LMHeadModel(config).eval()
    how = dict(task_type="CAUSAL_LM", target_modules=["attn.c_proj"], init_lora_weights=begin, fan_in_fan_out=True)
    with torch.no_grad():
        before = base(input_ids=ids).logits
        after = get_peft_model(base, LoraConfig(**how)).eval()(input_ids=ids).logits
    apart[begin] = float((after - before).norm() / before.norm())
    print(f"{begin}: logits before the first step, apart from the base's by {apart[begin]:.6f} of their size")
assert apart["olora"] > 0.05 > 1e-3 > apart["pissa"], "it begins as the base now, or PiSSA does not"
PY
