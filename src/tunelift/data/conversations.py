"""Chat rows: messages [{role, content}] and conversations [{from, value}], with what stands beside them, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.core import text_files
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Conversation
from tunelift.data.messages import SHAPE, json_of, kind, message_of
from tunelift.data.template import whole_characters

OWN_ARGUMENTS = (
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"),
    *("continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs", "processor_kwargs", "strftime_now", "raise_exception"),
)
"""What a chat template is given by us or by transformers."""
_TOOL_SHAPE = 'Tools are [{"name": "...", "description": "...", "parameters": {...}}], or the JSON of such a list.'
_HISTORY_SHAPE = 'A history is [["question", "answer"], ["question", "answer"]].'


def messages_of(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Check a conversation and return its messages, the last one an answer of the assistant's that is learned.

    Answers at the end that are not to be learned are left out; where none is, the last one says so. Raises InputError
    that names the message for a shape, role, key or content that cannot be trained on.
    """
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{where}: a list of messages is expected, not {kind(value)}.", fix=SHAPE)
    messages = tuple(message_of(item, f"{where}, message {number}") for number, item in enumerate(value, start=1))
    if messages[-1]["role"] != "assistant":
        raise InputError(
            f"{where}: the last message is the {messages[-1]['role']}'s.",
            fix="The last message must be the assistant's: it is the answer that is learned and scored.",
        )
    ends = [number for number, message in enumerate(messages, start=1) if _is_to_be_learned(message)]
    return messages[: ends[-1]] if ends else messages


def conversation_of(
    value: Any,
    where: str,
    *,
    system: Any = None,
    tools: Any = None,
    history: Any = None,
    template_arguments: Any = None,
) -> Conversation:
    """Check messages and what other columns of their row say; return them as one conversation.

    `system` is the text of a system message in front, `history` [question, answer] pairs that came before, `tools` a
    list of JSON schemas, and `template_arguments` a mapping for the chat template; the last two may be JSON. What is
    None, empty or blank says nothing. Raises InputError as `messages_of` does.
    """
    messages = messages_of(value, where)
    begun = messages[:1] if messages[0]["role"] == "system" else ()
    first = _system(system, where)
    if first and begun and begun != first:
        raise InputError(f"{where}: a system text is given twice.", fix="Keep one, in a column or in the messages.")
    whole = (*(first or begun), *_history(history, where), *messages[len(begun) :])
    if len(whole) > 1 and whole[0]["role"] == "assistant":  # nothing stands before it from which it could be learned
        whole = (whole[0] | {"train": False}, *whole[1:])
    return Conversation(whole, _tools(tools, where), _arguments(template_arguments, where))


def is_learned(message: Mapping[str, Any]) -> bool:
    """Return whether the message is an answer that says something, and not that it is not to be learned."""
    return _is_to_be_learned(message) and bool(as_answer(message).strip())


def as_prompt(conversation: Conversation) -> str:
    """Write what comes before the last answer for people to read, and to tell rows apart."""
    tools = [f"tools: {json_of(conversation.tools)}"] if conversation.tools else []
    given = [f"{key}: {json_of(value)}" for key, value in conversation.template_arguments.items()]
    said = [f"{message['role']}: {as_answer(message)}" for message in conversation.messages[:-1]]
    return "\n".join([*tools, *given, *said])


def as_answer(message: Mapping[str, Any]) -> str:
    """Return what a message says: its content, and each of its calls as JSON in a line."""
    calls = [json_of(call["function"]) for call in message.get("tool_calls", ())]
    return "\n".join([message["content"]] * bool(message["content"] or not calls) + calls)


def _is_to_be_learned(message: Mapping[str, Any]) -> bool:
    return bool(message["role"] == "assistant" and message.get("train", True))


def _system(text: Any, where: str) -> tuple[dict[str, Any], ...]:
    if text is None or (isinstance(text, str) and not text.strip()):
        return ()
    if not isinstance(text, str):
        raise InputError(f"{where}: the system text is {kind(text)}, not text.", fix="Write it as text.")
    return ({"role": "system", "content": whole_characters(text, where)},)


def _history(history: Any, where: str) -> list[dict[str, Any]]:
    history = _parsed(history, f"{where}, the history", _HISTORY_SHAPE)
    if not history:
        return []
    if not _is_list(history) or not all(_is_list(pair) and len(pair) == 2 for pair in history):
        raise InputError(f"{where}: the history is no list of pairs.", fix=_HISTORY_SHAPE)
    turns = [turn for pair in history for turn in zip(("user", "assistant"), pair, strict=True)]
    return [message_of({"role": role, "content": text}, f"{where}, the history") for role, text in turns]


def _tools(tools: Any, where: str) -> tuple[Mapping[str, Any], ...] | None:
    tools = _parsed(tools, f"{where}, the tools", _TOOL_SHAPE)
    if not tools:
        return None
    tools = [tools] if isinstance(tools, Mapping) else tools
    if not _is_list(tools):
        raise InputError(f"{where}: the tools are {kind(tools)}, not a list.", fix=_TOOL_SHAPE)
    return tuple(_tool(tool, f"{where}, tool {number}") for number, tool in enumerate(tools, start=1))


def _tool(tool: Any, where: str) -> Mapping[str, Any]:
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise InputError(f"{where}: there is no function with a name.", fix=_TOOL_SHAPE)
    whole_characters(json_of(tool), where)
    return tool if "function" in tool else {"type": "function", "function": dict(tool)}


def _arguments(arguments: Any, where: str) -> Mapping[str, Any]:
    shape = 'Arguments of a chat template are an object, such as {"enable_thinking": false}.'
    arguments = _parsed(arguments, f"{where}, the template's arguments", shape)
    if not arguments:
        return {}
    if not isinstance(arguments, Mapping):
        raise InputError(f"{where}: the template's arguments are {kind(arguments)}, not an object.", fix=shape)
    wrong = [name for name in arguments if not str(name).isidentifier() or name in OWN_ARGUMENTS]
    if wrong:
        raise InputError(
            f"{where}: the chat template takes no argument {wrong[0]!r:.60} from a row.",
            fix=f"Remove it. {shape} Taken by us: {listed(OWN_ARGUMENTS, 6)}.",
        )
    return {name: value for name, value in arguments.items() if value is not None}


def _parsed(value: Any, where: str, shape: str) -> Any:
    """Return what a column says, of which text is read as JSON."""
    if not isinstance(value, str):
        return value
    return text_files.json_value(value, where, fix=shape) if value.strip() else None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
