"""Near duplicates: seeded leaks are found, other questions are not, and on real files alarms are rare."""

from __future__ import annotations

import csv
import json
import random
import time
import unicodedata
from pathlib import Path

import pytest

from tunelift.data.duplicates import Match, near_duplicates, normalised, varying

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
OTHER_WORDS = ["river", "quick", "blue", "market", "window", "giant", "simple", "trade", "begin", "yellow", "corner"]
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside the project")


def texts(count: int, words: int, seed: int = 0) -> list[str]:
    """Random texts over 2,000 words."""
    rng = random.Random(seed)
    return [" ".join(f"word{rng.randrange(2000)}" for _ in range(words)) for _ in range(count)]


def changed(text: str, share: float, rng: random.Random) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), max(1, int(share * len(words)))):
        words[place] = rng.choice(OTHER_WORDS)
    return " ".join(words)


def found(text: str, other: str) -> bool:
    return bool(near_duplicates([text], [other]))


QUESTION = "I tried to buy something online yesterday but it kept saying declined, so what is broken?"


@pytest.mark.parametrize(
    "other",
    [
        QUESTION,
        QUESTION.upper().replace(" ", "\n  "),
        QUESTION.replace(",", " -").replace("?", " !!!"),
        "\u201c" + unicodedata.normalize("NFD", QUESTION) + "\u201d",
        QUESTION.replace("fi", "\ufb01").replace("o", "\uff4f"),
        QUESTION.replace("online", "abroad"),
        QUESTION.replace("online", "abroad").replace("saying", "being"),
        QUESTION.replace("yesterday ", ""),
        QUESTION.replace("what is", "please tell me what is"),
        QUESTION + " It was for my daughter.",
        QUESTION.rsplit(" ", 5)[0],
    ],
)
def test_a_copy_is_found_whatever_was_done_to_it(other: str) -> None:
    assert found(QUESTION, other)
    assert found(other, QUESTION)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("where is my card", "where is my money"),
        ("where is my new card", "where is my card"),
        ("how can I change my address?", "how can I change my PIN?"),
        ("which city is the capital of France", "which city is the capital of Spain"),
        ("compute 3 + 4", "compute 3 - 4"),
        ("what do you get if 12 and 55 are added and halved", "what do you get if 71 and 40 are added and halved"),
        ("!?", "?!"),
        ("+", "-"),
        ("", "a"),
    ],
)  # fmt: skip
def test_another_question_is_no_copy(text: str, other: str) -> None:
    assert not found(text, other)


def test_short_copies_are_found() -> None:
    assert found("What's next?", "what\u2019s  next")
    assert found("How can I reset the passcode?", "Please, how can I reset the passcode")
    assert near_duplicates(["", "  "], [""]) == [Match(0, 0, 1.0), Match(1, 0, 1.0)]


def test_one_number_among_many_is_a_small_change() -> None:
    text = "The 3 shops sold 40 apples in May, 52 in June and 61 in July, and 9 were left over at the end."
    assert found(text, text.replace("52", "53"))


def test_a_copy_that_was_cut_is_found_however_much_is_gone() -> None:
    text = texts(1, 400)[0]
    for share in (0.9, 0.5, 0.2, 0.06):
        assert found(text, " ".join(text.split()[: int(400 * share)]))
    assert not found(text, " ".join(text.split()[200:220]))


def test_scripts_without_blanks_are_compared_by_character() -> None:
    text = "我昨天在網上買東西但是一直顯示被拒絕請問是怎麼回事"
    assert found(text, text.replace("網上", "店裡"))
    assert not found("我的卡在哪裡", "我的錢在哪裡")
    assert normalised("\uff11\uff12 \uff23afe\u0301, \ufb01ne") == "12 café fine"


