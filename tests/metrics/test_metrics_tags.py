"""Metrics of tags equal seqeval's, its default mode and the strict one, on a thousand random sets each."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelift.metrics import METRICS, Answer, aggregate, score_answer
from tunelift.metrics.tags import entities

KINDS = ("PER", "LOC", "big-one")
TAGS = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in KINDS)]
IOB2 = [tag for tag in TAGS if tag[0] in "OBI"]


def chunks(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Entities by conlleval's two rules, as seqeval writes them: where a chunk ends, and where one starts."""
    found, before, kind, begin = [], "O", "", 0
    for at, tag in enumerate([*tags, "O"]):
        prefix, _, own = tag.partition("-")
        own = own or "_"
        ends = before in "ES" or (before in "BI" and prefix in "BSO") or (before != "O" and kind != own)
        starts = prefix in "BS" or (before in "ESO" and prefix in "EI") or (prefix != "O" and kind != own)
        if ends and before != "O":
            found.append((kind, begin, at - 1))
        if starts:
            begin = at
        before, kind = prefix, own
    return found


def strictly(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Entities by IOB2: a B, and each I of its type that follows without a gap."""
    found: list[tuple[str, int, int]] = []
    for at, tag in enumerate(tags):
        prefix, _, own = tag.partition("-")
        if prefix == "B":
            found.append((own, at, at))
        elif prefix == "I" and found and found[-1][0] == own and found[-1][2] == at - 1:
            found[-1] = (own, found[-1][1], at)
    return found


def f1(read: Any, said: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
    both = [(set(read(a)), set(read(b))) for a, b in zip(said, wanted, strict=True)]
    there = sum(len(a) + len(b) for a, b in both)
    return 2 * sum(len(a & b) for a, b in both) / there if there else 0.0


def sets(tags: Sequence[str], count: int = 1000) -> list[tuple[list[list[str]], list[list[str]]]]:
    """Random sets of a few texts, the predictions often those wanted."""
    draw, found = random.Random(len(tags)), []
    for _ in range(count):
        wanted = [draw.choices(tags, k=draw.randint(1, 8)) for _ in range(draw.randint(1, 5))]
        said = [[tag if draw.random() < 0.6 else draw.choice(tags) for tag in own] for own in wanted]
        found.append((said, wanted))
    return found


def ours(name: str, said: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
    metric = METRICS.get(name)
    rows = [score_answer(Answer(" ".join(a), " ".join(b)), [metric]) for a, b in zip(said, wanted, strict=True)]
    return aggregate(metric, rows)


@pytest.mark.parametrize(
    ("name", "tags", "read"), [("seqeval_f1", TAGS, chunks), ("seqeval_strict_f1", IOB2, strictly)]
)
def test_a_thousand_sets_have_the_values_of_the_definition(name: str, tags: list[str], read: Any) -> None:
    seen = set()
    for said, wanted in sets(tags):
        value = ours(name, said, wanted)
        assert value == pytest.approx(f1(read, said, wanted)), (said, wanted)
        seen.add(round(value, 2))
    assert len(seen) > 30


@pytest.mark.parametrize("name", ["seqeval_f1", "seqeval_strict_f1"])
def test_a_thousand_sets_have_seqevals_own_values(name: str) -> None:
    seqeval = pytest.importorskip("seqeval.metrics", reason="needs seqeval, which the definition stands for without it")
    from seqeval.scheme import IOB2 as BY_IOB2

    strict = {"mode": "strict", "scheme": BY_IOB2} if name == "seqeval_strict_f1" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for said, wanted in sets(IOB2 if strict else TAGS):
            theirs = seqeval.f1_score(wanted, said, zero_division=0, **strict)
            assert ours(name, said, wanted) == pytest.approx(theirs), (said, wanted)


@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_any_tags_mark_the_entities_of_the_definition(tags: list[str]) -> None:
    assert entities(tags) == chunks(tags)
    assert all(first <= last for _, first, last in entities(tags))
