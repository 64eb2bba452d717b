#!/usr/bin/env bash
# transformers 5.23.0 with peft 0.21.2: a LoRA on the shared experts of a Laguna model is saved whole and not read back.
# The renaming for old checkpoints, from "mlp.shared_expert." to "mlp.shared_experts.", is used as a regular expression:
# its last dot fits the "s" of the new name, which becomes "mlp.shared_experts..gate_proj". from_pretrained then leaves
# these layers as they were drawn. Seen with torch 2.13.0 on 2026-11-28. Fails if that changes.
#
# What tunelift does: before training it looks whether peft finds again what it would save, and refuses such layers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - "$folder/adapter" <<'PY'
import sys
import warnings
from importlib.metadata import version

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", version("transformers"), "peft", version("peft"))
sizes = dict(vocab_size=64, hidden_size=16, intermediate_size=16, moe_intermediate_size=16, num_attention_heads=2)
sizes |= dict(num_key_value_heads=1, head_dim=8, num_experts=4, num_experts_per_tok=2, num_hidden_layers=3)
sizes |= dict(shared_expert_intermediate_size=16)
whole = AutoConfig.for_model("laguna").to_dict()
count = whole["num_hidden_layers"]
sizes |= {key: value[:3] for key, value in whole.items() if isinstance(value, list) and len(value) == count}
config = AutoConfig.for_model("laguna", **sizes)


def base():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


target = r".*shared_experts\.(gate|up|down)_proj"
made = get_peft_model(base(), LoraConfig(r=2, target_modules=target, init_lora_weights=False))
with torch.no_grad():
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.fill_(0.5)
made.save_pretrained(sys.argv[1])
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    read = PeftModel.from_pretrained(base(), sys.argv[1])
own = {name: value for name, value in read.named_parameters() if "lora_" in name}
kept = sum(bool((value == 0.5).all()) for value in own.values())
about = [str(one.message).split(":")[0] for one in said if "adapter keys" in str(one.message)]
print(f"{len(own)} tensors saved with 0.5 in every place; {kept} of them read back; warnings: {about}")
assert len(own) > 0 and kept == 0, "they are read back now"
PY
