#!/usr/bin/env bash
# peft 0.21.2: an adapter is saved with none, or fewer, of its tensors where ANOTHER adapter of the model is called like a
# part of the modules' path. With one called "layers" beside it, "default" is written without a single tensor; with
# "q_proj" its query layers are missing. save_pretrained returns as ever, and what it wrote loads as an untrained adapter.
# Seen with transformers 5.23.0 and torch 2.13.0 on 2026-11-28. Fails if that changes.
#
# What tunelift does: it takes the tensors of the adapter that is saved by their own name, whatever others are called, and
# proves after every tune that the file holds all that was trained.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - "$folder" <<'PY'
import sys
import warnings
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

print("peft", version("peft"), "transformers", version("transformers"))
sizes = dict(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
found = {}
for other in ("other", "layers", "q_proj"):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes)), config)
    model.add_adapter(other, config)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.save_pretrained(f"{sys.argv[1]}/{other}", selected_adapters=["default"])
    with safe_open(f"{sys.argv[1]}/{other}/adapter_model.safetensors", "pt") as weights:
        found[other] = len(weights.keys())
    print(f'"default" beside an adapter called "{other}": {found[other]} of 8 tensors saved, warnings: {len(said)}')
assert found["other"] == 8, found
assert found["layers"] == 0 and found["q_proj"] < 8, f"peft saves them whole now: {found}"
PY
