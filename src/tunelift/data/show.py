"""Rows as a person can check them: every token, and whether the loss counts it; and what a look at all rows shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from tunelift.data.render import Tokens

if TYPE_CHECKING:
    from rich.text import Text

_SPACES = ("Ġ", "▁")  # how byte-level and sentencepiece vocabularies write a leading space
_BROKEN = "\ufffd"
_BAR, _LABELS_SHOWN, _LINE = 24, 10, 100


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


def hygiene_lines(hygiene: Mapping[str, Any]) -> list[str]:
    """Return the hygiene of the rows (`data.hygiene.hygiene`) as lines for people."""
    lines = [
        f"{role}: median {length['median']} {length['unit']}, 95% up to {length['p95']}, longest {length['longest']}"
        for role, length in hygiene["lengths"].items()
    ]
    for number, (role, counts) in enumerate(hygiene["labels"].items()):
        heading = f"{role}: {len(counts)} labels, {_least_to_most(counts.values())}"
        lines += ["", heading, *_label_lines(counts)] if number == 0 else [heading]
    near, conflicts = hygiene["near_duplicates"], hygiene["conflicts"]
    if near["examples"]:
        lines += ["", "nearly the same, so removed from train:"]
        lines += [
            f"  {pair['similarity']:.2f}  {_cut(pair['train'])} | {_cut(pair['test'])}" for pair in near["examples"]
        ]
    if conflicts["examples"]:
        lines += ["", "one input, different answers:"]
    for found in conflicts["examples"]:
        lines.append(f"  {_cut(found['input'])}: {_cut(', '.join(found['labels']))}")
    return lines


def _label_lines(counts: Mapping[str, int]) -> list[str]:
    """Return a bar for each label, and of many labels for the most frequent ones."""
    most, shown = max(counts.values()), list(counts.items())[:_LABELS_SHOWN]
    names = [_cut(label, 40) for label, _ in shown]
    width = max(map(len, names))
    lines = [
        f"  {name:<{width}} {'█' * max(1, round(_BAR * count / most)):<{_BAR}} {count}"
        for name, (_, count) in zip(names, shown, strict=True)
    ]
    if rest := list(counts.values())[_LABELS_SHOWN:]:
        lines.append(f"  and {len(rest)} more, {_least_to_most(rest)}")
    return lines


def _least_to_most(counts: Collection[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least} rows each" if least == most else f"{least} to {most} rows each"


def _cut(text: str, width: int = _LINE) -> str:
    """Return the text on one line, and its beginning where it is long."""
    line = _visible(" ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def _decoded(ids: list[int], tokenizer: Any) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # Sentencepiece drops the space that opens a text, and every token is decoded as a text of its own.
    opens_with_space = str(tokenizer.convert_ids_to_tokens(ids[0])).startswith(_SPACES)
    return f" {text}" if opens_with_space and not text.startswith(" ") else text


def _visible(text: str) -> str:
    written = (c if c.isprintable() else "⏎" if c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return "".join(written)
