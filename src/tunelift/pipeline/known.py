"""Models that were loaded here, and adapters that were looked at: what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tunelift.adapters.defaults import outside_body, owners
from tunelift.core import progress
from tunelift.model_facts.parameters import samples
from tunelift.models import ModelIdentity

_known: WeakKeyDictionary[Any, tuple[ModelIdentity, tuple[str, ...], dict[int, str]]] = WeakKeyDictionary()
"""What we loaded, by the model object: its identity, which an adapter made from it names, its fresh modules, and some
numbers of its weights, by which a model is told that was changed since, as by merging an adapter."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A saved adapter that was looked at: its hash, the tokenizer to ask it with, and what a user should know."""

    sha256: str
    tokenizer: Any
    notes: Sequence[str]


def remember(model: Any, identity: ModelIdentity, fresh: Sequence[str]) -> None:
    """Know a model again that was loaded here."""
    _known[model] = (identity, tuple(fresh), samples(model))


def is_known(base: Any) -> bool:
    """Tell whether a model was loaded here."""
    return base in _known


def new_modules(base: Any, fresh: Sequence[str]) -> Sequence[str]:
    """Return the modules of a classifier that its files lack, or may lack where others loaded it."""
    return fresh if base in _known else _may_be_new(base)


def identity_of(base: Any) -> tuple[ModelIdentity, Sequence[str]]:
    """Return what a model in memory is, and its fresh modules; one that was changed has no hash of a file any more."""
    if base not in _known:
        return _stock_identity(base), ()
    identity, fresh, some = _known[base]
    now = samples(base)
    if any(now.get(key) != numbers for key, numbers in some.items()):
        progress.note(f"{identity.name} was changed since it was loaded, as by merging an adapter: it has no hash")
        identity = replace(identity, name=f"{identity.name}, changed", weights_sha256=None)
    return identity, fresh


def _may_be_new(base: Any) -> tuple[str, ...]:
    """Return the modules of a classifier that its files may have lacked: those outside of the body, and its pooler.

    Nobody can tell of a model that others loaded; a part that was drawn at random is lost if it is not saved.
    """
    poolers = {name for name in owners(base) if "pooler" in name.split(".")}
    return tuple(sorted({*outside_body(base), *poolers}))


def _stock_identity(base: Any) -> ModelIdentity:
    path = getattr(base.config, "_name_or_path", "") or ""
    kind = "folder" if Path(path).is_dir() else "hub"
    return ModelIdentity(path or type(base).__name__, kind, path, getattr(base.config, "_commit_hash", None))  # type: ignore[arg-type]
