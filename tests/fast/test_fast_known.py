"""What trials of a classifier came to is known afterwards: to later passes here, and in the cache to later runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import architectures_classifiers
from architectures_classifiers import ROWS
from tunelift.core import cache
from tunelift.fast import classifying, tried, unpad
from tunelift.fast.classifying import ClassLogits
from tunelift.fast.unpad import sped_up


def tiny(kind: str = "bert") -> Any:
    return architectures_classifiers.tiny(kind)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return where each trial is noted; what they come to is kept in a cache of this test's own."""
    noted, plain, reads = list[str](), unpad._plain, classifying.reads_padding
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    monkeypatch.setattr(tried, "LARGE", 1)
    monkeypatch.setattr(unpad, "_plain", lambda *args, **how: noted.append("packing") or plain(*args, **how))
    monkeypatch.setattr(classifying, "reads_padding", lambda *args: noted.append("padding") or reads(*args))
    return noted


def said(model: Any, pack: Any = "none") -> tuple[dict[str, str], torch.Tensor]:
    """Return the fast paths that a model takes and what it then says of rows."""
    width = max(map(len, ROWS))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ROWS])
    with sped_up(model, pack) as states, torch.no_grad():
        return dict(states), ClassLogits(model, ROWS)({"input_ids": ids, "attention_mask": mask})


def test_a_model_is_tried_once_and_one_of_the_same_numbers_not_at_all(trials: list[str]) -> None:
    model, same = tiny(), tiny()
    same.load_state_dict(model.state_dict())
    found = said(model)
    assert {"packing", "padding"} == {*trials} and found[0]["unpadded"] == found[0]["last_layer"] == "on"
    trials.clear()
    for states, logits in (said(model), said(same)):
        assert trials == []
        assert states == found[0] and torch.equal(logits, found[1])


def test_one_of_other_numbers_and_other_products_are_tried(trials: list[str]) -> None:
    model, other = tiny(), tiny()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1
    said(model)
    for asked, pack in ((other, "none"), (model, "forward")):
        trials.clear()
        said(asked, pack)
        assert "packing" in trials
    trials.clear()
    said(other)
    assert trials == []


def test_without_the_native_code_a_model_is_tried_again(trials: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    said(model)
    trials.clear()
    monkeypatch.setenv("TUNELIFT_KERNELS", "0")
    said(model)
    assert "packing" in trials


def test_a_refusal_is_not_kept(trials: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, fails = tiny(), unpad._fails
    with monkeypatch.context() as patched:
        patched.setattr(unpad, "_fails", lambda *args, **how: "memory ran out")
        assert said(model)[0]["unpadded"] == "off: memory ran out"
    assert unpad._fails is fails
    assert said(model)[0]["unpadded"] == "on"


@pytest.mark.parametrize("kind", ["bert", "fnet"])
def test_whether_padding_is_read_is_kept_of_these_rows_alone(trials: list[str], kind: str) -> None:
    model, same, stranger = tiny(kind), tiny(kind), tiny(kind)
    for copy in (same, stranger):
        copy.load_state_dict(model.state_dict())
    alone = ClassLogits(model, ROWS).alone
    assert alone is (kind == "fnet") and trials == ["padding"]
    assert ClassLogits(same, ROWS).alone is alone and trials == ["padding"]
    ClassLogits(stranger, [[*row[:-1], 9] for row in ROWS])
    assert trials == ["padding"] * 2


def test_rows_between_those_tried_are_not_tried_and_longer_ones_are(trials: list[str]) -> None:
    model, longest = tiny(), max(ROWS, key=len)
    ClassLogits(model, [longest, longest[:3]])
    ClassLogits(model, [longest[:-1], longest[:4]])
    assert trials == ["padding"]
    ClassLogits(model, [[*longest, 5], longest[:4]])
    assert trials == ["padding"] * 2
