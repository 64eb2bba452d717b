#!/usr/bin/env bash
# peft 0.21.2: where adapters hold whole modules alone (modules_to_save, and target modules that match none, which peft
# calls "dummy-target-modules"), deleting the one that is not chosen switches the chosen one off as well. The list of
# active adapters is then empty, the model answers with its original module, and nothing is said. With a LoRA among the
# layers the chosen one stays.
# Seen with transformers 5.23.0 and torch 2.13.0 on 2026-11-29. Fails if that changes.
#
# What tunelift does: after its proof has loaded a second adapter and deleted it, it chooses the first one again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

print("peft", version("peft"))
sizes = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
ids, active = torch.arange(1, 9)[None], {}
for layers in ("dummy-target-modules", "query"):
    torch.manual_seed(0)
    named = layers if layers != "query" else [layers]
    config = LoraConfig(task_type="SEQ_CLS", target_modules=named, modules_to_save=["classifier"])
    model = get_peft_model(BertForSequenceClassification(BertConfig(**sizes)), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save.default" in name:
                parameter.add_(1.0)
        before = model(input_ids=ids).logits
        model.add_adapter("two", config)
        model.set_adapter("default")
        model.delete_adapter("two")
        after = model(input_ids=ids).logits
    active[layers] = model.active_adapters
    print(f"layers {layers}: active {active[layers]}, logits moved by {float((after - before).abs().max()):.3f}")
    moved = bool((after - before).abs().max() > 1e-3)
    assert moved == (layers != "query"), "the chosen adapter stays now, or goes with a LoRA too"
assert not active["dummy-target-modules"] and list(active["query"]) == ["default"], "the list is another one now"
PY
