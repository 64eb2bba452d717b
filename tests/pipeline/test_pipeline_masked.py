"""Texts with some of their tokens hidden: the same for base and tuned, learned, measured, saved and read back."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, BertTokenizerFast

import tiny_models
import tunelift
from tiny_tokenizers import byte_level
from tunelift.config.schema import Config, ModelSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.fast.targets import IGNORED
from tunelift.models import natural_task, task_of
from tunelift.pipeline.generating import generate_stage
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS
from tunelift.tasks.base import Learned
from tunelift.tasks.masked_lm import masked_rows

TASK = TASKS.get("masked-lm")
CPU = torch.device("cpu")
WORDS = [f"w{number}" for number in range(60)]


@pytest.fixture
def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the keywords of a small run on texts of few words."""
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    sizes = tiny_models.SIZES | {"vocab_size": 65, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **sizes)).save_pretrained(tmp_path / "model")
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    draw = random.Random(0)
    for name, count in (("train", 60), ("test", 24)):
        texts = [" ".join(draw.choices(WORDS[:3], k=draw.randint(5, 40))) for _ in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    data = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl"), "deduplicate": False}
    return {
        "model": str(tmp_path / "model"), "task": "masked-lm", "data": data, "dtype": "float32",
        "train": {"steps": 40, "learning_rate": 0.02}, "output": str(tmp_path / "out"),
    }  # fmt: skip


def loaded(hidden: dict[str, Any]) -> tuple[Any, Any]:
    model, tokenizer = tunelift.load(hidden["model"], task="masked-lm", dtype="float32")
    return model, tokenizer


def test_a_share_of_the_tokens_is_asked_for_and_it_follows_from_the_text(hidden: dict[str, Any]) -> None:
    _, tokenizer = loaded(hidden)
    asked = kept = other = 0
    for number in range(400):
        text = " ".join(random.Random(number).choices(WORDS, k=40))
        (row,) = masked_rows(text, tokenizer, 100)
        assert masked_rows(text, tokenizer, 100) == [row]
        ids = tokenizer(text)["input_ids"]
        places = [at for at, label in enumerate(row.labels) if label != IGNORED]
        assert len(places) == 6  # 15% of 40
        assert [row.labels[at] for at in places] == [ids[at] for at in places]
        assert all(row.ids[at] == ids[at] for at in range(len(ids)) if at not in places)
        asked += len(places)
        kept += sum(row.ids[at] == ids[at] for at in places)
        other += sum(row.ids[at] not in (ids[at], tokenizer.mask_token_id) for at in places)
    assert kept / asked == pytest.approx(0.1, abs=0.03)
    assert other / asked == pytest.approx(0.1, abs=0.03)
    (short,) = masked_rows("w3", tokenizer, 100)
    assert short.labels[0] == short.labels[2] == IGNORED != short.labels[1]
    assert masked_rows("", tokenizer, 100) == []


def test_long_texts_are_rows_that_say_all_of_it(hidden: dict[str, Any]) -> None:
    _, tokenizer = loaded(hidden)
    example = Example("1", "", " ".join(WORDS))
    rows, report = TASK.rows([example, Example("2", "", "w1 w2")], tokenizer, 22, [])
    assert [len(row.ids) for row in rows] == [22, 22, 22, 4]
    assert report.notes == ["1 texts are longer than 22 tokens, and make 3 rows"]
    learned = Learned(example, TASK.collate(rows[:3], 0, CPU), truncated=False)
    assert TASK.says_the_answer(learned, tokenizer, [])
    part = Learned(example, TASK.collate(rows[:2], 0, CPU), truncated=True)
    assert TASK.says_the_answer(part, tokenizer, [])
    at = learned.counted[0]
    for wrong in (IGNORED, 5 + int(learned.batch.labels[0, at] == 5)):
        right = int(learned.batch.labels[0, at])
        learned.batch.inputs["input_ids"][0, at] = tokenizer.mask_token_id
        learned.batch.labels[0, at] = wrong
        assert not TASK.says_the_answer(learned, tokenizer, [])
        learned.batch.labels[0, at] = right


@torch.no_grad()
def test_the_loss_is_that_of_stock(hidden: dict[str, Any]) -> None:
    model, tokenizer = loaded(hidden)
    rows, _ = TASK.rows([Example(str(i), "", " ".join(WORDS[i : 3 * i + 4])) for i in range(8)], tokenizer, 60, [])
    batch = TASK.collate(rows, 0, CPU)
    ours = float(TASK.loss(model)[0](batch))
    assert ours / batch.targets == pytest.approx(float(model(**batch.inputs, labels=batch.labels).loss), rel=1e-5)
    alone = [TASK.collate([row], 0, CPU) for row in rows]
    plain = sum(TASK.plain_loss(Learned(Example("1", "", ""), one, False), model) for one in alone)
    assert ours == pytest.approx(plain, rel=1e-5)


BY_STOCK = """
import json, sys, torch
from peft import AutoPeftModel
model = AutoPeftModel.from_pretrained(sys.argv[1]).eval()
for ids, labels in json.load(sys.stdin):
    with torch.no_grad():
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
    print(float(loss))
"""


def test_a_whole_run_that_stock_peft_reads_in_another_process(hidden: dict[str, Any]) -> None:
    made, out = tunelift.run(**hidden).to_dict(), Path(hidden["output"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert {proof["name"] for proof in manifest["proofs"]} > {"labels are the answers", "the loss is over the labels"}
    assert list(made["metrics"]) == ["loss", "perplexity"]
    assert made["metrics"]["loss"]["tuned"] < made["metrics"]["loss"]["base"] - 0.1
    card = (out / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card
    assert "AutoModelForMaskedLM.from_pretrained" in card
    assert "AutoPeftModelForMaskedLM" not in card

    tokenizer = BertTokenizerFast.from_pretrained(hidden["model"])
    texts = [json.loads(line)["text"] for line in Path(hidden["data"]["test"]).read_text().splitlines()]
    rows = [masked_rows(text, tokenizer, 128)[0] for text in texts]
    told = subprocess.run(
        [sys.executable, "-c", BY_STOCK, str(out / "adapter")],
        input=json.dumps([[list(row.ids), row.labels] for row in rows]), capture_output=True, text=True, check=True,
    )  # fmt: skip
    scored = [json.loads(line) for line in (out / "tuned" / "scores.jsonl").read_text().splitlines()]
    assert [row["metrics"]["loss"] for row in scored] == pytest.approx(list(map(float, told.stdout.split())), rel=1e-4)

    again = tunelift.load(hidden["model"], adapter=out / "adapter", dtype="float32")
    scores = tunelift.evaluate(*again, data=hidden["data"]["test"], deduplicate=False)
    assert scores.metrics["loss"] == pytest.approx(made["metrics"]["loss"]["tuned"], rel=1e-4)


def test_what_cannot_be_is_refused(hidden: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = loaded(hidden)
    with pytest.raises(InputError, match="does not give bits_per_byte"):
        tunelift.evaluate(model, tokenizer, data=[{"text": "w1 w2"}], metrics=["bits_per_byte"])
    with pytest.raises(InputError, match=r"has no use for data\.prompt, data\.completion and data\.label"):
        tunelift.evaluate(model, tokenizer, data=[{"text": "w1 w2"}], label="text")
    with pytest.raises(InputError, match="has no mask token"):
        masked_rows("a cat", byte_level(), 60)
    model.bert.save_pretrained(tmp_path / "body")
    tokenizer.save_pretrained(tmp_path / "body")
    with pytest.raises(InputError, match=r"lack cls\.predictions"):
        tunelift.load(str(tmp_path / "body"), task="masked-lm", dtype="float32")


def test_it_is_taken_where_it_is_named_or_the_model_in_hand_is_one(hidden: dict[str, Any]) -> None:
    assert natural_task(hidden["model"]).name == "sequence-classification"
    assert task_of(loaded(hidden)[0]) is TASK


def test_its_adapter_is_no_other_tasks_and_continues_no_text(hidden: dict[str, Any]) -> None:
    tunelift.run(**hidden | {"train": {"steps": 2}, "evaluate": {"baselines": []}})
    adapter = str(Path(hidden["output"]) / "adapter")
    for task in ("token-classification", "sequence-classification", "question-answering"):
        model, tokenizer = tunelift.load(hidden["model"], task=task, labels=["a", "b"], dtype="float32")
        session = Session.of(model, tokenizer, TASKS.get(task), ["a", "b"])
        with pytest.raises(InputError, match=f"was made for masked-lm, and the task is {task}"):
            session.load_adapter(adapter)
    config = Config(model=ModelSection(name=hidden["model"], dtype="float32"))
    with pytest.raises(InputError, match="was made for masked-lm, which continues no text"):
        generate_stage(config, adapter, ["w1 w2"])
