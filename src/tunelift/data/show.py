"""Rows as a person can check them: every token, and whether the loss counts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunelift.data.render import Tokens

if TYPE_CHECKING:
    from rich.text import Text

_SPACES = ("Ġ", "▁")  # how byte-level and sentencepiece vocabularies write a leading space
_BROKEN = "\ufffd"


def show(tokens: Tokens, tokenizer: Any) -> Text:
    """Return the row for a terminal: tokens in the loss bold green, the others dim, every second one underlined."""
    from rich.text import Text

    text = Text()
    for index, (piece, in_loss) in enumerate(pieces(tokens, tokenizer)):
        style = "bold green" if in_loss else "dim"
        text.append(piece.replace("⏎", "⏎\n"), style=f"{style} underline" if index % 2 else style)
    return text


def plain(tokens: Tokens, tokenizer: Any) -> str:
    """Return the row without colour: `<s>|Label|:[ sports][</s>]`, tokens in the loss in brackets."""
    parts: list[str] = []
    for piece, in_loss in pieces(tokens, tokenizer):
        bar = "|" if parts and not in_loss and not parts[-1].endswith("]") else ""
        parts.append(f"[{piece}]" if in_loss else bar + piece)
    return "".join(parts)


def pieces(tokens: Tokens, tokenizer: Any) -> list[tuple[str, bool]]:
    """Return (text, in the loss) of each token; tokens that share one character come as one piece.

    Line breaks are written ⏎ and other control characters as escapes: data must not steer the terminal.
    """
    found: list[tuple[str, bool]] = []
    held: list[int] = []
    for index, (token, in_loss) in enumerate(zip(tokens.ids, tokens.in_loss, strict=True)):
        held.append(token)
        last = index + 1 == len(tokens.ids) or tokens.in_loss[index + 1] != in_loss
        text = _decoded(held, tokenizer)
        if _BROKEN not in text or last:
            found.append((_visible(text), in_loss))
            held = []
    return found


def _decoded(ids: list[int], tokenizer: Any) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # Sentencepiece drops the space that opens a text, and every token is decoded as a text of its own.
    opens_with_space = str(tokenizer.convert_ids_to_tokens(ids[0])).startswith(_SPACES)
    return f" {text}" if opens_with_space and not text.startswith(" ") else text


def _visible(text: str) -> str:
    written = (c if c.isprintable() else "⏎" if c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return "".join(written)
