"""From two sides to a verdict: pairing and its refusals, directions, the JSON, the text."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunelift.comparison import Comparison, compare
from tunelift.comparison.pairing import MUST_AGREE
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.run_files.layout import FORMAT

Row = dict[str, Any]


def rows(values: Sequence[float | None], name: str = "accuracy", **more: Any) -> list[Row]:
    """One row per value; None is an unscored item."""
    made: list[Row] = []
    for index, value in enumerate(values):
        row: Row = {"id": str(index), "input": f"text {index}", "reference": " yes", "prediction": f" {value}", **more}
        made.append(row | ({"unscored": "too long"} if value is None else {"metrics": {name: value}}))
    return made


def test_better_worse_and_inconclusive() -> None:
    weak, strong = rows([0] * 40 + [1] * 20), rows([1] * 50 + [0] * 10)
    assert compare(weak, strong).verdict == "better"
    assert compare(strong, weak).verdict == "worse"
    same = compare(weak, weak)
    assert same.verdict == "inconclusive"
    assert "contains 0; the smallest difference 60 items show" in same.metrics["accuracy"].verdict.reason


def test_a_metric_whose_lower_values_are_better() -> None:
    high, low = (
        rows([2.0 + index % 3 for index in range(30)], "loss"),
        rows([1.0 + index % 4 for index in range(30)], "loss"),
    )
    result = compare(high, low).metrics["loss"]
    assert result.verdict.word == "better"
    assert result.effect.difference < 0
    assert result.effect.difference == pytest.approx(result.tuned - result.base)
    assert compare(low, high).verdict == "worse"
    assert next(flip["direction"] for flip in compare(high, low).flips) == "lost"


def test_the_direction_metrics_json_gives_counts_and_must_agree() -> None:
    def side(values: list[float], higher: bool) -> Scores:
        return Scores(rows(values, "errors"), {"metrics": {"errors": {"value": 0, "higher_is_better": higher}}})

    many, few = [1.0] * 30 + [0.0] * 10, [0.0] * 40
    comparison = compare(side(many, False), side(few, False))
    assert comparison.verdict == "better"
    assert comparison.metrics["errors"].discordant == {"gained": 30, "lost": 0}
    with pytest.raises(InputError, match="disagree on whether a higher errors is better"):
        compare(side(many, False), side(few, True))


def test_margin_gives_equivalent_and_no_worse() -> None:
    base = rows([0, 1] * 500)
    almost = rows([1, 0] * 5 + [0, 1] * 495)
    comparison = compare(base, almost, margin=0.05)
    assert comparison.verdict == "equivalent"
    assert comparison.metrics["accuracy"].verdict.no_worse is True
    assert compare(base, rows([1, 1] * 500), margin=0.05).verdict == "better"
    worse = compare(base, rows([0, 0] * 500), margin=0.05)
    assert (worse.verdict, worse.metrics["accuracy"].verdict.no_worse) == ("worse", False)
    assert compare(base, almost).metrics["accuracy"].verdict.no_worse is None
    losses = compare(rows([2.0, 1.0, 3.0] * 9, "loss"), rows([1.1, 0.3, 2.0] * 9, "loss"), margin=0.5)
    assert (losses.verdict, losses.metrics["loss"].verdict.no_worse) == ("better", True)


def test_further_metrics_are_judged_by_holm_and_the_headline_by_its_interval() -> None:
    def two(accuracy: int, loss: float, index: int, f1: float) -> Row:
        metrics = {"accuracy": accuracy, "loss": loss, "f1": f1}
        return {"id": index, "input": f"a {index}", "reference": "b", "prediction": "c", "metrics": metrics}

    base = [two(index % 2, 2 + index % 5 / 10, index, 0.5) for index in range(20)]
    tuned = [two(1, 1 + index % 3 / 10, index, 0.5 + (index % 4 - 1.3) / 40) for index in range(20)]
    comparison = compare(base, tuned)
    assert comparison.headline == "accuracy"
    loss, f1 = comparison.metrics["loss"], comparison.metrics["f1"]
    assert loss.effect.p is not None
    assert loss.p_adjusted == pytest.approx(2 * loss.effect.p)
    assert loss.verdict.word == "better"
    assert "Holm" in loss.verdict.reason
    assert f1.verdict.word == "inconclusive"
    assert compare(base, tuned, metric="loss").headline == "loss"


def test_clustered_items_use_clusters_and_few_of_them_are_inconclusive() -> None:
    def side(values: list[int], per: int) -> list[Row]:
        return [row | {"cluster": f"p{index // per}"} for index, row in enumerate(rows(values))]

    base, tuned = [0] * 40, [1, 1, 0, 1, 1, 1, 1, 0, 1, 1] * 4
    comparison = compare(side(base, 4), side(tuned, 4))
    assert comparison.metrics["accuracy"].effect.test == "t and bootstrap over clusters"
    assert comparison.verdict == "better"
    entry = comparison.to_dict()["metrics"]["accuracy"]
    assert entry["clusters"] == 10
    assert "discordant" not in entry
    few = compare(side(base, 10), side(tuned, 10))
    assert few.verdict == "inconclusive"
    assert few.metrics["accuracy"].verdict.reason == "the items come from 4 clusters, and at least 8 are needed."
    assert compare(side(base, 1), side(tuned, 1)).metrics["accuracy"].effect.test.startswith("exact unconditional")
    with pytest.raises(InputError, match="different clusters"):
        compare(side(base, 4), side(tuned, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda side: [*side, side[0]], "occur more than once: 0"),
        (
            lambda side: [side[0] | {"input": "another"}, *side[1:]],
            "another input or reference in tuned than in base: id 0",
        ),
        (lambda side: [side[0] | {"reference": " no"}, *side[1:]], "another input or reference"),
        (lambda side: side[:-2], "2 of the 10 items in base are not in tuned: id 8, 9"),
        (lambda side: [*side, side[0] | {"id": "x"}], "1 of the 11 items in tuned are not in base: id x"),
        (lambda side: [row | {"id": f"t{row['id']}"} for row in side], "no item in common"),
        (
            lambda side: [row | {"metrics": {"loss": 1}} for row in side],
            "no metric in common: accuracy in base, loss in",
        ),
        (lambda side: [row | {"metrics": {}, "unscored": "x"} for row in side], "accuracy in base, none in tuned"),
        (lambda side: [row | {"metrics": {}} for row in side], "neither metrics nor a reason"),
        (lambda side: [row | {"metrics": [1]} for row in side], "no object of names and numbers"),
        (lambda side: [row | {"metrics": {"accuracy": "high"}} for row in side], "accuracy = 'high'"),
        (
            lambda side: [row | {"metrics": {"accuracy": math.nan}} for row in side],
            "No item has accuracy on both sides: no finite accuracy for tuned",
        ),
        (lambda side: [{"id": "0", "metrics": {"accuracy": 1}}], "Row 1 of the tuned side lacks input, reference"),
        (lambda side: [], "no rows"),
    ],
)
def test_sides_that_cannot_be_paired_are_refused(change: Any, message: str) -> None:
    side = rows([0, 1] * 5)
    with pytest.raises(InputError) as caught:
        compare(side, change(side))
    assert message in str(caught.value)


@pytest.mark.parametrize("key", MUST_AGREE)
def test_sides_made_differently_are_refused(key: str) -> None:
    def side(value: Any) -> Scores:
        return Scores(rows([0, 1]), {"made_with": {key: value, "model": value}})

    with pytest.raises(InputError) as caught:
        compare(side("one"), side("two"))
    assert f'{key} differs: "one" for base, "two" for tuned.' in str(caught.value)
    assert "model" not in str(caught.value)
    compare(side("one"), side(None))


def test_every_reason_for_a_refusal_is_given() -> None:
    base, tuned = (
        Scores(rows([0, 1, 1]), {"made_with": {"task": "a"}}),
        Scores(rows([0, 1]), {"made_with": {"task": "b"}}),
    )
    with pytest.raises(InputError) as caught:
        compare(base, tuned)
    assert len(caught.value.problems) == 2


def test_wrong_settings_are_refused() -> None:
    side = rows([0, 1])
    with pytest.raises(InputError, match=r'no metric "acuracy".*Did you mean "accuracy"'):
        compare(side, side, metric="acuracy")
    with pytest.raises(InputError) as caught:
        compare(side, side, margin=-1, level=95)
    assert len(caught.value.problems) == 2


def test_unscored_items_are_left_out_and_counted() -> None:
    base, tuned = rows([0, None, 1, 0]), rows([1, 1, None, 1])
    comparison = compare(base, tuned)
    assert comparison.items == 2
    assert comparison.to_dict()["left_out"] == 2
    assert [tuple(item) for item in comparison.left_out] == [
        ("1", "unscored, base: too long"),
        ("2", "unscored, tuned: too long"),
    ]
    assert "Left out of the values: 1 (unscored, base: too long)." in str(comparison)
    assert "; 2 of 4 items scored on both sides)." in str(comparison).splitlines()[0]


def test_a_value_that_is_not_finite_is_left_out_of_its_metric() -> None:
    base, tuned = rows([1.5, 2.5, 3.5], "loss"), rows([math.inf, 1.0, 2.5], "loss")
    comparison = compare(base, tuned)
    assert comparison.items == 2
    assert comparison.left_out[0].reason == "no finite loss for tuned"
    for side in (base, tuned):
        for row in side:
            row["metrics"] = {"accuracy": 1, "loss": None}
    assert compare(base, tuned).notes == ["No item has loss on both sides: no finite loss for base and tuned."]


def test_flips_are_lost_first_and_worst_first() -> None:
    base, tuned = rows([1, 1, 0, 1], log_likelihood=-1.0), rows([0, 0, 1, 1])
    for row, value in zip(tuned, (-2.0, -9.0, -0.5, -1.0), strict=True):
        row["log_likelihood"] = value
    flips = compare(base, tuned).flips
    assert [(flip["id"], flip["direction"]) for flip in flips] == [("1", "lost"), ("0", "lost"), ("2", "gained")]
    assert flips[0] == {
        "id": "1",
        "input": "text 1",
        "reference": " yes",
        "base": " 1",
        "tuned": " 0",
        "direction": "lost",
        "change": -1.0,
    }


def test_items_without_answers_are_not_said_to_have_answered_none() -> None:
    losses = [rows([2.0 + shift] * 20, "loss", prediction=None) for shift in (0.5, 0.0)]
    text = str(compare(*losses))
    assert 'reference "yes"\n' in text
    assert "none" not in text
    assert 'reference "yes", base none, tuned "0.0"' in str(compare(losses[0], rows([0.0] * 20, "loss")))


def test_graded_flips_keep_the_largest_changes() -> None:
    count = 200
    base = rows([0.5] * count, "f1")
    tuned = rows([0.5 + (index - 100) / 1000 for index in range(count)], "f1")
    flips = compare(base, tuned).flips
    assert len(flips) == 100
    assert flips[0]["id"] == "0"
    assert flips[-1]["id"] == "199"


def _everything(comparison: Comparison) -> dict[str, Any]:
    return json.loads(json.dumps(comparison.to_dict(), allow_nan=False))


@pytest.mark.parametrize(
    ("base", "tuned"),
    [([0], [1]), ([1], [1]), ([0.3], [0.4]), ([0.3, 0.4], [0.3, 0.4]), ([0, 0], [1, 1]), ([1] * 9, [1] * 9)],
)
def test_degenerate_data_give_valid_json_and_no_verdict(base: list[float], tuned: list[float]) -> None:
    comparison = compare(rows(base, "score"), rows(tuned, "score"))
    written = _everything(comparison)
    assert written["metrics"]["score"]["verdict"] == "inconclusive"
    assert written["metrics"]["score"]["reason"]
    assert "It is not clear" in str(comparison)


def test_comparison_json_has_the_contracts_keys() -> None:
    written = _everything(compare(rows([0] * 20), rows([1] * 19 + [0])))
    assert written["format"] == FORMAT
    assert (written["items"], written["left_out"], written["level"]) == (20, 0, 0.95)
    assert (written["headline"]["metric"], written["headline"]["against"]) == ("accuracy", "base")
    assert written["claim"] == "this tuned model, on items like these"
    assert written["baselines"] == {}
    assert written["flips"]["lost"] == []
    assert len(written["flips"]["gained"]) == 19
    entry = written["metrics"]["accuracy"]
    assert (entry["base"], entry["tuned"], entry["difference"]) == (0.0, 0.95, 0.95)
    assert entry["discordant"] == {"gained": 19, "lost": 0}
    # The largest chance, over the discordance q, of 19 or 20 changed of 20 items all in one direction.
    chances = (20 * q**19 * (1 - q) * 2**-18 + q**20 * 2**-19 for q in np.linspace(0, 1, 10001))
    assert entry["p"] == entry["p_adjusted"] == pytest.approx(max(chances), rel=1e-3)
    assert entry["p_exact"] == pytest.approx(2**-18)
    assert entry["interval"][0] < 0.95 < entry["interval"][1]
    assert entry["verdict"] == "better"
    assert "no_worse" not in entry


def test_the_text_opens_with_the_verdict_and_cannot_move_the_terminal() -> None:
    evil = "evil \x1b[31m text\n\twith lines " + "long " * 40
    base, tuned = (
        [row | {"input": f"{evil} {row['id']}"} for row in rows(values)] for values in ([1] + [0] * 20, [0] + [1] * 20)
    )
    comparison = compare(base, tuned)
    written = str(comparison)
    first = written.splitlines()[0]
    assert first.startswith(
        "The tuned model is better than the base model on accuracy: 0.048 -> 0.952 (+0.905, 95% interval"
    )
    assert first.endswith("21 items).")
    assert "20 items gained and 1 lost" in written
    assert "\x1b" not in written
    assert "... and 18 more" in written


def test_sides_on_disk(tmp_path: Path) -> None:
    base, tuned = (
        Scores(rows([0] * 30), {"made_with": {"dtype": "float32"}}),
        Scores(rows([1] * 30), {"made_with": {"dtype": "bfloat16"}}),
    )
    for run in ("one", "two"):
        base.save(tmp_path / run / "base")
        tuned.save(tmp_path / run / "tuned")
    comparison = compare(tmp_path / "one" / "base", tmp_path / "one" / "tuned" / "scores.jsonl")
    assert comparison.verdict == "better"
    assert comparison.notes == [
        "base was computed in float32, tuned in bfloat16: part of the difference may be rounding."
    ]
    assert compare(str(tmp_path / "one"), tmp_path / "two").verdict == "inconclusive"
    with pytest.raises(InputError, match="does not exist"):
        compare(tmp_path / "nowhere", tuned)


def test_the_first_metric_of_base_is_the_headline() -> None:
    made = rows([0, 1])
    for row in made:
        row["metrics"] = {"loss": 1.0, "accuracy": 1}
    declared = {"metrics": {"accuracy": {"value": 1, "higher_is_better": True}, "loss": {"value": 1}}}
    assert compare(made, made).headline == "loss"
    assert compare(Scores(made, declared), made).headline == "accuracy"


def test_importing_the_room_stays_light() -> None:
    heavy = ("torch", "scipy.stats", "pydantic", "transformers", "rich")
    code = f"import sys, tunelift.comparison; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
