"""What a look at the rows shows before anything is trained: labels, lengths, conflicts, near duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunelift.core.records import Example, Liked, Near, Picture, Rejected
from tunelift.data.duplicates import near_duplicates, normalised
from tunelift.data.examples import looks_like_labels
from tunelift.data.leaks import Leak
from tunelift.data.overlap import compared_texts, says_nothing

EXAMPLES, EXAMPLE_CHARACTERS = 5, 300
"""How many examples are kept of what was found, and how much of each text."""


def hygiene(
    roles: Mapping[str, Sequence[Example]], leaks: Sequence[Leak], repeats: Sequence[Example], removed: int
) -> dict[str, Any]:
    """Return the "hygiene" of the manifest: labels and lengths per role, conflicts and near duplicates.

    `leaks` and `repeats` are those of `splits.Splits`; `removed` rows were near duplicates that are gone from train.
    Lengths are in characters of prompt and completion together. "conflicts" are inputs that stand in train (before rows
    of test and validation were removed from it), validation or test with different completions. Of "near_duplicates",
    "removed_from_train" counts those of test and of validation, and the examples are those of test.
    """
    held = {role: examples for role, examples in roles.items() if examples}
    there = [example for examples in held.values() for example in examples]
    everything = [*there, *(leak.row for leak in leaks), *repeats]
    return {
        "labels": {role: counted_labels(examples) for role, examples in held.items()}
        if looks_like_labels(everything)
        else {},
        "lengths": {role: _lengths(examples) for role, examples in held.items()},
        "conflicts": _conflicts(everything),
        "near_duplicates": _near_duplicates(held.get("train", ()), leaks, removed),
    }


def counted_labels(examples: Iterable[Example]) -> dict[str, int]:
    """Return how many examples have each completion, the most frequent first."""
    counts = Counter(example.completion.strip() for example in examples)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _lengths(examples: Sequence[Example]) -> dict[str, Any]:
    lengths = sorted(len(example.prompt) + len(example.completion) for example in examples)
    middle, late = lengths[(len(lengths) - 1) // 2], lengths[(len(lengths) * 95 - 1) // 100]
    return {"unit": "characters", "median": middle, "p95": late, "longest": lengths[-1]}


def _conflicts(examples: Sequence[Example]) -> dict[str, Any]:
    """Return how many inputs stand there with different completions, and the first of them.

    Of answers that are compared or judged these are pairs that stand there either way round, and answers that are liked
    and not.
    """
    if says_nothing(examples):
        return {"count": 0, "examples": []}
    answers: dict[tuple[str, ...], dict[str, tuple[str, str]]] = {}
    for example, text in zip(examples, compared_texts(examples), strict=True):
        if example.prompt.strip() and not isinstance(example.wanted, Near):  # of which a text may have several
            beside, said = _asked_and_said(example)
            answers.setdefault((normalised(text), *beside), {}).setdefault(normalised(said), (text, said))
    found = [list(different.values()) for different in answers.values() if len(different) > 1]
    shown = [
        {"input": cut(group[0][0]), "labels": [cut(completion.strip()) for _, completion in group]}
        for group in found[:EXAMPLES]
    ]
    return {"count": len(found), "examples": shown}


def _asked_and_said(example: Example) -> tuple[tuple[str, ...], str]:
    """Return what a row's prompt is asked with, and what the row says of both.

    A prompt may have many answers that are compared or judged: it is these that rows contradict each other about.
    """
    if isinstance(example.wanted, Rejected):
        both = example.completion, example.wanted.text
        return tuple(sorted(map(normalised, both))), example.completion
    if isinstance(example.wanted, Liked):
        return (normalised(example.completion),), "liked" if example.wanted.liked else "not liked"
    return (), example.completion


def _near_duplicates(train: Sequence[Example], leaks: Sequence[Leak], removed: int) -> dict[str, Any]:
    near = sorted((leak for leak in leaks if leak.is_near), key=lambda leak: -leak.similarity)
    if len(near) > EXAMPLES:  # a few from the most to the least similar show a reader where the line is drawn
        near = [near[number * (len(near) - 1) // (EXAMPLES - 1)] for number in range(EXAMPLES)]
    texts = [example for example in train if not isinstance(example.given, Picture)]
    within = near_duplicates(compared_texts(texts)) if texts else []
    shown = [
        {"train": cut(leak.texts[0]), "test": cut(leak.texts[1]), "similarity": round(leak.similarity, 2)}
        for leak in near
    ]
    return {"removed_from_train": removed, "within_train": len({match.index for match in within}), "examples": shown}


def cut(text: str) -> str:
    """Return the text, or its beginning where it is long."""
    return text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 1] + "…"
