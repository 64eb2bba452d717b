"""What every task is held to: a whole run with each kind of method, its proofs, and stock transformers reading it.

A task has a `Bench` here, or the battery says that it was forgotten: tiny models of its classes, and rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

METHODS = ("lora", "ia3", "full", "head")
WORDS = ["red", "green", "blue", "small", "large", "round", "flat", "old", "new", "what", "is", "it", "the", "a"]


@dataclass(frozen=True)
class Bench:
    """A task's tiny model, `auto_class` of `kind`, and `row`, which makes a row of data of a number.

    `more` are the settings that its rows need, `learning_rate` one by which two steps are seen.
    """

    auto_class: str
    row: Callable[[int], Mapping[str, Any]]
    kind: str = "bert"
    more: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)


def _text(i: int) -> str:
    return f"the {WORDS[i % 3]} {WORDS[3 + i % 5]} {WORDS[8 - i % 4]} {WORDS[(7 * i) % 9]}"


def _squad(i: int) -> Mapping[str, Any]:
    answer = {"text": [WORDS[i % 3]], "answer_start": [4]}
    return {"context": _text(i), "question": f"what is {WORDS[3 + i % 5]}", "answers": answer}


def _tags(i: int) -> Mapping[str, Any]:
    words = _text(i).split()
    return {"tokens": words, "tags": ["O", "B-colour", *["O"] * (len(words) - 2)]}


def _options(i: int) -> Mapping[str, Any]:
    options = [WORDS[i % 3], "flat old", "new"][: 2 + i % 2]
    return {"question": _text(i), "choices": options, "answer": i % len(options)}


BENCHES = {
    "causal-lm": Bench("AutoModelForCausalLM", lambda i: {"prompt": _text(i), "completion": WORDS[i % 2]}, "llama"),
    "image-classification": Bench(
        "AutoModel",
        lambda i: {"image": f"{i}.png", "label": WORDS[i % 3]},
        "vit",
        sizes={"image_size": 16, "patch_size": 8},
    ),
    "masked-lm": Bench("AutoModelForMaskedLM", lambda i: {"text": _text(i)}),
    "multi-label-classification": Bench(
        "AutoModel", lambda i: {"text": _text(i), "labels": WORDS[: i % 3]}, more={"deduplicate": False}
    ),
    "multiple-choice": Bench("AutoModel", _options),
    "preference": Bench(
        "AutoModelForCausalLM",
        lambda i: {"prompt": _text(i), "chosen": f" {WORDS[i % 2]}", "rejected": f" {WORDS[2 + i % 3]}"},
        "llama",
    ),
    "question-answering": Bench("AutoModel", _squad),
    "regression": Bench("AutoModel", lambda i: {"text": _text(i), "score": i % 7 / 2}),
    "sentence-embedding": Bench("AutoModel", lambda i: {"anchor": _text(i), "positive": _text(i + 1)}),
    "sequence-classification": Bench("AutoModel", lambda i: {"text": _text(i), "label": WORDS[i % 2]}),
    "sequence-to-sequence": Bench(
        "AutoModelForSeq2SeqLM",
        lambda i: {"prompt": _text(i), "completion": f"{WORDS[i % 3]} {WORDS[3 + i % 5]}"},
        "t5",
        sizes={"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    ),
    "token-classification": Bench("AutoModel", _tags),
}


def prepared(name: str, folder: Path) -> dict[str, Any]:
    """Write a task's tiny model and its rows into a folder; return the keywords of a run."""
    import transformers
    from PIL import Image

    import tiny_models
    from tunelift.tasks import TASKS

    bench = BENCHES[name]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]))
    small = {"vocab_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 3}
    sizes = {**tiny_models.SIZES, **small, **bench.sizes}
    if TASKS.get(name).reader == "AutoImageProcessor":
        sizes = {key: value for key, value in sizes.items() if "token" not in key and "vocab" not in key}
    config = transformers.AutoConfig.for_model(bench.kind, **sizes)
    torch.manual_seed(0)
    getattr(transformers, bench.auto_class).from_config(config).save_pretrained(folder / "model")
    if TASKS.get(name).reader == "AutoImageProcessor":
        sides = {"height": 16, "width": 16}
        transformers.ViTImageProcessorPil(size=sides).save_pretrained(folder / "model")
        for i in (*range(16), *range(50, 56)):
            draw = np.random.default_rng(i).integers(0, 80, (12, 14, 3), dtype=np.uint8)
            draw[..., i % 3] += 160
            Image.fromarray(draw).save(folder / f"{i}.png")
    else:
        tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), eos_token="[SEP]")
        tokenizer.save_pretrained(folder / "model")
    for role, first, count in (("train", 0, 16), ("test", 50, 6)):
        rows = [json.dumps(bench.row(i)) for i in range(first, first + count)]
        (folder / f"{role}.jsonl").write_text("\n".join(rows))
    data = {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "deduplicate": False}
    return {
        "model": str(folder / "model"), "task": name, "data": {**data, **bench.more}, "dtype": "float32",
        "train": {"steps": 2, "learning_rate": 0.05}, "evaluate": {"baselines": []}, "forgetting": [],
    }  # fmt: skip


def one_item(name: str, data: str, tokenizer: Any, labels: Sequence[str]) -> dict[str, Tensor]:
    """Return stock forward's inputs for the first item of a file of a task's rows."""
    from tunelift.config.schema import DataSection
    from tunelift.data.examples import make_examples
    from tunelift.data.sources import read_rows
    from tunelift.tasks import TASKS

    task = TASKS.get(name)
    examples, _ = make_examples(read_rows(data), DataSection(), task.reading)
    rows, _ = task.rows(examples[:1], tokenizer, 64, labels)
    batch = task.collate(rows, 0, torch.device("cpu"))
    inputs = batch.inputs | ({"labels": batch.labels} if name == "sequence-to-sequence" else {})
    return {key: value[None] for key, value in inputs.items()} if name == "multiple-choice" else inputs


def outputs(model: Any, inputs: Mapping[str, Any]) -> list[float]:
    """Return all numbers that a model gives for inputs, in order."""
    with torch.no_grad():
        found = model.eval()(**inputs)
    return [
        number
        for key in ("logits", "start_logits", "end_logits", "last_hidden_state")
        if getattr(found, key, None) is not None
        for number in found[key].flatten().tolist()
    ]


def main() -> None:
    """Read jobs, each of a tuned model that stock transformers and peft are to load, and print what it gives."""
    import transformers
    from peft import PeftModel

    given = []
    for job in json.load(sys.stdin):
        auto = getattr(transformers, job["auto_class"])
        model = auto.from_pretrained(job["model"], **job["options"])
        if job["adapter"]:
            model = PeftModel.from_pretrained(model, job["adapter"])
        given.append(outputs(model, {name: torch.tensor(value) for name, value in job["inputs"].items()}))
    assert not [name for name in sys.modules if name.startswith("tunelift")]
    print(json.dumps(given))


if __name__ == "__main__":
    main()
