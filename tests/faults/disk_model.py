"""A disk to fail: every system call by which files are written, hooked; and what a power loss would leave of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tunelift.core import files

CALLS = ("mkdir", "rename", "replace", "fsync", "chmod", "unlink", "rmdir")
WRITES = ("write_bytes", "write_text")


@contextmanager
def hooked(hook: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Call `hook(name, arguments)` before each system call that changes a disk, while it may still fail or stop."""
    busy = False

    def wrapped(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal busy
            if not busy:  # the hook's own calls are none of the program's
                busy = True
                try:
                    hook(name, arguments)
                finally:
                    busy = False
            return plain(*arguments, **named)

        return call

    patches = [mock.patch.object(os, name, wrapped(name, getattr(os, name))) for name in CALLS]
    patches += [mock.patch.object(Path, name, wrapped("write", getattr(Path, name))) for name in WRITES]
    plain = files.write_parts
    whole = wrapped("write", lambda path, content: plain(path, [content]))
    patches.append(mock.patch.object(files, "write_parts", lambda path, parts: whole(path, b"".join(parts))))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


@dataclass
class Node:
    """A file or a folder: what it holds now, and what of it is on the platters."""

    content: bytes | None = None
    synced: bytes | None = None
    now: dict[str, Node] = field(default_factory=dict)
    entries: dict[str, Node] = field(default_factory=dict)


class Disk:
    """Records the writes below a folder; `after_power_loss` gives what may be left of them.

    Strict: a file's bytes are safe once it was synced, a name once its folder was. Names not yet synced may be there
    or not, in the order they were made; bytes not yet synced are cut in half.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.node, self.pending = root, Node(), list[tuple[Node, str, Node | None]]()

    def at(self, path: Path) -> Node:
        node = self.node
        for part in path.relative_to(self.root).parts:
            node = node.now[part]
        return node

    def point(self, path: Path, target: Node | None) -> None:
        folder = self.at(path.parent)
        if target is None:
            folder.now.pop(path.name)
        else:
            folder.now[path.name] = target
        self.pending.append((folder, path.name, target))

    def sync(self, node: Node) -> None:
        node.synced = node.content
        for folder, name, target in [entry for entry in self.pending if entry[0] is node]:
            _apply(folder, name, target)
        self.pending = [entry for entry in self.pending if entry[0] is not node]

    def heard(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Record a call; those that only touch permissions are nothing to it."""
        if name == "fsync":
            path = Path(f"/proc/self/fd/{arguments[0]}").readlink()
            if path.is_relative_to(self.root):
                self.sync(self.at(path))
        elif name in ("rename", "replace"):
            old, new = map(Path, arguments[:2])
            node = self.at(old)
            self.point(old, None)
            self.point(new, node)
        elif name == "mkdir":
            self.point(Path(arguments[0]), Node())
        elif name == "write":
            content = arguments[1] if isinstance(arguments[1], bytes) else arguments[1].encode()
            self.point(Path(arguments[0]), Node(content))

    def after_power_loss(self, place: Path, kept: int) -> None:
        """Write what is left, with the first `kept` names that were not synced, below `place`."""
        entries = {id(node): dict(node.entries) for node in _all(self.node)}
        for folder, name, target in self.pending[:kept]:
            _apply(folder, name, target, entries.setdefault(id(folder), {}))
        _write(self.node, place, entries)


def _all(node: Node) -> Iterator[Node]:
    yield node
    for below in {**node.entries, **node.now}.values():
        yield from _all(below)


def _apply(folder: Node, name: str, target: Node | None, entries: dict[str, Node] | None = None) -> None:
    entries = folder.entries if entries is None else entries
    if target is None:
        entries.pop(name, None)
    else:
        entries[name] = target


def _write(node: Node, place: Path, entries: dict[int, dict[str, Node]]) -> None:
    if node.content is not None:
        place.write_bytes(node.content[: len(node.content) // 2] if node.synced is None else node.synced)
        return
    place.mkdir(parents=True)
    for name, below in entries.get(id(node), {}).items():
        _write(below, place / name, entries)
