#!/usr/bin/env bash
# peft 0.21.2: a LoRA on a Mamba model's dt_proj changes nothing while it is trained and something once it is merged.
# peft refuses two layers of Mamba by name (out_proj and conv1d, whose weights its fast kernels read) and takes this
# one, whose weight transformers' own MambaMixer reads, on a CPU too, without calling the layer: the adapter's forward
# pass is not reached and its matrices get no gradient, while merge_and_unload adds them to the weight. With numbers in
# them (a sum of adapters, another method's) the merged model is another one than was measured.
# Seen with transformers 5.23.0 and torch 2.13.0 on 2026-11-29. Fails if that changes.
#
# What tunelift does: it leaves dt_proj bare when it chooses the layers itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import MambaConfig, MambaForCausalLM

print("peft", version("peft"), "transformers", version("transformers"))
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.5)
base = MambaForCausalLM(MambaConfig(**sizes)).eval()
ids = torch.arange(1, 12)[None]
with torch.no_grad():
    before = base(input_ids=ids).logits
adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["x_proj", "dt_proj"]))
for name, parameter in adapted.named_parameters():
    if "dt_proj.lora_" in name:
        torch.nn.init.normal_(parameter)
adapted.eval()
loss = adapted(input_ids=ids, labels=ids).loss
loss.backward()
gradients = [p.grad for name, p in adapted.named_parameters() if "dt_proj.lora_" in name]
with torch.no_grad():
    unmerged = adapted(input_ids=ids).logits
    merged = adapted.merge_and_unload()(input_ids=ids).logits
print("gradients of its matrices:", {str(gradient) if gradient is None else "some" for gradient in gradients})
print("logits with the adapter, against the base:", float((unmerged - before).abs().max()))
print("logits once it is merged, against the base:", float((merged - before).abs().max()))
assert gradients and all(gradient is None for gradient in gradients), "it is reached now"
assert torch.equal(unmerged, before), "it acts now"
assert (merged - before).abs().max() > 1e-4, "merging it changes nothing now"
PY
