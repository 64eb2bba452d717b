"""A run folder compared from its files: the headline against the strongest baseline, forgetting, seeds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tunelift.comparison.run_folder import compare_run
from tunelift.core.errors import InputError
from tunelift.core.records import Scores

HIGHER = {"accuracy": True, "bits_per_byte": False}


def save(folder: Path, values: list[float], metric: str = "accuracy", **made_with: Any) -> None:
    """Write scores with these values of one metric, item by item."""
    rows = [
        {"id": str(i), "input": f"item {i}", "reference": "a", "prediction": "a", "metrics": {metric: value}}
        for i, value in enumerate(values)
    ]
    mean = sum(values) / len(values)
    entry = {"value": mean, "higher_is_better": HIGHER[metric], "items": len(values)}
    Scores(rows, {"items": len(rows), "metrics": {metric: entry}, "made_with": made_with}).save(folder)


def right(count: int, of: int = 100) -> list[float]:
    return [float(i < count) for i in range(of)]


def a_run(folder: Path, tuned: int = 80) -> None:
    save(folder / "base", right(40), prompt="one")
    save(folder / "tuned", right(tuned), prompt="one")


def a_baseline(folder: Path, name: str, validation: int, test: int) -> None:
    about = {"name": name, "description": f"what {name} does"}
    save(folder / "baselines" / name, right(test), prompt="another", baseline=about)
    save(folder / "baselines" / name / "validation", right(validation, 50), baseline=about)
    save(folder / "base" / "validation", right(20, 50))


def test_without_baselines_the_verdict_is_against_the_base(tmp_path: Path) -> None:
    a_run(tmp_path)
    found = compare_run(tmp_path).to_dict()
    assert found["headline"]["against"] == "base"
    assert found["headline"]["verdict"] == "better"
    assert (found["selection"], found["baselines"], found["recipe"], found["forgetting"]) == (None, {}, None, {})


def test_the_verdict_is_against_the_strongest_on_validation_not_on_test(tmp_path: Path) -> None:
    a_run(tmp_path)
    a_baseline(tmp_path, "tf-idf", validation=30, test=60)
    a_baseline(tmp_path, "few-shot", validation=25, test=79)
    comparison = compare_run(tmp_path)
    assert comparison.against == "tf-idf"
    assert comparison.verdict == "better"
    assert comparison.selection is not None
    assert comparison.selection.values == {"base": 0.4, "few-shot": 0.5, "tf-idf": 0.6}
    assert comparison.baselines["few-shot"].result.verdict.word == "inconclusive"
    assert comparison.metrics["accuracy"].base == 0.4
    assert "better than tf-idf, the strongest baseline, on accuracy: 0.600 -> 0.800" in str(comparison)
    assert any("on the test few-shot does better than tf-idf (0.790 against 0.600)" in n for n in comparison.notes)


@pytest.mark.parametrize(
    ("tuned", "verdict", "said"),
    [(60, "worse", "beats zero-shot only: it is worse than tf-idf"),
     (89, "inconclusive", "beats zero-shot only: it is not shown to be better than tf-idf")],
)  # fmt: skip
def test_beating_zero_shot_only_is_said(tmp_path: Path, tuned: int, verdict: str, said: str) -> None:
    a_run(tmp_path, tuned)
    a_baseline(tmp_path, "tf-idf", validation=45, test=90)
    found = compare_run(tmp_path).to_dict()
    assert found["metrics"]["accuracy"]["verdict"] == "better"
    assert found["headline"]["verdict"] == verdict
    assert said in found["headline"]["sentence"]


def test_the_base_may_be_the_strongest(tmp_path: Path) -> None:
    a_run(tmp_path)
    a_baseline(tmp_path, "majority", validation=10, test=95)
    found = compare_run(tmp_path).to_dict()
    assert found["selection"]["strongest"] == "base"
    assert found["headline"]["against"] == "base"
    assert found["baselines"]["majority"]["verdict"] == "worse"


def test_forgetting_is_compared_set_by_set(tmp_path: Path) -> None:
    a_run(tmp_path)
    noise = random.Random(0)
    before = [1 + noise.random() for _ in range(40)]
    save(tmp_path / "forgetting" / "general-text" / "base", before, "bits_per_byte")
    after = [value + 0.1 + 0.02 * noise.random() for value in before]
    save(tmp_path / "forgetting" / "general-text" / "tuned", after, "bits_per_byte")
    entry = compare_run(tmp_path).to_dict()["forgetting"]["general-text"]
    assert entry["metric"] == "bits_per_byte"
    assert entry["verdict"] == "worse"
    assert entry["difference"] == pytest.approx(0.11, abs=0.005)


def test_the_recipe_is_judged_over_five_seeds(tmp_path: Path) -> None:
    a_run(tmp_path)
    save(tmp_path / "tuned", right(80), prompt="one", seed=0)
    for seed, count in enumerate([78, 82, 81], start=1):
        save(tmp_path / "seeds" / str(seed) / "tuned", right(count), seed=seed)
    few = compare_run(tmp_path).to_dict()["recipe"]
    assert few["verdict"] == "inconclusive"
    save(tmp_path / "seeds" / "10" / "tuned", right(79), seed=10)
    recipe = compare_run(tmp_path).to_dict()["recipe"]
    assert recipe["seeds"] == [0, 1, 2, 3, 10]
    assert recipe["differences"] == pytest.approx([0.4, 0.38, 0.42, 0.41, 0.39])
    assert recipe["verdict"] == "better"


def test_a_folder_without_the_tuned_side_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "base", right(40))
    with pytest.raises(InputError):
        compare_run(tmp_path)


def test_the_runs_own_margin_counts_unless_another_is_given(tmp_path: Path) -> None:
    save(tmp_path / "base", right(80))
    save(tmp_path / "tuned", right(82))
    (tmp_path / "config.yaml").write_text("evaluate: {margin: 0.2}\n")
    assert compare_run(tmp_path).verdict == "equivalent"
    assert compare_run(tmp_path, margin=0.01).margin == 0.01


def test_without_validation_the_verdict_says_that_nothing_was_chosen(tmp_path: Path) -> None:
    a_run(tmp_path)
    about = {"name": "tf-idf", "description": "words"}
    save(tmp_path / "baselines" / "tf-idf", right(95), prompt="another", baseline=about)
    found = compare_run(tmp_path).to_dict()
    assert found["headline"]["against"] == "base"
    assert found["baselines"]["tf-idf"]["verdict"] == "worse"
    assert any("no validation rows to choose the strongest baseline" in note for note in found["notes"])


def test_seeds_are_compared_on_the_same_items_as_the_verdict(tmp_path: Path) -> None:
    a_run(tmp_path)
    save(tmp_path / "seeds" / "1" / "tuned", right(78, of=90), seed=1)
    with pytest.raises(InputError, match="are not in seed 1"):
        compare_run(tmp_path)
