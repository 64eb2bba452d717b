"""Plain text that is longer than a row: learned and scored whole, in pieces that attend to nothing but themselves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
import tunelift
from tunelift.core.records import Example
from tunelift.data.pieces import pieces
from tunelift.data.render import Renderer
from tunelift.fast.targets import IGNORED
from tunelift.fast.unpad import sped_up
from tunelift.tasks import TASKS
from tunelift.tasks.base import Learned
from tunelift.tasks.causal_lm import stops

TASK = TASKS.get("causal-lm")
CPU = torch.device("cpu")
LONG = "the cat sat on the mat, naïve ☕. " * 12


@given(st.lists(st.integers(2, 9), max_size=40), st.integers(3, 12), st.booleans())
def test_every_token_is_predicted_once_behind_the_one_before(ids: list[int], length: int, has_bos: bool) -> None:
    begin = [0] if has_bos else []
    found = pieces(begin, ids, length)
    assert [token for _, part in found for token in part] == ids
    assert all(len(before) + len(part) <= length for before, part in found)
    assert all(part for _, part in found[1:])
    done = len(found[0][1])
    assert found[0][0] == begin
    for before, part in found[1:]:
        assert before == [*begin, ids[done - 1]]
        done += len(part)


def test_no_room_for_a_token_and_the_one_before_it_is_no_reason_to_go_on_for_ever() -> None:
    assert pieces([0], [5, 6, 7], 2) == [([0], [5, 6, 7])]


def test_a_long_text_is_learned_whole_and_one_with_a_prompt_is_cut() -> None:
    tokenizer = tiny_models.tokenizer()
    text, asked = Example("t", "", LONG), Example("p", "the cat", LONG)
    rows, report = Renderer(tokenizer, 50).render_rows([text, asked])
    ids = tokenizer(LONG)["input_ids"]
    assert [i for row in rows[:-1] for i, kept in zip(row.ids, row.in_loss, strict=True) if kept] == [*ids[1:], 1]
    assert all(row.ids[0] == 0 and len(row.ids) <= 50 for row in rows)
    assert (report.truncated, report.dropped) == (1, 0)
    assert report.notes == [f"1 texts are longer than 50 tokens, and make {len(rows) - 1} rows"]


def test_pieces_say_the_text_and_its_end() -> None:
    tokenizer, example = tiny_models.tokenizer(), Example("t", "", LONG)
    rows, _ = TASK.rows([example], tokenizer, 50, [])
    learned = Learned(example, TASK.collate(rows, 1, CPU), truncated=False)
    assert len(learned.rows) == len(rows) > 3
    assert TASK.says_the_answer(learned, tokenizer, [])
    assert stops(learned, tokenizer)
    some = Learned(example, TASK.collate(rows[:2], 1, CPU), truncated=True)
    assert TASK.says_the_answer(some, tokenizer, [])
    turned = Learned(example, TASK.collate([rows[1], rows[0], *rows[2:]], 1, CPU), truncated=False)
    assert not TASK.says_the_answer(turned, tokenizer, [])
    learned.batch.labels[1, 1] = learned.batch.inputs["input_ids"][1, 1]  # what the piece before has learned already
    assert not TASK.says_the_answer(learned, tokenizer, [])


@torch.no_grad()
def test_packed_pieces_see_nothing_of_each_other() -> None:
    tokenizer, model = tiny_models.tokenizer(), tiny_models.causal("llama")
    texts = [Example("a", "", LONG), Example("b", "", "a cat."), Example("c", "", LONG[::-1])]
    rows, _ = TASK.rows(texts, tokenizer, 50, [])
    alone = sum(TASK.plain_loss(Learned(texts[0], TASK.collate([row], 1, CPU), False), model) for row in rows)
    with sped_up(model):
        loss, fast_paths = TASK.loss(model)
        assert fast_paths["packing"] == "on"
        assert float(loss(TASK.collate(rows, 1, CPU))) == pytest.approx(alone, rel=1e-5)
    together = Learned(texts[0], TASK.collate(rows, 1, CPU), False)
    assert TASK.plain_loss(together, model) == pytest.approx(alone, rel=1e-6)


def test_a_long_text_is_scored_over_all_its_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, model = tiny_models.tokenizer(), tiny_models.causal("llama")
    document = LONG * 2
    rows = [{"text": "a cat."}, {"text": document}]
    scores = tunelift.evaluate(model, tokenizer, data=rows)
    found = scores.rows[1]
    ids = [*tokenizer(document)["input_ids"], 1]
    total = 0.0
    for start in range(1, len(ids)):  # by hand: each token behind what its piece has before it
        piece = 0 if start < 128 else 1 + (start - 128) // 126
        before = ids[:start] if piece == 0 else [0, *ids[128 + (piece - 1) * 126 - 1 : start]]
        with torch.no_grad():
            total += float(model(input_ids=torch.tensor([before])).logits[0, -1].log_softmax(-1)[ids[start]])
    assert found["tokens"] == len(ids) - 1
    assert found["log_likelihood"] == pytest.approx(total, rel=1e-4)
    assert found["metrics"]["bits_per_byte"] == pytest.approx(-total / math.log(2) / len(document.encode()), rel=1e-4)
    assert (
        "1 texts are longer than the model's context of 128 tokens, and are scored in 4 pieces"
        in capsys.readouterr().err
    )
    alone = tunelift.evaluate(model, tokenizer, data=rows[:1])
    assert alone.rows[0]["log_likelihood"] == pytest.approx(scores.rows[0]["log_likelihood"], rel=1e-5)


def test_continued_pre_training_from_end_to_end(tiny: dict[str, Any]) -> None:
    folder = Path(tiny["output"]).parent
    for name, count, first in (("train", 12, 0), ("test", 8, 100)):
        texts = [
            f"{number} {LONG}{number}" if number % 3 else f"{number} cats." for number in range(first, first + count)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    data = {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "deduplicate": False}
    made = tunelift.run(
        **tiny | {"data": data, "train": {"steps": 10, "learning_rate": 0.01, "max_length": 60}}
    ).to_dict()
    assert list(made["metrics"]) == ["bits_per_byte", "perplexity"]
    assert made["metrics"]["bits_per_byte"]["tuned"] < made["metrics"]["bits_per_byte"]["base"]
    manifest = json.loads((Path(tiny["output"]) / "manifest.json").read_text())
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert "texts are longer than 60 tokens" in " ".join(manifest["data"]["rendering"]["notes"])
    scores = json.loads((Path(tiny["output"]) / "tuned" / "metrics.json").read_text())
    assert scores["unscored"] == 0


def test_ignored_labels_of_pieces_are_those_of_what_stands_before() -> None:
    rows, _ = TASK.rows([Example("t", "", LONG)], tiny_models.tokenizer(), 50, [])
    assert [list(row.labels[:3]).count(IGNORED) for row in rows] == [1, *[2] * (len(rows) - 1)]
