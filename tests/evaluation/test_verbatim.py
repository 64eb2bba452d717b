"""A model that learned a text by heart is found out, as greedy generation would; a text it never saw is not found."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny_models
from tunelift.core.records import Example
from tunelift.evaluation import verbatim
from tunelift.evaluation.verbatim import continues_verbatim
from tunelift.fast.whole_logits import WholeLogits

KNOWN = (
    "the mat sat on the cat, said the user: what is it that the assistant and the system label as a spo"
    "rt? Nobody knew, and so no one could say why."
)
UNSEEN = "business is business, and a sportsman who sat in an office met it with all the calm of a cat on a quiet mat."
TOKENIZER = tiny_models.tokenizer()


def learned_by_heart(kind: str) -> Any:
    """Return a tiny model trained on one text until it knows it."""
    model = tiny_models.causal(kind).train()
    ids = torch.tensor([TOKENIZER(KNOWN)["input_ids"]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def by_heart() -> Any:
    return learned_by_heart("llama")


def item(name: str, text: str, prompt: int = 11) -> Example:
    return Example(name, text[:prompt], text[prompt:])


def generated(model: Any, text: str, tokens: int) -> bool:
    """The slow twin: greedy generation from the first half, compared with the text's own next tokens."""
    ids = TOKENIZER(text)["input_ids"]
    prefix = 1 + (len(ids) - 1) // 2
    out = model.generate(torch.tensor([ids[:prefix]]), max_new_tokens=tokens, do_sample=False, pad_token_id=1)
    return bool(out[0, prefix:].tolist() == ids[prefix : prefix + tokens])


def test_a_text_known_by_heart_is_found_and_another_is_not(by_heart: Any) -> None:
    seen = continues_verbatim(by_heart, TOKENIZER, [item("unseen", UNSEEN), item("known", KNOWN)])
    assert (seen.items, seen.found, seen.tokens, seen.too_short) == (2, ("known",), 25, 0)
    assert generated(by_heart, KNOWN, 25)
    assert not generated(by_heart, UNSEEN, 25)


def test_one_wrong_token_at_either_end_is_enough_to_differ(by_heart: Any) -> None:
    """Exactly the tokens after the first half count, from the first to the last."""
    ids = TOKENIZER(KNOWN)["input_ids"]
    prefix = 1 + (len(ids) - 1) // 2
    for position, exact in ((prefix - 1, None), (prefix, False), (prefix + 24, False), (prefix + 25, True)):
        changed = [*ids[1:position], TOKENIZER("~")["input_ids"][-1], *ids[position + 1 :]]
        text = TOKENIZER.decode(changed)
        assert len(TOKENIZER(text)["input_ids"]) == len(ids)
        found = continues_verbatim(by_heart, TOKENIZER, [item("changed", text)]).found == ("changed",)
        assert found == generated(by_heart, text, 25)
        assert exact is None or found is exact


@pytest.mark.parametrize("kind", ["gpt2", "gemma3_text"])
def test_other_architectures_are_found_out_too(kind: str) -> None:
    model = learned_by_heart(kind)
    seen = continues_verbatim(model, TOKENIZER, [item("unseen", UNSEEN), item("known", KNOWN)])
    assert seen.found == ("known",)
    assert generated(model, KNOWN, 25)


def test_the_fast_head_finds_what_whole_logits_find(by_heart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [item("unseen", UNSEEN), item("known", KNOWN), item("longer", KNOWN + " " + UNSEEN)]
    fast = continues_verbatim(by_heart, TOKENIZER, examples)
    monkeypatch.setattr(verbatim, "target_model", lambda model: (WholeLogits(model), "off: for a test"))
    assert continues_verbatim(by_heart, TOKENIZER, examples) == fast


def test_short_items_are_counted_and_not_looked_at(by_heart: Any) -> None:
    seen = continues_verbatim(by_heart, TOKENIZER, [item("short", KNOWN[:40]), item("known", KNOWN)])
    assert (seen.items, seen.found, seen.too_short) == (1, ("known",), 1)
    nothing = continues_verbatim(by_heart, TOKENIZER, [item("short", "the cat")])
    assert (nothing.items, nothing.found, nothing.too_short) == (0, (), 1)


def test_an_item_longer_than_the_context_is_looked_at_as_far_as_it_goes(by_heart: Any) -> None:
    long = f"{KNOWN} {UNSEEN} " * 6
    assert len(TOKENIZER(long)["input_ids"]) > 4 * 128
    assert continues_verbatim(by_heart, TOKENIZER, [item("long", long)]).items == 1


def test_no_more_items_than_asked_and_the_same_ones_again(by_heart: Any) -> None:
    examples = [item(str(number), KNOWN) for number in range(9)]
    first = continues_verbatim(by_heart, TOKENIZER, examples, items=4)
    assert first.items == len(first.found) == 4
    assert continues_verbatim(by_heart, TOKENIZER, examples, items=4) == first
    assert continues_verbatim(by_heart, TOKENIZER, examples, items=4, seed=1).found != first.found


def test_an_adapter_is_switched_off(by_heart: Any) -> None:
    tuned = tiny_models.adapted(by_heart)
    tuned.train()
    assert continues_verbatim(tuned, TOKENIZER, [item("known", KNOWN)]).found == ("known",)
    assert tuned.training
    tuned.unload()
