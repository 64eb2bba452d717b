"""An encoder that reads and a decoder that writes: the loss, the answers and the labels are those of stock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationConfig

import tiny_models
import tunelift
from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows
from tunelift.models import natural_task, task_of
from tunelift.tasks import TASKS
from tunelift.tasks.base import Learned

TASK = TASKS.get("sequence-to-sequence")
CPU = torch.device("cpu")
SMALL: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 1},
    "bart": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 1},
}  # fmt: skip
SAID = ("cat", "the mat", "business", "it is a cat, and what a cat")
ROWS = [Example(str(i), f"what is {word} {i}?" + " on the mat" * i, word) for i, word in enumerate(SAID)]


def saved(folder: Path, kind: str) -> str:
    """Write a tiny model with weights so large that answers differ; return its folder."""
    sizes = {**tiny_models.SIZES, "forced_eos_token_id": None, **SMALL[kind]}
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(kind, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", SMALL)
@torch.no_grad()
def test_loss_and_answers_are_those_of_stock(kind: str, tmp_path: Path) -> None:
    name = saved(tmp_path, kind)
    model, tokenizer = tunelift.load(name, task=TASK.name, dtype="float32")
    assert natural_task(name) is task_of(model) is TASK
    rows, report = TASK.rows(ROWS, tokenizer, 100, [])
    batch = TASK.collate(rows, 1, CPU)
    stock = model(**batch.inputs, labels=batch.labels).loss
    assert float(TASK.loss(model)[0](batch)) / batch.targets == pytest.approx(float(stock), rel=1e-5)
    assert report.tokens_in_loss == batch.targets == sum(len(row.labels) for row in rows)
    alone = [Learned(example, TASK.collate([row], 1, CPU), False) for example, row in zip(ROWS, rows, strict=True)]
    plain = sum(TASK.plain_loss(one, model) for one in alone)
    assert float(TASK.loss(model)[0](batch)) == pytest.approx(plain, rel=1e-5)
    for one in alone:
        assert TASK.says_the_answer(one, tokenizer, [])
        one.batch.labels[0, -1] = 5  # the end
        assert not TASK.says_the_answer(one, tokenizer, [])
    data = [{"prompt": example.prompt, "completion": example.completion} for example in ROWS]
    scores = tunelift.evaluate(model, tokenizer, data, metrics=["exact_match", "loss"], max_new_tokens=6)
    greedy = GenerationConfig(
        max_new_tokens=6, num_beams=1, do_sample=False, eos_token_id=1, pad_token_id=1, decoder_start_token_id=1
    )
    for row, one in zip(scores.rows, alone, strict=True):
        found = model.generate(**one.batch.inputs, generation_config=greedy)[0]
        assert row["prediction"] == tokenizer.decode(found, skip_special_tokens=True).strip()
    assert [row["tokens"] for row in scores.rows] == [len(row.labels) for row in rows]
    assert -sum(row["log_likelihood"] for row in scores.rows) == pytest.approx(plain, rel=1e-5)


def test_labels_are_ranked_and_learned_by_one_command(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"{'good' if i % 2 else 'poor'} row {i}", "label": "ab"[i % 2]}) for i in range(60)]
    for role, some in (("train", rows[:40]), ("test", rows[40:])):
        (tmp_path / f"{role}.jsonl").write_text("\n".join(some))
    found = tunelift.run(
        model=saved(tmp_path / "model", "t5"), dtype="float32", output=str(tmp_path / "out"), deduplicate=False,
        data={"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")},
        train={"steps": 6, "learning_rate": 0.02}, evaluate={"baselines": ["majority", "tf-idf"]},
    ).to_dict()  # fmt: skip
    out = tmp_path / "out"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["task"] == TASK.name
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert list(found["metrics"]) == ["accuracy", "loss"]
    assert found["calibration"]["of"] == "answers"
    assert found["metrics"]["loss"]["verdict"] == "better"
    tf_idf = json.loads((out / "baselines" / "tf-idf" / "metrics.json").read_text())["metrics"]
    assert list(tf_idf) == ["accuracy"]  # its probability of a label is none of a decoder's tokens
    row = json.loads((out / "tuned" / "scores.jsonl").read_text().splitlines()[0])
    assert set(row["label_scores"]) == {"a", "b"}
    assert row["log_likelihood"] == row["label_scores"][row["reference"]]
    assert "AutoModelForSeq2SeqLM" in (out / "README.md").read_text()


def test_what_is_read_and_written_is_told_by_columns_or_asked_for() -> None:
    def read(row: dict[str, Any], **settings: Any) -> tuple[str, str]:
        (found,) = make_examples(read_rows([row]), DataSection(**settings), TASK.reading)[0]
        return found.prompt, found.completion

    assert read({"document": "long", "summary": " short "}) == ("long", "short")
    assert read({"instruction": "Say a", "output": "a"})[1] == "a"
    assert read({"en": "cat", "de": "Katze"}, prompt="to German: {en}", completion="{de}") == (
        "to German: cat", "Katze"
    )  # fmt: skip
    assert read({"body": "x", "kind": "y"}, text="body", label="kind") == ("x", "y")
    for row in ({"text": "alone"}, {"messages": [{"role": "user", "content": "a"}]}):
        with pytest.raises(InputError, match="has no prompt with one answer"):
            read(row)


def test_long_sides_are_cut_and_counted_or_unscored(tmp_path: Path) -> None:
    model, tokenizer = tunelift.load(saved(tmp_path, "bart"), task=TASK.name, dtype="float32")
    long = [Example("1", "the cat " * 60, "a"), Example("2", "a", "the cat " * 60)]
    rows, report = TASK.rows(long, tokenizer, 20, [])
    assert report.truncated == 2
    assert [max(len(row.ids), len(row.labels)) for row in rows] == [20, 20]
    for example, row in zip(long, rows, strict=True):
        assert TASK.says_the_answer(Learned(example, TASK.collate([row], 1, CPU), True), tokenizer, [])
    data = [{"prompt": example.prompt, "completion": example.completion} for example in long]
    scores = tunelift.evaluate(model, tokenizer, data, metrics=["loss"], max_length=20)
    assert [row.get("unscored") for row in scores.rows] == [None, "its answer is longer than max_length"]
    with pytest.raises(InputError, match="virtual tokens are put before rows of causal language models alone"):
        tunelift.tune(model, tokenizer, data, validation=data[:1], adapter={"method": "prompt-tuning"})
