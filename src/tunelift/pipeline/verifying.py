"""What a run or an export says of itself, made again from its files alone: for somebody who did not make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunelift.comparison.differing import differing
from tunelift.comparison.looks_at_test_sets import uncounted
from tunelift.comparison.run_folder import compare_run
from tunelift.core import files
from tunelift.core.errors import InputError, TuneliftError
from tunelift.exporting import manifest
from tunelift.pipeline.whole import tuned_hash
from tunelift.run_files.layout import FORMAT, METRICS, SCORES, RunPaths

GIVE = "Give the folder that tunelift wrote."


def verify(folder: str | Path) -> tuple[list[str], list[str]]:
    """Return what agrees, and what does not, each as a sentence; raise InputError for a folder that is neither."""
    folder = Path(folder)
    for name in (manifest.NAME, manifest.IMPORT):
        if (folder / name).is_file():
            return _export(folder, name)
    paths = RunPaths(folder)
    if not paths.manifest.is_file():
        raise InputError(f"{folder} is neither a run nor an export, nor an adapter that was imported.", fix=GIVE)
    right, wrong = _run(paths)
    for export in sorted((folder / "exports").glob(f"*/{manifest.NAME}")):
        good, bad = _export(export.parent)
        bad += _of_another(export, paths)
        right += [f"{export.parent.name}: {one}" for one in good]
        wrong += [f"{export.parent.name}: {one}" for one in bad]
    return right, wrong


def untold(folder: str | Path) -> list[str]:
    """Return what a redacted run says that nobody can make again from it; empty for what is none."""
    if not RunPaths(folder).manifest.is_file():
        return []
    said = files.read_object(RunPaths(folder).manifest).get("redacted") or {}
    return [str(one) for one in [said.get("said"), *(said.get("lost") or [])] if one]


def _of_another(export: Path, paths: RunPaths) -> list[str]:
    """Say so where an export is of another model than the one that lies in the run now."""
    told = (files.read_object(export).get("made_of") or {}).get("tuned") or {}
    if not paths.made.is_dir() or told.get("sha256") == tuned_hash(paths.made):
        return []
    return [f"it is of another {paths.made.name}/ than the one that is there: export it again"]


def _export(folder: Path, name: str = manifest.NAME) -> tuple[list[str], list[str]]:
    said = files.read_object(folder / name)
    wrong = manifest.again(folder, name)
    if wrong:
        return [], wrong
    done = "exported" if name == manifest.NAME else "written by the import"
    right = [f"{len(said['files'])} files are those that were {done}"]
    if said["status"] == manifest.PROVED:
        right.append(f"the scores in {said['runtime']} are the model's, within {manifest.tolerance(folder):.2g}")
    else:
        right.append(f"not proved then: {said.get('reason')}")
    right += ["the verdict follows from the scores"] if said.get("verdict") else []
    return right, []


def _run(paths: RunPaths) -> tuple[list[str], list[str]]:
    known, right, wrong = files.read_manifest(paths.manifest), list[str](), list[str]()
    for proof in known.get("proofs", []):
        (right if proof.get("passed") else wrong).append(f"proof of the tune: {proof.get('name')}")
    if known.get("status") != "complete":
        wrong.append(f"the run is not complete: {known.get('status')}")
    if paths.made.is_dir():
        _same_adapter(paths, known, right, wrong)
    if paths.comparison.is_file():
        _same_verdict(paths, right, wrong)
    return right, wrong


def _same_adapter(paths: RunPaths, known: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    """The scores of the tuned side say by hash which adapter was on."""
    there = tuned_hash(paths.made)
    info = files.read_object(paths.tuned / METRICS)
    measured = ((info.get("made_with") or {}).get("adapter") or {}).get("sha256")
    told = measured or known.get("adapter", {}).get("sha256")
    if told is None:
        wrong.append(f"nothing says which {paths.made.name} was measured")
    elif told != there:
        wrong.append(f"{paths.made.name}/ is another than the one that was measured ({there[:12]}, not {told[:12]})")
    else:
        right.append(f"{paths.made.name}/ is the one that was measured ({there[:12]})")


def _same_verdict(paths: RunPaths, right: list[str], wrong: list[str]) -> None:
    told = files.read_object(paths.comparison)
    files.check_format(told, paths.comparison, FORMAT)
    if told.get("format", FORMAT) < FORMAT:
        wrong.append(
            f"comparison.json is of format {told['format']}, and this tunelift computes format {FORMAT} of the same "
            f"scores: tunelift compare {paths.folder} says what they come to now"
        )
        return
    try:
        with uncounted():
            found = compare_run(paths.folder).to_dict() | {"looks": told.get("looks")}
    except TuneliftError as error:
        wrong.append(f"the scores cannot be compared any more: {error}")
        return
    apart = list(differing(told, found, ""))
    if apart:
        wrong += [f"comparison.json does not follow from the scores: {one}" for one in apart[:8]]
    else:
        rows = sum(1 for _ in files.read_jsonl(paths.tuned / SCORES))
        right.append(f"comparison.json follows from the scores, every number of it ({rows} items)")
