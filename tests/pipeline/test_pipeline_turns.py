"""The proofs of labels hold for conversations of every family of chat templates, and see what is wrong with them."""

from __future__ import annotations

import pytest
import torch

from chat_families import CASES, FAMILIES, example_of, tokenizer_of
from tunelift.core.errors import InputError
from tunelift.data.render import Renderer
from tunelift.pipeline.row_labels import Learned, says_the_answer, stops
from tunelift.tasks.base import TASKS


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_of_conversations_are_the_answers_and_a_masked_token_is_seen(name: str) -> None:
    tokenizer, task = tokenizer_of(name), TASKS.get("causal-lm")
    renderer, proved = Renderer(tokenizer, 2048), 0
    for title, case in CASES.items():
        try:
            renderer.render_rows(parts := renderer.parts(example_of(case)))
        except InputError:
            continue
        for part in parts:
            (row,), _ = task.rows([part], tokenizer, 2048, ())
            learned = Learned(part, task.collate([row], 1, torch.device("cpu")), truncated=False)
            assert says_the_answer(learned, tokenizer, ()), title
            assert stops(learned, tokenizer) == (name != "vicuna, no EOS")
            learned.batch.labels[0, learned.counted[-4:]] = -100
            assert not says_the_answer(learned, tokenizer, ()) or "call" in title or title == "tools", title
            proved += 1
    assert proved >= 6
