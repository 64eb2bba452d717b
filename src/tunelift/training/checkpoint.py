"""Where a training's state is kept between steps: each checkpoint a folder, whole and verified, or not there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunelift.core import files
from tunelift.core.errors import InputError, TuneliftError
from tunelift.core.tensor_file import hashed, read_tensors, write_tensors
from tunelift.run_files.layout import (
    CHECKPOINT_FORMAT,
    CHECKPOINT_STATE,
    CHECKPOINT_STEP,
    CHECKPOINT_TENSORS,
    MANIFEST,
)
from tunelift.training import ranks
from tunelift.training.state import size_of

KEPT = 2

Saved = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and what is no tensor, as JSON has it."""


class Checkpoints:
    """The checkpoints below `folder`, one made every `every` steps; the last two are kept.

    `made_for` says which training they are of (rows, settings, names and shapes): only to that one are they given.
    `choices` are the fast paths taken. `faults` are what `load` came upon, each with what was done about it.
    """

    def __init__(self, folder: Path, every: int, made_for: str, choices: Mapping[str, str] | None = None) -> None:
        self.folder, self.every, self.made_for, self.choices = folder, every, made_for, dict(choices or {})
        self.faults: list[tuple[str, str]] = []

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write the state after `step`, then remove all but the last two.

        Raises TuneliftError where it cannot be written, as on a full disk; those before stay as they are.
        """
        state = _text({**facts, "made_for": self.made_for, "choices": self.choices}).encode()

        def fill(staging: Path) -> None:
            (staging / CHECKPOINT_STATE).write_bytes(state)
            known = {CHECKPOINT_STATE: (len(state), hashlib.sha256(state).hexdigest())}
            known[CHECKPOINT_TENSORS] = write_tensors(staging / CHECKPOINT_TENSORS, tensors)
            # Last, what the files must be, taken before they met the disk.
            (staging / MANIFEST).write_text(_manifest(known), encoding="utf-8")

        try:
            files.write_folder(self.folder / f"{CHECKPOINT_STEP}{step:08d}", fill)
        except OSError as error:
            known = next(
                (f"; {path.name} is" for path in _newest_first(self.folder)), ", none was made before; nothing is"
            )
            raise TuneliftError(
                f"No checkpoint could be made after step {step}: {error}{known} left as it was.",
                fix=f"It takes {_megabytes(len(state) + size_of(tensors.values()))} in {self.folder}. "
                "Make room there, and give the same command again.",
            ) from error
        for path in _newest_first(self.folder)[KEPT:]:
            shutil.rmtree(path)

    def load(self) -> Saved | None:
        """Return the newest state that is whole, or None; those that are not are removed, and named in `faults`.

        Raises InputError where it is of another training, or another one than those of other ranks.
        """
        found = self._newest_whole()
        step = int(found[0].name.removeprefix(CHECKPOINT_STEP)) if found else 0
        if len({int(other) for other in ranks.of_all(torch.tensor([step]))}) > 1:
            raise InputError(
                f"The processes found different checkpoints in {self.folder}.", fix="Give all of them the same folder."
            )
        return found[1] if found else None

    def _newest_whole(self) -> tuple[Path, Saved] | None:
        for path in _newest_first(self.folder):
            try:
                tensors, facts = _read(path)
            except (OSError, ValueError) as error:
                self.faults.append((f"checkpoint {path.name}: {error}", "it was removed; the one before it is taken"))
                shutil.rmtree(path, ignore_errors=True)
                continue
            if facts["made_for"] != self.made_for:
                raise InputError(
                    f"{path} is of another training: its model, rows, settings or adapter differ.",
                    fix=f"Remove {self.folder} to train from the start.",
                )
            if facts["choices"] != self.choices:
                what = f"fast paths were {facts['choices']} and are {self.choices}"
                self.faults.append((what, "training goes on; its last digits may differ"))
            return path, (tensors, facts)
        if self.faults:
            self.faults.append(("no checkpoint is whole", "training begins anew"))
        return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{CHECKPOINT_STEP}*"), reverse=True)


def choices_in(folder: Path | None) -> dict[str, str]:
    """Return the fast paths of the newest checkpoint in a folder; nothing where there is none that says."""
    for path in _newest_first(folder) if folder else ():
        with suppress(OSError, ValueError, KeyError):
            return dict(json.loads((path / CHECKPOINT_STATE).read_text(encoding="utf-8"))["choices"])
    return {}


def check_space(folder: Path, checkpoint: int, others: Mapping[str, int] | None = None) -> None:
    """Raise TuneliftError where the disk has no room for the checkpoints in `folder`, and for `others` (bytes by name).

    `checkpoint` is the size of one (bytes); one more than are kept is there while it is made.
    """
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    needed = {"checkpoints": max(0, checkpoint * (KEPT + 1) - there), **(others or {})}
    total, where = sum(needed.values()), folder
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    if free < total:
        parts = ", ".join(f"{name} {_megabytes(count)}" for name, count in needed.items() if count)
        raise TuneliftError(
            f"The disk of {folder.parent} has {_megabytes(free)} free, and this takes {_megabytes(total)}: {parts}.",
            fix=f"Make room for {_megabytes(total - free)} more, or name another folder with output.",
        )


def _manifest(known: Mapping[str, tuple[int, str]]) -> str:
    """Return what says of each file how many bytes it has and their SHA-256."""
    listed = {name: {"bytes": count, "sha256": sha} for name, (count, sha) in known.items()}
    return _text({"format": CHECKPOINT_FORMAT, "files": listed})


def _read(path: Path) -> Saved:
    """Return a checkpoint's state; raise OSError or ValueError unless every byte is as it was written."""
    found = {name: hashed(path / name) for name in (CHECKPOINT_TENSORS, CHECKPOINT_STATE)}
    if (path / MANIFEST).read_text(encoding="utf-8") != _manifest(found):
        raise ValueError("its files are not as they were written")
    return read_tensors(path / CHECKPOINT_TENSORS), json.loads((path / CHECKPOINT_STATE).read_bytes())


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _megabytes(count: float) -> str:
    return f"{max(1, round(count / 1e6)):,} MB"
