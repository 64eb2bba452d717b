"""Bodies of requests in OpenAI's form, read against a list of what each may hold, to what is asked of the engine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.core.records import Conversation
from tunelift.data.messages import message_of
from tunelift.serving.grammars import Form, form_of
from tunelift.serving.requests import MOST_LOGPROBS, Sampling
from tunelift.serving.tools import Demand

MOST_CHOICES = 16
"""Answers of one body: prompts times `n`."""

MOST_TOOLS = 128
MOST_STOPS, MOST_STOP_LENGTH, MOST_BIASES, MOST_MESSAGES = 16, 256, 1024, 4096
IGNORED = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""What clients send that changes no answer."""

SHOWN = frozenset({"metadata", "options", "id", "timestamp"})
"""What chats keep beside a message, to show it, and send back with it (gradio)."""

SAMPLED = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"),
        *("logit_bias", "seed", "logprobs", "top_logprobs"),
    }
)
USUAL = {"model", "stream", "stream_options", "n", "stop", "max_tokens", "response_format", "structured_outputs"}
BOTH = SAMPLED | IGNORED | USUAL
TOOLS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
CHAT = BOTH | TOOLS | {"messages", "max_completion_tokens", "chat_template_kwargs"}
PLAIN = (BOTH - {"top_logprobs"}) | {"prompt", "echo", "best_of", "suffix"}


class BodyError(InputError):
    """A body that cannot be answered; `parameter` is the field that is wrong."""

    def __init__(self, problem: str, parameter: str | None = None, fix: str | None = None) -> None:
        super().__init__(problem, fix=fix)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Body:
    """What a body asks for: texts, ids or conversations to answer `n` times each.

    `max_tokens` is None where it says nothing of that; `streamed` tells to send the answer as it is written, `usage` to
    send counts behind it, and `echo` to repeat the prompt. `form` is what each answer is, `demand` what it may call.
    """

    model: str | None
    asked: Sequence[str | Sequence[int] | Conversation]
    sampling: Sampling
    stop: Sequence[str]
    n: int = 1
    max_tokens: int | None = None
    streamed: bool = False
    usage: bool = False
    echo: bool = False
    form: Form | None = None
    demand: Demand | None = None


def read_json(raw: bytes) -> dict[str, Any]:
    """Return the object in a body; raise BodyError for anything else."""
    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        said = "too deep" if isinstance(error, RecursionError) else str(error)
        raise BodyError(f"The body is no JSON: {said:.200}") from error
    if not isinstance(found, dict):
        raise BodyError("The body is no JSON object.", fix='Send {"model": ..., ...}.')
    return found


def chat_body(found: Mapping[str, Any]) -> Body:
    """Return what a body for chat completions asks for."""
    fields = Fields(found, CHAT)
    messages, arguments = found.get("messages"), found.get("chat_template_kwargs")
    if not isinstance(messages, list) or not 0 < len(messages) <= MOST_MESSAGES:
        raise BodyError(f"messages is no list of 1 to {MOST_MESSAGES} messages.", "messages")
    if arguments is not None and not isinstance(arguments, dict):
        raise BodyError("chat_template_kwargs is no object.", "chat_template_kwargs")
    read = tuple(_message(one, f"messages[{n}]") for n, one in enumerate(messages))
    if read[-1]["role"] not in ("user", "tool"):
        raise BodyError("The last message is neither the user's nor a tool's: there is nothing to answer.", "messages")
    wanted, top = fields.flag("logprobs"), fields.whole("top_logprobs", 0, MOST_LOGPROBS)
    if top is not None and not wanted:
        raise BodyError("top_logprobs needs logprobs: true.", "top_logprobs")
    most = fields.whole("max_completion_tokens", 1, 2**31)
    most = fields.whole("max_tokens", 1, 2**31) if most is None else most
    usual, (tools, demand) = fields.usual(1), _tools(found, fields.flag("parallel_tool_calls", True))
    if demand and usual["form"]:
        raise BodyError("Both tools and a form of the answer are given.", "tools", "Leave one out.")
    return Body(
        asked=[Conversation(read, tools, arguments or {})],
        sampling=fields.sampling((top or 0) if wanted else None),
        max_tokens=most,
        demand=demand,
        **usual,
    )


def plain_body(found: Mapping[str, Any]) -> Body:
    """Return what a body for completions asks for."""
    fields = Fields(found, PLAIN)
    if found.get("suffix"):
        raise BodyError("suffix is not served.", "suffix", "Leave it out.")
    prompts = _prompts(found.get("prompt"))
    usual = fields.usual(len(prompts))
    if fields.whole("best_of", 1, MOST_CHOICES) not in (None, usual["n"]):
        raise BodyError("best_of is served where it equals n.", "best_of", "Leave it out.")
    logprobs = fields.whole("logprobs", 0, MOST_LOGPROBS)
    echo = fields.flag("echo")
    most = fields.whole("max_tokens", 0 if echo and logprobs is not None else 1, 2**31)
    if echo and usual["streamed"]:
        raise BodyError("echo is not served as a stream.", "echo")
    return Body(
        asked=prompts,
        sampling=fields.sampling(logprobs),
        max_tokens=16 if most is None else most,
        echo=echo,
        **usual,
    )


