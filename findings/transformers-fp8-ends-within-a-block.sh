#!/usr/bin/env bash
# transformers 5.23.0: a checkpoint in fine-grained FP8 (blocks of 128 x 128 numbers, a scale each) is widened wrongly, in
# silence, where rows or columns end within a block and their number can be divided by that of the scales. 192 rows have
# two blocks, of 128 and 64; transformers takes the number of scales for that of equal parts, 96 and 96, and gives 32
# rows the scale of the other block. On a CPU every FP8 checkpoint is widened so. Where the number cannot be divided, it
# raises an error.
# Seen with torch 2.13.0 on 2026-11-30. Fails if that changes.
#
# What tunelift does: it refuses such a file by its first weight of that kind, before anything is widened.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet transformers==5.23.0 torch==2.13.0 accelerate numpy
"$folder/env/bin/python" -W ignore - "$folder/model" <<'PY'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

print("transformers", version("transformers"), "torch", version("torch"))
folder = Path(sys.argv[1])
torch.manual_seed(0)
sizes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2, "num_key_value_heads": 2}
LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=1, **sizes)).save_pretrained(folder)
weights, numbers = {}, {}
for name, weight in load_file(folder / "model.safetensors").items():
    weights[name] = weight
    if not name.endswith("proj.weight"):
        continue
    stored, wide = torch.zeros_like(weight, dtype=torch.float8_e4m3fn), torch.zeros_like(weight)
    scales = torch.zeros(-(-weight.shape[0] // 128), -(-weight.shape[1] // 128))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
            scales[i, j] = weight[block].abs().max() / 448 * (1 + i + j)
            stored[block] = (weight[block] / scales[i, j]).to(torch.float8_e4m3fn)
            wide[block] = stored[block].float() * scales[i, j]
    weights[name], weights[f"{name}_scale_inv"], numbers[name] = stored, scales, wide
save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
config = json.loads((folder / "config.json").read_text())
config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
(folder / "config.json").write_text(json.dumps(config))
found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
wrong = [name for name, wide in numbers.items() if not torch.equal(found[name], wide)]
for name in wrong:
    off = float((found[name] - numbers[name]).abs().max() / numbers[name].abs().max())
    print(f"{name} {tuple(found[name].shape)}: off by {off:.2f} of its largest number")
assert sorted(name.split(".")[-2] for name in wrong) == ["down_proj", "gate_proj", "up_proj"], "other weights are wrong now"
PY
