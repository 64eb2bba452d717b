"""A small part of benchmarks/calibration.py: verdicts are rarely wrong, and given where there is something to see."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from tunelift.comparison import power

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "calibration.py"
SIMULATIONS = 2000
SLACK = 1.5
"""Three standard errors of 5% in so many simulations, in percent."""


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module
    spec.loader.exec_module(module)
    return module


def test_right_or_wrong_items(calibration: ModuleType) -> None:
    for items, share in ((16, 0.4), (30, 0.4)):
        cell = calibration.binary("a test", 5_000, items, share)
        assert cell.wrong <= 5.5
        assert cell.coverage >= 93.5  # of 2,000 intervals
        assert cell.power == pytest.approx(100 * power.POWER, abs=3)


@pytest.mark.parametrize("kind", ["normal_pairs", "exponential"])
def test_graded_items(calibration: ModuleType, kind: str) -> None:
    draw = getattr(calibration, kind)
    draw = partial(draw, correlation=0.5) if kind == "normal_pairs" else draw
    cell = calibration.graded("a test", SIMULATIONS, (50, 1), draw)
    assert cell.wrong <= 5 + SLACK
    assert cell.wrong_by_p == cell.wrong
    assert cell.power >= 75


def test_items_in_clusters(calibration: ModuleType) -> None:
    cell = calibration.graded("a test", SIMULATIONS, (12, 10), partial(calibration.normal_pairs, correlation=0.5))
    assert cell.wrong <= 5 + SLACK
    assert cell.power >= 55
    cell = calibration.binary_clusters("a test", 800, 30, 0.5, 0.9)
    assert cell.wrong <= 5 + 2 * SLACK
    assert cell.power >= 85


@pytest.mark.parametrize("items", [4, 50, 1000])
def test_the_exact_test_is_never_wrong_more_often_than_it_says(calibration: ModuleType, items: int) -> None:
    found, share, _ = calibration.size(items)
    assert 0.0 <= found <= 0.05
    assert 0 < share <= 1 or found == 0


def test_ratios_and_gaps(calibration: ModuleType) -> None:
    assert calibration.ratio("a test", 60, 30, calibration.exponential).wrong <= 12
    cell = calibration.gaps("a test", 60, 30, 0.05)
    assert cell.wrong == cell.wrong_by_p <= 6
    assert cell.coverage >= 94


def test_macro_f1(calibration: ModuleType) -> None:
    cell = calibration.corpus("a test", 60, 100, 0.5)
    assert cell.wrong <= 12
    assert cell.coverage >= 88
    assert cell.power >= 50


def test_a_broken_limit_is_said(calibration: ModuleType) -> None:
    cell = calibration.Cell("a test", wrong=6.0, wrong_by_p=6.0, coverage=93.0, power=70.0, expected=80.0)
    assert cell.broken() == ["wrong verdicts", "coverage too low", "power"]
    silent = calibration.Cell("a test", wrong=0.0, wrong_by_p=0.0, coverage=100.0, discordant=40.0)
    assert silent.broken() == ["coverage too high"]
