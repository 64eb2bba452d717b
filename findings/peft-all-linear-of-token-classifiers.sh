#!/usr/bin/env bash
# peft 0.21.2: target_modules="all-linear" leaves out the head of a classifier of texts (task_type="SEQ_CLS"), as it does
# a language model's, but not that of a classifier of tokens (task_type="TOKEN_CLS"): get_peft_model puts a LoRA on the
# head as well, then wants to save the head whole too, and raises a TypeError about modules_to_save, which nobody named.
# Seen with transformers 5.23.0 and torch 2.13.0 on 2026-11-29. Fails if that changes.
#
# What tunelift does: for task types whose head peft does not leave out, it names the layers itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

print("peft", version("peft"), "transformers", version("transformers"))
sizes = dict(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
said = {}
for task_type, kind in (("SEQ_CLS", BertForSequenceClassification), ("TOKEN_CLS", BertForTokenClassification)):
    model = kind(BertConfig(**sizes))
    try:
        adapted = get_peft_model(model, LoraConfig(task_type=task_type, target_modules="all-linear"))
        said[task_type] = "classifier" in adapted.peft_config["default"].target_modules
        print(f"{task_type}: built; a LoRA on the head: {said[task_type]}")
    except TypeError as error:
        said[task_type] = str(error)
        print(f"{task_type}: TypeError: {error}")
assert said["SEQ_CLS"] is False, said
assert "modules_to_save" in str(said["TOKEN_CLS"]), f"peft builds it now: {said}"
PY
