"""One slot per name: a table that refuses duplicates and suggests the nearest name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from tunelift.core.errors import InputError, did_you_mean, listed

T = TypeVar("T")


_registries: dict[str, Registry[Any]] = {}


class Registry(Generic[T]):
    """Names of one kind of thing (metrics, formats, tasks, methods) and what each stands for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        _registries[kind] = self

    def add(self, name: str, entry: T) -> T:
        """Register `entry`; raise ValueError if the name is taken."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """Return the entry; raise InputError that lists the known names and hints at the nearest."""
        if name not in self._entries:
            raise InputError(
                f'There is no {self.kind} "{name}".{did_you_mean(name, self._entries)}',
                fix=f"Known: {listed(self._entries)}.",
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def import_all(package: str, path: Iterable[str]) -> None:
    """Import every file of a package, so that each adds to its registry what it holds."""
    for module in sorted(module.name for module in iter_modules(list(path))):
        import_module(f"{package}.{module}")


def known_names(kind: str, package: str) -> list[str]:
    """Return the names of a kind of thing that has a file of its name each, without importing these files.

    Behind them stand the names that were added from outside.
    """
    spec = find_spec(package)
    files = iter_modules(list(spec.submodule_search_locations or ()) if spec else [])
    names = sorted(file.name.replace("_", "-") for file in files if file.name != "base")
    return list(dict.fromkeys([*names, *_registries.get(kind, ())]))
