#!/usr/bin/env bash
# peft 0.21.2: PeftModelForQuestionAnswering takes token_type_ids and position_ids and passes neither on. Its forward
# pass names them among its arguments and hands the base all the others, so that a model with a table of segments reads
# question and passage as one text: the adapted model's logits for a pair are those of a call without types, with an
# adapter that does nothing yet as well, while the base model's own call uses them. Nothing is said.
# Seen with transformers 5.23.0 and torch 2.13.0 on 2026-11-29. Fails if that changes.
#
# What tunelift does: it asks the base model, in whose layers the adapter is, and the model card says to do the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForQuestionAnswering

print("peft", version("peft"), "transformers", version("transformers"))
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
base = BertForQuestionAnswering(BertConfig(**sizes, initializer_range=0.5)).eval()
pair = {"input_ids": torch.arange(1, 13)[None], "token_type_ids": torch.tensor([[0] * 5 + [1] * 7])}
with torch.no_grad():
    typed = base(**pair).start_logits
    plain = base(input_ids=pair["input_ids"]).start_logits
    adapted = get_peft_model(base, LoraConfig(task_type="QUESTION_ANS", target_modules=["query", "value"])).eval()
    found = adapted(**pair).start_logits  # the adapter begins as nothing
    inner = adapted.get_base_model()(**pair).start_logits
print("the base, with types against without:", float((typed - plain).abs().max()))
print("peft's model with types, against the base with types:", float((found - typed).abs().max()))
print("peft's model with types, against the base without:", float((found - plain).abs().max()))
print("the model inside peft's, against the base with types:", float((inner - typed).abs().max()))
assert torch.equal(found, plain) and (typed - plain).abs().max() > 0.1, "token types are passed on now"
assert torch.equal(inner, typed), "the model inside gives something else now"
PY
