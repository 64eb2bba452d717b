"""Multiple choice: options that differ by row, read as people write them, learned by a head and by a causal model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModel, AutoModelForMultipleChoice, BertTokenizerFast

import tiny_models
import tunelift
from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Options
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows
from tunelift.data.splits import load_splits
from tunelift.fast.classifying import with_one_option
from tunelift.pipeline.adapter_config import config_for
from tunelift.tasks import TASKS
from tunelift.tasks.base import Learned

TASK = TASKS.get("multiple-choice")
CPU = torch.device("cpu")
WORDS = [f"w{number}" for number in range(60)]


def examples(rows: Any, task: str = "multiple-choice", **settings: Any) -> list[Example]:
    return make_examples(read_rows(rows), DataSection(**settings), TASKS.get(task).reading)[0]


@pytest.mark.parametrize(
    ("rows", "right"),
    [
        ([{"question": "q", "choices": ["a", "b", "c"], "answer": 2}], ["c"]),
        ([{"question": "q", "choices": '["a", "b"]', "answer": "b"}], ["b"]),
        ([{"question": "q", "options": ["a", "b"], "answer": "B"}], ["b"]),
        ([{"ctx": "q", "endings": ["a", "b"], "label": "0"}, {"ctx": "p", "endings": ["x", "y"], "label": 1.0}], "ay"),
        ([{"goal": "q", "sol1": "a", "sol2": "b", "label": 1}], ["a"]),  # by one number alone: see below
        ([{"question": "q", "option1": "x", "option2": "y", "answer": str(i)} for i in (1, 2)], "xy"),
        ([{"question": "q", "choices": ["3", "1", "2"], "answer": text} for text in ("1", "3")], "13"),
        ([{"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}], "b"),
        (
            [{"question": "q", "choices": [{"label": "A", "text": "a"}, {"label": "B", "text": "b"}], "answer": "A"}],
            "a",
        ),
        ([{"article": "p", "question": "q", "options": ["a", "b", "c"], "answer": "c"}], ["c"]),
        ([{"text": "q", "ending0": "a", "ending1": "b", "ending2": "", "label": 1}], ["b"]),
    ],
)
def test_options_are_read_as_people_write_them(rows: list[dict[str, Any]], right: Any) -> None:
    if "sol1" in rows[0]:
        rows = [*rows, {"goal": "p", "sol1": "a", "sol2": "b", "label": 0}]
        right = ["b", "a"]
    found = examples(rows)
    assert [example.completion for example in found] == list(right)
    causal = examples(rows, "causal-lm")
    assert [example.completion for example in causal] == [f" {text}" for text in right]
    for example, other in zip(found, causal, strict=True):
        assert isinstance(example.given, Options) and isinstance(other.given, Options)
        assert [f" {text}" for text in example.given.texts] == list(other.given.texts)
        assert other.prompt == f"{example.given.asked}\nAnswer:"
    assert found[0].prompt.count("\n- ") == len(found[0].given.texts)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"choices": ["a"], "answer": 0}, "row 2: 1 options, where two or more texts are expected"),
        ({"choices": ["a", " "], "answer": 0}, "row 2: an option is empty"),
        ({"choices": ["a", "b"], "answer": 2}, "row 2: \"answer\" is '2', which tells none of its 2 options"),
        ({"choices": ["a", "b"], "answer": "maybe"}, "row 2: \"answer\" is 'maybe', which tells none"),
        ({"choices": ["a", "b"], "answer": -1}, "row 2: \"answer\" is '-1', which tells none"),
        ({"choices": "a, b", "answer": 1}, 'row 2, column "choices": a list of options is expected'),
        ({"choices": [["a"], "b"], "answer": 1}, "row 2, option 1 holds a list"),
    ],
)
def test_what_cannot_be_is_refused_with_its_row(row: dict[str, Any], said: str) -> None:
    first = {"question": "q", "choices": ["a", "b"], "answer": 0}
    with pytest.raises(InputError) as error:
        examples([first, {"question": "p", **row}])
    assert said in str(error.value)


def test_rows_that_tell_nothing_are_left_out_and_counted_and_other_tasks_refuse_options() -> None:
    row = {"question": "q", "choices": ["a", "b"], "answer": 1}
    rows = [row, row | {"answer": None}, row | {"choices": ["a", "a"]}, row | {"question": " "}]
    found, empty = make_examples(read_rows(rows), DataSection(), TASK.reading)
    assert len(found) == 1
    assert empty == {"no answer": 1, "two of its options are the same": 1, "empty question": 1}
    with pytest.raises(InputError, match="has options to choose from \\(choices\\), and this task learns labels"):
        examples([row], "sequence-classification")
    with pytest.raises(InputError, match=r"data\.choices names the options of a row, and this task knows none"):
        examples([row], "regression", choices="choices")
    with pytest.raises(InputError, match="several columns that may be what is asked: question, premise"):
        examples([{**row, "premise": "p"}])
    named = examples([{**row, "premise": "p"}], text="{premise} {question}", choices="choices", label="answer")
    assert named[0].given == Options("p q", ("a", "b"))


def test_files_that_count_options_from_different_numbers_are_refused() -> None:
    """A small file whose answers are neither 0 nor the last option's number does not show from which it counts."""
    options = {"choices": ["a", "b", "c", "d"]}
    train = [{"question": f"q {i}", **options, "answer": 1 + i % 4} for i in range(12)]
    test = [{"question": f"p {i}", **options, "answer": 1 + i % 3} for i in range(6)]
    with pytest.raises(InputError, match=r"by its number from 1, and .* from 0"):
        load_splits(DataSection(train=train, test=test, deduplicate=False), reading=TASK.reading)
    test[0]["answer"] = 4
    found = load_splits(DataSection(train=train, test=test, deduplicate=False), reading=TASK.reading)
    assert [example.completion for example in found.test] == ["d", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize("task", ["multiple-choice", "sequence-to-sequence", "image-classification"])
def test_eva_is_refused_where_a_model_takes_no_row_of_tokens(task: str) -> None:
    with pytest.raises(InputError, match=f"eva, which looks at rows of tokens, and the task {task}"):
        config_for(LoraConfig(init_lora_weights="eva"), None, TASKS.get(task), (100, 10), [])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the keywords of a small run: the right option has a word of the question, of two to four options."""
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    sizes = tiny_models.SIZES | {"vocab_size": 65, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model("bert", **sizes)).save_pretrained(tmp_path / "model")
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    draw = random.Random(0)
    for name, count in (("train", 60), ("test", 24)):
        rows = []
        for _ in range(count):
            options = draw.choice([2, 3, 4])
            *words, asked = draw.sample(WORDS[2:], options + 1)
            right = draw.randrange(options)
            texts = [f"{word} {'w1' if place == right else word}" for place, word in enumerate(words)]
            rows.append({"question": f"{asked} {words[right]}", "choices": texts, "answer": right})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
    how = {"train": {"steps": 20, "learning_rate": 0.02}, "evaluate": {"forgetting": []}, "dtype": "float32"}
    return {"model": str(tmp_path / "model"), "data": data, "output": str(tmp_path / "out"), **how}


@torch.no_grad()
def test_the_loss_is_that_of_stock_whatever_the_number_of_options(made: dict[str, Any]) -> None:
    model, tokenizer = tunelift.load(made["model"], task="multiple-choice", dtype="float32")
    assert isinstance(model, AutoModelForMultipleChoice._model_mapping[type(model.config)])  # type: ignore[index]
    some = examples(Path(made["data"]["train"]))[:12]
    rows, report = TASK.rows(some, tokenizer, 64, [])
    batch = TASK.collate(rows, 0, CPU)
    assert (report.tokens_in_loss, batch.targets, batch.rows) == (12, 12, 12)
    ours, stock = float(TASK.loss(model)[0](batch)), 0.0
    for example in some:
        assert isinstance(example.given, Options)
        pairs = tokenizer([example.given.asked] * len(example.given.texts), list(example.given.texts), padding=True)
        inputs = {name: torch.tensor(value)[None] for name, value in pairs.items()}
        right = torch.tensor([example.given.texts.index(example.completion)])
        stock += float(model(**inputs, labels=right).loss)
    assert ours == pytest.approx(stock, rel=1e-5)
    row = Learned(some[0], TASK.collate(rows[:1], 0, CPU), truncated=False)
    assert TASK.plain_loss(row, model) == pytest.approx(float(TASK.loss(model)[0](row.batch)), rel=1e-5)
    assert with_one_option(row.batch.inputs)["input_ids"].shape[1] == 1
    assert TASK.says_the_answer(row, tokenizer, [])
    row.batch.labels.copy_(row.batch.labels.roll(1))
    assert not TASK.says_the_answer(row, tokenizer, [])


def test_a_head_learns_and_says_what_it_chose(made: dict[str, Any]) -> None:
    found, out = tunelift.run(**made, task="multiple-choice").to_dict(), Path(made["output"])
    assert found["calibration"]["of"] == "answers"
    assert [(out / side / "calibration" / "scores.jsonl").is_file() for side in ("base", "tuned")] == [True, True]
    assert all(proof["passed"] for proof in json.loads((out / "manifest.json").read_text())["proofs"])
    assert list(found["metrics"]) == ["accuracy", "loss"]
    assert found["metrics"]["loss"]["verdict"] == "better"
    assert set(found["baselines"]) == {"majority", "tf-idf", "linear-probe"}
    assert found["baselines"]["tf-idf"]["base"] > 0.8  # words that question and option share
    rows = [json.loads(line) for line in (out / "tuned" / "scores.jsonl").read_text().splitlines()]
    for row in rows:
        likely = torch.tensor(list(row["label_scores"].values())).exp()
        assert float(likely.sum()) == pytest.approx(1)
        assert row["prediction"] == max(row["label_scores"], key=row["label_scores"].__getitem__)
    assert "multiple-choice" in (out / "README.md").read_text()


def test_a_causal_model_ranks_the_options_of_each_item(made: dict[str, Any], tmp_path: Path) -> None:
    tiny_models.causal().save_pretrained(tmp_path / "lm")
    tiny_models.tokenizer().save_pretrained(tmp_path / "lm")
    model, tokenizer = tunelift.load(str(tmp_path / "lm"), dtype="float32")
    rows = [json.loads(line) for line in Path(made["data"]["test"]).read_text().splitlines()]
    scores = tunelift.evaluate(model, tokenizer, rows)
    assert list(scores.metrics) == ["accuracy", "loss"]
    for row, item in zip(scores.rows, rows, strict=True):
        assert list(row["label_scores"]) == [f" {text}" for text in item["choices"]]
        prompt = f"{item['question']}\nAnswer:"
        alone = [{"prompt": prompt, "completion": f" {text}"} for text in item["choices"]]
        if row is scores.rows[0]:
            plain = tunelift.evaluate(model, tokenizer, alone, metrics=["loss"]).rows
            likely = [one["log_likelihood"] for one in plain]
            assert list(row["label_scores"].values()) == pytest.approx(likely, rel=1e-4)
    other = [{**row, "choices": [*row["choices"], "one more"]} for row in rows]
    again = tunelift.evaluate(model, tokenizer, other)
    assert again.info["made_with"]["label_scoring"] != scores.info["made_with"]["label_scoring"]
