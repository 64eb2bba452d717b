"""Advice on prepared cases: it says the right thing, and where there is no evidence it says that."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tunelift.comparison.advice import CONTRADICT, ENOUGH, KNOWS, LACKS, SIMPLER, Advice, Doubts, Evidence, advised
from tunelift.core.records import Example, Scores
from tunelift.evaluation.doubts import doubts

ROWS = 100


def wrong_answer(i: int) -> str:
    return f"answer {i}"


def scores(right: Sequence[float], name: str = "accuracy", says: Callable[[int], str] = wrong_answer) -> Scores:
    """Return scores of items that are right as told; an answer that is wrong is what `says` gives."""
    rows: list[dict[str, Any]] = [
        {
            "id": str(i), "input": f"question {i}", "reference": f"wanted {i}", "metrics": {name: value},
            "prediction": f"wanted {i}" if value == 1 else says(i),
        }
        for i, value in enumerate(right)
    ]  # fmt: skip
    info = {"metrics": {name: {"value": sum(right) / len(right), "higher_is_better": True, "items": len(right)}}}
    return Scores(rows, info)


def some(share: float, seed: int = 0) -> list[float]:
    """Return which of the items are right: a share of them, drawn."""
    draw, right = random.Random(seed), round(share * ROWS)
    return draw.sample([1.0] * right + [0.0] * (ROWS - right), ROWS)


CLASSES = Evidence(
    "accuracy",
    {"base": scores(some(0.4)), "few-shot": scores(some(0.45, 1)), "majority": scores(some(0.3, 2))},
    told=[1.0 + i % 5 for i in range(ROWS)],
    answers=["a", "b", "c"] * 200,
    labels=True,
    test_rows=3000,
    conflicts={"count": 0, "examples": []},
    doubts=Doubts([], 700, 200, 600),
)
"""Labels that the base knows something of, in rows that agree."""

ANSWERS = replace(
    CLASSES,
    metric="exact_match",
    scores={"base": scores(some(0.05), "exact_match"), "few-shot": scores(some(0.06, 1), "exact_match")},
    answers=[f"another {i}" for i in range(600)],
    labels=False,
    doubts=None,
)
"""Answers in words, which stand nowhere in the rows."""


def words(advice: Advice) -> dict[str, str]:
    return {finding.question: finding.word for finding in advice.findings}


def shown(advice: Advice, question: str) -> str:
    return "\n".join(next(finding.shown for finding in advice.findings if finding.question == question))


def with_scores(evidence: Evidence, **more: Sequence[float]) -> Evidence:
    found = {name.replace("_", "-"): scores(right, evidence.metric) for name, right in more.items()}
    return replace(evidence, scores={**evidence.scores, **found})


def test_a_base_that_does_it_is_to_be_prompted() -> None:
    advice = advised(with_scores(CLASSES, few_shot=some(0.98)))
    assert (advice.word, words(advice)[KNOWS], words(advice)[LACKS]) == ("prompt", "known", "nothing")
    assert "0.400 -> 0.980" in shown(advice, KNOWS)
    assert words(advised(with_scores(CLASSES, few_shot=some(0.8))))[KNOWS] == "partly"
    assert words(advised(with_scores(CLASSES, few_shot=some(0.1))))[KNOWS] == "no"


def test_a_skill_that_is_in_the_rows_is_what_tuning_is_for() -> None:
    advice = advised(CLASSES)
    assert (advice.word, words(advice)[LACKS], words(advice)[ENOUGH]) == ("tune", "skill", "enough")
    assert "3.00 nats" in shown(advice, LACKS)
    unseen = with_scores(replace(CLASSES, told=[0.0, 0.01, -0.01] * 30), tf_idf=some(0.7, 3))
    assert (advised(unseen).word, words(advised(unseen))[LACKS]) == ("tune", "skill")  # a simple model sees it


def test_facts_that_the_base_lacks_are_to_be_looked_up() -> None:
    advice = advised(replace(ANSWERS, told=[0.02, -0.03, 0.01, 0.0] * 25))
    assert (advice.word, words(advice)[LACKS]) == ("retrieval", "facts")
    assert "of 100 answers 0 stand in their question, 0 are answers of training rows too" in shown(advice, LACKS)
    again = replace(ANSWERS, told=[0.02, -0.03, 0.01, 0.0] * 25, answers=[f"Wanted {i}." for i in range(600)])
    assert words(advised(again))[LACKS] == "skill"  # the training rows have these answers
    unsure = replace(ANSWERS, told=[3.0, -3.0] * 20)
    assert (words(advised(unsure))[LACKS], advised(unsure).word) == ("unclear", "unclear")


def test_answers_that_are_right_but_for_their_form_are_told_from_wrong_ones() -> None:
    said = scores(some(0.05), "exact_match", lambda i: f"Well, I think that it is: Wanted {i}!")
    advice = advised(replace(ANSWERS, scores={**ANSWERS.scores, "base": said}))
    assert (advice.word, words(advice)[LACKS]) == ("form", "form")
    assert "95 of 95 answers that count as wrong hold the right one" in shown(advice, LACKS)
    within = scores(some(0.05), "exact_match", lambda i: f"unwanted {i}0")  # 'wanted 3' is not in 'unwanted 30'
    assert words(advised(replace(ANSWERS, scores={"base": within})))[LACKS] != "form"


def test_a_task_that_a_simple_model_solves_is_its() -> None:
    advice = advised(with_scores(CLASSES, tf_idf=some(0.97, 3)))
    assert (advice.word, words(advice)[SIMPLER]) == ("simple model", "solved")
    assert "tf-idf: accuracy 0.970" in shown(advice, SIMPLER)
    assert words(advised(with_scores(CLASSES, tf_idf=some(0.92, 3))))[SIMPLER] == "no"  # 0.9 is not shown


def test_twelve_rows_are_too_few_to_learn_from_or_to_see_it_by() -> None:
    for evidence in (replace(CLASSES, answers=["a", "b"] * 6), replace(CLASSES, test_rows=12)):
        advice = advised(evidence)
        assert (advice.word, words(advice)[ENOUGH]) == ("more rows", "few")
    assert "the smallest difference 12 items show" in shown(advised(replace(CLASSES, test_rows=12)), ENOUGH)
    nearly = replace(CLASSES, test_rows=445)
    assert (words(advised(nearly))[ENOUGH], words(advised(replace(nearly, margin=0.2)))[ENOUGH]) == ("short", "enough")
    draw = random.Random(0)
    graded = {name: scores([draw.random() for _ in range(ROWS)], "rouge_l") for name in ("base", "few-shot")}
    assert words(advised(replace(CLASSES, metric="rouge_l", scores=graded, test_rows=30)))[ENOUGH] == "few"
    alone = advised(replace(CLASSES, metric="rouge_l", scores={"base": graded["base"]}))
    assert (words(alone)[ENOUGH], words(alone)[KNOWS]) == ("unknown", "unknown")


def noisy(share: float, seed: int = 0, told: bool = True) -> list[Example]:
    """Return texts whose words tell one of three labels, or none, of which a share is changed to another one."""
    draw, found = random.Random(seed), list[Example]()
    for i in range(300):
        topic = i % 3
        own = [f"word{topic if told else draw.randrange(3)}{draw.randrange(6)}" for _ in range(5)]
        label = (topic + draw.randint(1, 2)) % 3 if draw.random() < share else topic
        found.append(Example(str(i), " ".join([*own, f"and{draw.randrange(40)}"]), f" label {label}"))
    return found


def test_labels_of_which_a_third_is_wrong_are_found_and_right_ones_left_alone() -> None:
    rows = noisy(0.3)
    wrong = {row.id for row in rows if row.completion != f" label {int(row.id) % 3}"}
    found = doubts(rows, 0)
    assert found is not None
    named = {row for row, *_ in found.rows}
    assert len(named & wrong) > 0.85 * len(wrong)
    assert len(named - wrong) < 0.1 * len(rows)
    advice = advised(replace(CLASSES, doubts=found, answers=[row.completion for row in rows]))
    assert (advice.word, words(advice)[CONTRADICT]) == ("labels", "many")
    assert f'row {found.rows[0][0]}: "label' in shown(advice, CONTRADICT)

    clean = doubts(noisy(0.0), 0)
    assert clean is not None
    assert (len(clean.rows), words(advised(replace(CLASSES, doubts=clean)))[CONTRADICT]) == (0, "none")

    blind = doubts(noisy(0.0, told=False), 0)  # words tell nothing: no label is to be doubted by them
    advice = advised(replace(CLASSES, doubts=blind))
    assert words(advice)[CONTRADICT] == "none"
    assert "it can speak against none" in shown(advice, CONTRADICT)
    assert doubts([Example(str(i), f"q {i}", f"a {i}") for i in range(50)], 0) is None
    twice = {"count": 80, "examples": [{"input": "same", "labels": ["a", "b"]}]}
    advice = advised(replace(CLASSES, conflicts=twice, doubts=None))
    assert (advice.word, words(advice)[CONTRADICT]) == ("labels", "many")
    assert '"same": a, b' in shown(advice, CONTRADICT)


def test_where_nothing_was_measured_it_says_so() -> None:
    nothing = advised(Evidence("accuracy"))
    assert {word for question, word in words(nothing).items() if question != ENOUGH} == {"unknown"}
    assert nothing.word == "unclear"
    assert all(f.text.startswith("No evidence: ") for f in nothing.findings if f.word == "unknown")
    untold = advised(replace(ANSWERS, told=None))
    assert (words(untold)[LACKS], untold.word) == ("unknown", "unclear")
    assert "was not measured" in str(untold)
    assert str(untold).splitlines()[-1].startswith("Advice: ")
    assert untold.to_dict()["findings"][LACKS]["word"] == "unknown"


@pytest.mark.parametrize("name", ["loss", "perplexity"])
def test_metrics_of_which_less_is_better_are_never_taken_for_solved(name: str) -> None:
    low = scores([0.95] * ROWS, name)
    low.info["metrics"][name]["higher_is_better"] = False
    for row in low.rows:
        row |= {"log_likelihood": -0.95, "tokens": 1}
    assert words(advised(replace(CLASSES, metric=name, scores={"base": low, "few-shot": low})))[KNOWS] == "unclear"
