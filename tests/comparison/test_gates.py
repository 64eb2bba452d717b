"""Gates: what passes, what does not, and what cannot be asked."""

from __future__ import annotations

from typing import Any

import pytest

from tunelift.comparison import Comparison, compare
from tunelift.comparison.gates import check_gates, gate_metric
from tunelift.core.errors import InputError
from tunelift.wording.comparison_text import markdown

ITEMS = 400


def rows(**metrics: Any) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "input": f"t{i}", "reference": "a", "prediction": "b"}
        | {"metrics": {name: value(i) for name, value in metrics.items()}}
        for i in range(ITEMS)
    ]


def compared(**settings: Any) -> Comparison:
    """Tuned is better on accuracy, the same but for chance on f1, and worse by 0.1 on loss."""
    base = rows(accuracy=lambda i: int(i % 2 == 0), f1=lambda i: i % 7 / 7, loss=lambda i: 1 + i % 5 / 50)
    tuned = rows(accuracy=lambda i: int(i % 5 > 0), f1=lambda i: (i + 1) % 7 / 7, loss=lambda i: 1.1 + i % 3 / 50)
    return compare(base, tuned, **settings)


def test_better_passes_on_the_verdict_alone() -> None:
    gates = check_gates(compared(), ["accuracy", "f1", "loss"], [])
    assert [(gate.metric, gate.passed) for gate in gates] == [("accuracy", True), ("f1", False), ("loss", False)]
    assert str(gates[0]).startswith(
        "Gate passed: better on accuracy was required; the verdict is better: the 95% interv"
    )
    assert str(gates[2]).startswith("Gate failed: better on loss was required; the verdict is worse: p < 0.0001")


@pytest.mark.parametrize(("margin", "passed"), [(0.05, False), (0.2, True)])
@pytest.mark.parametrize("headline", ["loss", "accuracy"])
def test_no_worse_is_judged_by_the_interval_whether_or_not_it_is_the_headline(
    margin: float, passed: bool, headline: str
) -> None:
    comparison = compared(margin=margin, metric=headline)
    (gate,) = check_gates(comparison, [], ["loss"])
    assert gate.passed is passed
    assert f"{'stays short of' if passed else 'reaches'} +{margin:g}." in gate.found
    if headline == "loss":
        assert comparison.metrics["loss"].verdict.no_worse is passed


def test_no_worse_of_a_metric_whose_higher_values_are_better() -> None:
    comparison = compared(margin=0.05)
    up, even = check_gates(comparison, [], ["accuracy", "f1"])
    assert up.passed
    assert "stays short of -0.05." in up.found
    interval = comparison.metrics["f1"].effect.interval
    assert interval is not None
    assert even.passed is (interval[0] > -0.05)


def test_without_an_interval_nothing_is_shown_to_be_no_worse() -> None:
    same = rows(f1=lambda i: 0.5)
    (gate,) = check_gates(compare(same, same, margin=0.1), [], ["f1"])
    assert not gate.passed
    assert gate.found.startswith("no interval is known: the difference is the same for every item")


def test_gates_are_of_both_kinds_and_each_once() -> None:
    gates = check_gates(compared(margin=0.2), ["accuracy", "accuracy"], ["loss"])
    assert [(gate.kind, gate.metric) for gate in gates] == [("better", "accuracy"), ("no worse", "loss")]
    assert check_gates(compared(), [], []) == []


def test_what_cannot_be_asked() -> None:
    with pytest.raises(InputError, match=r'about "acuracy", which was not compared. Did you mean "accuracy"'):
        check_gates(compared(), ["acuracy"], [])
    with pytest.raises(InputError, match="no margin was set"):
        check_gates(compared(), [], ["loss"])


@pytest.mark.parametrize(
    ("metric", "better", "no_worse", "headline"),
    [
        (None, ["f1"], [], "f1"),
        (None, [], ["loss"], "loss"),
        (None, ["f1"], ["f1"], "f1"),
        (None, ["f1"], ["loss"], None),
        (None, [], [], None),
        ("accuracy", ["f1"], [], "accuracy"),
    ],
)
def test_a_single_gates_metric_becomes_the_headline(
    metric: str | None, better: list[str], no_worse: list[str], headline: str | None
) -> None:
    assert gate_metric(metric, better, no_worse) == headline


def test_the_markdown_has_the_sentence_the_table_and_the_gates() -> None:
    comparison = compared(margin=0.2)
    written = markdown(comparison.to_dict(), check_gates(comparison, ["accuracy"], ["loss"]))
    lines = written.splitlines()
    assert lines[0] == f"**{comparison.to_dict()['headline']['sentence']}**"
    table = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {9}
    assert [line.split("|")[1].strip() for line in table[2:]] == ["accuracy", "f1", "loss (lower is better)"]
    assert table[2].split("|")[2].strip() == "base"
    assert table[2].rstrip().endswith("| better |")
    assert [line[:13] for line in lines if line.startswith("- ")] == ["- Gate passed", "- Gate passed"]
    assert lines[-1] == "It speaks of this tuned model, on items like these."
    again = markdown(comparison.to_dict() | {"looks": 4}).splitlines()[-1]
    assert again.endswith("This is look 4 at these test items; the error rates hold for the first.")


def test_names_of_others_end_no_cell_of_the_table() -> None:
    made = [row | {"metrics": {"a|b\nc": 1.0 * (int(row["id"]) % 2)}} for row in rows(a=lambda i: 1)]
    written = markdown(compare(made, made).to_dict())
    assert "| a\\|b c | base |" in written
