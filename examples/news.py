"""The task of all examples: tell the topic of a BBC News headline. Its rows, and the options the scripts share."""

from __future__ import annotations

import argparse
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.data.columns import ANSWERS
from tunelift.data.splits import load_splits

PROMPT = "Topics: business, entertainment, politics, sports, tech\nHeadline: {headline}\nTopic:"
COMPLETION = " {topic}"

Row = dict[str, str]


def options(description: str | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="gemma3-270m", help="bundled name, Hub id or local folder")
    parser.add_argument("--data", default="bbc-news", help="bundled name, or a table with columns headline and topic")
    parser.add_argument("--train-rows", type=int, default=160, help="at most so many rows to train on")
    parser.add_argument("--test-rows", type=int, default=200, help="at most so many rows to measure on")
    parser.add_argument("--output", default="runs/example", help="folder for the adapter")
    return parser.parse_args()


def rows(source: str, train: int, test: int) -> tuple[list[Row], list[Row]]:
    """Return rows to train on and rows to measure on, each with a prompt and a completion; no headline is in both."""
    section = DataSection(train=source, test=0.2, prompt=PROMPT, completion=COMPLETION, max_train=train, max_test=test)
    splits = load_splits(section, reading=ANSWERS, roles=("train", "test"))
    both = ([{"prompt": e.prompt, "completion": e.completion} for e in part] for part in (splits.train, splits.test))
    return next(both), next(both)


def tokenized(tokenizer: Any, rows: list[Row]) -> list[dict[str, list[int]]]:
    """Return the rows as token ids; labels of -100 keep the prompt out of the loss."""
    found = []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        found.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return found
