"""Numbers of texts and of pairs: read, learned in the user's units, measured, saved, and read by stock peft."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import tiny_models
import tunelift
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Numbers, Pair
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows
from tunelift.models import load, natural_task, task_of
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS
from tunelift.tasks.base import Learned

TASK = TASKS.get("regression")


def examples(rows: Any, **settings: Any) -> list[Example]:
    return make_examples(read_rows(rows), DataSection(**settings), TASK.reading)[0]


@pytest.mark.parametrize(
    ("said", "number"),
    [(3, "3"), (3.0, "3"), ("3.50", "3.5"), ("-1e3", "-1000"), (" .5 ", "0.5"), (0.1, "0.1"), (Decimal("2.5"), "2.5")],
)
def test_a_number_is_one_however_it_is_written(said: Any, number: str) -> None:
    (found,) = examples([{"text": "a", "score": said}])
    assert (found.completion, found.wanted) == (number, Numbers(("score",), (float(number),)))


@pytest.mark.parametrize(
    "said", ["good", "1,5", "1,000", "nan", "inf", "0x10", "1_000", "3 stars", True, False, [1], {}]
)
def test_what_is_no_number_is_refused_by_its_place(said: Any) -> None:
    with pytest.raises(InputError, match=r'row 2, column "score": a number is expected, not'):
        examples([{"text": "a", "score": 1}, {"text": "b", "score": said}])


@pytest.mark.parametrize("said", [math.inf, -math.inf, "1e999", 10**400])
def test_infinite_numbers_are_refused_by_their_place(said: Any) -> None:
    with pytest.raises(InputError, match=r'row 2, column "score": .* is no finite number'):
        examples([{"text": "a", "score": 1}, {"text": "b", "score": said}])


@pytest.mark.parametrize("said", [1e154, -1e19, "1e200", 10**20])
def test_numbers_whose_squares_overflow_are_refused_by_their_place(said: Any) -> None:
    with pytest.raises(InputError, match=r'row 2, column "score": .* is beyond 1e\+18'):
        examples([{"text": "a", "score": 1e18}, {"text": "b", "score": said}])


def test_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,score\na,1\nb,\nc,high\n")
    with pytest.raises(InputError, match=r'a\.csv, line 4, column "score": a number is expected, not \'high\''):
        examples(tmp_path / "a.csv")


def test_rows_without_a_number_are_left_out_and_counted() -> None:
    rows = [{"text": "a", "score": said} for said in (1, None, math.nan, "", " ", 0)]
    found, empty = make_examples(read_rows(rows), DataSection(), TASK.reading)
    assert ([e.completion for e in found], empty) == (["1", "0"], {"no number": 4})


def test_columns_are_found_or_named() -> None:
    row = {"sentence1": "a", "sentence2": "b", "similarity": 2.5}
    assert examples([row])[0].given == Pair("a", "b")
    two = examples([{"text": "a", "width": 1, "height": 2.5}], label="width, height")[0]
    assert (two.completion, two.wanted) == ("1 2.5", Numbers(("width", "height"), (1.0, 2.5)))
    assert examples([{"text": "a", "one, two": 1}], label="one, two")[0].completion == "1"
    with pytest.raises(InputError, match=r"several columns that may be the number: score, label"):
        examples([{"text": "a", "score": 1, "label": 2}])
    with pytest.raises(InputError, match=r"data\.label names depth, which"):
        examples([{"text": "a", "width": 1}], label="width,depth")
    with pytest.raises(InputError, match=r"data\.completion writes a text"):
        examples([{"text": "a", "width": 1}], completion="{width}")


def test_a_model_is_a_regression_where_its_config_says_so(tmp_path: Path) -> None:
    model = tiny_models.classifier(["x"])
    assert task_of(model).name == "sequence-classification"
    model.config.problem_type = "regression"
    assert task_of(model) is TASK
    model.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    assert natural_task(str(tmp_path)) is TASK
    assert load(str(tmp_path), task=TASK, labels=["x"]).model.config.problem_type == "regression"
    with pytest.raises(InputError, match="has a head for regression, and the task sequence-classification is single"):
        load(str(tmp_path), task=TASKS.get("sequence-classification"), labels=["x"])


@pytest.fixture
def scored(tiny_encoder: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a small run on pairs, whose numbers say how many words the two share, and their length."""
    folder, draw = Path(tiny_encoder["output"]).parent, random.Random(1)
    words = (folder / "vocab.txt").read_text().split()[4:]
    for name, count in (("train", 60), ("test", 24)):
        lines = []
        for _ in range(count):
            one, two = draw.sample(words, 5), draw.sample(words, 4)
            both = len({*one} & {*two})
            lines.append(
                json.dumps({"sentence1": " ".join(one), "sentence2": " ".join(two), "a": 300 + both, "b": -both})
            )
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    data = {
        "train": str(folder / "train.jsonl"),
        "test": str(folder / "test.jsonl"),
        "label": "a,b",
        "deduplicate": False,
    }
    return tiny_encoder | {"data": data, "task": "regression", "train": {"steps": 30, "learning_rate": 0.02}}


