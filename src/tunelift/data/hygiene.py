"""What a look at the rows shows before anything is trained: labels, lengths, conflicts, near duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunelift.core.records import Example
from tunelift.data.duplicates import near_duplicates, normalised, varying
from tunelift.data.examples import looks_like_labels

if TYPE_CHECKING:
    from tunelift.data.splits import Splits

EXAMPLES, EXAMPLE_CHARACTERS = 5, 300
"""How many examples are kept of what was found, and how much of each text."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A row that was removed because test holds it, exactly or nearly; the texts are those that were compared."""

    row: Example
    test: Example
    texts: tuple[str, str]
    similarity: float
    is_near: bool


def hygiene(splits: Splits) -> dict[str, Any]:
    """Return the "hygiene" of the manifest: labels and lengths per role, conflicts and near duplicates.

    Lengths are in characters of prompt and completion together. "conflicts" are inputs that stand in train (before rows
    of test and validation were removed from it), validation or test with different completions. Of "near_duplicates",
    "removed_from_train" counts those of test and of validation, and the examples are those of test.
    """
    roles = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    held = {role: examples for role, examples in roles.items() if examples}
    removed = [leak.row for leak in splits.leaks] + splits.repeats
    everything = [example for examples in held.values() for example in examples] + removed
    return {
        "labels": {role: counted_labels(examples) for role, examples in held.items()}
        if looks_like_labels(everything)
        else {},
        "lengths": {role: _lengths(examples) for role, examples in held.items()},
        "conflicts": _conflicts(everything),
        "near_duplicates": _near_duplicates(splits),
    }


def counted_labels(examples: Iterable[Example]) -> dict[str, int]:
    """Return how many examples have each completion, the most frequent first."""
    counts = Counter(example.completion.strip() for example in examples)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def compared_texts(examples: Sequence[Example], like: Sequence[Example] | None = None) -> list[str]:
    """Return what identifies each item, the template taken off: the prompt, or where it says nothing the completion.

    A prompt says nothing if it is blank, or the same for all of `like` (by default `examples`).
    """
    if says_nothing(examples if like is None else like):
        return [example.completion for example in examples]
    pairs = zip(varying([example.prompt for example in examples]), examples, strict=True)
    return [text if example.prompt.strip() else example.completion for text, example in pairs]


def says_nothing(examples: Sequence[Example]) -> bool:
    """Whether all of several examples have one prompt, so that it tells none from another."""
    return len(examples) > 1 and len({example.prompt for example in examples}) == 1


def _lengths(examples: Sequence[Example]) -> dict[str, Any]:
    lengths = sorted(len(example.prompt) + len(example.completion) for example in examples)
    middle, late = lengths[(len(lengths) - 1) // 2], lengths[(len(lengths) * 95 - 1) // 100]
    return {"unit": "characters", "median": middle, "p95": late, "longest": lengths[-1]}


def _conflicts(examples: Sequence[Example]) -> dict[str, Any]:
    """Return how many inputs stand there with different completions, and the first of them."""
    if says_nothing(examples):
        return {"count": 0, "examples": []}
    answers: dict[str, dict[str, tuple[str, str]]] = {}
    for example, text in zip(examples, compared_texts(examples), strict=True):
        if example.prompt.strip():
            answers.setdefault(normalised(text), {}).setdefault(
                normalised(example.completion), (text, example.completion)
            )
    found = [list(different.values()) for different in answers.values() if len(different) > 1]
    shown = [
        {"input": cut(group[0][0]), "labels": [cut(completion.strip()) for _, completion in group]}
        for group in found[:EXAMPLES]
    ]
    return {"count": len(found), "examples": shown}


def _near_duplicates(splits: Splits) -> dict[str, Any]:
    near = sorted((leak for leak in splits.leaks if leak.is_near), key=lambda leak: -leak.similarity)
    counts = splits.report.splits.get("train")
    within = near_duplicates(compared_texts(splits.train)) if splits.train else []
    shown = [
        {"train": cut(leak.texts[0]), "test": cut(leak.texts[1]), "similarity": round(leak.similarity, 2)}
        for leak in _spread(near)
    ]
    return {
        "removed_from_train": counts.near_overlap if counts else 0,
        "within_train": len({match.index for match in within}),
        "examples": shown,
    }


def _spread(leaks: list[Leak]) -> list[Leak]:
    """Return a few from the most to the least similar, so that a reader sees where the line is drawn."""
    if len(leaks) <= EXAMPLES:
        return leaks
    return [leaks[number * (len(leaks) - 1) // (EXAMPLES - 1)] for number in range(EXAMPLES)]


def cut(text: str) -> str:
    """Return the text, or its beginning where it is long."""
    return text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 1] + "…"
