"""Confidence of entities: by hand, by drawing tags, and the intervals of sides that give different entities."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tunelift.comparison.decisions import decisions_of, tagged
from tunelift.comparison.pairing import Pair
from tunelift.comparison.probabilities import NO_ENTITY, probability_calibration
from tunelift.evaluation.measures.tags import entity_probability
from tunelift.metrics.tags import entities
from tunelift.wording.calibration_text import calibration_lines

LABELS = ["O", "B-a", "I-a", "B-b", "I-b"]


def row(said: str, wanted: str, *likely: float, **more: Any) -> dict[str, Any]:
    return {"prediction": said, "reference": wanted, "entity_probabilities": list(likely), **more}


def pairs_of(base: Sequence[dict[str, Any]], tuned: Sequence[dict[str, Any]]) -> list[Pair]:
    return [Pair(str(i), *both, item=str(i)) for i, both in enumerate(zip(base, tuned, strict=True))]


@pytest.mark.parametrize("labels", [LABELS, ["O", "I-a", "I-b"], ["O", "B-a", "E-a", "S-a", "I-a"]])
def test_the_probability_of_an_entity_is_its_share_of_all_sequences_of_tags(labels: list[str]) -> None:
    draw = np.random.default_rng(len(labels))
    shares = draw.dirichlet(np.full(len(labels), 0.5), size=4)
    every = np.stack(np.meshgrid(*[range(len(labels))] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    likely = np.prod(shares[np.arange(4), every], axis=1)
    found: dict[Any, float] = {}
    for sequence, share in zip(every.tolist(), likely.tolist(), strict=True):
        for entity in entities([labels[at] for at in sequence]):
            found[entity] = found.get(entity, 0.0) + share
    assert len(found) > 9
    for entity, share in found.items():
        assert entity_probability(shares, labels, entity) == pytest.approx(share)


def test_an_entity_is_right_in_all_or_wrong_and_one_that_is_not_given_is_missed() -> None:
    one = row("B-a I-a O B-b", "B-a O O B-b", 0.7, 0.9)
    assert tagged(one) is not None
    rows = [one, row("O O", "O B-a"), row("B-a", "B-b", 0.4)]
    found = decisions_of(rows)
    assert found is not None
    assert found.of == "entities"
    assert found.confidence() == pytest.approx([0.7, 0.9, 0.4])
    assert found.right.tolist() == [0, 1, 0]
    assert found.row.tolist() == [0, 0, 2]
    assert found.missed.tolist() == [0, 1, 2]
    assert found.brier() == pytest.approx([0.7**2, 0.1**2, 0.4**2])
    words = decisions_of([{"prediction": "N V", "reference": "N N", "word_probabilities": [0.8, 0.6]}])
    assert words is not None
    assert (words.of, words.right.tolist(), len(words.missed)) == ("words", [1, 0], 0)


@pytest.mark.parametrize("likely", [[], [0.5, 0.5], ["0.5"], [1.5], [math.nan], [None], [True]])
def test_rows_that_do_not_say_a_probability_for_each_entity_are_none(likely: list[Any]) -> None:
    assert tagged({"prediction": "B-a O", "reference": "O O", "entity_probabilities": likely}) is None
    assert tagged({"prediction": "B-a", "reference": "O O", "entity_probabilities": [0.5]}) is None


def drawn(count: int, seed: int, off: float = 0.0, mostly: int = 3) -> list[dict[str, Any]]:
    """Sentences with no to a few entities, right as often as is said, less `off`; a missed one in each."""
    draw, rows = np.random.default_rng(seed), []
    for _ in range(count):
        likely = draw.uniform(0.4, 0.99, draw.integers(0, mostly + 1))
        right = draw.random(len(likely)) < likely - off
        said = " ".join([*("B-a" for _ in likely), "O"])
        wanted = " ".join([*("B-a" if one else "B-b" for one in right), "B-a"])
        rows.append(row(said, wanted, *likely.tolist()))
    return rows


def test_calibration_of_entities_with_their_operating_point() -> None:
    base, tuned, validation = drawn(400, 1, off=0.3), drawn(400, 2, mostly=5), drawn(500, 3, mostly=5)
    found = probability_calibration(
        pairs_of(base, tuned), 0.95, None, {"base": drawn(500, 4, 0.3), "tuned": validation}
    )
    assert found is not None
    assert found["of"] == "entities"
    assert found["tuned"]["decisions"] == sum(len(r["entity_probabilities"]) for r in tuned)
    assert found["base"]["items"] == sum(bool(r["entity_probabilities"]) for r in base)
    assert found["base"]["ece"] > 0.2
    assert found["tuned"]["ece"] < 0.08
    assert found["base"]["temperature"] > 1.5
    assert found["tuned"]["temperature"] == pytest.approx(1, abs=0.2)
    assert found["brier"]["interval"][1] < 0
    assert found["brier"]["difference"] == pytest.approx(found["tuned"]["brier"] - found["base"]["brier"])
    assert "augrc" not in found
    for point in found["tuned"]["points"]:
        kept = [p for r in tuned for p in r["entity_probabilities"]]
        assert 0 < point["cases"] < len(kept)
        there = sum(len(entities(r["reference"].split())) for r in tuned)
        assert point["answered"] == pytest.approx(point["right"] * point["cases"] / there)
    json.dumps(found, allow_nan=False)
    said = "\n".join(calibration_lines(found, 0.95))
    assert "Calibration error of the entities' probabilities" in said
    assert "of the entities that it gives, and gives" in said
    assert "of those that are there" in said
    assert f"{len(kept)} by tuned, right where type, first and last word are" in found["note"]


def test_a_side_without_an_entity_says_so() -> None:
    none = [row("O O", "B-a O") for _ in range(120)]
    assert probability_calibration(pairs_of(none, drawn(120, 1)), 0.95) == {"note": NO_ENTITY.format("base")}
    assert probability_calibration(pairs_of(none, none), 0.95) == {"note": NO_ENTITY.format("base")}


def test_intervals_of_sides_that_give_different_entities_hold_the_truth() -> None:
    """Base gives two entities at most, tuned five: 95% intervals of both Brier scores and what is between them."""
    truth = {}
    for name, off in (("base", 0.2), ("tuned", 0.0)):
        draw = np.random.default_rng(9)
        likely = draw.uniform(0.4, 0.99, 400_000)
        right = draw.random(len(likely)) < likely - off
        truth[name] = float(np.mean((likely - right) ** 2))
    held, wanted = np.zeros(3), [truth["base"], truth["tuned"], truth["tuned"] - truth["base"]]
    for seed in range(200):
        found = probability_calibration(pairs_of(drawn(40, seed, 0.2, 2), drawn(40, 1000 + seed, 0.0, 5)), 0.95)
        assert found is not None
        seen = [found["base"]["brier_interval"], found["tuned"]["brier_interval"], found["brier"]["interval"]]
        held += [low <= value <= high for (low, high), value in zip(seen, wanted, strict=True)]
    assert min(held) >= 186
