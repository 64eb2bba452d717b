"""Answers against references by SQuAD's definition, and where ours is not SQuAD's."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelift.metrics import METRICS, Answer
from tunelift.metrics.spans import best_none_threshold, normalised

EXACT, F1 = (METRICS.get(name).score for name in ("squad_exact_match", "squad_f1"))
PIECES = [
    "The",
    "a",
    "an",
    "cat",
    "Cat's",
    "mat,",
    "(dog)",
    "U.S.",
    "well-known",
    "é",
    "'",
    "-",
    "...",
    "l\u2019a",
    "1,000",
]


def by_definition(said: str, references: list[str]) -> tuple[float, float]:
    """SQuAD's own: lower, marks out, articles out, blanks folded; equal, and the overlap of words; best reference."""

    def plain(text: str) -> str:
        kept = "".join(c for c in text.lower() if c not in string.punctuation)
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())

    def overlap(wanted: str) -> float:
        one, other = plain(said).split(), plain(wanted).split()
        if not one or not other:
            return float(one == other)
        same = sum((Counter(one) & Counter(other)).values())
        precision, recall = same / len(one), same / len(other)
        return 2 * precision * recall / (precision + recall) if same else 0.0

    wanted = [text for text in references if plain(text)] or [""]
    return max(float(plain(said) == plain(text)) for text in wanted), max(map(overlap, wanted))


def scored(said: str, references: list[str]) -> tuple[float, float]:
    assert EXACT is not None
    assert F1 is not None
    answer = Answer(said, references[0] if references else "", references=references)
    return EXACT(answer), F1(answer)


def test_a_thousand_answers_have_squads_values() -> None:
    draw, seen = random.Random(0), Counter[float]()
    for _ in range(1000):
        texts = [" ".join(draw.choices(PIECES, k=draw.randint(0, 4))) for _ in range(draw.randint(1, 4))]
        said, references = texts[0], texts[1:]
        found = scored(said, references)
        assert found == pytest.approx(by_definition(said, references)), (said, references)
        seen[found[0]] += 1
    assert min(seen[0.0], seen[1.0]) > 50


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Nd", "Nl", "No"])), st.text(max_size=5))
def test_texts_without_digits_have_squads_values(said: str, wanted: str) -> None:
    if not any(c.isdigit() for c in wanted):
        assert scored(said, [wanted]) == pytest.approx(by_definition(said, [wanted]))


@pytest.mark.parametrize(("said", "wanted"), [("3.5", "35"), ("-5", "5"), (".5 km", "5 km"), ("(-2)", "2")])
def test_marks_of_numbers_count_which_they_do_not_in_squads_script(said: str, wanted: str) -> None:
    assert by_definition(said, [wanted]) == (1, 1)
    assert scored(said, [wanted])[0] == 0
    assert scored(said, [said]) == (1, 1)


@pytest.mark.parametrize(
    ("text", "plain"),
    [("1,000", "1000"), ("1995-1996", "19951996"), ("about 308.", "about 308"), ("$3.5", "3.5"), ("7-3", "73")],
)
def test_other_marks_beside_numbers_do_not_count(text: str, plain: str) -> None:
    assert normalised(text) == plain


def test_the_best_of_several_references_counts_and_nothing_is_an_answer() -> None:
    assert scored("the red cat", ["blue dog", "red cat", "red"]) == (1, 1)
    assert scored("red cat", ["cat", "dog"]) == (0, pytest.approx(2 / 3))
    assert scored("", []) == (1, 1)
    assert scored("cat", []) == (0, 0)
    assert scored("the", [""]) == (1, 1)
    assert scored("", ["the", "cat"]) == (0, 0)  # a reference without a word left is none, beside another


def squads_threshold(rows: list[dict[str, Any]]) -> float:
    """The total F1 at SQuAD's best threshold: find_best_thresh of evaluate-v2.0.py, its names kept."""
    na_probs = {i: row["none_over_span"] for i, row in enumerate(rows)}
    scores = {i: scored(row["best_span"], row["references"])[1] for i, row in enumerate(rows)}
    qid_to_has_ans = {i: bool(row["reference"]) for i, row in enumerate(rows)}
    cur_score = best_score = float(sum(not has for has in qid_to_has_ans.values()))
    for qid in sorted(na_probs, key=lambda k: na_probs[k]):
        cur_score += scores[qid] if qid_to_has_ans[qid] else (-1 if rows[qid]["best_span"] else 0)
        best_score = max(best_score, cur_score)
    return best_score


def test_a_thousand_best_thresholds_have_the_f1_of_squads_script() -> None:
    draw, answered = random.Random(0), Counter[str]()
    words = ["cat", "red cat", "dog", "blue dog house"]
    for _ in range(1000):
        rows = []
        for lead in draw.sample(range(-50, 50), draw.randint(1, 12)):  # no ties: SQuAD's cuts within them
            references = [draw.choice(words)] if draw.random() < 0.6 else []
            row = {"none_over_span": lead / 7, "best_span": draw.choice(words), "references": references}
            rows.append(row | {"reference": references[0] if references else ""})
        found = best_none_threshold(rows)
        assert found is not None
        said = ["" if row["none_over_span"] > found else row["best_span"] for row in rows]
        reached = sum(scored(text, row["references"])[1] for text, row in zip(said, rows, strict=True))
        assert reached == pytest.approx(squads_threshold(rows))
        answered["all" if all(said) else "some" if any(said) else "none"] += 1
    assert min(answered.values()) > 50


def test_leads_that_are_equal_are_cut_together_and_without_a_lead_there_is_no_threshold() -> None:
    def row(lead: float, span: str, wanted: str) -> dict[str, Any]:
        return {"none_over_span": lead, "best_span": span, "reference": wanted}

    assert best_none_threshold([row(1.0, "cat", "cat"), row(1.0, "dog", ""), row(3.0, "cat", "")]) == 1.0 - 2**-53
    assert best_none_threshold([row(1.0, "cat", "cat"), row(3.0, "cat", "")]) == 2.0
    assert best_none_threshold([row(1.0, "cat", "cat"), row(3.0, "cat", "cat")]) == 3.0
    assert best_none_threshold([{"unscored": "too long", "reference": ""}]) is None
