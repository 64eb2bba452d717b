"""Long passages as windows that overlap, each by the tokenizer itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from transformers import BertTokenizerFast

from tiny_tokenizers import byte_level, knows_pairs
from tunelift.core.errors import InputError
from tunelift.core.records import Pair, Span
from tunelift.data.windows import overlap, windows

PASSAGE = " ".join(f"the cat sat on mat {i}, naïve ☕." for i in range(12))


@pytest.fixture(params=["bert", "byte-level with BOS", "byte-level without"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    if request.param == "bert":
        letters = [c for piece in "abcdefghijklmnopqrstuvwxyz0123456789,.?☕" for c in (piece, f"##{piece}")]
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", *letters]
        (tmp_path / "vocab.txt").write_text("\n".join(words))
        return BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    return knows_pairs() if "with BOS" in request.param else byte_level(bos=False)


def test_windows_go_through_the_whole_passage(tokenizer: Any) -> None:
    length = 60
    (some,) = windows(tokenizer, [Pair("which cat?", PASSAGE)], length)
    assert len(some) > 2
    assert all(len(window.ids) <= length for window in some)
    assert (some[0].begin, some[-1].end) == (0, len(PASSAGE))
    for before, after in pairwise(some):
        shared = {place for place in before.places if place} & {place for place in after.places if place}
        assert abs(len(shared) - overlap(length)) <= 8  # tokens of one character have one place
    whole = [place for window in some for place in window.places if place]
    assert {at for begin, end in whole for at in range(begin, end)} >= {i for i, c in enumerate(PASSAGE) if c != " "}


def test_a_passage_that_fits_is_what_the_tokenizer_makes_of_the_pair(tokenizer: Any) -> None:
    ((only,),) = windows(tokenizer, [Pair(" which cat? ", PASSAGE)], 5000)
    between = "" if tokenizer.num_special_tokens_to_add(True) > tokenizer.num_special_tokens_to_add(False) else "\n"
    stock = tokenizer("which cat?", between + PASSAGE)
    assert only.ids == stock["input_ids"]
    assert only.segments in (None, stock.get("token_type_ids"))
    if only.none is None:
        assert tokenizer.cls_token_id is None
        assert only.ids[0] != tokenizer.bos_token_id
    else:
        assert only.none == 0


def test_the_tokens_of_a_span_say_it_and_nothing_more(tokenizer: Any) -> None:
    (some,) = windows(tokenizer, [Pair("which cat?", PASSAGE)], 60)
    for text in ("mat 7", "naïve ☕", "cat sat on mat 11", "☕."):
        span, held = Span(text, PASSAGE.index(text)), 0
        for window in some:
            if (found := window.tokens_of(span)) is None:
                continue
            held += 1
            said = "".join(tokenizer.decode(window.ids[found[0] : found[1] + 1]).split()).replace("naive", "naïve")
            assert said == "".join(text.split())
        assert held
    for window in some:
        assert window.tokens_of(Span(PASSAGE, 0)) is None
        assert window.tokens_of(Span(" ", PASSAGE.index(" "))) is None


def test_a_question_that_leaves_no_room_has_no_window(tokenizer: Any) -> None:
    long = "which cat sat on the mat? " * 30
    found = windows(tokenizer, [Pair(long, PASSAGE), Pair("which?", PASSAGE), Pair(long, "cat")], 60)
    assert [bool(some) for some in found] == [False, True, False]
    assert windows(tokenizer, [Pair(long, PASSAGE)], 60) == [[]]
    assert windows(tokenizer, [], 60) == []


def test_a_tokenizer_without_places_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="Slow does not say where in a text its tokens lie"):
        windows(Slow(), [Pair("a", "b")], 60)