def adapter_body(found: Mapping[str, Any], *, loads: bool) -> tuple[str, str]:
    """Return the name and, where it is to be loaded, the path of an adapter, by vLLM's fields."""
    names = ("lora_name", "lora_path") if loads else ("lora_name",)
    Fields(found, frozenset(names))
    if wrong := [name for name in names if not is_text(found.get(name)) or not found[name]]:
        raise BodyError(f"{wrong[0]} is no text.", wrong[0])
    return found["lora_name"], found.get("lora_path", "")


class Fields:
    """The fields of a body, of which none may be other than allowed."""

    def __init__(self, found: Mapping[str, Any], allowed: frozenset[str]) -> None:
        self.found = found
        if unknown := [name for name in found if name not in allowed]:
            hint = did_you_mean(unknown[0], allowed)
            raise BodyError(f"There is no field {unknown[0]!r:.80}.{hint}", unknown[0][:80], f"Fields: {_of(allowed)}.")

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.found.get(name)
        if not isinstance(value, bool | None):
            raise BodyError(f"{name} is neither true nor false.", name)
        return default if value is None else value

    def whole(self, name: str, least: int, most: int) -> int | None:
        value = self.found.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise BodyError(f"{name} is no whole number from {least} to {most}.", name)
        return value

    def number(self, name: str, default: float) -> float:
        value = self.found.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
            raise BodyError(f"{name} is no number.", name)
        return float(value)

    def usual(self, prompts: int) -> dict[str, Any]:
        """Return what all bodies say alike."""
        model, options = self.found.get("model"), self.found.get("stream_options")
        if not isinstance(model, str | None):
            raise BodyError("model is no text.", "model")
        streamed, n = self.flag("stream"), self.whole("n", 1, MOST_CHOICES) or 1
        if options is not None and (not streamed or not isinstance(options, dict)):
            raise BodyError("stream_options is an object, beside stream: true.", "stream_options")
        if prompts * n > MOST_CHOICES:
            raise BodyError(f"{prompts * n} answers are asked for, and at most {MOST_CHOICES} are given at once.", "n")
        usage = (options or {}).get("include_usage") is True
        said = {"model": model, "stop": self._stops(), "streamed": streamed, "n": n, "usage": usage}
        return said | {"form": form_of(self.found)}

    def sampling(self, logprobs: int | None) -> Sampling:
        found = self.found.get("logit_bias")
        if found is not None and (not isinstance(found, dict) or len(found) > MOST_BIASES):
            raise BodyError(f"logit_bias is no object of at most {MOST_BIASES} tokens.", "logit_bias")
        bias = {}
        for token, value in (found or {}).items():
            fine = token.isascii() and token.isdecimal() and len(token) < 10 and isinstance(value, int | float)
            if not fine or isinstance(value, bool) or not math.isfinite(value):
                raise BodyError("logit_bias names a token by its number, with a number for each.", "logit_bias")
            bias[int(token)] = float(value)
        values: dict[str, Any] = {
            "temperature": self.number("temperature", 1.0),
            "top_k": self.whole("top_k", -1, 2**31) or 0,
            "top_p": self.number("top_p", 1.0),
            "min_p": self.number("min_p", 0.0),
            "repetition": self.number("repetition_penalty", 1.0),
            "frequency": self.number("frequency_penalty", 0.0),
            "presence": self.number("presence_penalty", 0.0),
        }
        values["top_k"] = max(0, values["top_k"])  # -1 says "all" to some clients
        return Sampling(**values, bias=bias, seed=self.whole("seed", -(2**63), 2**63 - 1), logprobs=logprobs)

    def _stops(self) -> list[str]:
        found = self.found.get("stop")
        stops = [found] if isinstance(found, str) else found or []
        if not isinstance(stops, list) or len(stops) > MOST_STOPS or any(not _is_stop(stop) for stop in stops):
            raise BodyError(
                f"stop is no list of at most {MOST_STOPS} texts of 1 to {MOST_STOP_LENGTH} letters.", "stop"
            )
        return stops


def _is_stop(stop: Any) -> bool:
    return isinstance(stop, str) and 0 < len(stop) <= MOST_STOP_LENGTH


