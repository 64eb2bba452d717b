#!/usr/bin/env bash
# peft 0.21.2: add_weighted_adapter makes of an rsLoRA something else than it says. The "cat" of one adapter with weight
# 1 is that adapter side by side with nothing, and is right for a plain LoRA; of an rsLoRA of rank r it comes out sqrt(r)
# times as strong. "svd" does the same. The scale of each is folded in, alpha / sqrt(r), and the new adapter, which
# keeps use_rslora, is given alpha = r and so a scale of sqrt(r) once more. Of DoRA the magnitudes are drawn anew from the
# base, and those that were trained are gone. Nothing is said.
# Seen with transformers 5.23.0 and torch 2.13.0 on 2026-11-29. Fails if that changes.
#
# What tunelift does: `tunelift merge` sums what each adapter adds to the weights, and refuses DoRA.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

print("peft", version("peft"), "transformers", version("transformers"))
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
ids = torch.arange(1, 12)[None]


def apart(kind, **settings):
    """Return how far the answers of an adapter are from those of its sum with weight 1, against the base's."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.3)).eval()
    config = LoraConfig(r=16, lora_alpha=16, target_modules=["q_proj", "v_proj"], **settings)
    model = get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # B is no longer zero, and magnitudes are not the base's
                parameter.add_(0.05 * torch.randn(parameter.shape))
        alone = model(input_ids=ids).logits
        model.add_weighted_adapter(["default"], [1.0], "sum", combination_type=kind)
        model.set_adapter("sum")
        summed = model(input_ids=ids).logits
        layer = next(layer for layer in model.modules() if hasattr(layer, "get_delta_weight"))
        times = float(layer.get_delta_weight("sum").norm() / layer.get_delta_weight("default").norm())
        with model.disable_adapter():
            plain = model(input_ids=ids).logits
    off = float((summed - alone).norm() / (alone - plain).norm())
    print(f"{kind} of {settings or 'a plain LoRA'}: {times:.2f} times as strong, answers {off:.2f} of its effect away")
    return times, off


for kind in ("cat", "svd"):
    times, off = apart(kind)
    assert abs(times - 1) < 1e-3 and off < 1e-3
    times, off = apart(kind, use_rslora=True)
    assert abs(times - 4) < 1e-2 and off > 0.5, "rsLoRA is right now"
_, off = apart("cat", use_dora=True)
assert off > 0.1, "DoRA is right now"
PY
