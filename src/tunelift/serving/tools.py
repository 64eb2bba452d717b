"""Calls of tools in answers: as a model's template writes them, read back, and held to where a call is demanded.

How calls are written is not known by names of families. The template itself is asked to write one call and two, with
marks for what is called; what stands around the marks is its way. Ways that hold arguments as JSON are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tunelift.core.errors import InputError
from tunelift.serving.grammars import SPACES, Form

MARK, OTHER = "Zq_called_qZ", "Zq_beside_qZ"
ARGUMENTS = {"Zq_key_qZ": "Zq_value_qZ"}
KEYS = ("arguments", "parameters")
ID = "Zq1234567"
"""Nine letters, as Mistral's templates demand."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Functions that may be called, by name with the schema of their arguments (None: any object).

    `forced` are those of which one must be called, none where the model is free to; `several` calls may be told.
    """

    functions: Mapping[str, Any]
    forced: Sequence[str] = ()
    several: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """A call as an answer has it; `arguments` are the JSON of an object."""

    name: str
    arguments: str
    id: str

    def object(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Way:
    """How a template writes calls: `opens`, calls with `between` in the middle, `closes`.

    A call is an object of JSON with the name and, under `key`, the arguments; or, with `names` given, the name, these
    words, and the arguments. `between` is None where the template takes one call alone. `has_id` tells of an id in it.
    """

    opens: str
    closes: str
    between: str | None
    key: str = ""
    names: str | None = None
    has_id: bool = False

    @classmethod
    def of(cls, written: Callable[[Sequence[Mapping[str, Any]]], str]) -> Way:
        """Find out by `written`, what an answer with some calls is written as; raise InputError where it is not known.

        An InputError of `written` for a single call goes through: the template has no calls, or no tools.
        """
        text = written([_call(MARK)])
        spans = _spans(text, [MARK])
        if spans is None:
            raise InputError(
                "The model's template writes calls of tools in a form that is not read here.",
                fix="Forms that hold the arguments as JSON are read. Leave tools out, and read the answer's text.",
            )
        (start, end, key, names, has_id), between = spans[0], None
        try:
            two = written([_call(MARK), _call(OTHER)])
            both = _spans(two, [MARK, OTHER])
            between = two[both[0][1] : both[1][0]] if both else None
        except InputError:
            pass
        return cls(text[:start], text[end:], between, key, names, has_id)

    def read(self, text: str, demand: Demand) -> tuple[str, list[Call]]:
        """Return what an answer says beside its calls, and these; without any its whole text.

        What is begun and is no call of a function that was offered makes all of the answer text.
        """
        opens, closes = self.opens.strip(), self.closes.strip()
        start = text.find(opens) if opens else 0
        at, calls = start + len(opens), list[Call]()
        between = None if self.between is None else self.between.strip()
        while start >= 0:
            found = self._one(text, at, demand)
            if found is None:
                return text, []
            calls.append(found[0])
            rest = text[found[1] :]
            at = found[1] + len(rest) - len(rest.lstrip())
            if between and text.startswith(between, at):
                at += len(between)
                continue
            if not text.startswith(closes, at) and text[at:].strip():
                return text, []
            behind = text[at + len(closes) :].lstrip() if text.startswith(closes, at) else ""
            if not (opens and behind.startswith(opens)):
                break
            at = len(text) - len(behind) + len(opens)
        return (text[:start].rstrip(), calls if demand.several else calls[:1]) if calls else (text, [])

    def may_begin(self, text: str) -> int:
        """Return how many letters of an answer so far stand before a call that has begun, or may have."""
        opens = self.opens.strip()
        if not opens:
            return 0 if text.lstrip()[:1] in ("", "{") else len(text)
        start = text.find(opens)
        if start < 0:
            start = next((len(text) - n for n in range(len(opens) - 1, 0, -1) if text.endswith(opens[:n])), len(text))
        return len(text[:start].rstrip())

    def form(self, demand: Demand, added: Mapping[str, int]) -> Form:
        """Return the form of an answer that calls a function as is demanded; `added` tokens stand for their texts."""
        one = " | ".join(self._rule(name, demand.functions[name], added) for name in demand.forced)
        more = "" if self.between is None or not demand.several else f" ({_literal(self.between, added)} call)*"
        around = _literal(self.opens, added), _literal(self.closes, added)
        return Form("lark", f"start: {around[0]} call{more} {around[1]}\ncall: {one}\n")

    def tokens(self, special: Sequence[str]) -> set[str]:
        """Return which special tokens the way is made of."""
        words = f"{self.opens}{self.between}{self.closes}{self.names}"
        return {token for token in special if token in words}

    def _one(self, text: str, at: int, demand: Demand) -> tuple[Call, int] | None:
        """Return the call that begins at a place, and where it ends."""
        at += len(text[at:]) - len(text[at:].lstrip())
        name: Any = None
        if self.names is not None:
            behind = text.find(self.names.strip() or "{", at)
            if behind < 0:
                return None
            name, at = text[at:behind].strip(), behind + len(self.names.strip())
            at += len(text[at:]) - len(text[at:].lstrip())
        try:
            found, end = json.JSONDecoder(parse_constant=_no_constant).raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        if self.names is None:
            if not isinstance(found, dict):
                return None
            name, found = found.get("name"), found.get(self.key, {})
            found = _object(found) if isinstance(found, str) else found
        if not isinstance(found, dict) or not isinstance(name, str) or name not in demand.functions:
            return None
        return Call(name, json.dumps(found, ensure_ascii=False), uuid4().hex[:9]), end

    def _rule(self, name: str, schema: Any, added: Mapping[str, int]) -> str:
        own = dict(schema or {"type": "object"})
        if self.names is not None:
            return f"{_literal(name + self.names, added)} {_json(own)}"
        moved = {key: own.pop(key) for key in ("$defs", "definitions") if key in own}  # where their references look
        fields: dict[str, Any] = {"name": {"const": name}, self.key: own}
        fields |= {"id": {"type": "string", "pattern": "^[a-zA-Z0-9]{9}$"}} if self.has_id else {}
        whole = {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}
        return _json(whole | moved)


class Reading:
    """An answer with calls as it is written: what of it may be told, and its calls once it has ended."""

    def __init__(self, way: Way, demand: Demand, others: Sequence[str]) -> None:
        self.way, self.demand = way, demand
        self._others = re.compile("|".join(map(re.escape, others))) if others else None
        self._text = ""
        self._told = 0

    def add(self, text: str) -> str:
        """Take more of the answer, special tokens among it; return what may be told now."""
        self._text += text if self._others is None else self._others.sub("", text)
        return self._tell(self._text[: self.way.may_begin(self._text)])

    def end(self) -> tuple[str, list[Call]]:
        """Return what is left to be told, and the calls."""
        said, calls = self.way.read(self._text, self.demand)
        return self._tell(said), calls

    def _tell(self, text: str) -> str:
        new = text[self._told :]
        self._told = max(self._told, len(text))
        return new


def _call(name: str) -> dict[str, Any]:
    return {"id": ID, "type": "function", "function": {"name": name, "arguments": dict(ARGUMENTS)}}


def _spans(text: str, names: Sequence[str]) -> list[tuple[int, int, str, str | None, bool]] | None:
    """Return of each call where it begins and ends, and how it is written; None where it is not known."""
    found = list[tuple[int, int, str, str | None, bool]]()
    for name in names:
        at = text.find(name)
        span = _as_object(text, name, at) or _behind_name(text, name, at)
        if at < 0 or span is None:
            return None
        found.append(span)
    return found


def _as_object(text: str, name: str, at: int) -> tuple[int, int, str, None, bool] | None:
    for start in (match.start() for match in re.finditer(r"\{", text[:at])):
        try:
            found, end = json.JSONDecoder().raw_decode(text, start)
        except ValueError:
            continue
        keys = [key for key in KEYS if _object(found.get(key)) == ARGUMENTS]
        if end > at and found.get("name") == name and keys and set(found) <= {"name", "id", keys[0]}:
            return start, end, keys[0], None, "id" in found
    return None


def _behind_name(text: str, name: str, at: int) -> tuple[int, int, str, str, bool] | None:
    start = text.find("{", at + len(name))
    try:
        found, end = json.JSONDecoder().raw_decode(text, start) if start > 0 else (None, 0)
    except ValueError:
        return None
    return (at, end, "", text[at + len(name) : start], False) if found == ARGUMENTS else None


def _object(value: Any) -> Any:
    """Return what a text of JSON holds; anything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": SPACES}})


def _literal(text: str, added: Mapping[str, int]) -> str:
    """Return a text as llguidance's grammars write it, added tokens by their numbers."""
    pattern = re.compile("(" + "|".join(map(re.escape, added)) + ")") if added else None
    pieces = [piece for piece in (pattern.split(text) if pattern else [text]) if piece]
    return " ".join(f"<[{added[piece]}]>" if piece in added else json.dumps(piece) for piece in pieces)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