def _tools(found: Mapping[str, Any], several: bool) -> tuple[tuple[dict[str, Any], ...] | None, Demand | None]:
    """Return the tools as templates take them, and what may be called; neither where nothing is to be called."""
    tools, choice = found.get("tools"), found.get("tool_choice")
    if tools is not None and (not isinstance(tools, list) or len(tools) > MOST_TOOLS):
        raise BodyError(f"tools is no list of at most {MOST_TOOLS} tools.", "tools")
    read = tuple(_tool(tool, f"tools[{n}]") for n, tool in enumerate(tools or ()))
    functions = {tool["function"]["name"]: tool["function"].get("parameters") for tool in read}
    if len(functions) != len(read):
        raise BodyError("Two tools have one name.", "tools")
    named = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = named.get("name") if isinstance(named, dict) else None
    forced = [*functions] if choice == "required" else [name] if isinstance(name, str) and name in functions else []
    if choice not in (None, "none", "auto") and not forced:
        raise BodyError(
            "tool_choice is none that is served, or names no tool.", "tool_choice",
            'It is "none", "auto", "required", or {"type": "function", "function": {"name": ...}} of one of the tools.',
        )  # fmt: skip
    if not read or choice == "none":
        return None, None
    return read, Demand(functions, forced, several and name is None)


def _tool(found: Any, where: str) -> dict[str, Any]:
    function = found.get("function") if isinstance(found, dict) and found.get("type") == "function" else None
    if not isinstance(function, dict) or not function.keys() <= {"name", "description", "parameters", "strict"}:
        raise BodyError(f'{where} is no {{"type": "function", "function": {{"name", "parameters", ...}}}}.', where)
    kept = {key: value for key, value in function.items() if value is not None and key != "strict"}
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", str(kept.get("name", ""))) or not isinstance(kept["name"], str):
        raise BodyError(f"{where} has no name of 1 to 64 letters, digits, dots, - and _.", where)
    fine = is_text(kept.get("description", "")) and isinstance(kept.get("parameters", {}), dict)
    if not fine or not is_text(json.dumps(kept, ensure_ascii=False)):
        raise BodyError(f"{where} has a description that is no text, or parameters that are no schema.", where)
    return {"type": "function", "function": kept}


def _message(found: Any, where: str) -> dict[str, Any]:
    found = {key: value for key, value in found.items() if key not in SHOWN} if isinstance(found, dict) else found
    if isinstance(found, dict) and (found.get("tool_calls") or found.get("role") == "tool"):
        return _of_tools(found, where)
    unsaid = ("tool_calls", "refusal", "annotations", "audio", "function_call")  # which clients send back
    found = {k: v for k, v in found.items() if v or k not in unsaid} if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found.keys() <= {"role", "content", "name"}:
        raise BodyError(f"{where} is no object with role and content alone.", where)
    role = {"developer": "system"}.get(found.get("role", ""), found.get("role")) if is_text(found.get("role")) else ""
    if role not in ("system", "user", "assistant"):
        raise BodyError(f"{where} has no role of system, developer, user or assistant.", where)
    return {"role": role, "content": _content(found.get("content"), where)}


def _of_tools(found: dict[str, Any], where: str) -> dict[str, Any]:
    """Return an answer with calls, or what a tool said, as templates take them."""
    allowed = {"assistant": {"role", "content", "tool_calls"}, "tool": {"role", "content", "tool_call_id", "name"}}
    kept = {key: value for key, value in found.items() if value or key in ("role", "content")}
    own = allowed.get(str(kept.get("role")), set())
    if not kept.keys() <= own:
        raise BodyError(f"{where} is no answer with tool_calls, nor what a tool said.", where)
    content = _content("" if kept.get("content") is None else kept["content"], where)
    try:
        return message_of(kept | {"content": content}, where)
    except InputError as error:
        raise BodyError(str(error), where) from error


def _content(content: Any, where: str) -> str:
    if isinstance(content, list):
        if not all(
            isinstance(part, dict) and part.get("type") == "text" and is_text(part.get("text")) for part in content
        ):
            raise BodyError(f"{where} has a part that is no text.", where, "Texts alone are served.")
        content = "".join(part["text"] for part in content)
    if not is_text(content):
        raise BodyError(f"{where} has no text as its content.", where)
    return str(content)


def is_text(value: Any) -> bool:
    """Tell whether a value is a text that can be written as UTF-8, as half a pair of surrogates cannot."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _prompts(found: Any) -> list[str | list[int]]:
    ids: Callable[[Any], bool] = lambda one: (  # noqa: E731
        isinstance(one, list) and bool(one) and all(isinstance(t, int) and not isinstance(t, bool) for t in one)
    )
    if is_text(found) or ids(found):
        return [found]
    if isinstance(found, list) and 0 < len(found) <= MOST_CHOICES and all(is_text(one) or ids(one) for one in found):
        return found
    raise BodyError(f"prompt is no text, no list of token ids, and no list of 1 to {MOST_CHOICES} of these.", "prompt")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _of(allowed: frozenset[str]) -> str:
    return listed(sorted(allowed), limit=40)
