"""One slot per name: a table that refuses duplicates and suggests the nearest name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from tunelift.core.errors import InputError, did_you_mean, listed

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing (metrics, formats, tasks, methods) and what each stands for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

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
