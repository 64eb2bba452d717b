"""One message of a conversation, checked: its role, what it says, the calls it makes, whether it is learned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunelift.core import text_files
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.data.template import whole_characters

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
}
FLAGS = ("train", "trainable", "loss", "loss_mask", "weight")
"""Keys by which a message says whether it is learned: true or 1, false or 0."""
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys for what the assistant thought before it answered; templates know it by one of these names."""
KEYS = ("role", "from", "content", "value", *FLAGS, *REASONING, "tool_calls", "function_call", "tool_call_id", "name")
SHAPE = 'A conversation is [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].'
_CALL_SHAPE = 'A call is {"function": {"name": "...", "arguments": {...}}}, its arguments an object or the JSON of one.'


def message_of(item: Any, where: str) -> dict[str, Any]:
    """Return a message as `core.records.Conversation` holds it; raise InputError for what cannot be used, naming it."""
    if not isinstance(item, Mapping):
        raise InputError(f"{where}: an object is expected, not {kind(item)}.", fix=SHAPE)
    item = {key: value for key, value in item.items() if value is not None}
    _check_keys(item, where)
    given, content = _either(item, "role", "from", where), _either(item, "content", "value", where)
    if not isinstance(given, str) or given not in ROLES:
        problem = "there is no role" if given is None else f"the role {given!r:.60} is unknown"
        raise InputError(f"{where}: {problem}.", fix=f"Known roles: {listed(ROLES, len(ROLES))}.")
    role = ROLES[given]
    parts = _parts(content, item, where)
    if given == "function_call":
        parts = {"text": "", "reasoning": parts["reasoning"], "calls": [_json(parts["text"], where)]}
    calls = [*parts["calls"], *_listed(item.get("tool_calls"), where)]
    calls += [item["function_call"]] if "function_call" in item else []
    message: dict[str, Any] = {"role": role, "content": whole_characters(parts["text"], where)}
    message |= _reasoning(item, parts["reasoning"], where)
    if calls:
        message["tool_calls"] = [_call(call, where) for call in calls]
    message |= {key: item[key] for key in ("tool_call_id", "name") if item.get(key)}
    _check_role(message, where)
    return message | _learned(item, role, where)


def kind(value: Any) -> str:
    """Return how messages call a value that is of the wrong kind."""
    return "nothing" if value is None or value in ([], ()) else type(value).__name__


def json_of(value: Any) -> str:
    """Write a value as JSON in one way, whatever the order of its keys."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _check_keys(item: Mapping[str, Any], where: str) -> None:
    # What is empty says nothing.
    unknown = [key for key, value in item.items() if key not in KEYS and value not in ("", [], {}, ())]
    if unknown:
        raise InputError(
            f'{where}: holds "{unknown[0]}", which training here would ignore.{did_you_mean(str(unknown[0]), KEYS)}',
            fix=f"A message may hold {listed(KEYS, len(KEYS))}. Write what the model should see or say into the "
            "content, and remove the key.",
        )


def _either(item: Mapping[str, Any], name: str, other: str, where: str) -> Any:
    """Return what stands under one of two names, or under both alike."""
    if name in item and other in item and item[name] != item[other]:
        raise InputError(f'{where}: "{name}" and "{other}" say different things.', fix=f'Keep "{name}" alone.')
    return item.get(name, item.get(other))


def _parts(content: Any, item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the text, the reasoning and the calls of a content: a text, or a list of parts with types."""
    if isinstance(content, str):
        return {"text": content, "reasoning": "", "calls": []}
    if content is None and (item.get("tool_calls") or item.get("function_call")):
        return {"text": "", "reasoning": "", "calls": []}
    if not isinstance(content, list | tuple) or not content:
        raise InputError(f"{where}: the content is {kind(content)}, not text.", fix=SHAPE)
    found: dict[str, Any] = {"text": "", "reasoning": "", "calls": []}
    for part in content:
        name, value = _part(part, where)
        if name == "calls":
            found["calls"] += _listed(value, where)
        else:
            found[name] += value
    return found


