"""Few-shot: the base reads some solved training rows before each item (Brown et al. 2020)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunelift.core.records import Example, Scores
from tunelift.data.render import Renderer, without_answer
from tunelift.data.shared_words import SharedWords
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.run import score
from tunelift.model_facts.anatomy import context_length

BLANK_LINE = "\n\n"
MARK = "\n\n###\n\n"
"""Stands between examples whose answers have blank lines of their own and whose prompts begin with nothing in common:
else no one could tell where an answer ends and the next example begins."""


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    if not plan.task.next_token:
        return "it needs a language model that continues text, and this task has none"
    if measure_for(plan).compares:
        return "it shows answers, and what is measured is which of two is likelier"
    if not train:
        return "there are no training rows"
    if not all(asks(example) for example in train):
        return "rows of plain text, without a prompt, have no examples to show"
    return None


class FewShot:
    """The same examples before every item, as many as the training rows would have room for.

    How many is settled once, so that validation and test read the same. An item without room for them is unscored.
    """

    def __init__(self, given: Given) -> None:
        self.given = given
        self.joining = Joining.of(given.train)
        most = drawn(given.train, given.shots, given.seed)
        self.shown = most[: self._most_that_fit(most)]
        number = f"{len(self.shown)} training example{'s' * (len(self.shown) != 1)} in the prompt"
        left_out = len(most) - len(self.shown)
        self.description = f"{number} ({left_out} more did not fit the context)" if left_out else number

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of the base with the examples before each item; the rows hold the items' plain inputs."""
        given, plan = self.given, self.given.plan
        if measure_for(plan).generates:
            plan = replace(plan, stop=[*plan.stop, *self.joining.stop])
        made_by = given.made_by("few-shot", self.description)
        scores = score(given.model, given.tokenizer, self._behind(self.shown, examples), plan, made_by, title)
        for row, example in zip(scores.rows, examples, strict=True):
            row["input"] = example.prompt
        return scores

    def _behind(self, solved: Sequence[Example], examples: Sequence[Example]) -> list[Example]:
        """Put the solved rows before each example."""
        prefix = self.joining.prefix(solved)
        return [after(solved, prefix, example) for example in examples]

    def _most_that_fit(self, solved: Sequence[Example]) -> int:
        """Return how many of the solved rows fit before the longest training row that fits without any.

        It is 1 where only shorter rows have room for one, and 0 where no row has.
        """
        room = _Room(self.given)
        needed = {i: room.needed(example) for i, example in enumerate(self.given.train)}
        fitting = sorted((i for i in needed if needed[i] <= room.context), key=needed.__getitem__)
        ends = [self.given.train[i] for i in (*fitting[:1], *fitting[-1:])]  # the shortest and the longest
        for shots in range(len(solved), 0, -1):
            fits = [room.needed(example) <= room.context for example in self._behind(solved[:shots], ends)]
            if any(fits) and (all(fits) or shots == 1):
                return shots
        return 0


@dataclass(frozen=True, slots=True)
class Joining:
    """How examples are joined, and the strings at which an answer ends since the next example would begin."""

    separator: str
    stop: tuple[str, ...]

    @classmethod
    def of(cls, train: Sequence[Example]) -> Joining:
        """Derive them from what all training prompts begin with and from what their answers hold.

        A conversation ends its turns with tokens of its own.
        """
        if train[0].messages is not None:
            return cls("", ())
        answers = [example.completion for example in train]
        if line := SharedWords.of([example.prompt for example in train]).first_line:
            stops = tuple(stop for stop in (BLANK_LINE + line, "\n" + line) if not _in_any(stop, answers))
            if stops:
                return cls(BLANK_LINE, stops)
        separator = MARK if _in_any(BLANK_LINE, [answer.strip() for answer in answers]) else BLANK_LINE
        return cls(separator, (separator.rstrip() or separator,))

    def prefix(self, shown: Sequence[Example]) -> str:
        """Return the solved examples as text, up to where the item's prompt begins."""
        return "".join((example.prompt + example.completion).rstrip() + self.separator for example in shown)


def drawn(train: Sequence[Example], shots: int, seed: int) -> list[Example]:
    """Draw training rows by seed: first rows whose answers all differ, then a second of each answer, and so on."""
    shuffled = random.Random(f"{seed} few-shot").sample(list(train), len(train))
    seen = Counter[str]()
    rounds = []
    for example in shuffled:
        rounds.append(seen[example.completion])
        seen[example.completion] += 1
    return [shuffled[i] for i in sorted(range(len(shuffled)), key=rounds.__getitem__)[:shots]]


class _Room:
    """What fits the model's context, in tokens."""

    def __init__(self, given: Given) -> None:
        plan, self.context = given.plan, context_length(given.model, given.tokenizer)
        self.renderer = Renderer(given.tokenizer, self.context)
        measure = measure_for(plan)
        labels = self.renderer.candidate_ids(given.train[0], plan.labels) if measure.ranks else []
        generated = min(plan.max_new_tokens, self.context // 2) if measure.generates else 1
        self.longest_answer = max([generated, *map(len, labels)])

    def needed(self, example: Example) -> int:
        """Return how many tokens its prompt has with the longest answer that it may get."""
        answer = max(len(self.renderer.completion_ids(example)), self.longest_answer)
        return len(self.renderer.prompt_ids(example)) + answer


def asks(example: Example) -> bool:
    """Whether the row has a question; a conversation needs one by the user before its answer."""
    if example.messages is None:
        return bool(example.prompt.strip())
    return any(message["role"] == "user" for message in without_answer(example.messages))


def after(solved: Sequence[Example], prefix: str, example: Example) -> Example:
    """Put solved rows before an example: `prefix` is their text; a conversation has them as earlier turns."""
    conversation = example.conversation
    if conversation is None:
        return replace(example, prompt=prefix + example.prompt)
    system = [message for message in conversation.messages[:1] if message["role"] == "system"]
    turns = [message for row in solved for message in row.messages or () if message["role"] != "system"]
    messages = (*system, *turns, *conversation.messages[len(system) :])
    return replace(example, given=replace(conversation, messages=messages))


def _in_any(text: str, answers: Sequence[str]) -> bool:
    return any(text in answer for answer in answers)
