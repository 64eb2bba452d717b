"""Typed decisions: a choice, yes or no, or a level, with the probability of each option, and no text written.

The form is System One's (`POST /v1/systemone`, as TypeSafe's documentation and Ollama's have it in 2026): a state, and
questions with their criteria. Options are scored as the answer's text, by the sum of their tokens' log-likelihoods, as
labels are in an evaluation. Where the model comes of a run that chose among labels, and the state holds the columns of
its prompt, the question is asked in the run's own words, and the temperature that the run fitted on its validation rows
makes probabilities of the scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tunelift.core.records import Conversation, Example
from tunelift.data.template import Template
from tunelift.serving.bodies import BodyError
from tunelift.serving.requests import Delta, Request

MOST_QUESTIONS, MOST_OPTIONS, MOST_LEVELS = 64, 255, 10
FIELDS = frozenset({"model", "state", "questions"})


@dataclass(frozen=True, slots=True)
class Measured:
    """How a run asks: its prompt over columns, its labels as they are written in answers, and its temperature."""

    prompt: Template
    labels: Sequence[str]
    temperature: float | None = None

    def label(self, name: str) -> str | None:
        """Return the label of a name, whatever blanks are around it; None where there is not exactly one."""
        found = [label for label in self.labels if label.strip() == name.strip()]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class Question:
    """One question: what is to be decided, and its options with what is said about each, None for nothing."""

    kind: Literal["noul", "choice", "score"]
    instructions: str
    options: Mapping[str, str | None]

    @property
    def answers(self) -> list[str]:
        """The options as they are written in an answer."""
        if self.kind == "noul":
            return ["yes", "no"]
        return [str(n + 1) for n in range(len(self.options))] if self.kind == "score" else list(self.options)


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a body asks: a state and its questions by their names."""

    model: str | None
    state: Any
    questions: Mapping[str, Question]


@dataclass(slots=True)
class Asked:
    """A question as requests, one for each option in their order, and what divides its scores."""

    question: Question
    requests: Sequence[Request]
    temperature: float = 1.0
    measured: bool = False
    scores: dict[int, float] = field(default_factory=dict)

    def add(self, delta: Delta) -> None:
        """Take what was said to one of the requests."""
        own = math.fsum(token.logprob or 0.0 for token in delta.prompt)
        self.scores[delta.number] = self.scores.get(delta.number, 0.0) + own

    def answer(self) -> dict[str, Any]:
        """Return the answer in System One's form, and whether a run measured what was asked so."""
        scores = [self.scores[request.number] / self.temperature for request in self.requests]
        most = max(scores)
        weights = [math.exp(score - most) for score in scores]
        shares = [weight / math.fsum(weights) for weight in weights]
        said = {"type": self.question.kind, "measured": self.measured}
        if self.question.kind == "noul":
            return said | {"noul": shares[0]}
        names = list(self.question.options)
        sure = (len(shares) * max(shares) - 1) / (len(shares) - 1) if len(shares) > 1 else 1.0
        if self.question.kind == "choice":
            best = names[shares.index(max(shares))]
            return said | {"choice": best, "probabilities": dict(zip(names, shares, strict=True)), "confidence": sure}
        levels = {str(n): share for n, share in enumerate(shares)}
        legend = {str(n): self.question.options[name] for n, name in enumerate(names)}
        score = math.fsum(n * share for n, share in enumerate(shares))
        return said | {"score": score, "legend": legend, "probabilities": levels, "confidence": sure}


def read_decisions(found: Mapping[str, Any]) -> Decisions:
    """Return what a body asks; raise BodyError for anything that cannot be answered."""
    if unknown := [name for name in found if name not in FIELDS]:
        raise BodyError(
            f"There is no field {unknown[0]!r:.80}.", unknown[0][:80], f"Fields: {', '.join(sorted(FIELDS))}."
        )
    model, state, questions = found.get("model"), found.get("state"), found.get("questions")
    if not isinstance(model, str | None):
        raise BodyError("model is no text.", "model")
    if state is None or not isinstance(state, str | dict | list):
        raise BodyError("state is no text, object or list.", "state")
    if not isinstance(questions, dict) or not 0 < len(questions) <= MOST_QUESTIONS:
        raise BodyError(f"questions is no object of 1 to {MOST_QUESTIONS} questions.", "questions")
    return Decisions(model, state, {name: _question(name, one) for name, one in questions.items()})


def _question(name: str, found: Any) -> Question:
    where = f"questions.{name:.80}"
    if not isinstance(found, dict) or not found.keys() <= {"type", "instructions", "criteria"}:
        raise BodyError(f"{where} is no object with type, instructions and criteria alone.", where)
    kind, criteria = found.get("type"), found.get("criteria")
    instructions = _about(found.get("instructions")) or ""
    if kind == "noul" and criteria is None:
        return Question("noul", instructions, {"yes": None, "no": None})
    if kind == "noul" and isinstance(criteria, dict) and criteria.keys() <= {"true", "false"}:
        yes, no = (_about(criteria.get(name)) for name in ("true", "false"))
        return Question("noul", instructions, {"yes": yes, "no": no})
    if kind == "choice" and isinstance(criteria, dict) and 1 < len(criteria) <= MOST_OPTIONS:
        options = {_text(option): _about(about) for option, about in criteria.items()}
        if all(option.strip() for option in options):
            return Question("choice", instructions, options)
    if kind == "score" and isinstance(criteria, list) and 1 < len(criteria) <= MOST_LEVELS:
        return Question("score", instructions, {str(n): _text(about) for n, about in enumerate(criteria)})
    raise BodyError(
        f"{where} is no question that is served.",
        where,
        'Send {"type": "choice", "criteria": {OPTION: TEXT or null, ...}} with 2 to '
        f'{MOST_OPTIONS} options, {{"type": "score", "criteria": [TEXT, ...]}} with 2 to {MOST_LEVELS} levels, or '
        '{"type": "noul"} with criteria of true and false or without, and instructions to each.',
    )


def _about(value: Any) -> str | None:
    return None if value is None else _text(value)


def _text(value: Any) -> str:
    """Return a text as it is, and any other JSON as its text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BodyError("There is half a pair of surrogates in the body, which is no text.")
    return text


def examples_of(
    state: Any, question: Question, measured: Measured | None, *, chats: bool
) -> tuple[Example, list[str], bool]:
    """Return how a question is asked: its prompt, what each option is written as, and whether a run measured it so."""
    if measured is not None and not question.instructions and question.kind == "choice" and isinstance(state, dict):
        labels = [measured.label(option) for option in question.options]
        known = [label for label in labels if label is not None]
        if len({*known}) == len(labels) and {*measured.prompt.columns} <= state.keys():
            return Example("1", measured.prompt.fill(state, "state"), ""), known, True
    text = f"{_text(state)}\n\n{_asked(question)}"
    if chats:
        conversation = Conversation(({"role": "user", "content": text},))
        return Example("1", "", "", conversation), question.answers, False
    return Example("1", f"{text}\nAnswer:", ""), [f" {answer}" for answer in question.answers], False


def _asked(question: Question) -> str:
    """Return a question in words, with a line for each option that is said something about."""
    said = [
        f"{answer}: {about}" for answer, about in zip(question.answers, question.options.values(), strict=True) if about
    ]
    how = {"noul": "Answer yes or no.", "score": "Answer with the number of the level."}
    ends = how.get(question.kind, f"Answer with one of: {', '.join(question.answers)}.")
    return "\n".join(line for line in (question.instructions, *said, ends) if line)
