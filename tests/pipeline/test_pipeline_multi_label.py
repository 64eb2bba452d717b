"""Several labels of a text, or none: read, learned, chosen by a threshold from validation, saved and read by stock."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tunelift
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example, LabelSet
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows
from tunelift.evaluation.plan import Plan
from tunelift.metrics import Answer
from tunelift.metrics.label_sets import _applying, threshold_of
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS
from tunelift.tasks.base import Learned, trained_outputs

TASK = TASKS.get("multi-label-classification")
SHARED = Path(__file__).parents[3] / "shared" / "data"


def examples(rows: Any, **settings: Any) -> list[Example]:
    return make_examples(read_rows(rows), DataSection(**settings), TASK.reading)[0]


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"labels": ["b", "a", "b"]}, {}),
        ({"labels": '["a", "b"]'}, {}),
        ({"tags": "b| a|"}, {"separator": "|"}),
        ({"genres": "a, b"}, {"separator": ","}),
        ({"mine": ("a", "b")}, {"label": "mine"}),
        ({"a": 1, "b": 1, "c": 0}, {"label": "a, b,c"}),
        ({"a": "1", "b": True, "c": False}, {"label": "a,b,c"}),
        ({"a": 1.0, "b": "true", "c": "0.0"}, {"label": "a,b,c"}),
    ],
)
def test_labels_are_read_from_lists_text_and_columns(row: dict[str, Any], keys: dict[str, Any]) -> None:
    (found,) = examples([{"text": "x", **row}], **keys)
    assert (found.completion, found.wanted) == ("a | b", LabelSet(("a", "b")))


@pytest.mark.parametrize(
    ("row", "keys", "said"),
    [
        ({"labels": "a, b"}, {}, 'row 1, column "labels": a list of labels is expected'),
        ({"labels": 3}, {"separator": ","}, 'row 1, column "labels": a list of labels is expected'),
        ({"labels": ["a | b"]}, {}, "the label 'a | b' holds ' | '"),
        ({"labels": [["a"]]}, {}, 'row 1, column "labels" holds a list'),
        ({"labels": [0, 1, 0]}, {}, "row 1, column \"labels\": '[0, 1, 0]' seems to say 1 or 0 of each label"),
        ({"labels": [0.0, 0.0]}, {}, "seems to say 1 or 0 of each label"),
        ({"labels": "0|1|1"}, {"separator": "|"}, "seems to say 1 or 0 of each label"),
        ({"a": 2, "b": 0}, {"label": "a,b"}, "row 1, column \"a\": 1 or 0 is expected, not '2'"),
        ({"a": 1}, {"label": "a,b"}, "data.label names b, which"),
        ({"a": 1}, {"completion": "{a}"}, "data.completion writes a text"),
    ],
)
def test_what_says_no_set_of_labels_is_refused(row: dict[str, Any], keys: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        examples([{"text": "x", **row}], **keys)
    assert said in str(error.value)


def test_no_labels_are_something_else_than_labels_that_are_missing() -> None:
    rows = [{"text": "x", "labels": said} for said in ([], None, ["a"])]
    found, empty = make_examples(read_rows(rows), DataSection(), TASK.reading)
    assert ([e.wanted for e in found], empty) == ([LabelSet(()), LabelSet(("a",))], {"no labels": 1})
    marked = [{"text": "x", "a": 0, "b": 0}, {"text": "x", "a": 1, "b": None}]
    found, empty = make_examples(read_rows(marked), DataSection(label="a,b"), TASK.reading)
    assert ([e.wanted for e in found], empty) == ([LabelSet(())], {"no labels": 1})


@pytest.fixture
def labelled(tiny_encoder: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a small run on words, each of whose first letters is a label; one is not in train."""
    folder, draw = Path(tiny_encoder["output"]).parent, random.Random(1)
    words = (folder / "vocab.txt").read_text().split()[4:]
    for name, count in (("train", 90), ("test", 30)):
        lines = []
        for _ in range(count):
            some = draw.sample(words, draw.randint(2, 5))
            lines.append(
                json.dumps({"text": " ".join(some), "labels": [label for label in words[:4] if label in some]})
            )
        lines += [json.dumps({"text": words[0], "labels": ["unseen"]})] * (name == "test")
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    files = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    data = files | {"validation": 0.3, "deduplicate": False}
    return tiny_encoder | {"data": data, "task": TASK.name, "train": {"steps": 40, "learning_rate": 0.03}}


