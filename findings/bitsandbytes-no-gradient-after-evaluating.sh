#!/usr/bin/env bash
# bitsandbytes 0.50.2: on a CPU with AVX512-BF16 a layer in four bits that was called once in evaluation mode passes no
# gradient on. At that call it is packed anew for that processor, for good; from then on training mode takes the product
# that was written for inference, which autograd does not know: the input gets no gradient (torch warns once that
# gemv_4bit has no autograd kernel). An adapter that is evaluated before, or between, its steps learns in its last layer
# alone.
# Seen with torch 2.13.0 on 2026-11-29, on an AMD EPYC with AVX512-BF16. Fails if that changes; other processors have
# nothing to show, and say so.
#
# What tunelift does: it switches the packing off in every layer that it loads in four bits; measuring, training and
# measuring again is what it is for, and each run proves that the adapter learns.
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
frozen = Linear4bit(256, 64, bias=False, compute_dtype=torch.float32, **how)
frozen.weight = Params4bit(torch.randn(64, 256), requires_grad=False, **how)
model = torch.nn.Sequential(torch.nn.Linear(8, 256), frozen, torch.nn.Linear(64, 1)).to("cpu")
reached = []
for _ in range(2):
    model.zero_grad()
    model.train()(torch.randn(5, 8)).sum().backward()
    gradient = model[0].weight.grad
    reached.append(gradient is not None and bool(gradient.any()))
    print("before an evaluation" if len(reached) == 1 else "after one", "the first layer gets a gradient:", reached[-1])
    with torch.no_grad():
        model.eval()(torch.randn(5, 8))
assert reached == [True, False], "evaluating takes no gradient away now"
PY
