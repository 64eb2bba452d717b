"""Metrics that compare the predicted text or label with the reference."""

from __future__ import annotations

import re
import string
from collections import Counter
from decimal import Decimal
from functools import cache
from typing import Any

from tunelift.metrics.registry import METRICS, Answer, Metric

# A minus is a sign only where nothing stands before it that it could subtract from: 7-3 ends in 3.
_NUMBER = re.compile(r"(?P<minus>(?<![\w.)%])-)?(?:[$€£]\s?(?P<sign>-)?)?(?P<digits>\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)")
_ARTICLES = frozenset({"a", "an", "the"})
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(answer: Answer) -> float:
    """1 if the predicted label is the reference, spaces around both aside."""
    return float(answer.prediction.strip() == answer.reference.strip())


def exact_match(answer: Answer) -> float:
    """1 if the texts are equal once runs of white space count as one space and those at the ends as none."""
    return float(_folded(answer.prediction) == _folded(answer.reference))


def numeric_match(answer: Answer) -> float:
    """1 if the final number of the prediction equals the reference's, as decimals.

    The answer stands after `####` as in GSM8K (Cobbe et al. 2021), or is the last number of the text; thousands'
    commas, currency signs, per cent signs and a closing period do not count. A reference without any number must be
    matched as text.
    """
    wanted = final_number(answer.reference)
    if wanted is None:
        return exact_match(answer)
    return float(final_number(answer.prediction) == wanted)


def f1(answer: Answer) -> float:
    """Token F1 of SQuAD (Rajpurkar et al. 2016): overlap of the two bags of words, from 0 to 1.

    Case, punctuation and the articles a, an, the do not count. Where one side has no words left, it is 1 if neither
    has and 0 otherwise (as for SQuAD 2.0, Rajpurkar et al. 2018).
    """
    predicted, wanted = _words(answer.prediction), _words(answer.reference)
    if not predicted or not wanted:
        return float(predicted == wanted)
    shared = (predicted & wanted).total()
    return 2 * shared / (predicted.total() + wanted.total())


def rouge_l(answer: Answer) -> float:
    """ROUGE-L (Lin 2004): F of the longest common subsequence of words, from 0 to 1, by the package rouge-score.

    Words are runs of a-z and 0-9 in lower case, not stemmed: texts in other scripts have none, and the value 0.
    """
    return float(_rouge().score(answer.reference, answer.prediction)["rougeL"].fmeasure)


def final_number(text: str) -> Decimal | None:
    """Return the number a worked answer ends in, or None where there is none.

    After the first `####` only its own line is read: a model that was not stopped goes on with questions of its own.
    """
    _, marker, rest = text.partition("####")
    lines = rest.strip().splitlines()
    if marker:
        text = lines[0] if lines else ""
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    value = Decimal(found[-1]["digits"].replace(",", ""))
    return -value if found[-1]["minus"] or found[-1]["sign"] else value


def _folded(text: str) -> str:
    return " ".join(text.split())


def _words(text: str) -> Counter[str]:
    words = text.lower().translate(_WITHOUT_PUNCTUATION).split()
    return Counter(word for word in words if word not in _ARTICLES)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


for _metric in (
    Metric("accuracy", accuracy, "label", kind="binary", bounds=(0, 1)),
    Metric("exact_match", exact_match, "text", kind="binary", bounds=(0, 1)),
    Metric("numeric_match", numeric_match, "text", kind="binary", bounds=(0, 1)),
    Metric("f1", f1, "text", bounds=(0, 1)),
    Metric("rouge_l", rouge_l, "text", bounds=(0, 1), package="rouge_score"),
):
    METRICS.add(_metric.name, _metric)