def _part(part: Any, where: str) -> tuple[str, Any]:
    names = {"text": "text", "reasoning": "reasoning", "thinking": "reasoning", "tool_call": "calls"}
    if not isinstance(part, Mapping) or part.get("type") not in names:
        said = part.get("type") if isinstance(part, Mapping) else kind(part)
        raise InputError(
            f"{where}: the content is list, not text: it has a part of type {said!r:.60}.",
            fix=f"Parts may be of type {listed(names)}.",
        )
    name = names[part["type"]]
    value = next((part[key] for key in (part["type"], "value", "text") if part.get(key) is not None), None)
    if name == "calls":
        return name, [_json(value, where) if isinstance(value, str) else value]
    if not isinstance(value, str):
        raise InputError(f"{where}: a part of type {part['type']!r} holds {kind(value)}, not text.", fix=SHAPE)
    return name, value


def _reasoning(item: Mapping[str, Any], part: str, where: str) -> dict[str, str]:
    """Return the reasoning, which may stand under several names if it is the same."""
    given = {key: item[key] for key in REASONING if item.get(key)} | ({"content": part} if part else {})
    wrong = [key for key, value in given.items() if not isinstance(value, str)]
    if wrong or len(set(map(str, given.values()))) > 1:
        raise InputError(
            f"{where}: {' and '.join(wrong or given)} hold{'s' * (len(wrong or given) == 1)} "
            f"{'no text' if wrong else 'different reasoning'}.",
            fix="Write the reasoning once, as text.",
        )
    return {"reasoning_content": whole_characters(next(iter(given.values())), where)} if given else {}


def _call(call: Any, where: str) -> dict[str, Any]:
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    arguments = inner.get("arguments", {}) if isinstance(inner, Mapping) else None
    arguments = _json(arguments, where) if isinstance(arguments, str) else arguments
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise InputError(f"{where}: a call that has no name, or whose arguments are no object.", fix=_CALL_SHAPE)
    whole_characters(json_of([name, arguments]), where)
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return identity | {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}


def _listed(value: Any, where: str) -> list[Any]:
    value = _json(value, where) if isinstance(value, str) else value
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: the calls are {kind(value)}, not a list.", fix=_CALL_SHAPE)
    return list(value)


def _json(text: Any, where: str) -> Any:
    return text_files.json_value(text, f"{where}, a tool call", fix=_CALL_SHAPE)


def _check_role(message: Mapping[str, Any], where: str) -> None:
    """Refuse what only the assistant, or only a tool, may say."""
    role = message["role"]
    allowed = {"reasoning_content": "assistant", "tool_calls": "assistant", "tool_call_id": "tool", "name": "tool"}
    wrong = [key for key, whose in allowed.items() if key in message and role != whose]
    if wrong:
        raise InputError(
            f'{where}: "{wrong[0]}" is given for the role "{role}".',
            fix=f'Only a message of the role "{allowed[wrong[0]]}" may have it; remove it, or correct the role.',
        )


def _learned(item: Mapping[str, Any], role: str, where: str) -> dict[str, bool]:
    """Return {"train": False} for an answer that a flag leaves out of the loss; refuse what a flag cannot mean here."""
    flags = {key: item[key] for key in FLAGS if key in item}
    strange = [key for key, value in flags.items() if not isinstance(value, int | float) or value not in (0, 1)]
    if strange or len({bool(value) for value in flags.values()}) > 1:
        said = ", ".join(f"{key}: {flags[key]!r:.40}" for key in strange or flags)
        raise InputError(f"{where}: {said}.", fix="A message is learned (true or 1) or it is not (false or 0).")
    if role != "assistant" and any(flags.values()):
        raise InputError(
            f"{where}: {next(iter(flags))} asks that a message of the {role}'s be learned.",
            fix="Only the assistant's answers are; remove the key, or give prompt and completion instead.",
        )
    return {"train": False} if role == "assistant" and flags and not any(flags.values()) else {}
