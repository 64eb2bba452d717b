#!/usr/bin/env bash
# mlx-lm 0.32.2: a Llama saved by transformers 5 with another rotary base than 10,000 is loaded as another model.
# transformers 5 writes the base as rope_parameters.rope_theta, and no rope_theta beside it. mlx-lm's Llama asks for
# rope_theta alone and takes 10,000 where there is none, in silence: a Llama 3 (500,000) that was merged and saved
# answers worse the longer the text. Its Qwen3 reads the new key, most of its other types do not.
# A copy of the folder in which rope_theta stands at the top level too agrees with transformers to the last bits.
# Seen with mlx 0.32.4 on Linux, transformers 5.23.0 and torch 2.13.0 on 2026-11-30. Fails if that changes.
#
# What tunelift does: `tunelift export --to mlx` writes an adapter, compares it in mlx-lm with what was measured, and
# gives mlx-lm the base with both keys for that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - "$folder" <<'PY'
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.utils import load_model
from transformers import LlamaConfig, LlamaForCausalLM

print("mlx-lm", version("mlx-lm"), "mlx", version("mlx"), "transformers", version("transformers"))
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
sizes |= dict(num_key_value_heads=2, initializer_range=0.3, max_position_embeddings=256)
torch.manual_seed(0)
rope = {"rope_type": "default", "rope_theta": 500000.0}
model = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=rope)).eval()
saved, told = Path(sys.argv[1], "saved"), Path(sys.argv[1], "told")
model.save_pretrained(saved)
config = json.loads((saved / "config.json").read_text())
print("what transformers writes:", config.get("rope_parameters"), "rope_theta:", config.get("rope_theta"))
shutil.copytree(saved, told)
(told / "config.json").write_text(json.dumps(config | {"rope_theta": 500000.0}))
ids = np.arange(200) % 60 + 1
with torch.no_grad():
    wanted = model(input_ids=torch.tensor(ids)[None]).logits[0].numpy()
apart = {}
for name, where in (("as saved", saved), ("with rope_theta", told)):
    other, _ = load_model(where)
    found = np.array(other(mx.array(ids)[None])[0].astype(mx.float32))
    apart[name] = np.abs(found - wanted).max(axis=1)
    print(f"{name}: logits apart at token 2 {apart[name][1]:.1e}, 20 {apart[name][19]:.1e}, 200 {apart[name][199]:.1e}")
assert apart["with rope_theta"].max() < 1e-3, "the comparison is not sound"
assert apart["as saved"].max() > 1e-2, "it is read now"
PY
