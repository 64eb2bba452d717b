"""How levels and p are written, and that verdicts and tables write them so."""

from __future__ import annotations

import pytest

from tunelift.comparison import compare
from tunelift.comparison.gates import check_gates
from tunelift.comparison.leaderboard import leaderboard
from tunelift.comparison.seeds import recipe_claim
from tunelift.reporting import wording
from tunelift.wording.comparison_text import markdown
from tunelift.wording.numbers import level_text, p_figure, p_text


@pytest.mark.parametrize(
    ("level", "shown"),
    [(0.95, "95%"), (0.975, "97.5%"), (0.999, "99.9%"), (0.9, "90%"), (0.57, "57%"), (0.99999, "99.999%")],
)
def test_a_level_keeps_its_digits(level: float, shown: str) -> None:
    assert level_text(level) == shown


@pytest.mark.parametrize(
    ("p", "figure", "text"),
    [
        (0.031, "0.031", "p = 0.031"),
        (0.0001, "0.0001", "p = 0.0001"),
        (0.00001, "< 0.0001", "p < 0.0001"),
        (1.0, "1", "p = 1"),
    ],
)
def test_p_as_a_figure_and_in_a_sentence(p: float, figure: str, text: str) -> None:
    assert (p_figure(p), p_text(p)) == (figure, text)
    assert p_figure(None) == "-"


def test_verdicts_gates_and_tables_write_the_level_in_full() -> None:
    def side(*values: float) -> list[dict[str, object]]:
        return [
            {"id": str(i), "input": f"a{i}", "reference": "b", "metrics": {"f1": value}}
            for i, value in enumerate(values * 10)
        ]

    base, tuned = side(0.1, 0.2), side(0.4, 0.3)
    found = compare(base, tuned, level=0.999, margin=0.01)
    shown = "99.9% interval"
    assert shown in found.metrics["f1"].verdict.reason
    assert shown in str(check_gates(found, [], ["f1"])[0])
    assert shown in markdown(found.to_dict())
    assert shown in str(leaderboard(base, {"one": tuned, "two": side(0.5, 0.2)}, level=0.999))
    assert shown in recipe_claim(range(5), 0.1, [0.3, 0.4, 0.35, 0.3, 0.4], True, 0.999)["reason"]
    entry = {**found.to_dict(), "headline": {"metric": "f1", "against": "base"}}
    assert shown in wording.evidence_sentence(entry)
