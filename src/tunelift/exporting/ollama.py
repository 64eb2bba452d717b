"""A Modelfile for Ollama, which writes conversations by a template of its own language.

Only a template that puts fixed text around each message is carried over; otherwise prompts go in as they are. Ollama
runs nowhere here, and what is written is not proved.
"""

from __future__ import annotations

from typing import Any

ROLES = ("system", "user", "assistant")
MARK = "\u2402{}\u2402"
"""Text that no template knows, for the content of a message."""


def modelfile(model: str, tokenizer: Any, ends: list[int], adapter: str | None = None, chats: bool = True) -> str:
    """Return the text of a Modelfile; `model` and `adapter` are files beside it, and `ends` end an answer."""
    lines = [f"FROM {model}"] + ([f"ADAPTER {adapter}"] if adapter else [])
    around = _around(tokenizer) if chats and tokenizer.chat_template else None
    if around:
        system, user, assistant = (around[role] for role in ROLES)
        parts = [
            f"{{{{ if .System }}}}{system[0]}{{{{ .System }}}}{system[1]}{{{{ end }}}}",
            f"{user[0]}{{{{ .Prompt }}}}{user[1]}{assistant[0]}{{{{ .Response }}}}{assistant[1]}",
        ]
        lines.append(f'TEMPLATE """{"".join(parts)}"""')
    else:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    stops = tokenizer.convert_ids_to_tokens(ends)
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if '"' not in stop and "\n" not in stop]
    lines.append("PARAMETER temperature 0")
    return "\n".join(lines) + "\n"


def _around(tokenizer: Any) -> dict[str, tuple[str, str]] | None:
    """Return what stands before and behind a message of each role; None where that is not always the same."""
    messages = [{"role": role, "content": MARK.format(role)} for role in (*ROLES, "user")]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:  # whatever a template raises of these messages
        return None
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]  # which Ollama puts before it too
    bos = (tokenizer.bos_token or "") if begins else ""
    begin = asked[len(text) :]
    pieces = text.removeprefix(bos).replace(MARK.format("user"), "\0", 2)
    for role in ("system", "assistant"):
        pieces = pieces.replace(MARK.format(role), "\0", 1)
    parts = pieces.split("\0")
    if len(parts) != 5 or not asked.startswith(text) or not begin:
        return None
    first, between, before, behind, last = parts
    if not before.endswith(begin) or not last or not behind.startswith(last):
        return None
    opened = behind.removeprefix(last)  # what begins the second question begins the first one too
    if not between.endswith(opened) or before.removesuffix(begin) != last:
        return None
    found = {"system": (first, between.removesuffix(opened)), "user": (opened, last), "assistant": (begin, last)}
    return None if any('"""' in part or "{{" in part for pair in found.values() for part in pair) else found
