"""What an exported thing answered in its own runtime, beside what the model answers: the checks of an export's proof.

Each is {"name", "passed", "detail"}, as those of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunelift.core.errors import TuneliftError
from tunelift.exporting.equality import Equality, Item, Scores, equal

SCORES, TOKENS, ENDS, TEMPLATE, FILE, LEFT = (
    "same scores",
    "texts are cut alike",
    "answers end alike",
    "conversations are written alike",
    "the file says what the tokenizer says",
    "what was tuned is left",
)


@dataclass(frozen=True)
class Asked:
    """What a runtime is asked: items to score, texts to cut, conversations to write, with what is right of each.

    `texts` and `messages` are (what is asked, what is right). `ended` are the items whose last token ends an answer.
    """

    items: Sequence[Item]
    texts: Sequence[tuple[str, list[int]]] = ()
    messages: Sequence[tuple[list[dict[str, str]], str]] = ()
    ended: Sequence[str] = field(default_factory=list)

    @property
    def request(self) -> dict[str, Any]:
        """Return what is asked, without what is right."""
        return {"texts": [text for text, _ in self.texts], "messages": [one for one, _ in self.messages]}


class ExportFailed(TuneliftError):  # noqa: N818  what it says, as ProofFailed of a run
    """What was exported does not do what was measured; `checks` are all of them, passed or not."""

    def __init__(self, checks: Sequence[Mapping[str, Any]]) -> None:
        self.checks = list(checks)
        failed = [f"The export's proof failed: {one['name']}: {one['detail']}." for one in checks if not one["passed"]]
        super().__init__(*failed, fix="Nothing was kept of it.")


def check(name: str, passed: bool, detail: str) -> dict[str, Any]:
    """Return one check."""
    return {"name": name, "passed": passed, "detail": detail}


def base_runs(found: Equality) -> dict[str, Any]:
    """Return the check of the base in the program, without what was tuned."""
    detail = f"{found.largest:.2g} apart at most: the runtime's rounding, without what was tuned"
    return check("the base runs there", found.holds, detail)


def compared(asked: Asked, answer: Mapping[str, Any], right: Scores, tolerance: float) -> list[dict[str, Any]]:
    """Return the checks of one answer against the model's own scores."""
    found = equal(right, answer["scores"], tolerance)
    checks = [check(SCORES, found.holds, _apart(found))]
    if asked.texts:
        checks.append(_alike(TOKENS, [(text, ids) for text, ids in asked.texts], answer["texts"]))
    if asked.messages:
        checks.append(_alike(TEMPLATE, [(str(one), text) for one, text in asked.messages], answer["messages"]))
    if asked.ended:
        wrong = [name for name in asked.ended if name not in answer["ends"]]
        detail = f"the last token of item {wrong[0]} ends no answer there" if wrong else f"{len(asked.ended)} items"
        checks.append(check(ENDS, not wrong, detail))
    return checks


def _apart(found: Equality) -> str:
    numbers = f"{found.items} items, {found.tokens} numbers"
    if not found.items:
        return "nothing was scored"
    return f"{found.largest:.2g} apart at most (item {found.item}), {found.tolerance:.2g} allowed; {numbers}"


def _alike(name: str, right: Sequence[tuple[str, Any]], answers: Sequence[Any]) -> dict[str, Any]:
    for (asked, wanted), given in zip(right, answers, strict=True):
        if wanted != given:
            there, here = _around(str(given), str(wanted))
            return check(name, False, f"{asked[:60]!r} becomes {there!r}, not {here!r}")
    return check(name, True, f"{len(right)} of them")


def _around(one: str, other: str) -> tuple[str, str]:
    """Return of two texts the part in which they first differ."""
    place = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, place - 40)
    return one[start : place + 80], other[start : place + 80]
