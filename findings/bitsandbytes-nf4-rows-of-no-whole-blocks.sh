#!/usr/bin/env bash
# bitsandbytes 0.50.2: on a CPU a weight in four bits whose rows are no multiple of the block (64 numbers) is widened
# with other blocks' scales. Quantising counts blocks through the whole weight, and so does the function that widens in
# torch ("default"); the one in C for CPUs counts them anew in each row. Nothing is said; a layer of 32 inputs comes out
# several times as far from its weight as four bits are. Rows of 64, 128, ... numbers are right.
# Seen with torch 2.13.0 on 2026-11-29. Fails if that changes.
#
# What tunelift does: model.quantization refuses a model with such layers on a CPU and names the first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet bitsandbytes==0.50.2 torch==2.13.0 numpy
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

print("bitsandbytes", version("bitsandbytes"), "torch", version("torch"))
torch.manual_seed(0)
off = {}
for inputs in (32, 64, 96, 128):
    weight = torch.randn(64, inputs)
    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    halves = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten().long()
    by_hand = (state.code[halves].view(-1, 64) * state.absmax[:, None]).view(64, inputs)
    widened = dequantize_4bit(packed, state)
    off[inputs] = [float((found - weight).norm() / weight.norm()) for found in (widened, by_hand)]
    print(f"{inputs} inputs: widened, off by {off[inputs][0]:.3f}; block by block, off by {off[inputs][1]:.3f}")
assert all(off[inputs][0] > 2 * off[inputs][1] for inputs in (32, 96)), "such rows are widened rightly now"
assert all(off[inputs][0] == off[inputs][1] for inputs in (64, 128)), "whole blocks are widened otherwise now"
PY
