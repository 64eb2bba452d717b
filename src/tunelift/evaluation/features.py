"""What baselines see of items: weighted counts of words and characters, and the frozen model's hidden states.

Of a pair both see each text and how the two go together: element by element their product and how far they are apart
(as Conneau et al. 2017, arXiv 1705.02364, give them to a classifier), and of words how many the two share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Pair, Picture
from tunelift.data.pictures import opened
from tunelift.data.render import Renderer, Tokens
from tunelift.data.shared_words import SharedWords
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.plan import Plan
from tunelift.fast.classifying import accepted, reads_padding
from tunelift.fast.undo import in_evaluation, without_cache
from tunelift.model_facts.anatomy import base_of, context_length, pad_id
from tunelift.model_facts.parameters import compute_dtype
from tunelift.tasks.base import padded_inputs
from tunelift.tasks.image_classification import picture_of, pixels

MOST_FEATURES = 50_000
"""Of words and of character n-grams each; with hundreds of labels more would need gigabytes."""
MANY_ROWS = 1000
"""From so many rows on, an n-gram that stands in one row only is left out: half the time, the same accuracy."""
_WORD = re.compile(r"\w+")


class WordFeatures:
    """TF-IDF of words and character n-grams, fitted on training rows; the words of their template are left out."""

    def __init__(self, train: Sequence[Example]) -> None:
        self.frames = [SharedWords.of(texts) for texts in zip(*map(_texts, train), strict=True)]
        self.vectorizer = text_vectorizer(2 if len(train) >= MANY_ROWS else 1)
        columns = self._columns(train)
        self.vectorizer.fit([text for texts in columns for text in texts])
        self.pairs, self.centre, self.scale = len(columns) > 1, 0.0, 1.0
        if self.pairs:
            one, other = map(self.vectorizer.transform, columns)
            shared = _shared(columns, one, other)
            self.centre, self.scale = shared.mean(axis=0), np.maximum(shared.std(axis=0), 1e-9)

    def __call__(self, examples: Sequence[Example]) -> Any:
        """Return a sparse matrix (rows, features)."""
        from scipy import sparse

        columns = self._columns(examples)
        counts = [self.vectorizer.transform(texts) for texts in columns]
        if not self.pairs:
            return counts[0]
        one, other = counts
        shared = (_shared(columns, one, other) - self.centre) / self.scale
        parts = [one, other, one.multiply(other), abs(one - other), sparse.csr_matrix(shared)]
        return sparse.hstack(parts, format="csr", dtype=np.float32)

    def _columns(self, examples: Sequence[Example]) -> list[list[str]]:
        """Return the first texts, and of pairs the second ones."""
        columns = zip(self.frames, zip(*map(_texts, examples), strict=True), strict=True)
        return [[frame.inside(text).strip() for text in texts] for frame, texts in columns]


def _texts(example: Example) -> tuple[str, ...]:
    given = example.given
    return (given.first, given.second) if isinstance(given, Pair) else (example.prompt,)


def text_vectorizer(min_rows: int) -> Any:
    """Words and pairs of words, with punctuation marks as words, and n-grams of 3 to 5 characters within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    shared = {"sublinear_tf": True, "dtype": np.float32, "max_features": MOST_FEATURES, "min_df": min_rows}
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]", **shared)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), **shared)
    return FeatureUnion([("words", words), ("characters", characters)])


def _shared(texts: Sequence[Sequence[str]], one: Any, other: Any) -> Any:
    """Return (rows, 6): the cosine of the counts, the words shared in relation to all, to either text's, and lengths.

    `texts` are the first ones and the second ones, `one` and `other` their counts (rows, features).
    """
    norms = [np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel()) for counts in (one, other)]
    cosine = np.asarray(one.multiply(other).sum(axis=1)).ravel() / np.maximum(norms[0] * norms[1], 1e-9)
    rows = []
    for a, b in zip(*texts, strict=True):
        words, others = set(_WORD.findall(a.casefold())), set(_WORD.findall(b.casefold()))
        both, lengths = len(words & others), (len(a) + 1, len(b) + 1)
        shares = [both / max(1, size) for size in (len(words | others), len(words), len(others))]
        rows.append([*shares, math.log(lengths[0] / lengths[1]), abs(math.log(lengths[0] / lengths[1]))])
    return np.column_stack([cosine, np.array(rows)])


