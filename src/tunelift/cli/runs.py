"""`tunelift runs`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from tunelift.cli.command import KeyCommand
from tunelift.core import files
from tunelift.core.errors import InputError, TuneliftError
from tunelift.run_files.layout import LeaderboardPaths, RunPaths, SweepPaths
from tunelift.wording.numbers import aligned

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder in one line: what it is of, how it stands, its verdict, its seconds and its bytes on disk."""

    folder: str
    method: str | None
    status: str
    verdict: str | None
    seconds: float | None
    size_bytes: int

    @classmethod
    def of(cls, paths: RunPaths) -> Run:
        """Read what a run folder says of itself; a file that is damaged leaves its part empty."""
        manifest, comparison = _read(paths.manifest), _read(paths.comparison)
        adapter, seconds = manifest.get("adapter"), manifest.get("seconds")
        headline = comparison.get("headline")
        parts = [headline.get(key) for key in ("verdict", "against", "metric")] if isinstance(headline, dict) else []
        return cls(
            str(paths.folder),
            adapter.get("method") if isinstance(adapter, dict) else None,
            str(manifest.get("status", "damaged")),
            "{} against {} on {}".format(*parts) if parts and all(parts) else None,
            seconds.get("total") if isinstance(seconds, dict) else None,
            sum(file.stat().st_size for file in paths.folder.rglob("*") if file.is_file() and not file.is_symlink()),
        )

    def cells(self) -> tuple[str, ...]:
        """Return the line of the table."""
        took = "" if self.seconds is None else f"{self.seconds:,.0f} s"
        size = f"{self.size_bytes / MIB:,.1f} MiB"
        return self.folder, self.method or "", self.status, self.verdict or "", took, size


@click.command("runs", cls=KeyCommand)
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[FOLDER]...")
@click.option("--remove", is_flag=True, help="Remove these folders, after a question.")
@click.option("-y", "--yes", is_flag=True, help="Remove without a question.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(folders: tuple[Path, ...], remove: bool, yes: bool, as_json: bool) -> None:
    """List run folders: method, state, verdict, seconds and size, the newest first.

    Looks below runs/, or below the folders that are given; the parts of a run (seeds, candidates of a sweep) are listed
    with a sweep's folder only. With --remove the folders that are named are removed, if each is a run folder, or that
    of a sweep or a leaderboard with all that it trained; one in which something is at work stays.

    \b
    Examples:
      tunelift runs
      tunelift runs runs/sweep/candidates --json
      tunelift runs --remove runs/first runs/sweep
    """
    if remove:
        _remove(folders, yes)
        return
    found = [Run.of(paths) for paths in _below(folders or (Path("runs"),))]
    if as_json:
        click.echo(json.dumps([asdict(run) for run in found], indent=2))
    elif not found:
        click.echo("No run folders here.")
    else:
        total = sum(run.size_bytes for run in found)
        click.echo(aligned([("folder", "method", "state", "verdict", "took", "size"), *(run.cells() for run in found)]))
        click.echo(f"{len(found)} runs, {total / MIB:,.1f} MiB")


def _below(folders: tuple[Path, ...]) -> list[RunPaths]:
    """Return the run folders among these folders and directly below, two deep, the newest first."""
    for folder in folders:
        if folder != Path("runs") and not folder.is_dir():
            raise InputError(f"{folder} is no folder.", fix="Name folders that hold run folders.")
    seen = {path.resolve(): RunPaths(path) for folder in folders for path in _run_folders(folder)}
    return sorted(seen.values(), key=lambda paths: paths.manifest.stat().st_mtime, reverse=True)


def _run_folders(folder: Path, depth: int = 2) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
    elif depth and folder.is_dir():
        for below in folder.iterdir():
            if below.is_dir() and not below.is_symlink():
                yield from _run_folders(below, depth - 1)


def _is_run(folder: Path) -> bool:
    paths = RunPaths(folder)
    return paths.manifest.is_file() and paths.config.is_file()


def _is_of_many(folder: Path) -> bool:
    """Tell whether a folder is that of a sweep or a leaderboard, by what they keep there."""
    sweep, board = SweepPaths(folder), LeaderboardPaths(folder)
    return bool(sweep.trained) or any(file.is_file() for file in (sweep.summary, sweep.trials, board.config))


def _remove(folders: tuple[Path, ...], yes: bool) -> None:
    """Remove run folders, whole sweeps and leaderboards, and nothing else; one in which a run is at work stays."""
    from tunelift.pipeline.folder import locked

    wrong = [str(folder) for folder in folders if not (_is_run(folder) or _is_of_many(folder)) or folder.is_symlink()]
    if wrong or not folders:
        what = f"{', '.join(wrong)}: no run folder of ours" if wrong else "No run folder is named"
        raise InputError(f"{what}.", fix="Name run folders; tunelift runs lists them. Nothing was removed.")
    if not yes:
        click.confirm(f"Remove {len(folders)} folders: {', '.join(map(str, folders))}?", abort=True)
    for folder in folders:
        with ExitStack() as at_work:
            for run in {folder, *_run_folders(folder)}:
                at_work.enter_context(locked(run))
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise TuneliftError(f"{folder} could not be removed whole: {error.strerror}.") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return files.read_object(file)
    except InputError:
        return {}
