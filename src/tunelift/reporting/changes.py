"""The items whose answer changed, and those left out, joined from the two scores files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tunelift.reporting.difference import Difference, difference
from tunelift.reporting.run_contents import RunContents
from tunelift.reporting.wording import headline

MOST_SHOWN = 100
"""Items of each kind with their whole texts, so that the page opens at once and stays small."""

MOST_BRIEF = 2000
"""Further items of each kind, in one short line each, so that they can be searched."""

BRIEF_CHARACTERS = 100
TEXT_BYTES = 500_000
"""All texts of the changed items together; beyond it each is cut to an equal share."""


@dataclass(frozen=True, slots=True)
class Change:
    """One item: what it asked, what was right, and what either model answered."""

    id: str
    input: str
    reference: str
    base: str
    tuned: str
    base_value: float | None
    """The headline metric's value of this item."""
    tuned_value: float | None

    @property
    def texts(self) -> tuple[str, str, str, str]:
        """What is shown of the item, and may have to be cut."""
        return self.input, self.reference, self.base, self.tuned

    def with_texts(self, made: Callable[[str], str]) -> Change:
        """Return the item with what is made of each text."""
        given, reference, base, tuned = map(made, self.texts)
        return replace(self, input=given, reference=reference, base=base, tuned=tuned)

    @property
    def difference(self) -> Difference:
        """Both answers in pieces, with what only one of them has."""
        return difference(self.base, self.tuned)


@dataclass(frozen=True, slots=True)
class Changes:
    """Items of one direction, worst first: those shown whole, those shown in a line, and how many there are in all."""

    shown: list[Change]
    total: int
    brief: list[Change] = field(default_factory=list)

    @property
    def graded(self) -> bool:
        """Whether the headline metric has values besides right and wrong."""
        return any(value not in (None, 0, 1) for item in self.shown for value in (item.base_value, item.tuned_value))


def changes(run: RunContents) -> tuple[Changes, Changes]:
    """Return the items that were lost (right to wrong, or a worse value) and those that were gained."""
    flips = run.comparison.get("flips") or {}
    base, tuned = ({str(row["id"]): row for row in side.rows} for side in (run.base, run.tuned))
    metric, _ = headline(run.comparison)
    lost, gained = (_joined(flips.get(kind) or [], base, tuned, metric) for kind in ("lost", "gained"))
    texts = [text for change in (*lost.shown, *gained.shown) for text in change.texts]
    if sum(len(text.encode()) for text in texts) <= TEXT_BYTES:
        return lost, gained
    cut = partial(_shortened, limit=TEXT_BYTES // len(texts))
    lost, gained = (replace(side, shown=[item.with_texts(cut) for item in side.shown]) for side in (lost, gained))
    return lost, gained


def left_out(run: RunContents) -> list[tuple[str, list[str]]]:
    """Return (reason, ids) of the items that either side could not score, most frequent reason first."""
    reasons: dict[str, dict[str, None]] = {}
    for row in [*run.base.rows, *run.tuned.rows]:
        if row.get("unscored"):
            reasons.setdefault(str(row["unscored"]), {})[str(row["id"])] = None
    return sorted(((reason, list(ids)) for reason, ids in reasons.items()), key=lambda entry: -len(entry[1]))


def cut_answers(run: RunContents) -> str:
    """Say how many answers of each side had to end before they came to their end, or nothing where none had to."""
    base, tuned = (sum(row.get("cut") is True for row in side.rows) for side in (run.base, run.tuned))
    if not base and not tuned:
        return ""
    return f"Answers cut before their end (evaluate.max_new_tokens, or the context): {base} of the base, {tuned} tuned."


def _joined(ids: Sequence[Any], base: Mapping[str, Any], tuned: Mapping[str, Any], metric: str) -> Changes:
    known = [str(item) for item in ids if str(item) in base and str(item) in tuned]
    joined = []
    for item in known[: MOST_SHOWN + MOST_BRIEF]:
        given, right, before = (readable(base[item].get(key)) for key in ("input", "reference", "prediction"))
        values = [(side[item].get("metrics") or {}).get(metric) for side in (base, tuned)]
        joined.append(Change(item, given, right, before, readable(tuned[item].get("prediction")), *values))
    return Changes(joined[:MOST_SHOWN], len(ids), [item.with_texts(_one_line) for item in joined[MOST_SHOWN:]])


def readable(text: Any) -> str:
    """Return the text without blanks around it, and without half characters that no file can hold."""
    return "" if text is None else str(text).strip().encode(errors="replace").decode()


def _one_line(text: str) -> str:
    folded = " ".join(text[: 4 * BRIEF_CHARACTERS].split())
    cut = len(folded) > BRIEF_CHARACTERS or len(text) > 4 * BRIEF_CHARACTERS
    return f"{folded[:BRIEF_CHARACTERS].rstrip()}\N{HORIZONTAL ELLIPSIS}" if cut else folded


def _shortened(text: str, limit: int) -> str:
    """Cut the middle out: an answer's beginning and its end say most."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    head = encoded[: limit // 2].decode(errors="ignore")
    tail = encoded[-(limit // 2) :].decode(errors="ignore")
    left = len(text) - len(head) - len(tail)
    return f"{head} \N{HORIZONTAL ELLIPSIS} ({left:,} more characters in scores.jsonl) \N{HORIZONTAL ELLIPSIS} {tail}"
