"""What a look at the rows shows: labels, lengths, conflicts, near duplicates; and how it is told."""

from __future__ import annotations

import json
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.data.columns import ANSWERS
from tunelift.data.preferences import PREFERENCES
from tunelift.data.show import hygiene_lines
from tunelift.data.splits import Splits, load_splits


def made(**settings: Any) -> Splits:
    return load_splits(DataSection(**settings), reading=ANSWERS, roles=("train", "validation", "test"))


def row(text: str, label: str) -> dict[str, Any]:
    return {"text": text, "label": label}


TRAIN = [row(f"question number {i} stands here", "yes" if i % 3 else "no") for i in range(30)]
TEST = [row(f"another question {i} stands there", "yes" if i % 2 else "no") for i in range(9)]


def test_labels_and_lengths_of_each_role() -> None:
    splits = made(train=TRAIN, validation=None, test=TEST)
    hygiene = splits.report.hygiene
    assert hygiene["labels"] == {"train": {"yes": 20, "no": 10}, "test": {"no": 5, "yes": 4}}
    lengths = sorted(len(example.prompt) + len(example.completion) for example in splits.train)
    assert hygiene["lengths"]["train"] == {
        "unit": "characters", "median": lengths[14], "p95": lengths[28], "longest": lengths[-1],
    }  # fmt: skip
    assert json.loads(json.dumps(hygiene)) == hygiene


def test_answers_that_seldom_come_again_are_no_labels() -> None:
    prompts = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(40)]
    assert made(train=prompts, test=0.3).report.hygiene["labels"] == {}


def test_conflicts_are_found_within_train_and_across_before_rows_are_removed() -> None:
    train = [*TRAIN, row("Where is it?", "yes"), row("where is  it", "no"), row("and when", "yes"), row("same", "no")]
    test = [*TEST, row("And when?", "no"), row("same", "no")]
    splits = made(train=train, validation=None, test=test)
    conflicts = splits.report.hygiene["conflicts"]
    assert conflicts["count"] == 2
    assert {example["input"].casefold().strip("?"): sorted(example["labels"]) for example in conflicts["examples"]} == {
        "where is it": ["no", "yes"],
        "and when": ["no", "yes"],
    }
    assert "conflicts: 2 inputs stand there with different answers" in splits.report.lines()


def test_a_prompt_may_have_many_answers_that_are_compared_or_judged() -> None:
    """They were called contradictions, though most sets of preferences have several answers to a prompt."""

    def conflicts(rows: list[dict[str, Any]]) -> list[list[str]]:
        found = load_splits(DataSection(train=rows, test=None, validation=None), reading=PREFERENCES, roles=("train",))
        assert found.report.hygiene["conflicts"]["count"] == len(found.report.hygiene["conflicts"]["examples"])
        return [sorted(one["labels"]) for one in found.report.hygiene["conflicts"]["examples"]]

    def pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}

    pairs = [pair("one", "a", "b"), pair("one", "b", "c"), pair("one", "a", "c"), pair("two", "a", "b")]
    assert conflicts(pairs) == []
    assert conflicts([*pairs, pair("One", "c", "b")]) == [["b", "c"]]

    def judged(prompt: str, answer: str, liked: bool) -> dict[str, Any]:
        return {"prompt": prompt, "completion": answer, "label": liked}

    answers = [judged("one", "a", True), judged("one", "b", False), judged("two", "a", False), judged("one", "c", True)]
    assert conflicts(answers) == []
    assert conflicts([*answers, judged("one", "A", False)]) == [["liked", "not liked"]]


def test_conflicts_and_near_duplicates_with_validation_are_counted_before_rows_are_removed() -> None:
    train = [*TRAIN, row("Where is it?", "yes"), row(SENTENCE.replace("town", "harbour"), "no")]
    splits = made(train=train, validation=[row("where is  it", "no"), row(SENTENCE, "no")], test=TEST)
    assert splits.report.hygiene["conflicts"]["count"] == 1
    near = splits.report.hygiene["near_duplicates"]
    assert (near["removed_from_train"], near["examples"]) == (2, [])
    assert "near duplicates: 2 of test or validation removed from train, 0 within train kept" in splits.report.lines()


def test_rows_without_a_telling_prompt_have_no_conflicts() -> None:
    poems = [{"prompt": "Write:", "completion": f"poem {i}"} for i in range(20)]
    texts = [{"text": f"plain text number {i}"} for i in range(20)]
    assert made(train=poems, test=0.3).report.hygiene["conflicts"] == {"count": 0, "examples": []}
    assert made(train=texts, test=0.3).report.hygiene["conflicts"] == {"count": 0, "examples": []}


SENTENCE = "my parcel from the shop in the old town did not arrive before the holidays began"


def test_near_duplicates_are_counted_with_examples() -> None:
    twins = [row(SENTENCE.replace("town", "harbour"), "no"), row("one more about a lost suitcase at the station", "no")]
    twins.append(row("yet one more about a lost suitcase at the station", "no"))
    splits = made(train=[*TRAIN, *twins], validation=None, test=[*TEST, row(SENTENCE, "no")])
    near = splits.report.hygiene["near_duplicates"]
    assert (near["removed_from_train"], near["within_train"]) == (1, 1)
    (example,) = near["examples"]
    assert "harbour" in example["train"]
    assert "town" in example["test"]
    assert 0.7 < example["similarity"] < 1
    assert "near duplicates: 1 of test or validation removed from train, 1 within train kept" in splits.report.lines()
    assert all(not line.startswith("near duplicates") for line in made(train=TRAIN, test=TEST).report.lines())


def test_the_lines_for_people() -> None:
    hygiene = {
        "labels": {"train": {f"l{i}": 40 - i for i in range(12)}, "test": {"l0": 3, "l1": 3}},
        "lengths": {"train": {"unit": "characters", "median": 10, "p95": 20, "longest": 30}},
        "conflicts": {"count": 1, "examples": [{"input": "a\nb\x1b[2J", "labels": ["x", "y"]}]},
        "near_duplicates": {
            "removed_from_train": 1, "within_train": 0,
            "examples": [{"train": "word " * 50, "test": "other", "similarity": 0.93}],
        },
    }  # fmt: skip
    lines = hygiene_lines(hygiene)
    assert lines[0] == "train: median 10 characters, 95% up to 20, longest 30"
    assert "train: 12 labels, 29 to 40 rows each" in lines
    assert f"  l0 {'█' * 24} 40" in lines
    assert "  and 2 more, 29 to 30 rows each" in lines
    assert "test: 2 labels, 3 rows each" in lines
    assert "  a b\\x1b[2J: x, y" in lines
    assert any(line.startswith("  0.93  word") and line.endswith("… | other") for line in lines)