OTHER_PROCESS = """
import json, sys, torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
adapter, base, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, problem_type="regression")
model = PeftModel.from_pretrained(model, adapter).eval()
tokenizer = AutoTokenizer.from_pretrained(adapter)
print(json.dumps([model(**tokenizer(*row, return_tensors="pt")).logits[0].tolist() for row in rows]))
"""


def test_a_whole_run(scored: dict[str, Any]) -> None:
    made, out = tunelift.run(**scored).to_dict(), Path(scored["output"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert {proof["name"] for proof in manifest["proofs"]} > {"labels are the answers", "the loss is over the labels"}
    assert list(made["metrics"]) == ["rmse", "mae", "r2", "pearson", "spearman"]
    assert made["metrics"]["rmse"]["tuned"] < made["metrics"]["rmse"]["base"]
    assert made["metrics"]["rmse"]["tuned"] < 5  # in the units of the data, whose numbers lie around 300
    assert {"mean", "median", "tf-idf", "linear-probe"} == made["baselines"].keys()
    assert made["baselines"]["mean"]["base"] < 2
    report = (out / "report.html").read_text()
    assert "spearman" in report
    card = (out / "adapter" / "README.md").read_text()
    assert 'num_labels=2, problem_type="regression"' in card

    rows = [json.loads(line) for line in (out / "tuned" / "scores.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in Path(scored["data"]["test"]).read_text().splitlines()]
    pairs = json.dumps([[line["sentence1"], line["sentence2"]] for line in lines])
    command = [sys.executable, "-c", OTHER_PROCESS, str(out / "adapter"), scored["model"], pairs]
    stock = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    for row, expected in zip(rows, stock, strict=True):
        assert [float(number) for number in row["prediction"].split()] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    again = tunelift.load(scored["model"], adapter=out / "adapter", dtype="float32")
    assert again[0].config.problem_type == "regression"
    with pytest.raises(InputError, match="are a, b, in this order, and are given as b, a"):
        tunelift.load(scored["model"], adapter=out / "adapter", dtype="float32", labels=["b", "a"])
    with pytest.raises(InputError, match="was made for regression, and the task is sequence-classification"):
        tunelift.load(scored["model"], adapter=out / "adapter", dtype="float32", task="sequence-classification")
    scores = tunelift.evaluate(*again, data=scored["data"]["test"], label="a,b", deduplicate=False)
    assert scores.metrics["spearman"] == pytest.approx(made["metrics"]["spearman"]["tuned"], rel=1e-5)


def test_the_loss_is_that_of_stock_and_padding_changes_nothing(scored: dict[str, Any]) -> None:
    names = ["a", "b"]
    model, tokenizer = tunelift.load(scored["model"], task="regression", labels=names, dtype="float32")
    assert type(model) is type(AutoModelForSequenceClassification.from_config(model.config))
    some = examples(scored["data"]["train"], label="a,b")[:6]
    rows, _ = TASK.rows(some, tokenizer, 100, names)
    batch = TASK.collate(rows, 3, torch.device("cpu"))
    ours = float(TASK.loss(model)[0](batch)) / batch.targets
    texts = [[e.given.first, e.given.second] for e in some if isinstance(e.given, Pair)]
    stock = tokenizer(*map(list, zip(*texts, strict=True)), padding=True, return_tensors="pt")
    assert ours == pytest.approx(float(model(**stock, labels=batch.labels).loss), rel=1e-5)
    alone = sum(float(TASK.loss(model)[0](TASK.collate([row], 3, torch.device("cpu")))) for row in rows)
    assert ours * batch.targets == pytest.approx(alone, rel=1e-5)
    row = Learned(some[0], TASK.collate(rows[:1], 3, torch.device("cpu")), truncated=False)
    assert TASK.says_the_answer(row, tokenizer, names)
    assert not TASK.says_the_answer(row, tokenizer, names[::-1])
    with pytest.raises(InputError, match="no number called c, which the model's head gives"):
        TASK.rows(some, tokenizer, 100, ["a", "c"])


@pytest.mark.parametrize(("kind", "part"), [("encoder", "classifier"), ("model", "score")])
def test_a_new_head_begins_at_the_mean_and_one_of_the_files_is_left_as_it_is(
    kind: str, part: str, scored: dict[str, Any], tmp_path: Path
) -> None:
    def opened(dtype: str) -> Session:
        section = ModelSection(name=str(tmp_path / kind), dtype=dtype)  # type: ignore[arg-type]
        return Session.open(section, TASK, ["a", "b"])

    some = examples(scored["data"]["train"], label="a,b")
    with pytest.raises(InputError, match="In bfloat16 the model's head gives numbers in steps of 2"):
        opened("bfloat16").will_train(some, TrainSection())
    session = opened("float32")
    session.will_train(some, TrainSection())
    session.attach({"method": "lora"}, 0)
    wanted = torch.tensor([example.wanted.values for example in some])  # type: ignore[union-attr]
    spread = wanted.std(dim=0, correction=0)
    head = getattr(session.model.base_model.model, part)
    own, kept = head.modules_to_save["default"], head.original_module
    torch.testing.assert_close(own.weight.data, kept.weight.data * spread[:, None])
    if own.bias is not None:
        torch.testing.assert_close(own.bias.data, wanted.mean(dim=0))
        assert not kept.bias.data.any()
    own.weight.data.copy_(kept.weight.data)
    TASK.begin(session.model, some, ["a", "b"], [])
    assert torch.equal(own.weight.data, kept.weight.data)


def test_a_stock_model_in_memory_is_tuned_whose_outputs_have_no_names(scored: dict[str, Any]) -> None:
    model = tiny_models.classifier(["LABEL_0", "LABEL_1"], problem_type="regression")
    tokenizer = tunelift.load(scored["model"], task="regression", labels=["x"], dtype="float32")[1]
    tuned = tunelift.tune(model, tokenizer, data=scored["data"], steps=2)
    found = tunelift.evaluate(tuned, tokenizer, data=scored["data"]["test"], label="a,b", deduplicate=False)
    assert list(found.metrics) == TASK.metrics([])
    assert all(len(row["prediction"].split()) == 2 for row in found.rows)


@pytest.mark.parametrize("method", ["ia3", "oft", "vera"])
def test_other_methods_pass_the_proofs(method: str, scored: dict[str, Any]) -> None:
    tunelift.run(**scored | {"adapter": {"method": method}, "train": {"steps": 3}, "evaluate": {"baselines": []}})
    proofs = json.loads((Path(scored["output"]) / "manifest.json").read_text())["proofs"]
    assert [proof for proof in proofs if not proof["passed"]] == []


def test_a_layer_that_gives_as_many_numbers_as_the_head_is_left_as_it_begins(scored: dict[str, Any]) -> None:
    """LoRA's first matrix gives as many numbers as its rank: the spread of the rows is none of its business."""
    some, first = examples(scored["data"]["train"], label="a,b"), []
    for rows in (some, []):
        section = ModelSection(name=scored["model"], dtype="float32")
        session = Session.open(section, TASK, ["a", "b"])
        session.learned = rows
        session.attach({"method": "lora", "r": 2}, 0)
        first.append({name: p.detach() for name, p in session.model.named_parameters() if "lora_A" in name})
    assert first[0]
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])
