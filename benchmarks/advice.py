"""Does `tunelift advise` say the right thing? Ten prepared cases whose answer is known, on a real model.

    python benchmarks/advice.py [--model gemma3-270m] [--only TEXT] [--out FILE.json]

The rows are made here, so that what is wrong with them is known: facts that no model can know, answers that are right
but for their form, labels of which three in ten are changed, and so on. Prints what was advised beside what should be,
and exits with 1 where they differ. With --out a case that is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunelift.comparison.advice import CONTRADICT, ENOUGH, KNOWS, LACKS, SIMPLER
from tunelift.config.keywords import from_keywords
from tunelift.core import progress
from tunelift.pipeline.advising import advise

Rows = list[dict[str, str]]
VALIDATION = 60
"""Rows that are measured."""
TEST_ROWS = 1500
"""Only their number is looked at."""

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "China": "Beijing",
    "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon", "Austria": "Vienna",
    "Poland": "Warsaw", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Belgium": "Brussels", "Hungary": "Budapest", "Iraq": "Baghdad", "Iran": "Tehran", "Cuba": "Havana",
    "Peru": "Lima", "Thailand": "Bangkok", "Vietnam": "Hanoi",
}  # fmt: skip
SUBJECTS = {
    "sport": ("match", "goal", "team", "striker", "league", "referee", "stadium", "coach"),
    "cooking": ("oven", "butter", "recipe", "flour", "boil", "pepper", "dough", "kitchen"),
    "law": ("court", "judge", "appeal", "verdict", "lawyer", "statute", "witness", "trial"),
}
CODES = {"sport": "K7", "cooking": "Q2", "law": "Z5"}
PEOPLE = ("Ann", "Bob", "Carla", "Dan", "Eve", "Finn", "Gita", "Hugo", "Ines", "Jack", "Kim", "Lena", "Max", "Nora")


@dataclass(frozen=True)
class Case:
    """Rows, what is to be advised, and the answers to some of the questions that must be among it."""

    rows: Callable[[random.Random, int], Rows]
    advice: str
    words: dict[str, str]
    train: int = 400
    test: int = TEST_ROWS
    settings: dict[str, Any] = field(default_factory=lambda: {"metrics": ["accuracy"]})


def name_of(draw: random.Random) -> str:
    return "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3)).capitalize()


def facts(draw: random.Random, count: int) -> Rows:
    """Codes of people that are drawn: nobody could know them, and no row tells another's."""
    asked = (f"Question: What is the locker number of {name_of(draw)} {name_of(draw)}?\nAnswer:" for _ in range(count))
    return [{"prompt": text, "completion": f" {draw.randrange(10_000, 99_999)}"} for text in asked]


def form(draw: random.Random, count: int) -> Rows:
    """Capitals in one word, where the base goes on in a sentence."""
    rows = []
    for i in range(count):
        country, city = draw.choice(sorted(CAPITALS.items()))
        asked = f"{draw.choice(PEOPLE)} asks for the capital of {country} (question {i}). The capital is the city of"
        rows.append({"prompt": asked, "completion": f" {city}"})
    return rows


def subject(draw: random.Random, number: int) -> tuple[str, str]:
    name = sorted(SUBJECTS)[number % len(SUBJECTS)]
    words = draw.sample(SUBJECTS[name], 4)
    return f"Text: {' '.join(words)} {draw.choice(PEOPLE)} {number}\nDrawer:", CODES[name]


def by_words(draw: random.Random, count: int) -> Rows:
    """Codes of subjects: single words tell them, and what a code stands for only the rows do."""
    return [dict(zip(("prompt", "completion"), (text, f" {label}"), strict=True))
            for text, label in (subject(draw, i) for i in range(count))]  # fmt: skip


def noisy(draw: random.Random, count: int) -> Rows:
    """The same with three labels in ten changed to another one."""
    rows = by_words(draw, count)
    for row in rows:
        if draw.random() < 0.3:
            row["completion"] = draw.choice([f" {code}" for code in CODES.values() if f" {code}" != row["completion"]])
    return rows


