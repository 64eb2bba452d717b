"""Train, validation and test: where the rows of each come from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError, listed
from tunelift.data.counts import DataReport
from tunelift.data.sources import resolve_splits, source_name

ROLES = ("train", "validation", "test")
DEFAULT_TEST_FRACTION = 0.2


@dataclass(slots=True)
class RoleSource:
    """Where a role's rows come from: a source of their own, or a fraction of train."""

    source: Any = None
    name: str | None = None
    fraction: float | None = None


def sources_of(section: DataSection, roles: Collection[str], report: DataReport) -> dict[str, RoleSource]:
    """Settle where each role's rows come from, before anything but the list of splits is read."""
    found = {}
    for role in ROLES:
        if (value := getattr(section, role)) is not None:  # a number lies between 0 and 1, as the schema has checked
            found[role] = RoleSource(fraction=value) if isinstance(value, int | float) else RoleSource(value)
    own = resolve_splits(section.train, subset=section.subset) if section.train is not None else None
    if own is not None:
        _use_splits(own, found, section, roles)
    if "test" in roles and "test" not in found:
        if "train" not in found or "train" not in roles:
            raise InputError(
                "There is no test data: data.test is not set.",
                fix=f"Give a file, or the fraction of train that tuning held out (run: {DEFAULT_TEST_FRACTION}).",
            )
        found["test"] = RoleSource(fraction=DEFAULT_TEST_FRACTION)
        report.notes.append(f"data.test is not set: {DEFAULT_TEST_FRACTION:.0%} of train is split off for it")
    if "train" in roles and "train" not in found:
        raise InputError("There is no training data: data.train is not set.", fix="Give a file: --data train.csv")
    return found


def _use_splits(
    own: dict[str, Any], found: dict[str, RoleSource], section: DataSection, roles: Collection[str]
) -> None:
    """Let the splits of a folder or a Hub data set stand for what the settings leave open."""
    name = source_name(section.train)
    if "train" not in own and len(own) > 1 and "train" in roles:
        raise InputError(f"{name} has no train split; it has {listed(own)}.", fix="Set data.train to a file.")
    del found["train"]
    if "train" in own or len(own) == 1:
        found["train"] = RoleSource(own.get("train", next(iter(own.values()))), f"{name} (train)")
    if "validation" in own and "validation" not in section.model_fields_set:
        found["validation"] = RoleSource(own["validation"], f"{name} (validation)")
    if "test" in own and "test" not in found:
        found["test"] = RoleSource(own["test"], f"{name} (test)")


def is_read(role: str, roles: Collection[str], sources: Mapping[str, RoleSource]) -> bool:
    """A source is read for its own role, and train also where a role that was asked for is a part of it."""
    split_off = any(sources[other].fraction is not None for other in roles if other in sources)
    return role in roles or (role == "train" and split_off)
