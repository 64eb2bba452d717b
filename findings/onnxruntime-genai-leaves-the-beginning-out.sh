#!/usr/bin/env bash
# onnxruntime-genai 0.18.0: its tokenizer leaves out the token that begins a text, which the model's own puts there.
# The builder exports a model with its tokenizer.json, whose post-processor puts <s> before every text, and writes
# bos_token_id into genai_config.json. `Tokenizer.encode`, by which the library's own examples make prompts, does not
# run that part: the model is asked for a text without its beginning, which Llamas and Gemmas never saw in training.
# Nothing is said. `update_options(add_special_tokens="true")` gives the ids that transformers gives.
# Seen on 2026-11-30. Fails if that changes.
#
# What tunelift does: `tunelift export --to onnx` proves the exported tokenizer with that option, and says so (docs/exports.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx==1.23.2 onnx-ir==1.1.0 \
    torch==2.13.0 transformers==5.23.0 sentencepiece
HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore - "$folder" <<'PY'
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = Path(sys.argv[1])
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
words = {piece: number for number, piece in enumerate(["<s>", "</s>", *letters])}
made = Tokenizer(models.BPE(words, []))
made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), bos_token_id=0, eos_token_id=1, **sizes))
for part in (model, tokenizer):
    part.save_pretrained(folder / "model")

package = Path(find_spec("onnxruntime_genai").origin).parent
places = ["-i", folder / "model", "-o", folder / "onnx", "-c", folder / "cache", "-p", "fp32", "-e", "cpu"]
subprocess.run([sys.executable, package / "models" / "builder.py", *places], check=True, capture_output=True)

import onnxruntime_genai

print("onnxruntime-genai", version("onnxruntime-genai"), "transformers", version("transformers"))
text = "Where is my card?"
wanted = tokenizer(text)["input_ids"]
there = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(folder / "onnx")))
found = [int(one) for one in there.encode(text)]
there.update_options(add_special_tokens="true")
asked = [int(one) for one in there.encode(text)]
print("transformers            ", wanted[:4], "...")
print("encode                  ", found[:4], "...")
print("encode, special tokens  ", asked[:4], "...")
assert wanted[0] == 0
assert found == wanted[1:], "the beginning is put there now"
assert asked == wanted
PY
