"""Names and functions become metrics; problems are reported together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tunelift.core.errors import InputError
from tunelift.metrics import Answer, aggregate, direction, resolve


def length_ratio(prediction: str, reference: str) -> float:
    return len(prediction) / len(reference)


def names_the_city(prediction: str, reference: str, row: Mapping[str, Any]) -> bool:
    return row["city"] in prediction


def test_names_and_functions_resolve_in_order() -> None:
    metrics = resolve(["accuracy", length_ratio, "loss"])
    assert [metric.name for metric in metrics] == ["accuracy", "length_ratio", "loss"]
    assert [metric.needs for metric in metrics] == ["label", "text", "likelihood"]
    assert [metric.higher_is_better for metric in metrics] == [True, True, False]
    assert metrics[1].score(Answer("abc", "ab")) == 1.5


def test_a_function_may_take_the_row() -> None:
    (metric,) = resolve([names_the_city])
    assert metric.score(Answer("in Rome", "Rome", row={"city": "Rome"})) == 1.0
    assert metric.score(Answer("in Rome", "Oslo", row={"city": "Oslo"})) == 0.0


def test_every_problem_is_reported() -> None:
    def one(prediction: str) -> float:
        return 0.0

    with pytest.raises(InputError) as caught:
        resolve(["acuracy", "loss", "loss", one, lambda prediction, reference: 1.0])
    message = str(caught.value)
    assert 'There is no metric "acuracy". Did you mean "accuracy"?' in message
    assert '"loss" is given twice' in message
    assert 'The metric "one" takes (prediction' in message
    assert "cannot be a metric" in message
    assert len(caught.value.problems) == 4


def test_a_function_cannot_take_a_built_in_name() -> None:
    def accuracy(prediction: str, reference: str) -> float:
        return 1.0

    with pytest.raises(InputError, match="built-in"):
        resolve([accuracy])


@pytest.mark.parametrize("returned", [float("nan"), None, "much", float("inf")])
def test_a_function_must_return_a_finite_number(returned: Any) -> None:
    def judge(prediction: str, reference: str) -> Any:
        return returned

    (metric,) = resolve([judge])
    with pytest.raises(InputError, match='"judge" returned'):
        metric.score(Answer("a", "b"))


def test_aggregate_is_the_mean_of_scored_items() -> None:
    (metric,) = resolve(["accuracy"])
    rows = [{"metrics": {"accuracy": 1}}, {"metrics": {"accuracy": 0}}, {"unscored": "too long", "metrics": {}}]
    assert aggregate(metric, rows) == 0.5
    with pytest.raises(InputError, match="No item has a value"):
        aggregate(metric, rows[2:])


@pytest.mark.parametrize(
    ("names", "higher"),
    [
        ("accuracy numeric_match macro_f1 acc Pass@1 exact_match,strict-match token-f1 grader/accuracy", True),
        ("exact_match (flexible-extract)", True),
        (
            "wer WER Eval_Loss val_loss log_loss rmse perplexity word_perplexity,none latency latency_ms p95_latency",
            False,
        ),
        ("cost total_cost cost_usd edit_distance error_rate failure_rate answerError toxicity", False),
        ("helpfulness my_score seconds tokens neg_log_loss loss_reduction error_free refusal_rate rate pass_at", None),
        ("no_error cost_savings detection_rate 1-error distance_recall", None),
    ],
)
def test_a_direction_is_known_by_name_or_not_at_all(names: str, higher: bool | None) -> None:
    for name in [names] if "(" in names else names.split():
        assert direction(name) is higher, name
