"""Loss, perplexity and bits per byte, per item and over a data set."""

from __future__ import annotations

import math

import pytest

from tunelift.metrics import Answer, aggregate, likelihood, resolve

ROWS = [("ab", -2.0, 2), ("ü", -3.0, 1)]  # reference, log-likelihood, tokens; ü is two bytes


def _rows(name: str) -> list[dict[str, object]]:
    (metric,) = resolve([name])
    return [
        {
            "reference": reference,
            "log_likelihood": value,
            "tokens": tokens,
            "metrics": {name: metric.score(Answer("", reference, value, tokens))},
        }
        for reference, value, tokens in ROWS
    ]


def test_values_of_one_item() -> None:
    answer = Answer("", "ü", -3.0, 2)
    assert likelihood.loss(answer) == 1.5
    assert likelihood.perplexity(answer) == pytest.approx(math.exp(1.5))
    assert likelihood.bits_per_byte(answer) == pytest.approx(1.5 / math.log(2))


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", 5 / 3), ("perplexity", math.exp(5 / 3)), ("bits_per_byte", 5 / math.log(2) / 4)],
)
def test_aggregates_weigh_by_tokens_and_bytes(name: str, value: float) -> None:
    (metric,) = resolve([name])
    assert aggregate(metric, _rows(name)) == pytest.approx(value)
    assert not metric.higher_is_better


def test_unscored_rows_are_not_in_the_aggregate() -> None:
    (metric,) = resolve(["loss"])
    unscored = {"reference": "x", "log_likelihood": None, "tokens": 0, "unscored": "longer than the context"}
    assert aggregate(metric, [*_rows("loss"), unscored]) == pytest.approx(5 / 3)


def test_a_perplexity_beyond_floats_is_infinite() -> None:
    assert likelihood.perplexity(Answer("", "x", -1000.0, 1)) == math.inf


def test_likelihood_metrics_need_a_likelihood() -> None:
    with pytest.raises(ValueError, match="log-likelihood"):
        likelihood.loss(Answer("", "x"))
