"""Labels in one tree score as labels in rows of their own, for every architecture that takes a tree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_models
from tunelift.evaluation.ranking import Plain, continuations, ranker
from tunelift.evaluation.tree_ranking import Tree
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7, 8], [9], [4] * 11]
LABELS = [[10, 11, 1], [10, 1], [10, 11, 12, 1], [20, 1]]  # the second begins the first, which begins the third


def seen(model: Any) -> TargetOnly:
    view, _ = target_model(model)
    assert isinstance(view, TargetOnly)
    return view


def silent(amount: int = 1, note: str = "") -> None:
    """No progress is shown."""


@pytest.mark.parametrize("kind", tiny_models.ARCHITECTURES)
def test_tree_equals_rows(kind: str) -> None:
    model = tiny_models.causal(kind)
    view = seen(model)
    rank, state = ranker(view, CPU, 8, (PROMPTS[0], LABELS))
    assert state.startswith("on") == (kind != "bloom"), state
    found = rank.rank(PROMPTS, [LABELS] * 3, None, silent)
    plain = Plain(view, CPU, 8).rank(PROMPTS, [LABELS] * 3, None, silent)
    assert torch.allclose(torch.tensor(found), torch.tensor(plain), rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(3, 8), min_size=1, max_size=4), min_size=1, max_size=6),
    st.lists(st.lists(st.integers(3, 99), min_size=1, max_size=9), min_size=1, max_size=4),
)
def test_any_labels_behind_any_prompts(labels: list[list[int]], prompts: list[list[int]]) -> None:
    view = seen(tiny_models.causal("llama").double())
    closed = [[*label, 1] for label in labels]
    found = Tree(view).rank(prompts, [closed] * len(prompts), None, silent)
    plain = Plain(view, CPU, 3).rank(prompts, [closed] * len(prompts), None, silent)
    assert torch.allclose(torch.tensor(found), torch.tensor(plain), rtol=1e-9)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "phi3"])
def test_rows_longer_than_the_window(kind: str) -> None:
    model = tiny_models.causal(kind, sliding_window=8)
    view = seen(model)
    rank, state = ranker(view, CPU, 8, (PROMPTS[2], LABELS))
    assert state == "on"
    beginning = [*range(3, 30)]
    prompts = [[*beginning, *prompt] for prompt in PROMPTS]  # they share more than the window
    found = rank.rank(prompts, [LABELS] * 3, None, silent)
    plain = Plain(TargetOnly(model), CPU, 8).rank(prompts, [LABELS] * 3, None, silent)
    assert torch.allclose(torch.tensor(found), torch.tensor(plain), rtol=1e-5, atol=1e-5)


def test_labels_that_are_equal_or_begin_another_need_no_end() -> None:
    view = seen(tiny_models.causal("llama").double())
    labels = [[10], [10, 11], [10, 11], [12]]
    (found,) = continuations(view, [PROMPTS[0]], [labels], CPU, silent)
    (plain,) = Plain(TargetOnly(view.model), CPU, 8).rank([PROMPTS[0]], [labels], None, silent)
    assert [score for score, _ in found] == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("packs", [True, False])
def test_greedy_choices_are_known(packs: bool) -> None:
    view = seen(tiny_models.causal("gemma2"))
    view.packs = packs
    row = torch.tensor([PROMPTS[0]])
    for _ in range(3):
        row = torch.cat([row, view.model(row).logits[:, -1:].argmax(dim=-1)], dim=1)
    greedy = row[0, len(PROMPTS[0]) :].tolist()
    other = [*greedy[:2], (greedy[2] + 1) % tiny_models.VOCABULARY]
    (found,) = continuations(view, [PROMPTS[0]], [[greedy, other, greedy[:2]]], CPU, silent)
    assert [is_greedy for _, is_greedy in found] == [True, False, True]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=5), min_size=17, max_size=40, unique_by=tuple),
    st.integers(0, 16),
)
def test_of_many_labels_the_best_and_the_needed_are_exact(labels: list[list[int]], needed: int) -> None:
    view = seen(tiny_models.causal("llama").double())
    closed = [[*label, 1] for label in labels]
    (found,) = Tree(view).rank([PROMPTS[0]], [closed], [needed], silent)
    (plain,) = Plain(view, CPU, 8).rank([PROMPTS[0]], [closed], None, silent)
    assert max(range(len(plain)), key=plain.__getitem__) == max(
        (i for i, score in enumerate(found) if score is not None), key=lambda i: found[i]
    )
    assert found[needed] is not None
    for ours, theirs in zip(found, plain, strict=True):
        assert ours is None or abs(ours - theirs) < 1e-9 * abs(theirs)


def test_some_of_many_labels_are_never_finished() -> None:
    view = seen(tiny_models.causal("llama", logit_scale=None))
    view.frozen.scale = 8.0  # a model that is sure of something
    labels = [[a, b] for a in range(3, 15) for b in range(3, 15)]
    (found,) = Tree(view).rank([PROMPTS[0]], [labels], [None], silent)
    assert 1 <= sum(score is not None for score in found) < len(labels)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "gpt_neox"])
def test_labels_are_read_only_as_far_as_they_may_win(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    window = {} if kind == "gpt_neox" else {"sliding_window": 8}
    view = seen(tiny_models.causal(kind, **window))
    view.frozen.scale = 8.0  # a model that is sure of something
    read, packed_hidden = list[int](), view.packed_hidden
    labels = [[a, b, c, 1] for a in range(3, 7) for b in range(3, 7) for c in range(3, 7)]
    prompts = [[*range(3, 30), *prompt] for prompt in PROMPTS]
    plain = Plain(view, CPU, 8).rank(prompts, [labels] * 3, None, silent)

    def counted(packed_row: Any, at: Any = None) -> torch.Tensor:
        read.append(len(packed_row.ids) - packed_row.computed)
        return packed_hidden(packed_row, at)

    monkeypatch.setattr(view, "packed_hidden", counted)
    found = Tree(view).rank(prompts, [labels] * 3, [5, None, 63], silent)
    for ours, theirs in zip(found, plain, strict=True):
        known = {i: score for i, score in enumerate(ours) if score is not None}
        assert max(known, key=known.__getitem__) == max(range(64), key=lambda i, of=theirs: of[i] or 0.0)
        assert [*known.values()] == pytest.approx([theirs[i] for i in known], rel=1e-5)
    assert found[0][5] is not None and found[2][63] is not None
    tree = 4 + 16 + 64
    assert len(read) > 3 and sum(read) < 27 + 16 + 3 * tree
