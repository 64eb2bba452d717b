"""`tunelift cache`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tunelift.cli.command import KeyCommand
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.wording.numbers import aligned

SCORES, MODELS, ALL = "scores", "models", "all"


@dataclass(slots=True)
class CacheEntry:
    """What lies in the cache under one name: scores of one model, a converted model, or a folder of small facts."""

    kind: str
    name: str
    adapter: str | None = None
    items: int | None = None
    paths: list[Path] = field(default_factory=list)
    size_bytes: int = 0
    used: float = 0.0

    def holds(self, path: Path) -> None:
        facts = [file.stat() for file in (path, *path.rglob("*")) if file.is_file()]
        self.paths.append(path)
        self.size_bytes += sum(fact.st_size for fact in facts)
        self.used = max([self.used, *(fact.st_mtime for fact in facts)])

    def to_dict(self) -> dict[str, Any]:
        about = {"kind": self.kind, "name": self.name, "adapter": self.adapter, "items": self.items}
        used = datetime.fromtimestamp(self.used, UTC).isoformat(timespec="seconds")
        return {**about, "size_bytes": self.size_bytes, "used": used}

    def cells(self) -> tuple[str, ...]:
        name = f"{self.name} with {self.adapter}" if self.adapter else self.name
        items = "" if self.items is None else f"{self.items:,}"
        used = datetime.fromtimestamp(self.used).astimezone().strftime("%Y-%m-%d %H:%M")
        return name, self.kind, items, f"{self.size_bytes / 2**20:.1f} MiB", used


@click.command("cache", cls=KeyCommand)
@click.option(
    "--clear", is_flag=False, flag_value=SCORES, metavar="[NAME]",
    help='Remove all scores, or what has this name, or everything with "all".',
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(clear: str | None, as_json: bool) -> None:
    """Show what is kept so that it need not be computed again: scores of items, converted models, hashes.

    Scores are kept for each model and adapter, 1 GiB at most; with evaluate.cache=false they are neither read nor
    written. The folder is that of TUNELIFT_CACHE, or the user's cache folder.

    \b
    Examples:
      tunelift cache
      tunelift cache --clear
      tunelift cache --clear gemma3-270m
      tunelift cache --clear all
    """
    from tunelift.core.cache import folder

    kept = [*_scores(), *_others(folder())]
    shown = kept if clear is None else _cleared(kept, clear)
    if as_json:
        click.echo(json.dumps({"folder": str(folder()), "kept": [entry.to_dict() for entry in shown]}, indent=2))
    elif not shown:
        click.echo(f"{folder()} holds nothing.")
    else:
        total = ("total", "", "", f"{sum(entry.size_bytes for entry in shown) / 2**20:.1f} MiB", "")
        rows = [*(entry.cells() for entry in shown), total]
        click.echo(f"{folder()}{'' if clear is None else ': removed'}")
        click.echo(aligned([("name", "kind", "items", "size", "last used"), *rows], "<>"))


def _scores() -> list[CacheEntry]:
    """Return the scores by model and adapter, those used last first."""
    from tunelift.evaluation.cache import files_kept

    found: dict[tuple[str, str | None], CacheEntry] = {}
    for path, about, items in files_kept():
        name, adapter = str(about.get("model") or "unknown"), about.get("adapter")
        entry = found.setdefault((name, adapter), CacheEntry(SCORES, name, adapter, 0))
        entry.items = (entry.items or 0) + items
        entry.holds(path)
    return sorted(found.values(), key=lambda entry: -entry.used)


def _others(folder: Path) -> Iterator[CacheEntry]:
    """Yield each converted model by itself, and each other folder as a whole."""
    for path in sorted(folder.glob("*")):
        converted = path.name == MODELS
        for one in sorted(path.glob("[!.]*")) if converted else [path]:
            if one.name != SCORES:
                entry = CacheEntry("converted model" if converted else path.name, one.name)
                entry.holds(one)
                yield entry


def _cleared(kept: Sequence[CacheEntry], name: str) -> list[CacheEntry]:
    """Remove what has a name, or is of that kind, and return it; raise InputError where nothing does."""
    meant = [entry for entry in kept if name in (ALL, entry.kind, entry.name)]
    if not meant and name not in (ALL, SCORES):
        names = dict.fromkeys(entry.name for entry in kept)
        raise InputError(
            f'The cache holds nothing called "{name}".{did_you_mean(name, names)}',
            fix=f"It holds: {listed(names) or 'nothing'}.",
        )
    for path in (path for entry in meant for path in entry.paths):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    return meant