def test_matches_lead_from_each_text_to_its_kin() -> None:
    base, other = texts(2, 20)
    near = base.rsplit(" ", 1)[0] + " changed"
    assert [(m.index, m.other) for m in near_duplicates([base, other, near, base.upper(), other])] == [
        (2, 0), (3, 0), (4, 1),
    ]  # fmt: skip
    across = near_duplicates([base, near, other], [near, near.upper(), "nothing of the kind stands here"])
    assert [(m.index, m.other) for m in across] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [m.similarity for m in across if m.index == 1] == [1.0, 1.0]
    assert all(0.9 < m.similarity < 1 for m in across if m.index == 0)
    assert near_duplicates([base], []) == near_duplicates([], [base]) == near_duplicates([]) == []


def test_a_higher_threshold_finds_less() -> None:
    text = texts(1, 30)[0]
    other = changed(text, 0.2, random.Random(0))
    (match,) = near_duplicates([text], [other])
    assert near_duplicates([text], [other], threshold=match.similarity + 0.01) == []


def test_seeded_leaks_among_thousands_are_found_and_nothing_else() -> None:
    rng = random.Random(1)
    train, test = texts(3000, 15), texts(300, 15, seed=1)
    leaks = {place: changed(test[number], 0.2, rng) for number, place in enumerate(rng.sample(range(3000), 150))}
    train = [leaks.get(place, text) for place, text in enumerate(train)]
    matches = near_duplicates(train, test)
    assert {match.index for match in matches} == set(leaks)
    assert {match.other for match in matches} == set(range(150))
    assert near_duplicates(train, test) == matches


def test_the_template_is_no_likeness() -> None:
    questions = texts(40, 9)
    prompts = [f"Answer the question of a customer in one short sentence: {text}\nAnswer:" for text in questions]
    assert varying(prompts) == questions
    assert varying(prompts[:9]) == prompts[:9]
    instructions = [
        "Say in one word how the writer of this text feels",
        "Say in one word what the text below is all about",
    ]
    mixed = [f"{instructions[number % 2]} and write nothing else: {text}" for number, text in enumerate(questions)]
    assert near_duplicates(mixed[:20], mixed[20:]) == []
    assert len(near_duplicates(mixed[:20], [*mixed[20:], mixed[3].upper()])) == 1


def test_thousands_of_equal_and_of_like_rows_stay_fast() -> None:
    began = time.process_time()
    near_duplicates(["the very same words again and again and again"] * 20_000)
    near_duplicates(
        [f"the order {number} of customer {number % 97} goes to shelf {number % 13}" for number in range(1500)]
    )
    assert time.process_time() - began < 6


def column(file: str, name: str) -> list[str]:
    """One column of a file of shared/data."""
    lines = (SHARED / file).read_text(encoding="utf-8").splitlines()
    if file.endswith("tsv"):
        return [line.split("\t", 1)[1] for line in lines]
    rows = csv.DictReader(lines) if file.endswith("csv") else map(json.loads, lines)
    return [row[name] for row in rows]


@needs_shared
@pytest.mark.parametrize(
    ("train_file", "test_file", "name"),
    [("gsm8k_train.jsonl", "gsm8k_test.jsonl", "question"), ("sst2_train.tsv", "sst2_dev.tsv", "text")],
)
def test_real_files_give_few_alarms_and_hide_no_leak(train_file: str, test_file: str, name: str) -> None:
    train, test = column(train_file, name), column(test_file, name)
    rng = random.Random(0)
    seeded = [text for text in rng.sample(test, 200) if len(normalised(text).split()) >= 12][:100]
    leaks = [changed(normalised(text), 0.2, rng) for text in seeded]
    matches = near_duplicates(train + leaks, test)
    assert {match.index for match in matches} >= set(range(len(train), len(train) + len(leaks)))
    assert len({match.other for match in matches if match.index < len(train)}) < 0.005 * len(test)


@needs_shared
def test_rows_of_other_intents_are_seldom_taken_for_copies() -> None:
    texts, labels = (
        [column(f"banking77_{side}.csv", name) for side in ("train", "test")] for name in ("text", "category")
    )
    matches = near_duplicates(*texts)
    assert len({match.other for match in matches}) > 300  # these files do hold many questions twice
    alarms = {match.other for match in matches if labels[0][match.index] != labels[1][match.other]}
    assert len(alarms) < 0.012 * len(texts[1])
