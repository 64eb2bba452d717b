#!/usr/bin/env bash
# peft 0.21.2: disable_adapter() raises UnboundLocalError for prompts under a classification head.
# Of a model with virtual tokens it first keeps `prepare_inputs_for_generation`, which a classifier has not; and where
# that fails it puts back a name that was never set, so that the error is about a variable of its own. So nothing can
# be asked of the base with PromptTuningConfig, PromptEncoderConfig or PrefixTuningConfig and task_type="SEQ_CLS".
# With the same method on a causal model it works.
# Seen with transformers 5.23.0 and torch 2.13.0 on 2026-11-30. Fails if that changes.
#
# What tunelift does: it refuses methods with virtual tokens under a head, since base and tuned are two answers of one
# model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

print("peft", version("peft"), "transformers", version("transformers"))
ids = torch.arange(5, 12)[None]
sizes = dict(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
causal = get_peft_model(
    LlamaForCausalLM(LlamaConfig(**sizes)), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
)
with causal.disable_adapter():
    print("causal, switched off:", tuple(causal(input_ids=ids).logits.shape))
config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)
classifier = get_peft_model(BertForSequenceClassification(BertConfig(**sizes)), config)
try:
    with classifier.disable_adapter():
        raise SystemExit("it switches off now")
except UnboundLocalError as error:
    print("classifier, switched off: UnboundLocalError:", error)
PY
