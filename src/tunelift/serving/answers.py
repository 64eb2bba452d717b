"""Answers in OpenAI's form: objects for JSON, whole and as parts of a stream, and errors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunelift.serving.requests import Delta, Request, Token
from tunelift.serving.tools import Call, Reading

FINISHES = {"stop": "stop", "length": "length", "cancelled": "length", "error": "error"}

LEAST = -9999.0


def error_object(message: str, kind: str, parameter: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}


@dataclass(slots=True)
class Choice:
    """One answer as it has come so far."""

    request: Request
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    prompt: list[Token] = field(default_factory=list)
    finish: str | None = None
    count: int = 0
    known: int = 0
    reading: Reading | None = None
    calls: list[Call] = field(default_factory=list)

    def add(self, delta: Delta) -> str:
        """Take more of the answer; return what may be told of its text now, without the calls that are in it."""
        text = delta.text
        if self.reading:
            text = self.reading.add(text)
            if delta.finish:
                rest, self.calls = self.reading.end()
                text += rest
        self.text += text
        self.tokens += delta.tokens
        self.prompt += delta.prompt
        self.finish = FINISHES[delta.finish] if delta.finish else None
        self.count += len(delta.tokens)
        self.known += delta.known
        if self.calls and self.finish == "stop":
            self.finish = "tool_calls"
        return text


class Form:
    """How the answers to one body are written: `chat` or plain, by one model's name and tokenizer."""

    def __init__(self, number: str, name: str, tokenizer: Any, *, chat: bool, echo: bool = False) -> None:
        self.chat, self.echo, self.tokenizer = chat, echo, tokenizer
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{number}"
        self.same = {"id": self.id, "created": int(time.time()), "model": name}

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the object of a whole answer."""
        made = [self._choice(n, choice) for n, choice in enumerate(choices)]
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self.same, "object": kind, "choices": made, "usage": usage(choices)}

    def opening(self, n: int) -> dict[str, Any]:
        """Return the first part of a stream, which says who speaks."""
        return self._part({"index": n, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})

    def part(self, n: int, choice: Choice, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        """Return a part of a stream: the text and tokens that were added to a choice, and its calls with the last."""
        found: dict[str, Any] = {"index": n, "finish_reason": choice.finish}
        said: dict[str, Any] = {"content": text} if text else {}
        if choice.calls:
            said["tool_calls"] = [{"index": at, **call.object()} for at, call in enumerate(choice.calls)]
        found |= {"delta": said} if self.chat else {"text": text}
        return self._part(found | {"logprobs": self._logprobs(tokens, len(choice.text) - len(text))})

    def counted(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the last part of a stream: counts and no choices."""
        return self._part(None) | {"usage": usage(choices)}

    def _part(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self.same, "object": kind, "choices": [] if choice is None else [choice]}

    def _choice(self, n: int, choice: Choice) -> dict[str, Any]:
        found: dict[str, Any] = {"index": n, "finish_reason": choice.finish}
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
            if choice.calls:
                calls = [call.object() for call in choice.calls]
                message |= {"content": choice.text or None, "tool_calls": calls}
            return found | {"message": message, "logprobs": self._logprobs(choice.tokens, 0)}
        if not self.echo:
            return found | {"text": choice.text, "logprobs": self._logprobs(choice.tokens, 0)}
        first = Token(choice.request.ids[0])
        prompt = self.tokenizer.decode(list(choice.request.ids), skip_special_tokens=True)
        told = [first, *choice.prompt, *choice.tokens] if choice.request.sampling.logprobs is not None else []
        return found | {"text": prompt + choice.text, "logprobs": self._logprobs(told, 0)}

    def _logprobs(self, tokens: Sequence[Token], before: int) -> dict[str, Any] | None:
        told = [token for token in tokens if token.logprob is not None]
        if not told:
            return None
        if self.chat:
            return {"content": [self._told(token) for token in told], "refusal": None}
        texts = [self._text(token.id) for token in tokens]
        offsets, at = list[int](), before
        for text in texts:
            offsets.append(at)
            at += len(text)
        tops = [{self._text(other): _finite(value) for other, value in token.top} for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [top or None for top in tops],
            "text_offset": offsets,
        }

    def _told(self, token: Token) -> dict[str, Any]:
        own = self._one(token.id, token.logprob)
        return own | {"top_logprobs": [self._one(other, value) for other, value in token.top]}

    def _one(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self._text(token)
        return {
            "token": text,
            "logprob": _finite(logprob),
            "bytes": list(text.encode()) if "\ufffd" not in text else None,
        }

    def _text(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))


def _finite(logprob: float | None) -> float | None:
    """Return a log-probability as JSON can have it, which knows no infinity: -9999 stands for what cannot come."""
    return None if logprob is None else max(logprob, LEAST)


def usage(choices: Sequence[Choice]) -> Mapping[str, Any]:
    """Return the counts of tokens; a prompt that is answered several times counts once for each."""
    prompt, said = sum(len(choice.request.ids) for choice in choices), sum(choice.count for choice in choices)
    details = {"cached_tokens": sum(choice.known for choice in choices)}
    counts = {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}
    return {**counts, "prompt_tokens_details": details}
