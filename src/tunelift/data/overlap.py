"""What rows are compared by, and what a training row would give away of test or validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tunelift.core.records import Example, Options, Pair, Picture
from tunelift.data.conversations import as_answer, as_prompt, is_learned
from tunelift.data.duplicates import varying


class Held:
    """Items of test or validation, by what they ask and answer, case and blanks folded.

    `like` are rows that tell whether prompts say anything; the items themselves by default.
    """

    def __init__(self, items: Sequence[Example], like: Sequence[Example] | None = None) -> None:
        self._key = _key(items if like is None else like)
        self._asked: dict[str, list[Example]] = {}
        self._answered: dict[tuple[str, str], list[Example]] = {}
        for item in items:
            self._asked.setdefault(self._key(item), []).append(item)
            if item.conversation is not None:
                self._answered.setdefault((folded(item.prompt), folded(item.completion)), []).append(item)

    def given_away(self, row: Example) -> list[Example]:
        """Return the items that a row would give away if it were trained on, each once and in order.

        That is what its prompt asks, and of a conversation also each earlier answer that is an item's, behind the
        item's very messages.
        """
        found = list(self._asked.get(self._key(row), ()))
        for asked, answered in _earlier(row) if self._answered else ():
            found += self._answered.get((folded(asked), folded(answered)), ())
        return list({item.id: item for item in found}.values())


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


def folded(text: str) -> str:
    """Return a text with case and blanks folded."""
    return " ".join(text.casefold().split())


def _key(examples: Sequence[Example]) -> Callable[[Example], str]:
    """Return what tells whether two items are one: the prompt, or where it says nothing the completion."""
    if says_nothing(examples):
        return lambda example: folded(example.completion)
    return _asked


def _asked(example: Example) -> str:
    """Return what an item asks; of a pair its two texts in either order, as many tasks do not tell the two apart."""
    if isinstance(example.given, Pair):
        return "\n".join(sorted((folded(example.given.first), folded(example.given.second))))
    if isinstance(example.given, Picture):
        return example.given.sha256
    if isinstance(example.given, Options):
        return folded(str(example.given))
    return folded(example.prompt if example.prompt.strip() else example.completion)


def _earlier(row: Example) -> Iterator[tuple[str, str]]:
    """Yield what stands before each answer that a conversation learns besides its last one, and the answer."""
    conversation = row.conversation
    if conversation is None or conversation.turns == "last":
        return
    for number, message in enumerate(conversation.messages[:-1]):
        if is_learned(message):
            upto = replace(conversation, messages=conversation.messages[: number + 1])
            yield as_prompt(upto), as_answer(message)
