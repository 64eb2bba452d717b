"""A model behind an OpenAI-compatible address: asked many questions at once, each answer kept as soon as it is there.

An answer depends on address, model, fields of the request and messages; by these it is found again, so that nothing is
asked, or paid for, twice. What is read of the other side is limited: it may be anybody's.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from ipaddress import ip_address
from time import monotonic, time
from typing import Any
from urllib.parse import urlsplit

from tunelift.config.schema import EndpointSection
from tunelift.core import progress
from tunelift.core.errors import InputError, TuneliftError, listed
from tunelift.evaluation.cache import Context, Kept, hash_of

Messages = Sequence[Mapping[str, str]]
"""Each has "role" (system, user or assistant) and "content"."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a request is tried again: doubled each time, or what the address asks for."""

LARGEST_ANSWER = 2**22
"""Bytes of a body that are read."""

PASSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that may be others a moment later."""

OURS = frozenset({"model", "messages", "stream", "n"})
"""Fields that no config sets: the answer would be another one, or none that is read here."""

VERSION = 1
"""Of what is kept: raised when the same request would be sent in another way."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as text, whether it was cut, and what it took (tokens; 0 where the address does not say)."""

    text: str
    cut: bool = False
    read: int = 0
    written: int = 0


class _AgainError(Exception):
    """A request that may succeed when it is made again, `after` so many seconds where the address says that."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


def check(settings: EndpointSection) -> None:
    """Raise InputError, with every problem, for an address that cannot be asked; nothing is sent, no key is shown."""
    address, problems = settings.address or "", list[str]()
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or not address.isascii() or re.search(r"\s", address):
        problems.append("address is no https://HOST/v1 or http://HOST:PORT/v1")
    elif parts.username or parts.password or parts.query or parts.fragment:
        problems.append("address holds more than a host and a path: a key belongs into an environment variable")
    if not settings.served_model.strip():
        problems.append("served_model does not say which model is asked")
    if taken := sorted(OURS & settings.request.keys()):
        problems.append(f"request may not hold {listed(taken)}")
    problems += _key_problems(settings.key_from, parts.scheme, host)
    if find_spec("httpx2") is None:
        problems.append("the package httpx2 is not installed: pip install 'tunelift[endpoint]'")
    if problems:
        raise InputError(*(f"larger model: {one}." for one in problems), fix="An example: docs/how-to/larger-model.md")


def _key_problems(name: str | None, scheme: str, host: str | None) -> list[str]:
    if name is None:
        return []
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):  # which is not shown: it may be a key
        return ["key_from is no name of an environment variable (such as OPENAI_API_KEY); keys stand in no config"]
    key = os.environ.get(name, "")
    if not key.strip():
        return [f"the environment variable {name}, which key_from names, is not set"]
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        return [f"the environment variable {name} holds blanks, or letters that no key has"]
    if scheme == "http" and not _is_here(host or ""):
        return ["a key is sent over https only, or to this machine"]
    return []


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def ask(settings: EndpointSection, asked: Sequence[Messages], title: str, *, cache: bool) -> list[Reply]:
    """Return an answer to each of the conversations; equal ones are asked once.

    Each answer is kept the moment it is there, so that the same call goes on where another one ended, however it did.
    Raises InputError as `check` does, TuneliftError where the address refuses, or does not answer in time again and
    again.
    """
    check(settings)
    body = {"model": settings.served_model, **_fields(settings)}
    # Where two addresses serve a model under one name they may serve different ones.
    depends_on = {"version": VERSION, "address": _url(settings), "request": body}
    where = urlsplit(_url(settings)).hostname
    about = {"model": settings.served_model, "adapter": None, "task": f"asked of {where}"}
    keys = [hash_of(messages) for messages in asked]
    kept = Context(depends_on, about).kept({}) if cache else None
    found = {key: Reply(**kept.found[key]) for key in keys if kept and key in kept.found}
    left = {key: messages for key, messages in zip(keys, asked, strict=True) if key not in found}
    if len(left) < len(set(keys)):
        progress.note(f"{title}: {len(set(keys)) - len(left)} of {len(set(keys))} were answered before.")
    if left:
        progress.note(f"{title}: {len(left)} texts are sent to {where}")
        with progress.bar(title, len(left)) as advance:
            found |= _Asking(settings, body, kept, advance).all(left)
    return [found[key] for key in keys]


def _fields(settings: EndpointSection) -> dict[str, Any]:
    return {name: value for name, value in settings.request.items() if value is not None}


def _url(settings: EndpointSection) -> str:
    return (settings.address or "").rstrip("/").removesuffix("/chat/completions") + "/chat/completions"


class _Asking:
    """One call's requests, some at once; the first that fails for good ends the others."""

    def __init__(
        self, settings: EndpointSection, body: Mapping[str, Any], kept: Kept | None, advance: progress.Advance
    ) -> None:
        self.settings, self.body, self.kept, self.advance = settings, body, kept, advance
        self.key = os.environ.get(settings.key_from, "") if settings.key_from else ""
        self.over, self.writing = threading.Event(), threading.Lock()

    def all(self, asked: Mapping[str, Messages]) -> dict[str, Reply]:
        """Return the answers by key."""
        import httpx2

        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        # A proxy of the environment is not for this machine; nor is a .netrc, which would send what nobody named.
        proxies = not _is_here(urlsplit(_url(self.settings)).hostname or "")
        client = httpx2.Client(
            headers=headers, timeout=self.settings.timeout, trust_env=proxies, auth=_nobody, follow_redirects=False
        )
        pool = ThreadPoolExecutor(self.settings.at_once)
        with client:
            some: dict[Future[Reply], str] = {}
            try:
                some = {pool.submit(self._answer, client, key, one): key for key, one in asked.items()}
                done, _ = wait(some, return_when=FIRST_EXCEPTION)
                # The first in the order asked; those behind it may say no more than that another one failed.
                failed = next((error for one in some if one in done and (error := one.exception()) is not None), None)
            finally:
                self.over.set()
                pool.shutdown(wait=True, cancel_futures=True)
            if failed is not None:
                answered = sum(one.done() and not one.cancelled() and one.exception() is None for one in some)
                raise self._told(failed, answered, len(asked)) from failed
            return {key: one.result() for one, key in some.items()}

    def _told(self, error: BaseException, answered: int, of: int) -> TuneliftError:
        kept = " They are kept: the same command goes on from there." if answered and self.kept else ""
        what = str(error) if isinstance(error, TuneliftError) else f"{type(error).__name__}: {error}"
        return TuneliftError(f"{_url(self.settings)}: {self._safe(what)}", fix=f"{answered} of {of} answered.{kept}")

    def _answer(self, client: Any, key: str, messages: Messages) -> Reply:
        try:
            if self.over.is_set():
                raise TuneliftError("another request failed.")
            reply = self._tried(client, messages)
        except BaseException:
            self.over.set()
            raise
        with self.writing:
            if self.kept is not None:
                self.kept.add({key: asdict(reply)})
            self.advance(1)
        return reply

    def _tried(self, client: Any, messages: Messages) -> Reply:
        tries, why = self.settings.attempts, ""
        for number in range(tries):
            try:
                return self._once(client, messages)
            except _AgainError as again:
                why = str(again)
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**number) * random.uniform(0.75, 1.0)
                pause = pause if again.after is None else min(LONGEST_PAUSE, max(again.after, 0.0))
                if number + 1 < tries and self._cut_short(pause):
                    break
        raise TuneliftError(f"it was asked {tries} times, and at last: {why}")

    def _cut_short(self, pause: float) -> bool:
        """Wait so many seconds; tell whether another request failed meanwhile."""
        return self.over.wait(pause)

    def _once(self, client: Any, messages: Messages) -> Reply:
        """Ask once; raise _AgainError for what may pass, TuneliftError for what will not."""
        import httpx2

        try:
            with client.stream("POST", _url(self.settings), json={**self.body, "messages": list(messages)}) as got:
                raw = _within_limits(got.iter_bytes(), self.settings.timeout)
                status, headers = got.status_code, got.headers
        except (httpx2.TimeoutException, TimeoutError) as error:
            raise _AgainError(f"no answer within {self.settings.timeout:g} s (larger_model.timeout).") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _AgainError(f"{type(error).__name__}: {error}") from error
        if status in PASSES:
            raise _AgainError(f"status {status}: {_reason(raw, self.key)}", _after(headers.get("retry-after")))
        if status != 200:
            raise TuneliftError(f"status {status}: {_reason(raw, self.key)}")
        return _read(raw, self.key)

    def _safe(self, text: str) -> str:
        """Return what may be shown: servers repeat keys in their errors, and text of theirs may move the cursor."""
        text = text.replace(self.key, "(the key)") if self.key else text
        return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def _within_limits(parts: Iterable[bytes], seconds: float) -> bytes:
    """Return a whole body; raise TimeoutError for one that trickles in, TuneliftError for one that is too large."""
    raw, latest = b"", monotonic() + seconds
    for part in parts:
        raw += part
        if monotonic() > latest:
            raise TimeoutError
        if len(raw) > LARGEST_ANSWER:
            raise TuneliftError(f"its answer has more than {LARGEST_ANSWER:,} bytes.")
    return raw


