"""The linear probe: how far a classifier on the frozen model's features comes, without any tuning.

The features of a text are the mean of its tokens' last hidden states, standardised (Alain and Bengio 2016 probe the
layers of a network like this).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tunelift.core import progress, randomness
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Scores
from tunelift.data.render import Renderer
from tunelift.evaluation import predicted_labels
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.plan import Plan
from tunelift.fast.classifying import reads_padding
from tunelift.fast.undo import in_evaluation, without_cache
from tunelift.model_facts.anatomy import base_of, context_length, pad_id
from tunelift.tasks.base import padded_inputs

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
MOST_ROWS = 10_000
"""Training rows at most: each costs a forward pass, and more rows add little to a few hundred features."""


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    if not plan.task.has_head:
        return "it takes the place of a classification head, and this task has none"
    return predicted_labels.misfit(plan, train, likelihoods=True)


class LinearProbe:
    """Logistic regression on the base model's features, computed with the adapter off."""

    def __init__(self, given: Given) -> None:
        from sklearn.preprocessing import StandardScaler

        self.given = given
        train = randomness.sample(given.train, MOST_ROWS, f"{given.seed} linear-probe")
        features = self._hidden(train, "linear-probe: features of train")
        self.scaler = StandardScaler().fit(features)
        features, labels = self.scaler.transform(features), [example.completion for example in train]
        self.regression = predicted_labels.Regression(STRENGTHS, features, labels, given.seed, "linear-probe")
        self.description = f"a linear probe on the base model's frozen features, {self.regression.chosen}"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of the predicted labels."""
        features = self.scaler.transform(self._hidden(examples, title))
        found = self.regression.predict(features, examples, self.given.plan.labels)
        made_by = self.given.made_by("linear-probe", self.description)
        return predicted_labels.label_rows(self.given.plan, made_by, examples, found, likelihoods=True)

    def _hidden(self, examples: Sequence[Example], title: str) -> Any:
        """Return the mean last hidden state of each text, as an array (rows, hidden size)."""
        given, model = self.given, self.given.model
        length = min(given.plan.max_length, context_length(model, given.tokenizer))
        renderer = Renderer(given.tokenizer, length)
        ids = [renderer.head_tokens(example).ids for example in examples]
        with in_evaluation(model):
            return mean_hidden_states(model, ids, pad_id(model, given.tokenizer), given.plan.rows_at_once, title)


@torch.no_grad()
def mean_hidden_states(model: Any, rows: Sequence[Sequence[int]], pad: int, rows_at_once: int, title: str) -> Any:
    """Return for each row of token ids the mean over its tokens of the last hidden states, (rows, hidden size)."""
    body = base_of(model).base_model  # the model without its head
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    alone = bool(rows) and reads_padding(model, partial(_means, body), rows)
    with progress.bar(title, len(rows)) as advance:
        for group in by_length([len(row) for row in rows], 1 if alone else rows_at_once):
            inputs = padded_inputs([rows[i] for i in group], pad, model.device)
            for i, row in zip(group, _means(body, *inputs.values()).cpu(), strict=True):
                found[i] = row
            advance(len(group))
    return torch.stack(found).numpy()


def _means(body: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the means (B, hidden) over the tokens of each row; raise InputError where a body has no states of them."""
    try:
        states: Tensor = body(input_ids=ids, attention_mask=mask, **without_cache(body)).last_hidden_state
        reason = None if states.shape[:2] == ids.shape else f"it has states for {states.shape[1]} of {ids.shape[1]}"
    except (TypeError, ValueError, AttributeError) as error:  # as a decoder beside it that wants ids of its own
        reason = str(error)
    if reason is None:
        return (states.float() * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    raise InputError(
        f"linear-probe: {type(body).__name__} gives no hidden state for each token of a text: {reason}.",
        fix="Leave it out: evaluate.baselines names those to measure.",
    )
