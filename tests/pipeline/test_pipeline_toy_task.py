"""A task, a measure and a metric that somebody registers run, compare, reload and report like any other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tunelift
from tunelift.evaluation.measures import MEASURES
from tunelift.evaluation.measures.head import Head
from tunelift.evaluation.rows import Found
from tunelift.metrics import METRICS, Metric
from tunelift.model_facts.anatomy import pad_id
from tunelift.tasks import TASKS
from tunelift.tasks.base import Batch, Row, pad_inputs
from tunelift.tasks.sequence_classification import SequenceClassification


class Regression(SequenceClassification):
    name, measures = "toy-regression", ("toy-number",)

    def metrics(self, examples: Any) -> list[str]:
        return ["toy_error"]

    def labels_in(self, examples: Any) -> set[str]:
        return {"value"}

    def rows(self, examples: Any, tokenizer: Any, max_length: int, labels: Sequence[str]) -> Any:
        rows, report = super().rows(examples, tokenizer, max_length, [e.completion for e in examples])
        return [Row(row.ids, float(e.completion)) for row, e in zip(rows, examples, strict=True)], report

    def collate(self, rows: Any, pad_id: int, device: torch.device) -> Batch:
        wanted = torch.tensor([row.labels for row in rows], dtype=torch.float32, device=device)
        return Batch(pad_inputs(rows, pad_id, device), wanted, len(rows), sum(len(r.ids) for r in rows), len(rows))

    def loss(self, model: Any, some: Batch | None = None) -> Any:
        return lambda b: ((model(**b.inputs).logits[:, 0].float() - b.labels) ** 2).sum() / 2, {}

    def plain_loss(self, row: Any, model: Any) -> float:
        return float((model(**row.batch.inputs).logits[0, 0].double() - row.batch.labels[0].double()) ** 2) / 2

    def says_the_answer(self, row: Any, tokenizer: Any, labels: Any) -> bool:
        return float(row.batch.labels[0]) == float(row.example.completion)


class Number(Head):
    gives = frozenset({"toy-number", "likelihood"})

    def _classified(self, some: Sequence[int], advance: Any) -> dict[int, Found]:
        found = {}
        for i in some:
            inputs = pad_inputs([Row(self.prompts[i], 0)], pad_id(self.model, self.tokenizer), self.model.device)
            with torch.no_grad():
                value = float(self.model(**inputs).logits[0, 0])
            found[i] = Found(str(value), -((value - float(self.examples[i].completion)) ** 2) / 2, tokens=1)
        return found


def error(answer: Any) -> float:
    return abs(float(answer.prediction) - float(answer.reference))


@pytest.fixture
def registered() -> Iterator[None]:
    TASKS.add(Regression.name, Regression())
    MEASURES.add("toy-number", Number)
    METRICS.add("toy_error", Metric("toy_error", error, "toy-number", higher_is_better=False))
    yield
    for registry, name in ((TASKS, Regression.name), (MEASURES, "toy-number"), (METRICS, "toy_error")):
        del registry._entries[name]


def test_a_task_from_outside_runs_compares_reloads_and_reports(registered: None, tiny_encoder: dict[str, Any]) -> None:
    folder = Path(tiny_encoder["output"]).parent
    rows = [{"text": f"cat mat sat {'the ' * (i % 5)}{i}", "label": str(i % 5)} for i in range(60)]
    for name, some in (("train", rows[:40]), ("test", rows[40:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    data = {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "deduplicate": False}
    made = tunelift.run(**tiny_encoder | {"data": data, "task": "toy-regression"}).to_dict()
    out = Path(tiny_encoder["output"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["task"] == "toy-regression"
    assert {proof["name"] for proof in manifest["proofs"]} > {"labels are the answers", "the loss is over the labels"}
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert made["metrics"]["toy_error"]["tuned"] != made["metrics"]["toy_error"]["base"]
    assert "toy_error" in (out / "report.html").read_text()

    model, tokenizer = tunelift.load(
        tiny_encoder["model"], adapter=out / "adapter", task="toy-regression", dtype="float32"
    )
    again = tunelift.evaluate(model, tokenizer, data=data["test"], task="toy-regression", deduplicate=False)
    assert again.metrics["toy_error"] == pytest.approx(made["metrics"]["toy_error"]["tuned"], rel=1e-5)
