"""What trials found of models that are not small, kept in the cache: all those of a run take seconds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache as once
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunelift.core import cache, files, machine
from tunelift.fast.frozen import of_adapters
from tunelift.fast.kernels import SWITCH
from tunelift.model_facts.parameters import bit_sums, device_of

LARGE = 10_000_000
"""Parameters from which on a model's trials are kept."""

KNOWN_CODE = {"torch", "transformers", "peft", "tunelift"}
"""Packages whose modules are what their versions say, and our own code, of which there is a hash."""


def key_of(model: nn.Module, structure: Sequence[Any]) -> str | None:
    """Return what trials of a model depend on as 32 hex digits; None where nothing is kept.

    An adapter's own numbers are no part of it: they are others after each training, and round as the base does.
    """
    import peft
    import transformers

    if sum(p.numel() for p in model.parameters()) < LARGE:
        return None
    kinds = {type(module) for module in model.modules()}
    if any(kind.__module__.partition(".")[0] not in KNOWN_CODE for kind in kinds):
        return None
    versions = [torch.__version__, transformers.__version__, peft.__version__, _own_code()]
    computed = [machine.vectors(), torch.get_num_threads(), str(device_of(model)), os.environ.get(SWITCH)]
    told = json.dumps([*structure, _sums(model), versions, computed], default=_name)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def read(key: str | None) -> dict[str, Any] | None:
    """Return what is kept under a key."""
    if key is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        kept: dict[str, Any] = json.loads(_path(key).read_text(encoding="utf-8"))
        return kept
    return None


def write(key: str | None, found: Mapping[str, Any]) -> None:
    """Keep what was found; a cache that cannot be written costs seconds, nothing else."""
    if key is not None:
        with contextlib.suppress(OSError):
            files.write_json(_path(key), dict(found))


def _path(key: str) -> Path:
    return cache.folder() / "trials" / f"{key}.json"


def _name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)


@once
def _own_code() -> str:
    """Return a hash of the files here and of the facts they ask: what they do differently has to be tried again."""
    here = Path(__file__).parent
    files = [path for folder in (here, here.parent / "model_facts") for path in folder.iterdir()]
    sources = sorted(path for path in files if path.suffix in (".py", ".c", ".h"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


@torch.no_grad()
def _sums(model: nn.Module) -> list[int]:
    """Return sums over the bits of the base's parameters."""
    added = of_adapters(model)
    sums = []
    for module in model.modules():
        for parameter in () if id(module) in added else module.parameters(recurse=False):
            sums.append(sum(bit_sums(parameter)))
    return sums
