"""What must be alike for two results to be compared, and what a run goes on with: settings of a task, and metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tunelift
from tunelift.comparison import compare
from tunelift.comparison.pairing import MUST_AGREE
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Pair, Scores, Span, Spans
from tunelift.evaluation.measures import MEASURES
from tunelift.evaluation.plan import Plan
from tunelift.metrics import Answer, resolve
from tunelift.tasks import TASKS


def scores(metric: str, *answers: str) -> Scores:
    (one,) = resolve([metric])
    assert one.score is not None
    rows: list[dict[str, Any]] = []
    for i, answer in enumerate(answers):
        value = one.score(Answer(answer, "x"))
        rows.append({"id": str(i), "input": f"i {i}", "reference": "x", "metrics": {one.name: value}})
    entry = {"value": 0.5, "higher_is_better": True, "items": len(rows)}
    return Scores(rows, {"metrics": {one.name: entry | {"defined_by": one.defined_by}}})


def test_a_metric_of_another_schema_pattern_or_code_is_another_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, kind in (("a", "integer"), ("b", "string")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"type": kind}))
        (tmp_path / f"{name}.py").write_text(f"def mine(prediction, reference):\n    return float({kind!r} == 'x')\n")
    (tmp_path / "again.json").write_text(json.dumps({"type": "integer"}, indent=2))
    said = ["1"] * 5 + ['"x"'] * 5
    for one, other in (
        ("json_schema:a.json", "json_schema:b.json"),
        ("regex_match:1", r"regex_match:\d"),
        ("a.py:mine", "b.py:mine"),
    ):
        with pytest.raises(InputError, match="is another metric for tuned than for base"):
            compare(scores(one, *said), scores(other, *said))
        assert compare(scores(one, *said), scores(one, *said)).items == 10
    assert compare(scores("json_schema:a.json", *said), scores("json_schema:again.json", *said)).items == 10


def test_what_a_measure_says_must_agree_is_compared(questions: dict[str, Any]) -> None:
    assert questions["how"].keys() <= {*MUST_AGREE}
    base, tuned = questions["scores"](5), questions["scores"](30)
    with pytest.raises(InputError, match=r"spans differs: .*\"max_answer_tokens\": 5"):
        compare(base, tuned)
    assert compare(base, base).items == 8


@pytest.fixture
def questions() -> dict[str, Any]:
    """Return how a question's answer is looked for, and scores of answers of at most so many tokens."""
    import tiny_models
    from tiny_tokenizers import knows_pairs

    task = TASKS.get("question-answering")
    given = Pair("who?", "the cat sat")
    example = Example("1", "the cat sat who?", "cat", given, Spans((Span("cat", 4),)))
    tokenizer, model = knows_pairs(), tiny_models.causal()

    def measured(longest: int) -> Any:
        plan = Plan(resolve(["squad_f1"]), task, max_length=60, max_answer_tokens=longest)
        return MEASURES.get("spans")(model, tokenizer, [example], plan, "test")

    def made(longest: int) -> Scores:
        rows = [{"id": str(i), "input": f"{i}", "reference": "x", "metrics": {"squad_f1": i / 8}} for i in range(8)]
        return Scores(rows, {"made_with": dict(measured(longest).how())})

    return {"how": measured(5).how(), "scores": made}


def test_a_run_does_not_go_on_with_another_schema(tiny: dict[str, Any]) -> None:
    folder = Path(tiny["output"]).parent
    (folder / "form.json").write_text('{"type": "integer"}')
    metrics = [f"json_schema:{folder / 'form.json'}"]
    settings = tiny | {"evaluate": {"metrics": metrics, "max_new_tokens": 4, "forgetting": [], "baselines": []}}
    settings |= {"data": tiny["data"] | {"prompt": "{text}", "completion": " {label}"}}
    tunelift.run(**settings)
    (folder / "form.json").write_text('{"type": "string"}')
    with pytest.raises(InputError, match=r"holds another run; what differs: metrics\.json_schema"):
        tunelift.run(**settings)


def test_a_function_says_its_direction_by_true_or_false() -> None:
    def mine(prediction: str, reference: str) -> float:
        return 0.0

    for said in (0, "no"):
        mine.higher_is_better = said  # type: ignore[attr-defined]
        with pytest.raises(InputError, match="has higher_is_better = "):
            resolve([mine])


def test_a_pattern_may_hold_what_looks_like_code() -> None:
    (metric,) = resolve([r"regex_match:\w+\.py:\d+"])
    assert metric.score is not None
    assert metric.score(Answer("a.py:3", "")) == 1


@pytest.mark.parametrize(("thresholds", "said"), [((0.5, 0.31), "base"), ((0.31, 0.5), "tuned"), ((0.4, 0.31), "")])
def test_a_threshold_that_was_chosen_for_one_side_alone_is_said(thresholds: tuple[float, float], said: str) -> None:
    sides = [scores("exact_match", *"xyxyxyxyxy") for _ in thresholds]
    for side, threshold in zip(sides, thresholds, strict=True):
        side.info["made_with"] = {"threshold": threshold}
    notes = [note for note in compare(*sides).notes if "probability" in note]
    assert len(notes) == bool(said)
    assert all(f"for {said}, where none was chosen" in note for note in notes)
