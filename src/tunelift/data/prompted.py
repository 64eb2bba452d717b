"""Answers behind their prompts as tokens, for rows that compare answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunelift.core.records import Conversation, Example, Liked, Rejected
from tunelift.data.render import Renderer, own_completion

Prompted = tuple[list[int], list[int]]
"""Token ids of a prompt, and of the answer that follows it, the token that ends it included."""


def both_answers(examples: Sequence[Example], renderer: Renderer) -> list[list[Prompted]]:
    """Return the chosen and the rejected answer of each pair."""
    chosen = _answers(examples, renderer)
    rejected = _answers([rejected_of(example) for example in examples], renderer)
    return [list(pair) for pair in zip(chosen, rejected, strict=True)]


def one_answer(examples: Sequence[Example], renderer: Renderer) -> list[list[Prompted]]:
    """Return the only answer of each example."""
    return [[answer] for answer in _answers(examples, renderer)]


def judged_answers(examples: Sequence[Example], renderer: Renderer) -> list[tuple[list[Prompted], bool]]:
    """Return each judged answer, whether it was liked, and behind it the answer before it in the rows, to its prompt.

    The first row gets the last one's. Of a pair each answer is judged: the chosen one was liked. An answer has no other
    behind it where no other row has one.
    """
    single = [one for example in examples for one in _judged(example)]
    texts = [own_completion(example) for example, _ in single]
    found = []
    for at, (example, liked) in enumerate(single):
        before = (texts[(at - back) % len(texts)] for back in range(1, len(texts)))
        other = next((text for text in before if text != texts[at]), None)
        found.append((_last(example), [texts[at], *([] if other is None else [other])], liked))
    rows = renderer.continued([example for example, *_ in found], [answers for _, answers, _ in found])
    return [([(p, ids) for ids in some], liked) for (p, some), (*_, liked) in zip(rows, found, strict=True)]


def rejected_of(example: Example) -> Example:
    """Return the example that has the rejected answer for its own."""
    assert isinstance(example.wanted, Rejected)
    return replace(example, completion=example.wanted.text, given=example.wanted.given or example.given, wanted=None)


def _judged(example: Example) -> list[tuple[Example, bool]]:
    if isinstance(example.wanted, Liked):
        return [(example, example.wanted.liked)]
    return [(replace(example, wanted=None), True), (rejected_of(example), False)]


def _answers(examples: Sequence[Example], renderer: Renderer) -> list[Prompted]:
    rows = renderer.continued([_last(e) for e in examples], [[own_completion(e)] for e in examples])
    return [(prompt, ids[0]) for prompt, ids in rows]


def _last(example: Example) -> Example:
    """Return the example with nothing but its last answer to learn."""
    given = example.given
    return replace(example, given=replace(given, turns="last")) if isinstance(given, Conversation) else example
