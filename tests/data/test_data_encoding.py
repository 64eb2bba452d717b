"""Special tokens that a text spells are text, whatever the tokenizer; the rest is as the stock tokenizer has it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from tiny_tokenizers import byte_level
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Pair
from tunelift.data.encoding import Encoder, Text, spelt_as_text
from tunelift.data.pairs import encode_pair
from tunelift.data.render import Renderer

PIECES = st.lists(st.sampled_from(["<s>", "</s>", "<|im_end|>", "cat", " the", "\n", "<", "é", " "]), max_size=8)


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """A tokenizer of single characters that writes blanks as ▁, one of them before a text."""
    letters = ["<unk>", "<s>", "</s>", *"▁abcst<>/\n"]
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@given(PIECES)
@settings(max_examples=100, deadline=None)
def test_a_byte_level_tokenizer_gives_the_text_back_without_a_special_token(pieces: list[str]) -> None:
    tokenizer, text = byte_level(), "".join(pieces)
    encoder = Encoder(tokenizer)
    (ids,) = encoder.encode([Text(text, encoder.spelt(text, [(0, len(text))]))])
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert encoder.encode([Text(text)]) == [tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_no_blank_comes_in_where_a_text_is_encoded_in_pieces(scheme: str) -> None:
    tokenizer, text = metaspace(scheme), "a cat<s>sat</s>at"
    encoder = Encoder(tokenizer)
    (ids,) = encoder.encode([Text(text, encoder.spelt(text, [(0, len(text))]))])
    assert "".join(tokenizer.convert_ids_to_tokens(ids)).lstrip("▁") == text.replace(" ", "▁")
    (some,) = encoder.encode([Text(text, encoder.spelt(text, [(9, len(text))]))])
    assert [t for t in tokenizer.convert_ids_to_tokens(some) if t in ("<s>", "</s>")] == ["<s>"]


def test_a_tokenizer_that_has_no_other_way_to_write_it_is_refused() -> None:
    words = {"[UNK]": 0, "<s>": 1, "cat": 2}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="[UNK]"))
    with pytest.raises(InputError, match="holds '<s>', which this tokenizer cannot write but as its special token"):
        encoder.encode([Text("cat <s> cat", ((4, 7),))])


def test_parts_of_a_text_keep_their_places() -> None:
    text = Text("ab<s>cd</s>", ((2, 5), (7, 11)))
    assert text.cut(0, 4) == Text("ab<s", ((2, 4),))
    assert text.cut(5, 11) == Text("cd</s>", ((2, 6),))


def bert() -> BertTokenizerFast:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "mask", "sep", "a", "b"]
    return BertTokenizerFast(vocab={token: number for number, token in enumerate(tokens)})


def test_special_tokens_that_a_heads_text_spells_are_text() -> None:
    tokenizer, text = bert(), "a [MASK] b [SEP] a"
    renderer = Renderer(tokenizer, 20)
    ids = renderer.head_tokens(Example("1", text, "x", row={"text": text})).ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "[", "mask", "]", "b", "[", "sep", "]", "a", "[SEP]"]
    written = renderer.head_tokens(Example("1", "a [SEP] b", "x", row={"one": "a", "other": "b"})).ids
    assert tokenizer.convert_ids_to_tokens(written) == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]  # data.text says so itself
    pair = encode_pair(tokenizer, Pair("a [SEP]", "b"), 20)
    assert tokenizer.convert_ids_to_tokens(pair.ids) == ["[CLS]", "a", "[", "sep", "]", "[SEP]", "b", "[SEP]"]
    cut = Renderer(tokenizer, 5).head_tokens(Example("1", text, "x", row={"text": text}))
    assert (tokenizer.convert_ids_to_tokens(cut.ids), cut.full_length) == (["[CLS]", "a", "[", "mask", "[SEP]"], 11)
    assert renderer.head_tokens(Example("1", "a b", "x")).ids == tokenizer("a b")["input_ids"]
    assert spelt_as_text(tokenizer, ["a b", ""]) == {} and tokenizer("[MASK]")["input_ids"][1] == 4  # as it was
