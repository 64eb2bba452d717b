"""What was computed for each item, kept on disk: the same item is never computed twice in the same way.

A file holds the items of one context, which is everything a score depends on besides the item itself, computed by the
same fast paths. An item's key is made of its token ids. Entries are appended as they are computed, so that an
evaluation that was cut off goes on where it was. Each line stands behind its checksum: a torn or damaged one counts as
not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tunelift.core import cache, machine
from tunelift.model_facts.parameters import bit_sums, compute_dtype

VERSION = 5
"""Of the scorer: raised when it would give other numbers, or other kinds of numbers, for the same item."""

LIMIT_BYTES = 2**30
"""Of all contexts together; those not used for longest go first."""

LAYERS = ("fused_passes", "frozen_products", "unpadded", "last_layer")
"""The fast paths of a model's layers on which the last digits of its scores depend, those that it has of them."""

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
"""Of a fast tokenizer, which may be set while it is used, such as for a token at the end."""

_tokenizer_hashes: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that scores depend on besides the items and the fast paths, and what it is `about`, for people."""

    depends_on: Mapping[str, Any]
    about: Mapping[str, Any]

    def kept(self, fast_paths: Mapping[str, str]) -> Kept:
        """Return what is known of the items by these fast paths."""
        return Kept(self, fast_paths)

    def complete(self, keys: Collection[str]) -> Kept | None:
        """Return what is known by the fast paths that last knew all of these items, so that none need be tried."""
        names = folder().glob(f"{hash_of(self.depends_on)}-*.jsonl")
        with contextlib.suppress(OSError):
            for path in sorted(names, key=lambda path: path.stat().st_mtime, reverse=True):
                tried = next((line["fast_paths"] for line in _lines(path) if "fast_paths" in line), None)
                kept = None if tried is None else self.kept(tried)
                if kept and kept.found.keys() >= set(keys):
                    return kept
        return None


class Kept:
    """What is known of items by some fast paths: `found` has a value of JSON for each key; `add` writes at once."""

    def __init__(self, context: Context, fast_paths: Mapping[str, str]) -> None:
        self.fast_paths = dict(fast_paths)
        self.path = folder() / f"{hash_of(context.depends_on)}-{hash_of(self.fast_paths)}.jsonl"
        about, depends_on = dict(context.about), dict(context.depends_on)
        self.header = {"about": about, "context": depends_on, "fast_paths": self.fast_paths}
        self.found: dict[str, Any] = {}
        with contextlib.suppress(OSError):  # a cache that cannot be read costs time, nothing else
            self.found = {line["key"]: line["value"] for line in _lines(self.path) if "key" in line}
            os.utime(self.path)

    def add(self, found: Mapping[str, Any]) -> None:
        """Append entries in one write, which other processes that append do not come between; then keep to the limit.

        The header is in the same write where the file is new, and the blank line in front ends a torn one.
        """
        lines = [{"key": key, "value": value} for key, value in found.items()]
        with contextlib.suppress(OSError):  # nor does one that cannot be written
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = b"\n" + b"".join(map(_line, lines if self.path.exists() else [self.header, *lines]))
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, text)
            finally:
                os.close(handle)
            _keep_to_the_limit()


def folder() -> Path:
    return cache.folder() / "scores"


def files_kept() -> Iterator[tuple[Path, dict[str, Any], int]]:
    """Yield every file of kept items, what it is about ("model", "adapter", "task"), and their number."""
    for path in folder().glob("*.jsonl"):
        about, items = dict[str, Any](), 0
        for line in _lines(path):
            about, items = line.get("about", about), items + ("key" in line)
        yield path, about, items


def context_of(model: Any, tokenizer: Any, made_with: Mapping[str, Any], how: Mapping[str, Any]) -> Context | None:
    """Return what a model's scores depend on when they are computed in this way; None where the weights have no hash.

    `made_with` has the "weights_sha256" of the "model" and the "sha256" of the "adapter", if one is on; `how` is all
    else that a score depends on, "task" among it. The weights in memory are looked at besides, since a model may have
    been changed since it was loaded, and a head drawn by a seed is in no file. What hooks do nobody can tell: None too.
    """
    import torch
    import transformers

    named, adapter = made_with.get("model") or {}, made_with.get("adapter") or {}
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    if hooked or not named.get("weights_sha256") or (adapter and not adapter.get("sha256")):
        return None
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    depends_on = {
        "version": VERSION,
        "weights": named["weights_sha256"],
        "adapter": adapter.get("sha256"),
        "memory": _in_memory(model),
        "config": hash_of([config, getattr(model.config, "_attn_implementation", None)]),
        "tokenizer": tokenizer_hash(tokenizer),
        "dtype": str(compute_dtype(model)),
        "device": [model.device.type, machine.vectors()],
        "libraries": [torch.__version__, transformers.__version__],
        "how": dict(how),
    }
    return Context(depends_on, {"model": named.get("name"), "adapter": adapter.get("source"), "task": how["task"]})


def hash_of(value: Any) -> str:
    """Return 32 hex digits that stand for a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _in_memory(model: Any) -> str:
    """Return a hash of sums over the bits of every parameter, and of which adapters are off."""
    sums = [[*bit_sums(parameter), list(parameter.shape)] for parameter in model.parameters()]
    return hash_of([sums, [bool(getattr(module, "disable_adapters", False)) for module in model.modules()]])


def tokenizer_hash(tokenizer: Any) -> str:
    """Return the hash of all that a tokenizer does, computed once (0.4 s for 262,144 tokens) until it is changed."""
    if not hasattr(tokenizer, "get_vocab"):  # it reads pictures
        return hash_of(tokenizer.to_dict())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [getattr(backend, name, None).__getstate__() for name in PARTS]
    now, (before, known) = [len(tokenizer), *parts], _tokenizer_hashes.get(tokenizer, (None, ""))
    if now != before:
        known = hash_of(backend.to_str() if backend is not None else [type(tokenizer).__name__, tokenizer.get_vocab()])
        _tokenizer_hashes[tokenizer] = (now, known)
    return known


def _line(value: Mapping[str, Any]) -> bytes:
    body = json.dumps(value).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            checksum, _, body = line.rstrip(b"\n").partition(b" ")
            if checksum == b"%08x" % zlib.crc32(body):
                yield json.loads(body)


def _keep_to_the_limit() -> None:
    facts = [(path.stat(), path) for path in folder().glob("*.jsonl")]
    total = sum(stat.st_size for stat, _ in facts)
    for stat, path in sorted(facts, key=lambda fact: fact[0].st_mtime):
        if total <= LIMIT_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= stat.st_size
