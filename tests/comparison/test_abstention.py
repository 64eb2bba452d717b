"""Temperature, operating points and abstention: by hand, and against models whose probabilities are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from tunelift.comparison import compare
from tunelift.comparison.abstention import Cases
from tunelift.comparison.decisions import decisions_of, has_probabilities
from tunelift.comparison.pairing import Pair
from tunelift.comparison.probabilities import probability_calibration
from tunelift.comparison.run_folder import compare_run
from tunelift.comparison.temperature import fitted_temperature
from tunelift.core.records import Scores
from tunelift.wording.calibration_text import calibration_lines

LABELS = ["a", "b", "c"]


def answers(count: int, sharpness: float, seed: int, **more: Any) -> list[dict[str, Any]]:
    """Rows of a model that draws references from its own probabilities, and states them `sharpness` times as sharp."""
    source, rows = np.random.default_rng(seed), []
    for i, odds in enumerate(source.normal(0, 2, (count, 3))):
        wanted = LABELS[int(source.choice(3, p=special.softmax(odds)))]
        scores = dict(zip(LABELS, special.log_softmax(odds * sharpness).tolist(), strict=True))
        best = max(scores, key=scores.__getitem__)
        row = {"id": f"{seed}-{i}", "input": f"text {seed} {i}", "reference": wanted, "prediction": best, **more}
        rows.append(row | {"label_scores": scores, "metrics": {"accuracy": float(best == wanted)}})
    return rows


def as_pairs(base: list[dict[str, Any]], tuned: list[dict[str, Any]]) -> list[Pair]:
    return [Pair(one["id"], one, other, item=one["id"]) for one, other in zip(base, tuned, strict=True)]


def cases(confidence: Any, right: Any) -> Cases:
    return Cases(np.asarray(confidence, float), np.asarray(right, float), np.arange(len(right)))


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_how_much_too_sharp_scores_are(sharpness: float) -> None:
    found = decisions_of(answers(3000, sharpness, 1))
    assert found is not None
    assert fitted_temperature(found) == pytest.approx(sharpness, rel=0.08)
    assert np.array_equal(found.shares(7.0).argmax(axis=1), found.shares().argmax(axis=1))


def test_the_temperature_minimises_the_loss_and_is_finite_for_a_model_that_is_always_right() -> None:
    rows = answers(200, 2.0, 2)
    found = decisions_of(rows)
    assert found is not None
    best = fitted_temperature(found)
    assert best is not None

    def loss(temperature: float) -> float:
        shares = found.shares(temperature)[np.arange(200), found.wanted]
        return float(-np.log(shares).sum() + math.log(temperature) ** 2 / 2)

    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))
    for row in rows:
        row["reference"] = row["prediction"]
    sure = decisions_of(rows)
    assert sure is not None
    assert 0.05 < (fitted_temperature(sure) or 0) < 1
    few = decisions_of(rows[:29])
    assert few is not None and fitted_temperature(few) is None


def test_a_threshold_is_the_lowest_that_validation_shows() -> None:
    right = [1.0] * 40 + [0.0, 1.0] * 30
    confidence = np.linspace(0.99, 0.4, 100)
    chosen = cases(confidence, right).threshold(0.9)
    assert chosen is not None
    taken = int((confidence >= chosen).sum())

    def bound(count: int) -> float:  # Clopper and Pearson's, by scipy's binomial
        return float(stats.binom.sf(sum(right[:count]) - 1, count, 0.9))

    assert bound(taken) <= 0.1
    assert all(bound(count) > 0.1 for count in range(taken + 1, 101))
    assert cases(confidence, [1.0] * 100).threshold(0.9) == 0.0  # all can be answered
    assert cases(confidence[:21], [1.0] * 21).threshold(0.9) is None  # 0.9^21 is above 0.1
    assert cases([0.8] * 100, [1.0] * 60 + [0.0] * 40).threshold(0.9) is None  # equal confidences are one group
    alike = Cases(confidence, np.ones(100), np.zeros(100, dtype=np.intp))
    assert alike.threshold(0.9) is None  # a hundred cases of one source tell no more than one


def test_the_area_is_the_mean_of_wrong_answers_over_all_shares() -> None:
    source = np.random.default_rng(0)
    confidence, right = np.round(source.random(60), 1), source.integers(0, 2, 60)

    def area(weights: np.ndarray[Any, Any]) -> float:
        risks = [np.sum(weights * (confidence >= c) * (1 - right)) / weights.sum() for c in confidence]
        return float(np.sum(weights * risks) / weights.sum())

    values = cases(confidence, right).of_area
    assert values.mean() == pytest.approx(area(np.ones(60)))
    for i in (0, 17, 59):  # each value less the mean is what the case's weight does to the area
        weights = np.ones(60)
        weights[i] += 1e-6
        assert values[i] - values.mean() == pytest.approx((area(weights) - area(np.ones(60))) * 60 / 1e-6, abs=1e-3)


def test_both_errors_and_their_intervals_by_hand() -> None:
    rows = answers(400, 1.0, 3)
    found = probability_calibration(as_pairs(rows, rows), 0.95)
    assert found is not None
    brier = []
    for row in rows:
        shares = {label: math.exp(score) for label, score in row["label_scores"].items()}
        brier.append(sum((share - (label == row["reference"])) ** 2 for label, share in shares.items()))
    own = found["tuned"]
    assert own["brier"] == pytest.approx(np.mean(brier))
    by_t = stats.t.interval(0.95, 399, np.mean(brier), stats.sem(brier))
    assert own["brier_interval"] == pytest.approx(by_t, abs=4e-3)
    low, high = own["ece_interval"]
    assert low <= own["ece"] <= high < 0.1
    assert found["brier"] == {"difference": 0.0, "interval": None}  # both are the same rows
    assert own["curve"][-1] == [1.0, pytest.approx(np.mean([row["metrics"]["accuracy"] for row in rows]))]
    for row in rows:  # no answer is wrong, and all are as sure as can be: that others would be is not shown
        row |= {"reference": row["prediction"], "label_scores": {row["prediction"]: 0.0, "x": -math.inf}}
    perfect = probability_calibration(as_pairs(rows, rows), 0.95)
    assert perfect is not None
    assert [perfect["tuned"][key] for key in ("ece", "ece_interval", "brier", "brier_interval")] == [0, None, 0, None]
    few = probability_calibration(as_pairs(rows[:7], rows[:7]), 0.95)
    assert few is not None and few["tuned"]["brier_interval"] is None


def test_of_sets_each_label_is_a_decision_and_an_item_one_unit() -> None:
    source, rows = np.random.default_rng(4), []
    for i in range(300):
        likely = source.random(3)
        counts = {}
        for label, share in zip(LABELS, likely.tolist(), strict=True):
            true = special.expit(2 * special.logit(share))  # less sure than it could be
            counts |= {f"score {label}": share, f"wanted {label}": float(source.random() < true)}
        rows.append({"id": str(i), "counts": {"average_precision": counts}})
    test, validation = rows[:150], rows[150:]
    found = probability_calibration(as_pairs(test, test), 0.95, validation={"tuned": validation, "base": []})
    assert found is not None and found["of"] == "labels"
    own = found["tuned"]
    assert own["items"] == 150 and sum(point["items"] for point in own["bins"]) == 450
    grid = np.linspace(0.001, 0.999, 999)
    assert own["ece"] == pytest.approx(np.sqrt(np.mean((special.expit(2 * special.logit(grid)) - grid) ** 2)), abs=0.03)
    assert own["temperature"] == pytest.approx(0.5, rel=0.3)
    assert "augrc" not in own and "scaled" not in found["base"] and 0 <= own["brier"] <= 1
    assert own["scaled"]["ece"] < own["ece"]
    point, known = own["points"][0], [row["counts"]["average_precision"] for row in test]
    least = special.expit(own["temperature"] * special.logit(point["confidence"]))  # before scaling
    told = [counts[f"wanted {label}"] for counts in known for label in LABELS if counts[f"score {label}"] >= least]
    there = sum(counts[f"wanted {label}"] for counts in known for label in LABELS)
    assert point["cases"] == len(told) and point["right"] == pytest.approx(np.mean(told))
    assert point["answered"] == pytest.approx(sum(told) / there)
    assert not has_probabilities({"counts": {"average_precision": {"score a": 0.4}}})


def test_a_run_folder_gives_all_of_it_again_and_text_says_it(tmp_path: Path) -> None:
    sides = {"base": answers(300, 3.0, 5), "tuned": answers(300, 1.0, 5)}
    for name, rows in sides.items():
        for folder, own in ((tmp_path / name, rows), (tmp_path / name / "calibration", answers(900, 3.0, 6))):
            Scores(own, {"metrics": {"accuracy": {"value": 0, "higher_is_better": True}}}).save(folder)
    found = json.loads(json.dumps(compare_run(tmp_path).to_dict()))
    calibration, said = found["calibration"], str(compare_run(tmp_path))
    assert found == json.loads(json.dumps(compare_run(tmp_path).to_dict()))
    assert calibration["base"]["temperature"] == pytest.approx(3, rel=0.25)
    assert calibration["base"]["scaled"]["ece"] < calibration["base"]["ece"] - 0.05
    point = calibration["base"]["points"][0]
    rows = decisions_of(sides["base"])
    assert rows is not None
    taken = rows.confidence(calibration["base"]["temperature"]) >= point["confidence"]
    assert (point["target"], point["cases"]) == (0.9, int(taken.sum()))
    assert point["right"] == pytest.approx(rows.right[taken].mean()) and point["answered"] == taken.mean()
    assert point["right_interval"][0] < point["right"] < point["right_interval"][1] <= 1
    assert f"From confidence {calibration['tuned']['points'][0]['confidence']:.2f} on (for 90% right" in said
    assert "fitted on 900 validation rows" in said and "(AUGRC)" in said
    (line,) = (line for line in said.splitlines() if line.startswith("From confidence"))
    taken = calibration["tuned"]["points"][0]
    assert f"right on {taken['right']:.1%} (95% interval {taken['right_interval'][0]:.1%} to" in line
    assert f"of the {taken['answered']:.1%} (95% interval" in line and f"{point['answered']:.1%} of cases" in line
    alone = compare(sides["base"], sides["tuned"]).to_dict()
    assert alone["calibration"]["brier"] == calibration["brier"] and "points" not in alone["calibration"]["tuned"]
    assert len(calibration_lines(alone["calibration"], 0.95)) == 3
