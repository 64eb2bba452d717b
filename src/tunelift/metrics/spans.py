"""Metrics of answers taken from a passage, by SQuAD's definition (Rajpurkar et al. 2016 and 2018, evaluate-v2.0).

Case, punctuation, the articles a, an, the and runs of blanks do not count. Of several references the best match counts.
The references that say something are matched; where none does, nothing is what is wanted.

One thing is not SQuAD's: its script takes every mark out of a text, so that 3.5 is 35 and -5 is 5. The decimal point
and the minus of a number stay here. Texts without such a number have the values of SQuAD's script.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate

from tunelift.core.records import ScoreRow
from tunelift.metrics.registry import METRICS, Answer, Metric

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# A minus is a sign where no word or closing mark stands before it: "1995-1996" has none.
_OF_NUMBERS = re.compile(r"(?<=\d)\.(?=\d)|(?<![\w.)%])-(?=\.?\d)|(?<!\w)\.(?=\d)")
_MARKS = frozenset(string.punctuation)

NEUTRAL_NONE = 0.0
"""How far "no answer" must score above the best span to be given, where no validation rows say another."""


def squad_exact_match(answer: Answer) -> float:
    """1 if the answer is one of the references, once both are normalised."""
    return _best(answer, lambda said, wanted: float(said == wanted))


def squad_f1(answer: Answer) -> float:
    """The overlap with a reference, as two bags of words: 2 shared / (words of both), from 0 to 1.

    Where one side has no words left, it is 1 if neither has and 0 otherwise.
    """
    return _best(answer, _overlap)


def best_none_threshold(rows: Iterable[ScoreRow]) -> float | None:
    """Return above which lead of "no answer" over the best span none is to be given, for the highest F1 on these rows.

    Rows have "none_over_span" and "best_span". As in SQuAD's script of 2018, of equally good thresholds it is the one
    under which the fewest are answered. It lies between the two leads that it tells apart, just below all of them where
    nothing should be answered, and at the highest where everything should. None where no row knows its lead.
    """
    known = sorted((row for row in rows if "none_over_span" in row), key=lambda row: float(row["none_over_span"]))
    if not known:
        return None
    answers = ([Answer(text, row["reference"], references=row.get("references", ())) for text in (row["best_span"], "")]
               for row in known)  # fmt: skip
    gains = [squad_f1(span) - squad_f1(none) for span, none in answers]
    leads = [float(row["none_over_span"]) for row in known]
    gained = [0.0, *accumulate(gains)]
    cuts = [at for at in range(len(known) + 1) if at in (0, len(known)) or leads[at - 1] < leads[at]]
    best = max(cuts, key=lambda at: (gained[at], -at))
    if best == 0:
        return math.nextafter(leads[0], -math.inf)
    middle = (leads[best - 1] + leads[best]) / 2 if best < len(known) else leads[-1]
    return middle if best == len(known) or middle < leads[best] else leads[best - 1]


def normalised(text: str) -> str:
    """Return a text in small letters, without marks and articles, one blank between words; marks of numbers stay."""
    lowered = text.lower()
    kept = {place for match in _OF_NUMBERS.finditer(lowered) for place in range(*match.span())}
    plain = "".join(c for place, c in enumerate(lowered) if c not in _MARKS or place in kept)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def _best(answer: Answer, value: Callable[[str, str], float]) -> float:
    said = normalised(answer.prediction)
    wanted = [text for text in map(normalised, answer.accepted) if text] or [""]
    return max(value(said, text) for text in wanted)


def _overlap(said: str, wanted: str) -> float:
    if not said or not wanted:
        return float(said == wanted)
    predicted, words = Counter(said.split()), Counter(wanted.split())
    return 2 * (predicted & words).total() / (predicted.total() + words.total())


for _metric in (
    Metric("squad_f1", squad_f1, "text", bounds=(0, 1)),
    Metric("squad_exact_match", squad_exact_match, "text", kind="binary", bounds=(0, 1)),
):
    METRICS.add(_metric.name, _metric)