def twice(draw: random.Random, count: int) -> Rows:
    """The same texts again under another label, for a third of them."""
    rows = by_words(draw, count - count // 4)
    labels = [f" {code}" for code in CODES.values()]
    again = [row | {"completion": labels[(labels.index(row["completion"]) + 1) % 3]} for row in rows[: count // 4]]
    return draw.sample(rows + again, count)


def copied(draw: random.Random, count: int) -> Rows:
    """What any language model does once it is shown."""
    words = [name_of(draw) for _ in range(count)]
    return [{"prompt": f"Word: {word}\nSame word again:", "completion": f" {word}"} for word in words]


def odd_words(draw: random.Random, count: int) -> Rows:
    """Which of two labels applies is told by whether two names are the same, and by no word that other rows have."""
    rows = []
    for _ in range(count):
        names = [name_of(draw), name_of(draw)]
        same = draw.random() < 0.5
        asked = f"{names[0]} and {names[0] if same else names[1]}\nVerdict:"
        rows.append({"prompt": asked, "completion": " same" if same else " other"})
    return rows


def plain(draw: random.Random, count: int) -> Rows:
    """Plain text, without questions and answers."""
    return [{"text": " ".join(draw.choices(PEOPLE, k=12)) + f" met on day {i}."} for i in range(count)]


LIKELY = {"metrics": ["bits_per_byte"]}
WORDED = {"metrics": ["exact_match"], "max_new_tokens": 12, "stop": ["\n"]}
CASES = {
    "facts unknown to the base": Case(facts, "retrieval", {LACKS: "facts"}, settings=WORDED),
    "form only": Case(form, "form", {LACKS: "form"}, settings=WORDED),
    "labels: 30% are wrong": Case(noisy, "labels", {CONTRADICT: "many"}, 900),
    "12 rows": Case(by_words, "more rows", {ENOUGH: "few"}, 12),
    "30 test rows": Case(by_words, "more rows", {ENOUGH: "few"}, test=30),
    "TF-IDF solves it": Case(by_words, "simple model", {SIMPLER: "solved", CONTRADICT: "none"}, 900),
    "rows contradict each other": Case(twice, "labels", {CONTRADICT: "many"}, 900),
    "the base does it when shown": Case(copied, "prompt", {KNOWS: "known"}, settings=WORDED),
    "a skill in the rows": Case(odd_words, "tune", {SIMPLER: "no", LACKS: "skill"}, 900),
    "no evidence": Case(plain, "unclear", {KNOWS: "unknown", LACKS: "unknown", SIMPLER: "unknown"}, settings=LIKELY),
}  # fmt: skip


def advised_on(case: Case, model: str, folder: Path) -> dict[str, Any]:
    """Return the advice on a case, as JSON has it."""
    draw = random.Random(0)
    rows = case.rows(draw, case.train + case.test)
    files = {}
    for split, some in (("train", rows[: case.train]), ("test", rows[case.train :])):
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    data = {name: str(path) for name, path in files.items()} | {"max_validation": VALIDATION, "deduplicate": False}
    data |= {"validation": 0.5 if case.train > 100 else 0.25}
    evaluate = {"cache": True} | case.settings
    return advise(from_keywords(model=model, data=data, evaluate=evaluate, dtype="float32")).to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--only", default="", help="cases whose names hold this text")
    parser.add_argument("--out", type=Path, help="file of JSON; what is there already is not measured again")
    options = parser.parse_args()
    progress.quiet = True
    found = json.loads(options.out.read_text(encoding="utf-8")) if options.out and options.out.is_file() else {}
    wrong = 0
    print("| case | advised | should be | answers | s |\n|---|---|---|---|---|")
    for name, case in CASES.items():
        if options.only not in name:
            continue
        began = time.monotonic()
        if name not in found:
            with tempfile.TemporaryDirectory() as scratch:
                found[name] = advised_on(case, options.model, Path(scratch))
            if options.out:
                options.out.write_text(json.dumps(found, indent=2), encoding="utf-8")
        told = found[name]
        words = {question: told["findings"][question]["word"] for question in case.words}
        right = told["advice"] == case.advice and words == case.words
        wrong += not right
        mark = "" if right else "**"
        print(f"| {name} | {mark}{told['advice']}{mark} | {case.advice} | {', '.join(words.values())} | "
              f"{time.monotonic() - began:.0f} |", flush=True)  # fmt: skip
    print(f"\n{wrong} of {len(CASES)} cases are not as they should be." if wrong else "\nAll are as they should be.")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
