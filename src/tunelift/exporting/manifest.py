"""export.json: what was exported, of what it was made, which bytes it is, and whether it was proved."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.comparison.differing import differing
from tunelift.comparison.looks_at_test_sets import uncounted
from tunelift.core import files, provenance
from tunelift.core.errors import InputError
from tunelift.core.version import __version__
from tunelift.exporting import evidence
from tunelift.exporting.checking import LEFT, SCORES, ExportFailed, check
from tunelift.exporting.equality import FACTOR, FLOOR, equal, share_left, tolerance_of

NAME, IMPORT, EXPORT_FORMAT = "export.json", "import.json", 1
SCRATCH = ".scratch"
"""Files that only the proof needs; they are gone before the export is there."""

PROVED, UNPROVED = "proved", "not proved"
BASE_MAY = 5e-3
"""Nats: the most that any runtime's rounding may set the base apart; each has its own limit when it is proved."""

LEAST_LEFT = 0.5
"""Of what was tuned, that rounding must leave."""

MERGING = 1e-3
"""Nats: adding an adapter to the weights sums the same in another order; in 32 bits that shows in the last digits."""


def write(folder: Path, facts: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], unproved: str = "") -> None:
    """Write export.json, the last file of an export; `unproved` says why nothing was run, where nothing was."""
    status = UNPROVED if unproved else PROVED
    value = {
        "format": EXPORT_FORMAT,
        "tunelift": __version__,
        "versions": provenance.versions(),
        **facts,
        "status": status,
        **({"reason": unproved} if unproved else {}),
        "proofs": list(checks),
        "files": hashes(folder),
    }
    files.write_json(folder / NAME, value)


def close(
    folder: Path, facts: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], runtime: str | None, missing: str
) -> None:
    """End an export that was run in `runtime`, or was not, for which `missing` is the reason.

    Raises ExportFailed where a check did not pass.
    """
    shutil.rmtree(folder / SCRATCH)
    if not all(one["passed"] for one in checks):
        raise ExportFailed(checks)
    run_in = {"runtime": runtime} if runtime else {}
    write(folder, {**facts, **run_in}, checks, too_alike(folder) if runtime else missing)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of an export, or an import, but the one that tells of it, by its path."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (NAME, IMPORT))
    return {path.relative_to(folder).as_posix(): files.sha256(path) for path in found}


def again(folder: Path, name: str = NAME) -> list[str]:
    """Make the proof of an export, or an import, again from its files; return what does not agree, each as a sentence.

    Raises InputError for a file that is none of ours.
    """
    value = files.read_object(folder / name)
    files.check_format(value, folder / name, EXPORT_FORMAT)
    told, there = value.get("files"), hashes(folder)
    proofs = value.get("proofs")
    if not isinstance(told, dict) or not isinstance(proofs, list) or not all(isinstance(one, dict) for one in proofs):
        raise InputError(f"{folder / name} has no files or no proofs as tunelift writes them.")
    done = "exported" if name == NAME else "imported"
    wrong = [f"{one} is missing" for one in told if one not in there]
    wrong += [f"{one} is not the file that was {done}" for one in told if there.get(one, told[one]) != told[one]]
    wrong += [f"{one} was not there when it was {done}" for one in there if one not in told]
    if value.get("status") not in (PROVED, UNPROVED):
        wrong.append(f"the status is {value.get('status')!r}, which is none")
    if value.get("status") != PROVED:
        return wrong
    wrong += [f"the proof {one.get('name')!r} did not pass" for one in proofs if one.get("passed") is not True]
    if SCORES not in [one.get("name") for one in proofs]:
        wrong.append(f"it says {PROVED}, and no proof of the scores is told")
    try:
        return wrong + _scores_again(folder) + _verdict_again(folder, value.get("verdict"))
    except (TypeError, ValueError, AttributeError, LookupError) as error:  # rows of another tool, or of nobody
        return [*wrong, f"the scores that the proof rests on cannot be read: {error}"]


def _scores_again(folder: Path) -> list[str]:
    sides = {side: evidence.read(folder, side) for side in (evidence.MODEL, evidence.MERGED, evidence.EXPORTED)}
    model, merged, exported = sides.values()
    if model is None or exported is None:
        return ["the scores that the proof rests on are missing"]
    wrong = []
    if merged is not None and not equal(model, merged, MERGING).holds:
        wrong.append("merged, the model has other scores than with its adapter on")
    allowed = tolerance(folder)
    if allowed > FACTOR * BASE_MAY:
        wrong.append(f"the base's own scores are {allowed / FACTOR:.2g} apart, which no rounding is")
    found = equal(model if merged is None else merged, exported, allowed)
    if not found.holds:
        wrong.append(f"the scores are {found.largest:.2g} apart (item {found.item}), and {allowed:.2g} is allowed")
    wrong += [f"{one['name']}: {one['detail']}" for one in left(folder) if not one["passed"]]
    if too_alike(folder):
        wrong.append(f"it says {PROVED}, but {too_alike(folder)}")
    return wrong


def left(folder: Path, keeps: str = "a wider type") -> list[dict[str, Any]]:
    """Return the check that rounding left what was tuned, where both were rounded; none where they are too alike.

    Weights that were read from a file in few bits lie on its steps, and a small change of them is rounded away; `keeps`
    says what to write instead.
    """
    names = evidence.BASE, evidence.MODEL, evidence.BASE_ROUNDED, evidence.TUNED_ROUNDED
    base, tuned, rounded_base, rounded = (evidence.read(folder, side) for side in names)
    if base is None or tuned is None or rounded_base is None or rounded is None or too_alike(folder):
        return []
    share = share_left(base, tuned, rounded_base, rounded)
    if share is None:
        return []
    detail = f"{share:.0%} of what tuning changes in the scores is there when base and tuned are rounded"
    if share >= LEAST_LEFT:
        return [check(LEFT, True, detail)]
    return [check(LEFT, False, f"{detail}; {keeps} keeps more")]


def too_alike(folder: Path) -> str:
    """Say so where the tuned model and its base are no further apart than rounding: such scores prove nothing."""
    model, base = evidence.read(folder, evidence.MODEL), evidence.read(folder, evidence.BASE)
    if model is None or base is None or not equal(model, base, tolerance(folder)).holds:
        return ""
    return "on these items the tuned model has the base's scores, as far as the program's rounding tells them apart"


def tolerance(folder: Path) -> float:
    """Return what is allowed by the base's own scores, here and there, where they were measured."""
    here, there = evidence.read(folder, evidence.BASE), evidence.read(folder, evidence.BASE_THERE)
    if here is None or there is None:
        return FACTOR * FLOOR
    return tolerance_of(equal(here, there, FLOOR))


def verdict(folder: Path) -> dict[str, Any] | None:
    """Return the paired verdict of the exported file against the model on the test set, where it was measured."""
    from tunelift.comparison import compare

    one, other = (folder / evidence.FOLDER / side for side in (evidence.WHOLE, evidence.ROUNDED))
    if not (one.is_dir() and other.is_dir()):
        return None
    with uncounted():  # which file is better is not chosen by it
        return compare(one, other).to_dict()


def _verdict_again(folder: Path, told: Any) -> list[str]:
    found = verdict(folder)
    if found is None and told is None:
        return []
    if found is None or told is None:
        return ["the verdict and the scores that it rests on are not both there"]
    apart = differing(told, found, "verdict")
    wrong = [f"export.json does not follow from the scores: {one}" for one in apart[:8]]
    if not left(folder):  # a verdict is of rounded weights alone
        wrong.append("the scores that tell what rounding left of what was tuned are missing")
    return wrong