class PixelFeatures:
    """Pictures made small: what their colours and their coarsest shapes are worth, without any network."""

    SIDE = 12

    def __call__(self, examples: Sequence[Example]) -> Any:
        """Return an array (rows, 3 * SIDE ** 2) from 0 to 1."""
        small = [opened(picture_of(example)).resize((self.SIDE, self.SIDE)) for example in examples]
        return np.stack([np.asarray(one, dtype=np.float32).ravel() / 255 for one in small])


class HiddenFeatures:
    """Means of the base model's last hidden states over a row's tokens; the adapter is off."""

    def __init__(self, model: Any, tokenizer: Any, plan: Plan) -> None:
        self.model, self.tokenizer, self.rows_at_once = model, tokenizer, plan.rows_at_once
        self.longest = min(plan.max_length, context_length(model, tokenizer))

    @cached_property
    def renderer(self) -> Renderer:
        """What makes tokens of texts."""
        return Renderer(self.tokenizer, self.longest)

    def __call__(self, examples: Sequence[Example], title: str) -> Any:
        """Return an array (rows, features): of a pair those of its row, and of its two texts how they go together.

        Of pictures they are the means over their patches.
        """
        if any(isinstance(example.given, Picture) for example in examples):
            return self._of_pictures([picture_of(example) for example in examples], title)
        parts = [self._means([self.renderer.head_tokens(example) for example in examples], title)]
        if any(isinstance(example.given, Pair) for example in examples):
            one, other = (
                self._means([self.renderer.head_tokens(Example("", text, "")) for text in texts], title)
                for texts in zip(*map(_texts, examples), strict=True)
            )
            length = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            cosine = (one * other).sum(axis=1) / np.maximum(length, 1e-9)
            parts += [one * other, np.abs(one - other), cosine[:, None]]
        return np.concatenate(parts, axis=1)

    @torch.no_grad()
    def _of_pictures(self, pictures: Sequence[Picture], title: str) -> Any:
        """Return the means of the last hidden states, over patches (B, patches, D) or places (B, D, H, W)."""
        body, found = base_of(self.model).base_model, list[Tensor]()
        with in_evaluation(self.model), progress.bar(title, len(pictures)) as advance:
            for start in range(0, len(pictures), self.rows_at_once):
                some = pictures[start : start + self.rows_at_once]
                inputs = pixels(self.tokenizer, some, self.model.device)["pixel_values"]
                states = body(pixel_values=inputs.to(compute_dtype(self.model))).last_hidden_state.float()
                found.append(states.mean(dim=1) if states.dim() == 3 else states.flatten(2).mean(dim=2))
                advance(len(some))
        return torch.cat(found).cpu().numpy()

    def _means(self, rows: Sequence[Tokens], title: str) -> Any:
        with in_evaluation(self.model):
            pad = pad_id(self.model, self.tokenizer)
            return mean_hidden_states(self.model, rows, pad, self.rows_at_once, title)


@torch.no_grad()
def mean_hidden_states(model: Any, rows: Sequence[Tokens], pad: int, rows_at_once: int, title: str) -> Any:
    """Return for each row the mean over its tokens of the last hidden states, (rows, hidden size)."""
    body = base_of(model).base_model  # the model without its head
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    alone = bool(rows) and reads_padding(model, partial(_means, body), [row.ids for row in rows])
    with progress.bar(title, len(rows)) as advance:
        for group in by_length([len(row.ids) for row in rows], 1 if alone else rows_at_once):
            some = [rows[i] for i in group]
            inputs = padded_inputs([row.ids for row in some], pad, model.device, [row.segments for row in some])
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            for i, row in zip(group, _means(body, ids, mask, inputs.get("token_type_ids")).cpu(), strict=True):
                found[i] = row
            advance(len(group))
    return torch.stack(found).numpy()


def _means(body: Any, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
    """Return the means (B, hidden) over the tokens of each row; raise InputError where a body has no states of them."""
    inputs = {"input_ids": ids, "attention_mask": mask, **({} if types is None else {"token_type_ids": types})}
    try:
        states: Tensor = body(**accepted(body, inputs), **without_cache(body)).last_hidden_state
        reason = None if states.shape[:2] == ids.shape else f"it has states for {states.shape[1]} of {ids.shape[1]}"
    except (TypeError, ValueError, AttributeError) as error:  # as a decoder beside it that wants ids of its own
        reason = str(error)
    if reason is None:
        return (states.float() * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    raise InputError(
        f"linear-probe: {type(body).__name__} gives no hidden state for each token of a text: {reason}.",
        fix="Leave it out: evaluate.baselines names those to measure.",
    )
