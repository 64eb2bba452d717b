"""What `tunelift data` shows: every token, the loss mask, and nothing that could steer a terminal."""

from __future__ import annotations

from tiny_tokenizers import byte_level
from tunelift.core.records import Example
from tunelift.data.render import Renderer
from tunelift.data.show import pieces, plain, show

TOKENIZER = byte_level()


def tokens(prompt: str, completion: str) -> object:
    return Renderer(TOKENIZER, 99).tokens(Example("1", prompt, completion))


def test_plain_puts_the_loss_in_brackets() -> None:
    assert plain(tokens("the cat\nLabel:", " sports"), TOKENIZER).endswith(":[ sports][</s>]")
    assert plain(tokens("the cat", " sat"), TOKENIZER).startswith("<s>|the| cat[")


def test_a_character_of_several_tokens_is_one_piece_and_control_characters_are_escaped() -> None:
    found = pieces(tokens("日\x1b[31m\n", "ü"), TOKENIZER)
    assert ("日", False) in found
    assert ("\\x1b", False) in found
    assert ("⏎", False) in found
    assert ("ü", True) in found
    assert not any("\x1b" in piece for piece, _ in found)


def test_colours_follow_the_mask() -> None:
    text = show(tokens("the cat", " sat"), TOKENIZER)
    assert text.plain.startswith("<s>the cat sat")
    in_loss = "".join(text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style))
    assert in_loss == " sat</s>"
