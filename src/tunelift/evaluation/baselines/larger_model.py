"""A larger model behind an address, asked the same items with training rows before each: does prompting it win?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.config.schema import EndpointSection
from tunelift.core.records import Conversation, Example, Options, Pair, Scores
from tunelift.data.render import without_answer
from tunelift.evaluation import endpoint
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.baselines.few_shot import after, asks, drawn
from tunelift.evaluation.endpoint import Messages, Reply
from tunelift.evaluation.generation import before_stop
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.predicting import rows_of
from tunelift.evaluation.rows import Found

GIVES = ("label", "text")
"""What metrics may need: an answer in words, or one of several."""

THOUSAND, MILLION = 1000, 1_000_000
CHOOSE = "Answer with exactly one of these, and with nothing else:"
ALIKE = "Answer each message with the answer alone, in the form that the answers before have."
THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
TEXTS = (Conversation, Pair, Options, type(None))
"""What may be given and is shown as text."""


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    if plan.larger_model is None:
        return "no address is named (larger_model.address)"
    if not any(metric.needs in GIVES for metric in plan.metrics):
        return "it answers in words, and no metric here looks at an answer"
    if measure_for(plan).compares:
        return "it shows answers, and what is measured is which of two is likelier"
    called = any(example.conversation and example.conversation.tools for example in train)
    if called or not all(isinstance(example.given, TEXTS) for example in train):
        return "it is sent texts, and the rows " + ("call tools" if called else "are more than that")
    if not train or not all(map(asks, train)):
        return "rows of plain text, without a prompt, ask nothing" if train else "there are no training rows"
    return None


class LargerModel:
    """Solved rows are earlier turns of the conversation; where labels are chosen from, it is told them all.

    A reply is taken for the label that it names, whatever its case, blanks and marks.
    """

    def __init__(self, given: Given) -> None:
        assert given.plan.larger_model is not None  # else it is a misfit
        self.given, self.settings = given, given.plan.larger_model
        endpoint.check(self.settings)
        self.shown = drawn(given.train, given.shots, given.seed)
        self.description = f"{self.settings.served_model}, {len(self.shown)} training examples before each item"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of its replies; what a thousand items cost stands in the description."""
        plan, asked = self.given.plan, [self._asked(example) for example in examples]
        replies = endpoint.ask(with_limit(self.settings, plan.max_new_tokens), asked, title, cache=plan.cache)
        found = [self._found(example, reply) for example, reply in zip(examples, replies, strict=True)]
        about = f"{cost(replies, self.settings.price)}; {self.description}"  # which may be cut where it is long
        metrics = [metric for metric in plan.metrics if metric.needs in GIVES]
        return rows_of(plan, metrics, self.given.made_by("larger-model", about), examples, found)

    def _asked(self, example: Example) -> Messages:
        told = self._told(example)
        if example.conversation is not None:
            conversation = after(self.shown, "", example).conversation
            assert conversation is not None
            turns = [plain(message) for message in without_answer(conversation.messages)]
            own = [turns.pop(0)["content"]] if turns[0]["role"] == "system" else []
            told = "\n\n".join([*own, *([told] if told else [])])
        else:
            pairs = [(row.prompt, row.completion.strip()) for row in self.shown]
            turns = [turn for prompt, answer in pairs for turn in (said("user", prompt), said("assistant", answer))]
            turns.append(said("user", example.prompt))
        return [said("system", told), *turns] if told else turns

    def _told(self, example: Example) -> str:
        """Return its instructions: the user's, and the labels where there are some."""
        own, labels = self.settings.instructions, self._labels(example)
        if labels:
            return "\n".join([own or CHOOSE, *(label.strip() for label in labels)])
        return own or ("" if example.conversation else ALIKE)

    def _labels(self, example: Example) -> Sequence[str]:
        return example.given.texts if isinstance(example.given, Options) else self.given.plan.labels

    def _found(self, example: Example, reply: Reply) -> Found:
        text = reply.text if self.given.plan.thinking == "keep" else without_thoughts(reply.text)
        text = before_stop(text, self.given.plan.stop).strip()
        label = named(text, self._labels(example))
        return Found(text if label is None else label, tokens=1, cut=reply.cut)


def with_limit(settings: EndpointSection, most: int) -> EndpointSection:
    """Return the settings with temperature 0 and at most so many tokens, where the request says nothing of either."""
    usual: dict[str, Any] = {"temperature": 0}
    if "max_completion_tokens" not in settings.request:
        usual["max_tokens"] = most
    return settings.model_copy(update={"request": usual | settings.request})


def cost(replies: Sequence[Reply], price: Sequence[float]) -> str:
    """Return what a thousand items cost in tokens, and in money where the price of a million is known."""
    read, written = (
        sum(getattr(reply, name) for reply in replies) * THOUSAND / max(1, len(replies)) for name in ("read", "written")
    )
    if not read and not written:
        return "the address does not say how many tokens it took"
    tokens = f"{read:,.0f} tokens read, {written:,.0f} written"
    if not price:
        return f"1,000 items take {tokens}"
    return f"1,000 items cost {(read * price[0] + written * price[1]) / MILLION:.3g} ({tokens})"


def named(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that a reply names: the whole of it, its first or last line, or the only one it speaks of."""
    folded = {label: _folded(label) for label in labels}
    lines = [line for line in text.splitlines() if line.strip()]
    for part in (text, *lines[:1], *lines[-1:]):
        exact = [label for label, own in folded.items() if own and own == _folded(part)]
        if len(exact) == 1:
            return exact[0]
    spoken = [label for label, own in folded.items() if own and f" {own} " in f" {_folded(text)} "]
    # Of "card" and "card arrival" the longer one is meant, of which the other is a part.
    whole = [one for one in spoken if not any(one != two and folded[one] in folded[two] for two in spoken)]
    return whole[0] if len(whole) == 1 else None


def without_thoughts(text: str) -> str:
    """Return a reply without what was thought before it; thoughts that never end leave no answer."""
    text = THOUGHT.sub("", text, count=1) if THOUGHT.match(text) else text
    return "" if text.lstrip().startswith("<think>") else text


def plain(message: Mapping[str, Any]) -> dict[str, str]:
    return said(str(message["role"]), str(message.get("content") or ""))


def said(role: str, content: str) -> dict[str, str]:
    """Return a message."""
    return {"role": role, "content": content}


def _folded(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()
