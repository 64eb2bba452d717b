"""The last layer at some tokens alone gives those what it gives them among all, and is off where more are read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForTokenClassification

import tiny_models
from tunelift.evaluation.tree_ranking import Tree
from tunelift.fast import last_layer
from tunelift.fast.packed_rows import pack
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.unpad import sped_up
from tunelift.fast.whole_logits import WholeLogits

KINDS = sorted(set(tiny_models.ARCHITECTURES) - {"bloom"})  # which takes no packed rows
ROWS = [[*range(3, 30), 7, 8], [*range(3, 30), 9], [5, 4, 3], [*range(3, 25), 40, 41, 42]]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many tokens each last layer was computed that left others out, as all do that can."""
    found, own = list[int](), last_layer._only_at

    def counted(forward: Any, packed_row: Any, places: list[int], *args: Any, **inputs: Any) -> Any:
        found.append(len(places))
        return own(forward, packed_row, places, *args, **inputs)

    monkeypatch.setattr(last_layer, "_only_at", counted)
    monkeypatch.setattr(last_layer, "SHARE_AT_MOST", 1.0)
    return found


def loss_and_gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([loss.detach()[None], *(p.grad.flatten() for p in model.parameters() if p.grad is not None)])


def seen(kind: str, **changes: Any) -> TargetOnly:
    view, _ = target_model(tiny_models.causal(kind, **changes))
    assert isinstance(view, TargetOnly) and view.last is not None
    return view


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_some_tokens_are_those_among_all(kind: str, computed: list[int]) -> None:
    view = seen(kind, **({"sliding_window": 8} if "sliding_window" in tiny_models.ARCHITECTURES[kind] else {}))
    past = view.past(ROWS[0][:17])
    computed.clear()
    for behind in (None, past):
        rows = [row[17:] for row in (ROWS[0], ROWS[1], ROWS[3])] if behind else ROWS
        packed_rows = [pack(rows, [max(len(row) - 2, 0) for row in rows], past=behind) for _ in range(2)]
        whole = view.packed_hidden(packed_rows[0])
        at = [place for places in packed_rows[1].rows for place in places[-1:] + places[len(places) // 2 :][:1]]
        some = view.packed_hidden(packed_rows[1], at)
        assert torch.allclose(some[at], whole[at], atol=1e-5)
        assert computed.pop() == len(set(at)) < len(whole)
        assert not computed


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_the_plain_ones(kind: str, computed: list[int]) -> None:
    changes = {"sliding_window": 8} if "sliding_window" in tiny_models.ARCHITECTURES[kind] else {}
    model = tiny_models.adapted(tiny_models.causal(kind, **changes)).eval()
    view, _ = target_model(model)
    ids = torch.tensor([[*row, *[2] * (29 - len(row))] for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (29 - len(row)) for row in ROWS])
    labels = ids.masked_fill((mask == 0) | (torch.arange(29) < 2) | (ids > 9), -100)
    computed.clear()
    found = loss_and_gradients(model, view.loss_sum({"input_ids": ids, "attention_mask": mask}, labels))
    assert computed == [int((labels != -100).sum())]
    rows = [(ids[i : i + 1, : len(row)], labels[i : i + 1, : len(row)]) for i, row in enumerate(ROWS)]
    plain = WholeLogits(model)
    whole = [plain.loss_sum({"input_ids": row, "attention_mask": torch.ones_like(row)}, own) for row, own in rows]
    expected = loss_and_gradients(model, torch.stack(whole).sum())
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("finish_all", [0, 1000])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_neox"])
def test_trees_of_labels_score_the_same(
    kind: str, finish_all: int, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = seen(kind)
    labels = [[a, b, c] for a in range(3, 6) for b in range(3, 6) for c in range(3, 6)]
    computed.clear()
    found = Tree(view, finish_all).rank(ROWS, [labels] * 4, [3] * 4, lambda *_: None)
    assert computed
    monkeypatch.setattr(last_layer, "SHARE_AT_MOST", 0.0)
    expected = Tree(view, finish_all).rank(ROWS, [labels] * 4, [3] * 4, lambda *_: None)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == [None if score is None else pytest.approx(score, rel=1e-5) for score in theirs]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "llama", "gpt2"])
def test_a_classifier_computes_the_tokens_that_its_head_reads(kind: str, computed: list[int]) -> None:
    base = tiny_models.classifier(["a", "b"], kind, **tiny_models.NO_DROPOUT)
    targets = ["q_lin", "lin1"] if kind == "distilbert" else "all-linear"
    model = get_peft_model(base, LoraConfig(target_modules=targets, task_type="SEQ_CLS", init_lora_weights=False))
    model.train()
    ids = torch.tensor([[*row, *[1] * (29 - len(row))] for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (29 - len(row)) for row in ROWS])

    inputs = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0])}
    expected = loss_and_gradients(model, model(**inputs).loss)
    with sped_up(model) as states:
        assert states["last_layer"] == "on", states
        computed.clear()
        found = loss_and_gradients(model, model(**inputs).loss)
    assert computed == [len(ROWS)]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_float64_classifier_keeps_its_last_digits() -> None:
    with sped_up(tiny_models.classifier(["a", "b"]).double()) as states:
        assert states["unpadded"] == "on"
        assert states["last_layer"] == "off: norms compute in float32 and would round once more"


def test_a_head_that_reads_every_token_gets_every_token(computed: list[int]) -> None:
    config = BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    model = BertForTokenClassification(config).eval()
    ids = torch.tensor([ROWS[0], ROWS[0]])
    expected = model(input_ids=ids).logits
    with sped_up(model) as states:
        assert states["last_layer"].startswith("off: the head")
        computed.clear()
        assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)
    assert not computed


def test_layers_that_are_computed_again_are_computed_whole(computed: list[int]) -> None:
    model = tiny_models.adapted(tiny_models.causal("gemma3_text")).train()
    ids = torch.tensor([ROWS[0], ROWS[3] + ROWS[2] + [9]])
    inputs, labels = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids.masked_fill(ids > 8, -100)

    def found() -> torch.Tensor:
        with sped_up(model):
            view, _ = target_model(model)
            computed.clear()
            found = loss_and_gradients(model, view.loss_sum(inputs, labels))
        assert (view.fast_paths["last_layer"] == "on") == bool(computed)
        return found

    expected = found()
    assert computed
    model.gradient_checkpointing_enable()
    again = found()
    assert not computed
    assert float((again - expected).abs().max() / expected.abs().max()) < 1e-5
    assert model.config._attn_implementation == "sdpa"
