"""Losses over all rows of a step: the same gradients however it is split, no true answer taken for a wrong one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import tiny_models
from tiny_tokenizers import byte_level
from tunelift.core.records import Example, Near, Numbers, Pair
from tunelift.fast.in_batch import ANCHOR, NEGATIVE, POSITIVE, SCALE, OfRows, With, ordered, over_rows, ranked
from tunelift.tasks import TASKS
from tunelift.tasks.base import Batch
from tunelift.training.step import train_step

TASK = TASKS.get("sentence-embedding")
CPU = torch.device("cpu")


def belonging() -> list[Example]:
    """Return rows with and without negatives, one text the positive of two, and one text asked about twice."""
    said = [("a cat", "cats", ()), ("a dog", "dogs", ("no dog",)), ("it", "what", ()), ("sat", "sit", ("x", "y"))]
    said += [("a cat", "the cat", ()), ("mat", "cats", ()), ("on the mat it sat", "on", ()), ("was", "is a cat", ())]
    return [Example(str(i), first, own, wanted=Near(own, no)) for i, (first, own, no) in enumerate(said)]


def scored() -> list[Example]:
    found = [("a cat", "cats", 3.0), ("a dog", "sat", 1.0), ("it", "what is it", 1.0), ("mat", "on the mat", 4.5)]
    found += [("the cat", "a dog", 0.0), ("sat", "sat", 5.0), ("what", "is", 2.0), ("it is", "a cat sat", 0.5)]
    return [
        Example(str(i), f"{one}\n{two}", str(score), Pair(one, two), Numbers(("score",), (score,)))
        for i, (one, two, score) in enumerate(found)
    ]


def body(kind: str, dropout: float) -> nn.Module:
    """Return a tiny model without a head, an adapter on it."""
    from peft import LoraConfig, get_peft_model

    more = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout} if kind == "bert" else {}
    model = (
        tiny_models.classifier(["a", "b"], "bert", **more) if kind == "bert" else tiny_models.causal(kind)
    ).base_model
    torch.manual_seed(1)
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, r=4, task_type="FEATURE_EXTRACTION")
    return get_peft_model(model, config).train()


def stepped(model: nn.Module, groups: list[list[int]], examples: list[Example]) -> tuple[float, list[Tensor]]:
    rows, _ = TASK.rows(examples, byte_level(), 60, [])
    batches = [TASK.collate([rows[i] for i in group], 1, CPU) for group in groups]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    done = train_step(batches, TASK.loss(model)[0], parameters, max_grad_norm=1e9)
    return done.loss, [p.grad.clone() for p in parameters if p.grad is not None]


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("examples", [belonging, scored])
def test_four_micro_batches_give_the_gradients_of_one_batch(kind: str, examples: Callable[[], list[Example]]) -> None:
    model = body(kind, dropout=0.0)
    loss, whole = stepped(model, [[*range(8)]], examples())
    split, parts = stepped(model, [[0, 5], [1, 7, 4], [2], [3, 6]], examples())
    again, of_two = stepped(model, [[0, 1, 2, 3], [4, 5, 6, 7]], examples())
    assert split == pytest.approx(loss, rel=1e-5)
    assert again == pytest.approx(loss, rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in whole)
    assert largest > 1e-3
    for gradients in (parts, of_two):
        assert len(gradients) == len(whole)
        for one, other in zip(gradients, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * largest)
    alone = sum(stepped(model, [[i]], examples())[0] for i in range(8))  # which tells a row from nothing
    assert abs(alone / 8 - loss) > 1e-3


def test_what_is_drawn_is_drawn_alike_for_the_vectors_and_for_their_gradients() -> None:
    """With dropout on: the directional derivative of the loss, the same masks drawn each time, is the gradient."""
    model, groups = body("bert", dropout=0.3), [[0, 5], [1, 7, 4], [2, 3, 6]]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def loss() -> tuple[float, list[Tensor]]:
        torch.manual_seed(5)
        return stepped(model, groups, belonging())

    _, gradients = loss()
    toward = [gradient / torch.cat([g.flatten() for g in gradients]).norm() for gradient in gradients]
    slope = sum(float((gradient * way).sum()) for gradient, way in zip(gradients, toward, strict=True))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, way in zip([p for p in parameters if p.grad is not None], toward, strict=True):
                parameter.add_(way, alpha=sign * 0.02)
        values.append(loss()[0])
        with torch.no_grad():
            for parameter, way in zip([p for p in parameters if p.grad is not None], toward, strict=True):
                parameter.sub_(way, alpha=sign * 0.02)
    assert (values[0] - values[1]) / 0.04 == pytest.approx(slope, rel=0.05)


def test_what_is_added_to_a_loss_does_not_hide_that_it_is_of_all_rows() -> None:
    model = body("bert", dropout=0.0).eval()
    rows, _ = TASK.rows(belonging(), byte_level(), 60, [])
    loss = TASK.loss(model)[0]
    batches = [TASK.collate(rows[:3], 1, CPU), TASK.collate(rows[3:], 1, CPU)]
    whole = float(loss(TASK.collate(rows, 1, CPU)).detach())
    more = over_rows(With(loss, lambda batch: torch.tensor(2.0 * batch.targets)), batches)
    assert sum(float(more(batch).detach()) for batch in batches) == pytest.approx(whole + 16, rel=1e-5)
    assert over_rows(math.sqrt, [4.0]) is math.sqrt  # any other loss is its own


def by_hand(vectors: Tensor, labels: Tensor) -> list[float]:
    """Return each row's loss, one number after another."""
    unit = [[float(x) / float(v.norm()) for x in v] for v in vectors]
    told = labels.tolist()
    found = []
    for i, (role, key, group) in enumerate(told):
        if role != ANCHOR:
            continue
        positive_key = told[i + 1][1]
        scores = {}
        for j, (other, text, of) in enumerate(told):
            same = text in (positive_key, key) or (other == POSITIVE and of == group)
            if other != ANCHOR and (j == i + 1 or not same):
                scores[j] = SCALE * sum(a * b for a, b in zip(unit[i], unit[j], strict=True))
        found.append(math.log(sum(math.exp(s) for s in scores.values())) - scores[i + 1])
    return found


