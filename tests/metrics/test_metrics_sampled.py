"""pass@k: the estimate is that of all ways to draw, answers are drawn by the model's probabilities, and drawn again."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
import tunelift
from tunelift.core.errors import InputError
from tunelift.evaluation.generation import Sampling
from tunelift.metrics import Answer, resolve, score_answer
from tunelift.metrics.directions import known_bounds, known_direction
from tunelift.metrics.sampled import pass_at_k

ROWS = [{"prompt": f"the {word} sat", "completion": " on"} for word in ("cat", "dog", "mat")]


def test_the_estimate_is_the_share_of_all_ways_to_draw_k_that_hold_a_right_one() -> None:
    for n in range(1, 8):
        for right in range(n + 1):
            for k in range(1, n + 1):
                ways = list(combinations([i < right for i in range(n)], k))
                assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, ways)) / len(ways))


def test_the_metric_judges_each_answer_by_another_one() -> None:
    (metric,) = resolve(["pass_at:2-of-4:numeric_match"])
    answer = Answer("", "it is 7", samples=["7", "8", "it is 7.0", "none"])
    assert score_answer(answer, [metric])["metrics"] == {"pass_at:2-of-4:numeric_match": pytest.approx(5 / 6)}
    assert (known_direction(metric.name), known_bounds(metric.name)) == (True, (0, 1))
    texts = ("pass_at:0:f1", "pass_at:3-of-2:exact_match", "pass_at:2-of-9999:exact_match", "pass_at:exact_match")
    for wrong in (*texts, "pass_at:2:", "pass_at:2:accuracy", "pass_at:2:loss"):
        with pytest.raises(InputError, match="pass_at"):
            resolve([wrong])
    (graded,) = resolve(["pass_at:1:f1"])
    with pytest.raises(InputError, match="whether it is right is 0 or 1"):
        score_answer(Answer("", "a long answer", samples=["a long one"]), [graded])


def test_tokens_are_drawn_by_their_probabilities_whatever_stands_beside() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -50.0], [3.0, 0.0, 0.0, 0.0]])
    names = [str(i) for i in range(4000)]
    for temperature in (1.0, 2.0):
        sampling = Sampling(temperature, 0, names)
        draws = sampling.draws()
        found = sampling.chosen(logits[:1].expand(len(names), -1), draws)
        again = sampling.chosen(logits[[1, 0]], [Sampling(1, 0, ["x"]).draws()[0], sampling.draws()[17]])
        assert int(again[1]) == int(found[17])
        shares = torch.bincount(found, minlength=4) / len(names)
        assert torch.allclose(shares, (logits[0] / temperature).softmax(dim=0), atol=0.03)
    assert Sampling(1e-6, 0, names[:2]).chosen(logits, sampling.draws()[:2]).tolist() == [1, 0]


def test_answers_are_drawn_for_each_item_and_the_same_again(tmp_path: Path) -> None:
    model, tokenizer = tiny_models.causal(), tiny_models.tokenizer()
    how: dict[str, Any] = {"metrics": ["pass_at:2-of-4:exact_match", "loss"], "max_new_tokens": 5}
    first = tunelift.evaluate(model, tokenizer, ROWS, **how, cache=False)
    assert all(len(row["samples"]) == 4 for row in first.rows)
    assert len({text for row in first.rows for text in row["samples"]}) > 6
    one_by_one = tunelift.evaluate(model, tokenizer, ROWS, **how, cache=False, batch_size=1)
    assert [row["samples"] for row in one_by_one.rows] == [row["samples"] for row in first.rows]
    greedy = tunelift.evaluate(model, tokenizer, ROWS, **how, cache=False, temperature=1e-6)
    assert all({row["prediction"]} == set(row["samples"]) for row in greedy.rows)
    sampling = {"samples": 4, "temperature": 1.0, "seed": 0}
    assert first.info["made_with"]["decoding"]["sampling"] == sampling
