"""Chat rows: messages [{role, content}] and conversations [{from, value}], checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunelift.core.errors import InputError, listed
from tunelift.data.template import whole_characters

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
# Silently left out, each of these would train something else than the row says.
_UNSUPPORTED = ("tool_calls", "weight", "thinking", "reasoning_content")
_SHAPE = 'A conversation is [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].'


def messages_of(value: Any, where: str) -> tuple[dict[str, str], ...]:
    """Check a conversation and return it as (role, content) messages, the last one the assistant's.

    Raises InputError that names the message for a shape, role or content that cannot be trained on.
    """
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{where}: a list of messages is expected, not {_kind(value)}.", fix=_SHAPE)
    messages = tuple(_message(item, f"{where}, message {number}") for number, item in enumerate(value, start=1))
    if messages[-1]["role"] != "assistant":
        raise InputError(
            f"{where}: the last message is the {messages[-1]['role']}'s.",
            fix="The last message must be the assistant's: it is the answer that is learned and scored.",
        )
    return messages


def as_prompt(messages: tuple[dict[str, str], ...]) -> str:
    """Write the messages before the last answer for people to read, and to tell rows apart."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages[:-1])


def _message(item: Any, where: str) -> dict[str, str]:
    if not isinstance(item, Mapping):
        raise InputError(f"{where}: an object is expected, not {_kind(item)}.", fix=_SHAPE)
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise InputError(f"{where}: {_role_problem(role)}.", fix=f"Known roles: {listed(ROLES)}.")
    if not isinstance(content, str):
        raise InputError(f"{where}: the content is {_kind(content)}, not text.", fix=_SHAPE)
    unsupported = [key for key in _UNSUPPORTED if item.get(key) is not None]
    if unsupported:
        raise InputError(
            f'{where}: holds "{unsupported[0]}", which training here would ignore.',
            fix="Write what the model should see or say into the content, and remove the key.",
        )
    return {"role": ROLES[role], "content": whole_characters(content, where)}


def _role_problem(role: Any) -> str:
    if role in ("tool", "function", "observation", "function_call"):
        return f'the role "{role}" is refused: tool calls are written differently by every template, and are not masked'
    return "there is no role" if role is None else f"the role {role!r:.60} is unknown"


def _kind(value: Any) -> str:
    return "nothing" if value is None or value in ([], ()) else type(value).__name__