def _nobody(request: Any) -> Any:
    """Add no credentials to a request, whatever the environment has."""
    return request


def _read(raw: bytes, key: str) -> Reply:
    """Return what a body of OpenAI's form says; raise _AgainError for one of another form."""
    try:
        said = json.loads(raw)
        choice = said["choices"][0]
        text, usage = choice["message"]["content"], said.get("usage") or {}
        counts = [usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
        cut = choice.get("finish_reason") == "length"
        right = isinstance(text, str | None) and all(type(count) is int and count >= 0 for count in counts)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        raise _AgainError(f"its answer is not in OpenAI's form: {_short(raw, key)}")
    return Reply((text or "").encode("utf-8", "replace").decode(), cut, *counts)


def _reason(raw: bytes, key: str) -> str:
    """Return what a body says of an error."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        said = json.loads(raw)["error"]
        return _short(str(said["message"] if isinstance(said, dict) else said).encode(), key)
    return _short(raw, key)


def _short(raw: bytes, key: str) -> str:
    """Return the beginning of what was said, without the key, of which a cut would leave a part."""
    raw = raw.replace(key.encode(), b"(the key)") if key else raw
    text = " ".join(raw[:1000].decode("utf-8", "replace").split())
    return repr(text if len(text) <= 300 else f"{text[:297]}...")


def _after(said: str | None) -> float | None:
    """Return the seconds that a Retry-After asks for; None for none, and for what cannot be read."""
    if not said:
        return None
    with suppress(ValueError):
        return float(said) if float(said) == float(said) else None
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(said).timestamp() - time()
    return None
