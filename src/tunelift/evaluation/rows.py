"""Rows of scores: what was computed for an item becomes its line in scores.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.core.records import Example, LabelSet, Numbers, Spans
from tunelift.data.template import as_text
from tunelift.metrics import Answer, Metric, aggregate, score_answer

TOO_LONG = "longer than the context"
NOT_A_NUMBER = "its score is not a number"
ANSWERABLE = "answerable"


@dataclass(slots=True)
class Found:
    """What was computed for one item.

    `ranks` are the places, from 1, at which what belongs to it was found, as far as they were kept, of `relevant` ones.
    `cut` says that its answer was to go on where it had to end; `beside` is what else its row is to say; `samples` are
    answers that were drawn.
    """

    prediction: str | None = None
    log_likelihood: float | None = None
    tokens: int = 0
    label_scores: dict[str, float] = field(default_factory=dict)
    ranks: list[int] = field(default_factory=list)
    relevant: int = 0
    cut: bool = False
    beside: dict[str, Any] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)


def labelled(reference: str, scores: dict[str, float], lengths: dict[str, int] | None, tokens: int) -> Found:
    """Choose the label with the highest score, summed or (with `lengths` in tokens) per token."""
    best = max(scores, key=lambda label: scores[label] / lengths[label] if lengths else scores[label])
    return Found(best, scores.get(reference), tokens, scores)


def shares(scores: Mapping[str, float]) -> dict[str, float]:
    """Return each label's share of the probability of all: those of a head sum to 1 already, those of texts need not.

    Where they do they are left as they are.
    """
    likely = {label: math.exp(value) for label, value in scores.items()}
    if math.isclose(math.fsum(likely.values()), 1, rel_tol=1e-9):
        return likely
    best = max(scores.values())
    likely = {label: math.exp(value - best) for label, value in scores.items()}
    total = math.fsum(likely.values())
    return {label: value / total for label, value in likely.items()}


def numbered(example: Example, values: Sequence[float]) -> Found:
    """Answer an example with numbers in the order of its own, written as float32 tells them apart.

    The log-likelihood is that of a normal distribution of variance 1 around each, up to a constant (nats).
    """
    assert isinstance(example.wanted, Numbers)
    squared = math.fsum((a - b) ** 2 for a, b in zip(values, example.wanted.values, strict=True))
    return Found(" ".join(format(value, ".9g") for value in values), -squared / 2, len(values))


def label_set(example: Example, probabilities: dict[str, float], threshold: float) -> Found:
    """Answer an example with the labels from a probability on.

    The log-likelihood (nats) is that of what applies, each label by itself; None where the example has a label that is
    not known.
    """
    assert isinstance(example.wanted, LabelSet)
    wanted = set(example.wanted.labels)
    chosen = LabelSet(tuple(sorted(label for label, value in probabilities.items() if value >= threshold)))
    likely = None
    if wanted <= probabilities.keys():
        said = (value if label in wanted else 1 - value for label, value in probabilities.items())
        likely = math.fsum(math.log(max(value, 1e-12)) for value in said)
    return Found(str(chosen), likely, len(probabilities), probabilities)


def slices_of(examples: Sequence[Example], columns: Sequence[str]) -> list[dict[str, str]]:
    """Return for each example its values of the columns as text; a column it has no value for is left out.

    Where some questions of passages have an answer and others none, that is a column too, with SQuAD's names.

    Raises InputError for columns that no example has.
    """
    known = dict.fromkeys(name for example in examples for name in example.row) if columns else {}
    problems = [
        f'evaluate.slices names the column "{name}", which the rows to evaluate do not have.{did_you_mean(name, known)}'
        for name in columns
        if name not in known
    ]
    if problems:
        raise InputError(*problems, fix=f"Their columns: {listed(known)}.")
    found, some = [], {bool(e.wanted.spans) for e in examples if isinstance(e.wanted, Spans)}
    for example in examples:
        values = {name: as_text(example.row.get(name), f'The column "{name}"') for name in columns}
        if len(some) == 2 and isinstance(example.wanted, Spans):
            values = {ANSWERABLE: "HasAns" if example.wanted.spans else "NoAns", **values}
        found.append({name: value for name, value in values.items() if value.strip()})
    return found


def begun(example: Example, slices: Mapping[str, str]) -> dict[str, Any]:
    """What a row says of its item, whatever the answer."""
    row: dict[str, Any] = {"id": example.id, "input": example.prompt, "reference": example.completion}
    if len(example.references) > 1:
        row["references"] = list(example.references)
    if example.cluster is not None:
        row["cluster"] = example.cluster
    return row | {"slices": dict(slices)} if slices else row


def answered(
    example: Example, found: Found | None, metrics: Sequence[Metric], reference: str | None = None
) -> dict[str, Any]:
    """What a row says of the answer: prediction and values, or why there are none.

    `reference` is the reference as metrics see it, where that is not the example's completion.
    """
    if found is None:
        return {"metrics": {}, "unscored": TOO_LONG}
    if found.log_likelihood is None and found.label_scores:
        return {"metrics": {}, "unscored": f"the reference {example.completion!r} is not among the labels"}
    if found.tokens == 0 or not math.isfinite(found.log_likelihood or 0.0):
        reason = "nothing to predict" if found.tokens == 0 else NOT_A_NUMBER
        return {"metrics": {}, "unscored": reason}
    row: dict[str, Any] = {} if found.prediction is None else {"prediction": found.prediction}
    wanted = example.completion if reference is None else reference
    is_set = isinstance(example.wanted, LabelSet)
    scores = found.label_scores if is_set else {}
    if not is_set and any(metric.needs == "label-probabilities" for metric in metrics):
        scores = shares(found.label_scores)
    references = example.references if reference is None else ()
    likely = found.log_likelihood, found.tokens
    beside: dict[str, Any] = {"samples": found.samples, "ranks": tuple(found.ranks), "relevant": found.relevant}
    answer = Answer(found.prediction or "", wanted, *likely, example.row, scores, references, **beside)
    row |= score_answer(answer, metrics)
    row |= {"samples": found.samples} if found.samples else {}
    row |= {"ranks": found.ranks, "relevant": found.relevant} if found.relevant else {}
    row |= {"cut": True} if found.cut else {}
    row |= {"log_likelihood": found.log_likelihood, "tokens": found.tokens, **found.beside}
    return row | {"label_scores": found.label_scores} if found.label_scores and not is_set else row


def metric_entry(metric: Metric, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kept = "metrics" if metric.score is not None else "counts"
    scored = sum(metric.name in row.get(kept, {}) for row in rows)
    entry = {"value": aggregate(metric, rows), "higher_is_better": metric.higher_is_better, "items": scored}
    return entry | ({} if metric.defined_by is None else {"defined_by": metric.defined_by})