OTHER_PROCESS = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
adapter, base, labels, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
how = {"num_labels": len(labels), "problem_type": "multi_label_classification"}
model = AutoModelForSequenceClassification.from_pretrained(base, **how)
model = PeftModel.from_pretrained(model, adapter).eval()
tokenizer = AutoTokenizer.from_pretrained(adapter)
with torch.no_grad():
    print(json.dumps([model(**tokenizer(row, return_tensors="pt")).logits[0].sigmoid().tolist() for row in rows]))
"""


def test_a_whole_run(labelled: dict[str, Any]) -> None:
    made, out = tunelift.run(**labelled).to_dict(), Path(labelled["output"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert {proof["name"] for proof in manifest["proofs"]} > {"labels are the answers", "the loss is over the labels"}
    assert list(made["metrics"]) == TASK.metrics([])
    assert made["metrics"]["f1_micro"]["tuned"] > made["metrics"]["f1_micro"]["base"]
    assert made["baselines"].keys() == {"majority", "tf-idf", "linear-probe"}
    assert made["calibration"]["of"] == "labels"
    assert 0 < made["calibration"]["tuned"]["brier"] < 1
    assert "temperature" not in made["calibration"]["tuned"]  # of fewer than 30 rows on validation
    assert (out / "tuned" / "calibration" / "scores.jsonl").is_file()
    assert "average_precision" in (out / "report.html").read_text()

    rows = [json.loads(line) for line in (out / "tuned" / "scores.jsonl").read_text().splitlines()]
    assert rows[-1]["unscored"] == "the reference 'unseen' is not among the labels"
    lineage = json.loads((out / "adapter" / "tunelift.json").read_text())
    assert 0 < lineage["threshold"] < 1
    told = json.loads((out / "tuned" / "metrics.json").read_text())["made_with"]["threshold"]
    assert told == lineage["threshold"]
    card = (out / "adapter" / "README.md").read_text()
    assert 'problem_type="multi_label_classification"' in card
    assert f"at least {told:.6g}" in card

    labels = lineage["labels"]
    texts = json.dumps([row["input"] for row in rows[:-1]])
    command = [sys.executable, "-c", OTHER_PROCESS, str(out / "adapter"), labelled["model"], json.dumps(labels), texts]
    stock = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    for row, expected in zip(rows, stock, strict=False):
        counts = row["counts"]["average_precision"]
        assert [counts[f"score {label}"] for label in labels] == pytest.approx(expected, abs=1e-5)
        if min(abs(one - told) for one in expected) > 1e-5:
            assert row["prediction"] == " | ".join(
                label for label, one in zip(labels, expected, strict=True) if one >= told
            )
    model, tokenizer = tunelift.load(labelled["model"], adapter=out / "adapter", dtype="float32")
    assert model.config.problem_type == "multi_label_classification"
    again = tunelift.evaluate(model, tokenizer, data=labelled["data"]["test"], deduplicate=False)
    known = json.loads((out / "tuned" / "metrics.json").read_text())["metrics"]
    assert again.metrics == pytest.approx({name: entry["value"] for name, entry in known.items()}, abs=1e-6)


def test_the_threshold_is_chosen_on_validation_and_never_on_test(labelled: dict[str, Any]) -> None:
    """The one that the run took is the best of its validation rows; other test rows change nothing."""
    folder, thresholds = Path(labelled["output"]).parent, []
    for name, count in (("one", 30), ("other", 8)):
        lines = Path(labelled["data"]["test"]).read_text().splitlines()[:count]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        data = labelled["data"] | {"test": str(folder / f"{name}.jsonl")}
        tunelift.run(**labelled | {"data": data, "output": str(folder / name), "evaluate": {"baselines": []}})
        thresholds.append(json.loads((folder / name / "adapter" / "tunelift.json").read_text())["threshold"])
    assert thresholds[0] == pytest.approx(thresholds[1])
    assert thresholds[0] != 0.5

    from tunelift.data.splits import load_splits

    splits = load_splits(DataSection(**labelled["data"]), reading=TASK.reading, roles=("train", "validation"))
    (folder / "validation.jsonl").write_text("".join(json.dumps(dict(e.row)) + "\n" for e in splits.validation))
    model, tokenizer = tunelift.load(labelled["model"], adapter=folder / "one" / "adapter", dtype="float32")
    rows = tunelift.evaluate(model, tokenizer, data=str(folder / "validation.jsonl"), deduplicate=False).rows
    counts = [row["counts"]["average_precision"] for row in rows]
    names = [name.removeprefix("score ") for name in counts[0] if name.startswith("score ")]
    pairs = [[[one[f"{kind} {label}"] for label in names] for one in counts] for kind in ("score", "wanted")]
    assert threshold_of(*map(torch.tensor(pairs, dtype=torch.float64).numpy().__getitem__, (0, 1)))[1] == pytest.approx(
        thresholds[0], abs=1e-5
    )


def test_without_validation_it_is_a_half(labelled: dict[str, Any]) -> None:
    model, tokenizer = tunelift.load(labelled["model"], task=TASK.name, labels=["a", "b"], dtype="float32")
    rows = tunelift.evaluate(model, tokenizer, data=[{"text": "x", "labels": ["a"]}], task=TASK.name)
    assert rows.info["made_with"]["threshold"] == 0.5


def test_the_loss_is_that_of_stock_and_padding_changes_nothing(labelled: dict[str, Any]) -> None:
    some = examples(labelled["data"]["train"])[:8]
    labels = sorted(TASK.labels_in(some))
    model, tokenizer = tunelift.load(labelled["model"], task=TASK.name, labels=labels, dtype="float32")
    rows, _ = TASK.rows(some, tokenizer, 100, labels)
    batch = TASK.collate(rows, 3, torch.device("cpu"))
    ours = float(TASK.loss(model)[0](batch)) / batch.targets
    assert ours == pytest.approx(float(model(**batch.inputs, labels=batch.labels).loss), rel=1e-5)
    alone = sum(float(TASK.loss(model)[0](TASK.collate([row], 3, torch.device("cpu")))) for row in rows)
    assert ours * batch.targets == pytest.approx(alone, rel=1e-5)
    for example, own in zip(some, rows, strict=True):
        row = Learned(example, TASK.collate([own], 3, torch.device("cpu")), truncated=False)
        assert TASK.says_the_answer(row, tokenizer, labels)
        row.batch.labels[0, 0] = 1 - row.batch.labels[0, 0]
        assert not TASK.says_the_answer(row, tokenizer, labels)
    with pytest.raises(InputError, match="labels that the model's head has not"):
        TASK.rows(some, tokenizer, 100, labels[1:])


def test_a_new_head_begins_at_how_often_each_label_applies(labelled: dict[str, Any]) -> None:
    some = examples(labelled["data"]["train"])
    labels = sorted(TASK.labels_in(some))
    session = Session.open(ModelSection(name=labelled["model"], dtype="float32"), TASK, labels)
    session.will_train(some, TrainSection())
    session.attach({"method": "lora"}, 0)
    head = session.model.base_model.model.classifier
    shares = [sum(label in e.completion.split(" | ") for e in some) / len(some) for label in labels]
    assert head.modules_to_save["default"].bias.sigmoid().tolist() == pytest.approx(shares, abs=0.01)
    assert not head.original_module.bias.data.any()


def test_probabilities_of_one_label_have_their_metrics_too(tiny_encoder: dict[str, Any]) -> None:
    metrics = ["accuracy", "brier", "average_precision"]
    made = tunelift.run(**tiny_encoder, evaluate={"metrics": metrics, "baselines": ["tf-idf"]}).to_dict()
    assert list(made["metrics"]) == metrics
    assert made["calibration"] is not None
    file = Path(tiny_encoder["output"]) / "tuned" / "scores.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        expected = sum((math.exp(v) - (k == row["reference"])) ** 2 for k, v in row["label_scores"].items())
        assert row["metrics"]["brier"] == pytest.approx(expected)
    assert _applying(Answer("", "a | b", scores={"a | b": 0.5, "a": 0.5})) == {"a | b"}


@pytest.mark.skipif(not (SHARED / "banking77_test.csv").is_file(), reason="needs the shared data")
def test_real_questions_as_sets_of_words_of_their_intents(tmp_path: Path) -> None:
    table = read_rows(SHARED / "banking77_test.csv")
    rows = [{"text": row["text"], "labels": str(row["category"]).split("_")} for row in table.rows]
    found = examples(rows)
    assert len(found) == 3080
    assert {"card", "transfer"} <= TASK.labels_in(found)


def test_only_the_head_begins_so_and_not_a_layer_that_gives_as_many_numbers(labelled: dict[str, Any]) -> None:
    some = examples(labelled["data"]["train"])
    labels = sorted(TASK.labels_in(some))
    session = Session.open(ModelSection(name=labelled["model"], dtype="float32"), TASK, labels)
    found = [name for name, _ in session.model.named_modules() if name == "classifier"]
    session.will_train(some, TrainSection())
    session.attach({"method": "lora", "r": len(labels)}, 0)
    (layer,) = trained_outputs(session.model, len(labels), found)
    assert layer is session.model.base_model.model.classifier.modules_to_save["default"]


def test_a_model_trained_whole_begins_so_too_and_keeps_its_own_threshold(labelled: dict[str, Any]) -> None:
    """The base keeps the threshold that was chosen for it, and the tuned model in memory has that chosen for it."""
    some = examples(labelled["data"]["train"])
    labels = sorted(TASK.labels_in(some))
    session = Session.open(ModelSection(name=labelled["model"], dtype="float32"), TASK, labels)
    plan = Plan([], max_length=100)
    session.choose_threshold(some[:30], plan, "base")
    base = session.threshold
    session.will_train(some, TrainSection())
    session.attach({"method": "full"}, 0)
    shares = [sum(label in e.completion.split(" | ") for e in some) / len(some) for label in labels]
    assert session.model.classifier.bias.sigmoid().tolist() == pytest.approx(shares, abs=0.01)
    session.choose_threshold(some[30:], plan, "tuned")
    assert session.threshold != base == session.base_threshold
    assert Session.of(session.model, session.tokenizer, TASK, labels).threshold == session.threshold


def test_a_model_tuned_in_memory_alone_has_its_threshold_too(labelled: dict[str, Any]) -> None:
    found = []
    for output in (None, Path(labelled["output"])):
        settings = {"labels": sorted(TASK.labels_in(examples(labelled["data"]["train"]))), "dtype": "float32"}
        model, tokenizer = tunelift.load(labelled["model"], task=TASK.name, **settings)
        data = {key: value for key, value in labelled["data"].items() if key != "test"}
        tuned = tunelift.tune(model, tokenizer, data, output=output, task=TASK.name, steps=5, learning_rate=0.03)
        rows = tunelift.evaluate(tuned, tokenizer, data=labelled["data"]["test"], deduplicate=False)
        found.append(rows.info["made_with"]["threshold"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] != 0.5
