"""Answers held to a form: a JSON schema, a regular expression, or one of some texts, token by token (llguidance)."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tunelift.core.errors import InputError

SPACES = r"( |\n {0,12})?"
"""What may stand between the parts of a JSON text, one line or indented: who may say spaces for ever sometimes does."""

LIMITS = {"initial_lexer_fuel": 100_000, "verbose_errors": False}
"""Of llguidance's work on expressions, which all answers of a batch wait for: by its default one token took 5 s."""


class FormError(Exception):
    """An answer cannot be held to its form any longer; the message says why."""


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer has to be: JSON of a schema, a text of a regular expression, one of some, or one of a grammar."""

    kind: Literal["json", "regex", "choice", "lark"]
    value: Any


@dataclass(frozen=True, slots=True)
class Grammar:
    """A form as a tokenizer's tokens make it: where answers begin. Each has a matcher of its own, a copy of it."""

    first: Any

    def matcher(self) -> Matcher:
        return Matcher(self.first.deep_copy())


class Matcher:
    """Which tokens one answer may go on with."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def mask(self, logits: Tensor) -> None:
        """Make -inf of the logits (V,) of tokens that the answer cannot go on with; raise FormError if it has none."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed = torch.from_numpy(np.unpackbits(packed, bitorder="little").astype(bool))[: len(logits)]
        if not bool(allowed.any()):
            raise FormError("No token goes on with the answer in its form.")
        logits[: len(allowed)].masked_fill_(~allowed, -torch.inf)
        logits[len(allowed) :] = -torch.inf

    def take(self, token: int) -> None:
        """Know that the answer goes on with a token; raise FormError where it cannot."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def ended(self) -> bool:
        """Whether the answer is whole, and nothing can be added to it."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise FormError(f"The answer cannot be held to its form: {self._matcher.get_error():.200}")


class Grammars:
    """What makes grammars for one tokenizer of `size` tokens. It may be asked by several threads."""

    def __init__(self, tokenizer: Any, size: int | None) -> None:
        self.tokenizer, self.size = tokenizer, size
        self._made: dict[frozenset[int], Any] = {}
        self._lock = threading.Lock()

    def of(self, form: Form, ends: frozenset[int]) -> Grammar:
        """Return the grammar of a form, behind which the answer ends by one of the tokens `ends`.

        Raises InputError for a form that cannot be kept to, for a tokenizer without its fast form, where no token ends
        an answer, and where llguidance is not installed.
        """
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError as error:
            raise InputError(
                "Answers in a given form need llguidance, which is not installed where this server runs.",
                fix="pip install 'tunelift[serve]'",
            ) from error
        if not ends:
            raise InputError("The model has no token that ends an answer, and so none can be held to a form.")
        tokenizer = self._tokenizer(ends)
        source = _source(form)
        _, said = LLMatcher.validate_grammar_with_warnings(source, tokenizer)
        if said:
            raise InputError(f"No answer can be held to this form: {' '.join(said):.300}")
        first = LLMatcher(tokenizer, source, log_level=0, limits=LLParserLimits(**LIMITS))
        first.compute_bitmask()  # what takes long is done here, not between the steps of others' answers
        if first.is_error():
            raise InputError(f"No answer can be held to this form: {first.get_error():.300}")
        return Grammar(first)

    def _tokenizer(self, ends: frozenset[int]) -> Any:
        from llguidance.hf import from_tokenizer

        with self._lock:
            if ends not in self._made:
                try:
                    self._made[ends] = from_tokenizer(self.tokenizer, self.size, sorted(ends))
                except ValueError as error:
                    raise InputError(f"This tokenizer's answers cannot be held to a form: {error!s:.200}") from error
            return self._made[ends]


def _source(form: Form) -> str:
    """Return a form as llguidance reads it."""
    from llguidance import LLMatcher

    if form.kind == "lark":
        return str(LLMatcher.grammar_from_lark(form.value))
    if form.kind == "regex":
        return str(LLMatcher.grammar_from_regex(form.value))
    if form.kind == "choice":
        return str(LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(text) for text in form.value)))
    try:
        return str(LLMatcher.grammar_from_json_schema(json.dumps(form.value), overrides={"whitespace_pattern": SPACES}))
    except ValueError as error:
        raise InputError(f"This is no JSON schema: {error!s:.300}") from error


def form_of(found: Mapping[str, Any]) -> Form | None:
    """Return the form that OpenAI's `response_format` or vLLM's `structured_outputs` asks for, of a body's fields.

    Raises InputError for any other value of the two.
    """
    wanted, ours = found.get("response_format"), found.get("structured_outputs")
    if wanted is not None and ours is not None:
        raise InputError("Both response_format and structured_outputs are given.", fix="Leave one out.")
    return _of_response_format(wanted) if wanted is not None else _of_structured(ours) if ours is not None else None


def _of_response_format(wanted: Any) -> Form | None:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text" and wanted.keys() == {"type"}:
        return None
    if kind == "json_object" and wanted.keys() == {"type"}:
        return Form("json", {"type": "object"})
    inner = wanted.get("json_schema") if kind == "json_schema" else None
    if isinstance(inner, dict) and inner.keys() <= {"name", "description", "schema", "strict"}:
        schema = inner.get("schema")
        if isinstance(schema, dict):
            return Form("json", schema)
    raise InputError(
        "response_format is none that is served.",
        fix='Send {"type": "json_schema", "json_schema": {"schema": {...}}}, or of the type json_object or text.',
    )


def _of_structured(wanted: Any) -> Form:
    if isinstance(wanted, dict) and len(wanted) == 1:
        ((kind, value),) = wanted.items()
        texts = isinstance(value, list) and bool(value) and all(isinstance(text, str) and text for text in value)
        if kind == "json" and isinstance(value, dict):
            return Form("json", value)
        if kind == "regex" and isinstance(value, str) and value:
            return Form("regex", value)
        if kind == "choice" and texts:
            return Form("choice", value)
    raise InputError(
        "structured_outputs is none that is served.",
        fix='Send {"json": SCHEMA}, {"regex": TEXT} or {"choice": [TEXT, ...]}.',
    )