def test_the_loss_of_a_row_is_how_unlikely_its_positive_is_and_right_answers_are_not_wrong_ones() -> None:
    torch.manual_seed(0)
    labels = torch.tensor(
        [
            *([ANCHOR, 1, 7], [POSITIVE, 2, 7], [NEGATIVE, 3, 7]),
            *([ANCHOR, 4, 8], [POSITIVE, 5, 8]),
            *(
                [ANCHOR, 1, 7],
                [POSITIVE, 6, 7],
            ),  # the first row's text again: neither's positive is wrong for the other
            *([ANCHOR, 9, 10], [POSITIVE, 2, 10], [NEGATIVE, 5, 10], [NEGATIVE, 4, 10]),  # 2 and 4 stand elsewhere too
        ]
    )
    vectors = torch.randn(len(labels), 5).mul(0.3)
    assert ranked(vectors, labels).tolist() == pytest.approx(by_hand(vectors, labels), rel=1e-4)
    alone = labels[3:5]
    assert ranked(vectors[3:5], alone).tolist() == [0.0]


def test_the_order_of_scores_is_what_is_learned() -> None:
    labels = torch.tensor([[role, score] for score in (3.0, 1.0, 1.0) for role in (ANCHOR, POSITIVE)]).double()
    vectors = torch.tensor([[1.0, 0], [1, 1], [1.0, 0], [1, 0], [0.0, 1], [1, 0]])
    cosines = [math.sqrt(0.5), 1.0, 0.0]
    wrong = [math.exp(SCALE * (cosines[j] - cosines[0])) for j in (1, 2)]
    assert ordered(vectors, labels).tolist() == pytest.approx([math.log(1 + sum(wrong))] * 3, rel=1e-5)
    assert ordered(vectors[:2], labels[:2]).tolist() == [0.0]


def test_the_losses_are_those_of_sentence_transformers() -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses", reason="an extra that CI lacks")
    torch.manual_seed(0)
    first, second, third = (torch.randn(6, 8, requires_grad=True) for _ in range(3))

    class Ready(nn.Module):
        """Stands for a model: gives vectors that are there."""

        def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
            return features

    def compared(ours: OfRows, theirs: Tensor, some: list[Tensor], labels: Tensor) -> None:
        wanted = torch.autograd.grad(theirs, some)
        vectors = torch.stack(some, dim=1).flatten(0, 1)
        value = ours(vectors, labels).mean()
        assert float(value) == pytest.approx(float(theirs), rel=1e-5)
        for own, other in zip(torch.autograd.grad(value, some), wanted, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)

    roles = [ANCHOR, POSITIVE, NEGATIVE]
    labels = torch.tensor([[role, 3 * i + role, i] for i in range(6) for role in roles])
    features = [{"sentence_embedding": vectors} for vectors in (first, second, third)]
    compared(ranked, losses.MultipleNegativesRankingLoss(Ready())(features, None), [first, second, third], labels)
    scores = torch.tensor([3.0, 1.0, 1.0, 5.0, 0.0, 2.5])
    told = torch.stack([torch.tensor([0.0, 1.0]).repeat(6), scores.repeat_interleave(2)], dim=1).double()
    compared(ordered, losses.CoSENTLoss(Ready())(features[:2], scores), [first, second], told)


def test_a_batch_holds_the_texts_of_its_rows_in_order() -> None:
    rows, report = TASK.rows(belonging()[:2], byte_level(), 60, [])
    batch: Batch = TASK.collate(rows, 1, CPU)
    assert batch.labels[:, 0].tolist() == [ANCHOR, POSITIVE, ANCHOR, POSITIVE, NEGATIVE]
    said = [byte_level().decode(ids, skip_special_tokens=True) for ids in batch.inputs["input_ids"]]
    assert said == ["a cat", "cats", "a dog", "dogs", "no dog"]
    assert (batch.rows, batch.targets, batch.tokens) == (2, 2, report.tokens)
