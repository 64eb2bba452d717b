"""What a run tuned on the Hub: its files with the card, in one commit, and looked at again there."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelift.core import files
from tunelift.core.errors import InputError, TuneliftError
from tunelift.exporting import manifest
from tunelift.exporting.space import alone, check_space
from tunelift.pipeline.redacting import bare, walked
from tunelift.pipeline.whole import tuned_hash
from tunelift.reporting.card import base_model, card_text
from tunelift.reporting.run_contents import read_run
from tunelift.run_files.layout import ADAPTER_CONFIG, CARD, LINEAGE, METRICS, RunPaths

NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
ITS_OWN = (".gitattributes",)
"""What the Hub puts into a new repository."""


@dataclass(frozen=True)
class Upload:
    """What would be, or was, uploaded: the size of each file in bytes, by its path, and where it lies afterwards."""

    repository: str
    private: bool
    sizes: Mapping[str, int]
    address: str = ""
    folder: Path | None = None


def publish(run: str | Path, repository: str, *, public: bool = False, dry: bool = False) -> Upload:
    """Put what a run tuned and its card into a new or empty repository, private unless `public` is asked for.

    The files lie in the run's exports/hub first, and go in one commit, so that the Hub has all of them or none; then
    each is looked at there. No row of the data is among them. With `dry` nothing is written and nobody is asked.
    Raises InputError for a name that is none, a repository that is public or not empty, or no access.
    """
    if not NAME.fullmatch(repository):
        raise InputError(f'"{repository}" is no repository.', fix="Name it whole: --repository OWNER/NAME.")
    paths = RunPaths(run)
    if not paths.comparison.is_file() or not paths.made.is_dir():
        raise InputError(f"{run} is no run that came to a verdict.", fix="Give the folder of tunelift run.")
    _check_measured(paths)
    made = _files(paths, repository)
    sizes = {name: len(value) if isinstance(value, bytes) else value.stat().st_size for name, value in made.items()}
    if dry:
        return Upload(repository, not public, sizes)
    folder = paths.folder / "exports" / f"hub-{repository.replace('/', '-')}"
    with alone(folder):
        check_space(folder, sum(sizes.values()))
        address = ""

        def fill(staging: Path) -> None:
            nonlocal address
            for name, value in made.items():
                (staging / "files" / name).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(value, bytes):
                    (staging / "files" / name).write_bytes(value)
                else:
                    shutil.copyfile(value, staging / "files" / name)
            address, checks = _upload(staging / "files", repository, private=not public)
            facts = {"to": "hub", "repository": repository, "private": not public, "runtime": address, "verdict": None}
            # nothing is scored there: what is shown is that the files there are these
            manifest.write(staging, facts, checks, "its files are there; that they are run there is not shown")

        files.write_folder(folder, fill)
    return Upload(repository, not public, sizes, address, folder)


def _check_measured(paths: RunPaths) -> None:
    info = files.read_object(paths.tuned / METRICS)
    told = ((info.get("made_with") or {}).get("adapter") or {}).get("sha256")
    if told != tuned_hash(paths.made):
        raise InputError(f"{paths.made} is not what the run measured.", fix="tunelift verify says what differs.")


def _files(paths: RunPaths, repository: str) -> dict[str, Path | bytes]:
    """Return what is uploaded, by its path there: what was tuned, without paths of this machine, and the card."""
    run = read_run(paths.folder)
    found: dict[str, Path | bytes] = {
        path.relative_to(paths.made).as_posix(): path for path in sorted(paths.made.rglob("*")) if path.is_file()
    }
    if (paths.made / ADAPTER_CONFIG).is_file():
        config = files.read_object(paths.made / ADAPTER_CONFIG)
        given = str(config.get("base_model_name_or_path") or "")
        config["base_model_name_or_path"] = base_model(run) or bare(given)
        found[ADAPTER_CONFIG] = _json(config)
    if (paths.made / LINEAGE).is_file():
        lineage = files.read_object(paths.made / LINEAGE)
        found[LINEAGE] = _json(lineage | {"base": walked(lineage.get("base") or {}, bare)})
    found[CARD] = card_text(run, repository).encode()
    return found


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _upload(folder: Path, repository: str, *, private: bool) -> tuple[str, list[dict[str, Any]]]:
    """Make the repository where it is not there, put all files into it in one commit, and look at them there."""
    from huggingface_hub import HfApi

    api = HfApi()
    with _told(repository):
        made = not api.repo_exists(repository)
        if made:
            api.create_repo(repository, private=private)
        known = api.repo_info(repository)
        if private and not known.private:
            raise InputError(
                f"{repository} is public.", fix="Say --public if that is meant, or name another repository."
            )
        if there := sorted({one.rfilename for one in known.siblings or []} - {*ITS_OWN}):
            raise InputError(
                f"{repository} holds {there[0]} and {len(there) - 1} other files: two models would lie in one.",
                fix="Name a new repository.",
            )
        try:
            done = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message="Add what tunelift tuned",
                parent_commit=known.sha,
            )
        except BaseException as error:
            if made:
                error.add_note(f"{repository} was made and is empty.")
            raise
        there_now = api.get_paths_info(repository, sorted(_names(folder)), revision=done.oid)
    wrong = [name for name in _names(folder) if _hash_there(there_now, name) not in _hashes(folder / name)]
    detail = f"{wrong[0]} is another there, or missing" if wrong else f"{len(_names(folder))} files, by their hashes"
    if wrong:
        raise TuneliftError(f"What lies in {repository} is not what was sent: {detail}.", fix="Remove it there.")
    return str(done.commit_url), [{"name": "the files there are these", "passed": True, "detail": detail}]


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def _hashes(file: Path) -> tuple[str, str]:
    """Return a file's SHA-256, by which the Hub names large ones, and git's SHA-1, by which it names small ones."""
    git = hashlib.sha1(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as opened:
        for part in iter(lambda: opened.read(1 << 20), b""):
            git.update(part)
    return files.sha256(file), git.hexdigest()


def _hash_there(found: list[Any], name: str) -> str:
    for one in found:
        if one.path == name:
            return str(one.lfs.sha256 if one.lfs else one.blob_id)
    return ""


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """Raise InputError for what the Hub's client says, without the token that it was asked with."""
    from huggingface_hub import get_token

    try:
        yield
    except TuneliftError:
        raise
    except Exception as error:  # the Hub's client raises dozens of unrelated types; all of them end here
        text = " ".join(str(error).split())[:400]
        token = get_token()
        text = text.replace(token, "***") if token else text
        kinds = {kind.__name__ for kind in type(error).__mro__}
        fix = "Check the name, and that you may write there: hf auth login."
        if kinds & {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "TimeoutException"}:
            fix = "Connect, or unset HF_HUB_OFFLINE; --dry-run lists the files without."
        notes = " ".join(getattr(error, "__notes__", []))
        raise InputError(f"{repository} was not uploaded to: {text}", *([notes] if notes else []), fix=fix) from None
