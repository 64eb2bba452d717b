"""Two texts read together: found in a table's columns, encoded as stock does, cut, and told from two that are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tiny_tokenizers import byte_level
from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Pair
from tunelift.data.columns import ANSWERS, CLASSES, notes_on_columns
from tunelift.data.examples import make_examples
from tunelift.data.pairs import encode_pair
from tunelift.data.render import Renderer
from tunelift.data.sources import read_rows
from tunelift.tasks import TASKS
from tunelift.tasks.base import Learned, says_the_texts

TASK = TASKS.get("sequence-classification")


def bert_like() -> Any:
    """Return a tokenizer of letters that puts [CLS] a [SEP] b [SEP] and tells the texts apart."""
    words = {token: i for i, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "[PAD]", *"abcdefghijklmnopqrstuvwxyz"])}
    words |= {f"##{letter}": len(words) + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    raw = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ends)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    )


BERT, BYTES = bert_like(), byte_level(bos=False)


def examples(rows: Any, reading: Any = CLASSES, **keys: Any) -> list[Example]:
    return make_examples(read_rows(rows), DataSection(**keys), reading)[0]


@pytest.mark.parametrize(
    "names", [("premise", "hypothesis"), ("sentence1", "sentence2"), ("question", "sentence"), ("query", "document")]
)
def test_pairs_are_known_by_their_usual_names(names: tuple[str, str]) -> None:
    (found,) = examples([{names[0]: "A cat.", names[1]: "A dog.", "label": 1}])
    assert (found.given, found.prompt, found.completion) == (Pair("A cat.", "A dog."), "A cat.\nA dog.", "1")


def test_pairs_are_named_by_keys() -> None:
    rows = [{"a": "one", "b": "two", "c": "x"}]
    (found,) = examples(rows, text="a", text_pair="Said: {b}", label="c")
    assert found.given == Pair("one", "Said: two")
    assert examples([{"text": "one", "b": "two", "label": "x"}], text_pair="b")[0].given == Pair("one", "two")
    alone = examples([{"text": "one", "premise": "two", "hypothesis": "three", "label": "x"}])
    assert (alone[0].prompt, alone[0].given) == ("one", None)
    with pytest.raises(InputError, match=r'data\.text_pair names the column "d"'):
        examples(rows, text="a", text_pair="d", label="c")
    with pytest.raises(InputError, match="no first one"):
        examples(rows, text_pair="b", label="c")
    with pytest.raises(InputError, match="several pairs of texts: premise and hypothesis, sentence1 and sentence2"):
        examples([{"premise": "a", "hypothesis": "b", "sentence1": "c", "sentence2": "d", "label": "x"}])
    with pytest.raises(InputError, match="this task writes one text"):
        examples(rows, ANSWERS, text="a", text_pair="b")
    with pytest.raises(InputError, match="this task tags words"):
        examples(rows, TASKS.get("token-classification").reading, text_pair="b")


def test_a_pair_with_an_empty_text_is_left_out_and_counted() -> None:
    rows = [{"premise": p, "hypothesis": h, "label": "x"} for p, h in (("a", "b"), ("", "b"), ("a", " "))]
    found, empty = make_examples(read_rows(rows), DataSection(), CLASSES)
    assert (len(found), empty) == (1, {"an empty text of a pair": 2})


@pytest.mark.parametrize("tokenizer", [BERT, BYTES], ids=["bert", "bytes"])
@given(first=st.text("abc de", min_size=1, max_size=30), second=st.text("abc de", min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_pair_is_encoded_as_stock_and_its_tokens_lie_where_they_say(tokenizer: Any, first: str, second: str) -> None:
    pair = Pair(first, second)
    found = encode_pair(tokenizer, pair, 1000, offsets=True)
    if tokenizer is BERT:
        stock = tokenizer(first, second)
        assert (found.ids, found.segments) == (stock["input_ids"], stock["token_type_ids"])
    else:  # nothing would stand between the two
        assert found.ids == tokenizer(first + "\n" + second)["input_ids"]
        assert found.segments is None
    assert found.texts is not None
    assert found.offsets is not None
    for token, text, (start, end) in zip(found.ids, found.texts, found.offsets, strict=True):
        if text is None:
            assert token in tokenizer.all_special_ids
        else:
            said = tokenizer.decode([token]).removeprefix("##").strip()
            assert said == (first, second)[text][start:end].strip()


@pytest.mark.parametrize("tokenizer", [BERT, BYTES], ids=["bert", "bytes"])
def test_of_a_pair_that_is_too_long_the_longer_text_is_cut(tokenizer: Any) -> None:
    first, second = " ".join("abcdefghij"), " ".join("klmno")
    whole = encode_pair(tokenizer, Pair(first, second), 1000, offsets=True)
    for length in range(8, whole.full_length):
        cut = encode_pair(tokenizer, Pair(first, second), length, offsets=True)
        assert (len(cut.ids), cut.full_length) == (length, whole.full_length)
        assert cut.texts is not None
        kept = [cut.texts.count(text) for text in (0, 1)]
        assert kept[1] == whole.texts.count(1) or abs(kept[0] - kept[1]) <= 1  # type: ignore[union-attr]
        example = Example("1", "", "x", Pair(first, second))
        assert Renderer(tokenizer, length).head_tokens(example).truncated
    with pytest.raises(InputError, match="no room for a pair"):
        encode_pair(tokenizer, Pair(first, second), 1)


@pytest.mark.parametrize("tokenizer", [BERT, BYTES], ids=["bert", "bytes"])
@pytest.mark.parametrize("length", [1000, 14, 9, 6])
def test_rows_say_both_texts(tokenizer: Any, length: int) -> None:
    given = Example("1", "", "x", Pair("ab cd ef a b", "gh ij k"))
    rows, report = TASK.rows([given], tokenizer, length, ["w", "x"])
    row = Learned(given, TASK.collate(rows, 3, torch.device("cpu")), report.truncated > 0)
    assert TASK.says_the_answer(row, tokenizer, ["w", "x"])
    swapped = Example("1", "", "x", Pair("gh ij k", "ab cd ef a b"))
    assert not says_the_texts(Learned(swapped, row.batch, row.truncated), tokenizer)
    other = Example("1", "", "x", Pair("ab cd ef a b", "xh ij k"))
    assert not says_the_texts(Learned(other, row.batch, row.truncated), tokenizer)
    if not row.truncated:
        longer = Example("1", "", "x", Pair("ab cd ef a b", "gh ij k l"))
        assert not says_the_texts(Learned(longer, row.batch, truncated=False), tokenizer)
    if types := row.batch.inputs.get("token_type_ids") is not None:
        assert types
        row.batch.inputs["token_type_ids"] = 1 - row.batch.inputs["token_type_ids"]
        assert not says_the_texts(row, tokenizer)


def test_a_tokenizer_that_does_not_know_pairs_is_refused() -> None:
    with pytest.raises(InputError, match="puts 1 special tokens around a text and 0 around two"):
        encode_pair(byte_level(bos=True), Pair("a", "b"), 100)


@pytest.mark.parametrize("task", ["sequence-classification", "regression", "multi-label-classification"])
def test_that_pairs_share_a_text_is_said(task: str) -> None:
    reading, wanted = TASKS.get(task).reading, ["x"] if task.startswith("multi") else 1
    rows = [{"premise": f"p {i // 3}", "hypothesis": f"h {i}", "label": wanted} for i in range(9)]
    alone = [row | {"premise": f"p {i}"} for i, row in enumerate(rows)]
    (note,) = notes_on_columns(read_rows(rows), DataSection(), reading)
    assert note.startswith('9 of 9 rows share their "premise" with another: --group premise')
    assert notes_on_columns(read_rows(alone), DataSection(), reading) == []
    assert notes_on_columns(read_rows(rows), DataSection(group="premise"), reading) == []
