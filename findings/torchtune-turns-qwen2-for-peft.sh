#!/usr/bin/env bash
# torchtune 0.6.1: an adapter of Qwen2 that it writes in peft's layout is another one in peft than in torchtune.
# Llama's weights have rows of queries and keys in another order on the Hub than in torchtune, so its exporter turns
# those of B. Qwen2's have the same order in both, its checkpointer knows that of the base's weights, and turns the
# adapter's all the same. Nothing is said; shapes and names fit; only what the model answers tells it.
# The same steps with a Llama agree to the last bits, so the comparison itself is sound.
# Seen with torchao 0.14.1, peft 0.21.2, transformers 5.23.0 and torch 2.13.0 on 2026-11-30. Fails if that changes.
#
# What tunelift does: it refuses such a folder on a Qwen2; `tunelift import` turns the rows back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/peft"
"$folder/peft/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
python3 -m venv "$folder/torchtune"
"$folder/torchtune/bin/pip" install --quiet torchtune==0.6.1 torchao==0.14.1 torchvision==0.28.0 torch==2.13.0
cat > "$folder/bases.py" <<'PY'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
sizes |= dict(num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6, initializer_range=0.3)
for kind, config, model in (("LLAMA3", LlamaConfig, LlamaForCausalLM), ("QWEN2", Qwen2Config, Qwen2ForCausalLM)):
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    model(config(**sizes, rope_parameters=rope)).save_pretrained(f"{sys.argv[1]}/{kind}")
PY
cat > "$folder/adapters.py" <<'PY'
import sys

import torch
from torchtune import training
from torchtune.models.llama3 import lora_llama3
from torchtune.models.qwen2 import lora_qwen2
from torchtune.modules.peft import get_adapter_params
from torchtune.training.checkpointing import FullModelHFCheckpointer

sizes = dict(vocab_size=64, num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=32, intermediate_dim=48)
sizes |= dict(max_seq_len=64, norm_eps=1e-6, lora_rank=4, lora_alpha=8, rope_base=10000)
layers = ["q_proj", "k_proj"]
for kind, make in (("LLAMA3", lora_llama3), ("QWEN2", lora_qwen2)):
    where = f"{sys.argv[1]}/{kind}"
    checkpoints = FullModelHFCheckpointer(where, ["model.safetensors"], kind, f"{where}-written")
    model = make(layers, **sizes).eval()
    model.load_state_dict(checkpoints.load_checkpoint()[training.MODEL_KEY], strict=False)
    with torch.no_grad():
        plain = model(torch.arange(1, 12)[None])
        for parameter in get_adapter_params(model).values():
            torch.nn.init.normal_(parameter, std=0.3)
        tuned = model(torch.arange(1, 12)[None])
    torch.save({"plain": plain, "tuned": tuned}, f"{where}/logits.pt")
    said = {"r": 4, "lora_alpha": 8, "target_modules": layers, "peft_type": "LORA"}
    state = {training.MODEL_KEY: {}, training.ADAPTER_KEY: get_adapter_params(model), training.ADAPTER_CONFIG: said}
    checkpoints.save_checkpoint(state, epoch=0, adapter_only=True)
PY
cat > "$folder/compare.py" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

print("peft", version("peft"), "transformers", version("transformers"), "torch", version("torch"))
apart = {}
for kind in ("LLAMA3", "QWEN2"):
    where = Path(sys.argv[1], kind)
    base = AutoModelForCausalLM.from_pretrained(where).eval()
    written, ids = torch.load(where / "logits.pt"), torch.arange(1, 12)[None]
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        adapter = next(Path(f"{where}-written").rglob("adapter_config.json")).parent
        tuned = PeftModel.from_pretrained(base, adapter).eval()(input_ids=ids).logits
    apart[kind] = [float((a - b).abs().max()) for a, b in ((plain, written["plain"]), (tuned, written["tuned"]))]
    moved = float((written["tuned"] - written["plain"]).abs().max())
    print(f"{kind}: logits apart without the adapter {apart[kind][0]:.1e}, with it {apart[kind][1]:.1e}; "
          f"the adapter moves them by {moved:.1e}")
assert max(apart["LLAMA3"]) < 1e-3, "the comparison is not sound"
assert apart["QWEN2"][0] < 1e-3, "the base is read otherwise"
assert apart["QWEN2"][1] > 1e-2, "the adapter is right now"
PY
"$folder/peft/bin/python" -W ignore "$folder/bases.py" "$folder"
"$folder/torchtune/bin/pip" list 2>/dev/null | grep -E "^torch(tune|ao) "
"$folder/torchtune/bin/python" -W ignore "$folder/adapters.py" "$folder" > /dev/null 2> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/peft/bin/python" -W ignore "$folder/compare.py" "$folder"
