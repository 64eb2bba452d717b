#!/usr/bin/env bash
# torchao 0.18.0 with peft 0.21.2: a base in int8 with activations in int8 passes no gradient to what lies before it.
# A layer that Int8DynamicActivationInt8WeightConfig made gives an output that no gradient goes back from. Alone that is
# an error; under a LoRA on every layer there is none, for the gradient finds a way along the residuals and through the
# adapters' own matrices, and peft says of these layers that training works. The loss is the plain model's within 1%,
# and its gradient another one: of a Llama of four layers the cosine to the right one is 0.66 in the last, and 0.05 in
# the first. Int8WeightOnlyConfig passes it on: 1.00 in each.
# Seen with transformers 5.23.0 and torch 2.13.0 on a CPU on 2026-12-01. Fails if that changes.
#
# What tunelift does: files that torchao quantised are refused; `model.quantization: int8` has a gradient for its input.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torchao==0.18.0 peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/env/bin/python" -W ignore - 2>"$folder/said" <<'PY' || { cat "$folder/said" >&2; exit 1; }
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from transformers import LlamaConfig, LlamaForCausalLM

print("torchao", version("torchao"), "peft", version("peft"), "torch", version("torch"))
sizes = dict(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4)
ids = torch.randint(1, 64, (8, 24), generator=torch.Generator().manual_seed(0))


def gradient(config=None):
    """Return loss and gradients of a LoRA on every layer of a model, whose base is quantised so."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.15))
    if config is not None:
        quantize_(base.model, config)
    torch.manual_seed(1)
    how = dict(target_modules="all-linear", r=4, init_lora_weights=False)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **how)).eval()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: p.grad.flatten() for name, p in model.named_parameters() if p.requires_grad}


def cosines(found):
    """Return the cosine to the plain model's gradient, over all matrices of a layer of the model."""
    layers = [[name for name in plain if f".layers.{number}." in name] for number in range(4)]
    pairs = [[torch.cat([which[name] for name in names]) for which in (found, plain)] for names in layers]
    return [torch.cosine_similarity(*pair, dim=0).item() for pair in pairs]


loss, plain = gradient()
print(f"plain: loss {loss:.3f}")
ways = {}
for config in (Int8WeightOnlyConfig(), Int8DynamicActivationInt8WeightConfig()):
    other, found = gradient(config)
    name = type(config).__name__
    ways[name] = cosines(found)
    last = [key for key in found if ".layers.3.mlp.down_proj." in key]
    print(f"{name}: loss {other:.3f}")
    print("  cosine of the gradient to the plain one, first layer to last:", ", ".join(f"{c:.2f}" for c in ways[name]))
    ends = [torch.cosine_similarity(found[key], plain[key], dim=0).item() for key in last]
    assert abs(other - loss) < 0.1, "the comparison is not sound"
    assert min(ends) > 0.98, "the last layer's gradient is another one too"
weights, both = ways.values()
assert min(weights) > 0.98, "with weights alone it is another gradient too"
assert both[0] < 0.5 and max(both) < 0.9, "gradients are passed on now"
alone = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False))
quantize_(alone, Int8DynamicActivationInt8WeightConfig())
function = alone(torch.randn(2, 64, requires_grad=True)).grad_fn
print("one layer alone, of an input that wants a gradient: grad_fn of the output is", function)
assert function is None, "a layer alone has a gradient now"
PY
