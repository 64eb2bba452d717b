"""Classifiers that read padding, that cannot take every row, or whose layers are not what their names say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import architectures_classifiers
from architectures_classifiers import ROWS
from tiny_models import tokenizer
from tunelift import InputError
from tunelift.core.records import Example
from tunelift.data.render import Tokens
from tunelift.evaluation.features import HiddenFeatures, mean_hidden_states
from tunelift.evaluation.measures.head import head_logits
from tunelift.evaluation.plan import Plan
from tunelift.fast.classifying import ClassLogits
from tunelift.fast.undo import without_cache
from tunelift.fast.unpad import sped_up
from tunelift.model_facts.anatomy import context_length, tells_segments
from tunelift.pipeline.session import Session
from tunelift.tasks.base import TASKS, Row

LABELS = [0, 2, 1]
READ_PADDING = ["canine", "convbert", "fnet", "funnel", "nystromformer", "xlnet", "yoso"]
DO_NOT = ["bert", "bart", "gte", "jamba", "llama", "mobilebert", "roberta", "t5"]


def tiny(kind: str, **changes: Any) -> Any:
    return architectures_classifiers.tiny(kind, **changes)


def told(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Return what a model says of each row alone, as stock does."""
    return torch.stack([architectures_classifiers._alone(model, row) for row in rows])


def loss_of(model: Any, rows: list[list[int]], *, starts: bool = False) -> torch.Tensor:
    task = TASKS.get("sequence-classification")
    batch = task.collate([Row(*pair) for pair in zip(rows, LABELS, strict=True)], 0, torch.device("cpu"))
    return task.loss(model, batch if starts else None)[0](batch)


@pytest.mark.parametrize("kind", READ_PADDING + DO_NOT)
def test_a_rows_numbers_do_not_depend_on_its_neighbours(kind: str) -> None:
    model = tiny(kind)
    with sped_up(model):
        found = head_logits(model, ROWS, 0, 8, lambda *_: None).log_softmax(dim=-1)
        loss = loss_of(model, ROWS)
    expected = told(model, ROWS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    summed = F.nll_loss(expected, torch.tensor(LABELS), reduction="sum")
    torch.testing.assert_close(loss.double(), summed, rtol=1e-5, atol=1e-5)


TELL = ["bert", "electra", "albert", "big_bird", "mobilebert", "funnel", "xlnet", "roformer"]


@pytest.mark.parametrize("kind", [*TELL, "roberta", "gpt2", "llama"])
def test_segments_are_told_apart_by_packed_rows_as_by_stock(kind: str) -> None:
    """Roberta has one segment only, and gpt2 takes the argument for something else: both are asked without."""
    model = tiny(kind, **({"type_vocab_size": 1} if kind == "roberta" else {}))
    segments = [[0] * 3 + [1] * (len(row) - 3) for row in ROWS]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    told_apart = kind in TELL
    assert tells_segments(model) == told_apart
    expected = []
    for row, types in zip(ROWS, segments, strict=True):
        more = {"token_type_ids": torch.tensor([types])} if told_apart else {}
        expected.append(model(input_ids=torch.tensor([row]), **more, **without_cache(model)).logits[0].double())
    with sped_up(model) as states:
        found = head_logits(model, ROWS, 0, 8, lambda *_: None, segments=segments)
        one = head_logits(model, ROWS, 0, 8, lambda *_: None)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert "unpadded_pairs" not in states
    assert (found - one).abs().max() > 1e-4 or not told_apart


@pytest.mark.parametrize("kind", READ_PADDING)
def test_what_reads_padding_is_asked_row_by_row(kind: str) -> None:
    assert ClassLogits(tiny(kind), ROWS).alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", DO_NOT)
def test_others_are_asked_for_batches(kind: str, dtype: torch.dtype) -> None:
    assert not ClassLogits(tiny(kind).to(dtype), ROWS).alone


def test_half_precision_does_not_hide_that_padding_is_read() -> None:
    assert ClassLogits(tiny("nystromformer").to(torch.bfloat16), ROWS).alone


def test_rows_of_new_lengths_are_tried_when_they_come() -> None:
    logits = ClassLogits(tiny("fnet"), [ROWS[0], ROWS[0]])  # of equal length, so that nothing was padded
    assert not logits.alone
    ids = torch.tensor([ROWS[0], [*ROWS[1], 0, 0, 0]])
    logits({"input_ids": ids, "attention_mask": (ids != 0).long()})
    assert logits.alone


def test_rows_that_the_model_itself_fails_on_are_refused() -> None:
    with pytest.raises(InputError, match="CanineForSequenceClassification itself fails when it is asked, on rows of 2"):
        head_logits(tiny("canine"), [[5, 2], ROWS[0]], 0, 8, lambda *_: None)
    with pytest.raises(InputError, match=r"on rows of 8 to 9 tokens: .*<eos>"):
        head_logits(tiny("bart"), [ROWS[0], ROWS[0][:-1]], 0, 8, lambda *_: None)


def test_a_model_that_fails_in_training_only_is_refused_before_it() -> None:
    axial = {"axial_pos_embds": True, "axial_pos_shape": (8, 16), "axial_pos_embds_dim": (16, 16)}
    model = tiny("reformer", **axial)
    state = torch.get_rng_state()
    assert loss_of(model, ROWS).isfinite()
    with pytest.raises(InputError, match="ReformerForSequenceClassification itself fails in training"):
        loss_of(model, ROWS, starts=True)
    assert torch.equal(state, torch.get_rng_state()) and not any(module.training for module in model.modules())


def test_layers_that_read_tensors_of_other_widths_do_not_run_together() -> None:
    model = architectures_classifiers._adapted(tiny("mobilebert"))
    with sped_up(model):
        assert loss_of(model, ROWS).isfinite()


def test_a_body_with_parameters_of_its_own_is_no_new_head() -> None:
    session = Session.of(tiny("xlnet"), tokenizer(), TASKS.get("sequence-classification"))
    assert sorted(session._new()) == ["logits_proj", "sequence_summary.summary"]
    assert context_length(session.model, session.tokenizer) > 10**9  # its config says -1


@pytest.mark.parametrize("kind", ["canine", "fnet", "jamba"])
def test_features_do_not_depend_on_neighbours_either(kind: str) -> None:
    model, told_by = tiny(kind), architectures_classifiers._tokenizer()
    features = HiddenFeatures(model, told_by, Plan([], max_length=64, rows_at_once=8))
    examples = [Example(str(i), "w7 w8 w9 w10 " * (3 - i), "a") for i in range(3)]
    together = features(examples, "all")
    alone = [features([example], "one")[0] for example in examples]
    assert abs(together - alone).max() < 1e-5


@pytest.mark.parametrize("kind", ["funnel", "perceiver", "t5"])
def test_a_body_without_a_state_for_each_token_has_no_probe(kind: str) -> None:
    with pytest.raises(InputError, match="gives no hidden state for each token"):
        mean_hidden_states(tiny(kind), [Tokens(row, [], len(row)) for row in ROWS], 0, 8, "features")
