#!/usr/bin/env bash
# bitsandbytes 0.50.2: on a CPU with AVX512-BF16 a layer in four bits is spoilt by being saved after it was evaluated.
# At its first call in evaluation mode without a gradient it is packed anew for that processor, in place, its table of
# scales turned around; state_dict() unpacks the numbers and leaves the scales turned. What is written, and what the
# layer computes from then on, is three times as far from its weight as four bits are. Nothing is said.
# Seen with torch 2.13.0 on 2026-11-29, on an AMD EPYC with AVX512-BF16. Fails if that changes; other processors have
# nothing to show, and say so.
#
# What tunelift does: it switches the packing off in every layer that it loads in four bits; a test holds them to
# their bits.
set -euo pipefail
grep -q avx512_bf16 /proc/cpuinfo || { echo "no AVX512-BF16 here: nothing to show"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet bitsandbytes==0.50.2 torch==2.13.0 numpy
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from bitsandbytes.nn import Linear4bit, Params4bit

print("bitsandbytes", version("bitsandbytes"), "torch", version("torch"))
torch.manual_seed(0)
how = {"quant_type": "nf4", "compress_statistics": False}
weight, x = torch.randn(64, 256), torch.randn(5, 256)
layer = Linear4bit(256, 64, bias=False, compute_dtype=torch.float32, **how)
layer.weight = Params4bit(weight.clone(), requires_grad=False, **how)
layer = layer.to("cpu")
expected = x @ weight.T
off = []
with torch.no_grad():
    for what in ("in training mode", "evaluated", "evaluated, then saved"):
        layer.train(what == "in training mode")
        if what == "evaluated, then saved":
            layer.state_dict()
        off.append(float((layer(x) - expected).norm() / expected.norm()))
        print(f"{what}: off by {off[-1]:.3f}")
assert off[1] < 1.2 * off[0], "evaluating changes more now"
assert off[2] > 1.8 * off[0], "saving leaves it as it is now"
PY
