"""`tunelift leaderboard`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tunelift.cli.command import KeyCommand
from tunelift.cli.shared import side_options
from tunelift.core.errors import listed
from tunelift.run_files.layout import SCORES, TUNED, RunPaths


@click.command("leaderboard", cls=KeyCommand)
@click.argument("paths", nargs=-1, metavar="BASE TUNED TUNED... | RUN RUN...")
@click.option("--metric", metavar="NAME", help="The metric that the ranks are about; base's first one otherwise.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Level of the intervals.")
@side_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def command(ctx: click.Context, /, paths: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Rank several tuned models against one base, on the same items, and call ties ties.

    BASE and TUNED are scores files, folders with one, or run folders (their tuned side is meant); the folder's name is
    the model's. Where the first is a run folder, its base is taken, and its tuned side is ranked with the others. A
    rank is 1 plus the number of other models that are shown to be better.

    \b
    Examples:
      tunelift leaderboard runs/rank-8 runs/rank-16 runs/dora
      tunelift leaderboard base/scores.jsonl one/scores.jsonl two/scores.jsonl --metric accuracy
      tunelift leaderboard runs/rank-8 runs/rank-16 --json
    """
    base, tuned = _sides(ctx, [Path(path) for path in paths])
    from tunelift.comparison.leaderboard import leaderboard

    board = leaderboard(base, dict(zip(_names(ctx, tuned), tuned, strict=True)), **options)
    click.echo(json.dumps(board.to_dict(), indent=2, ensure_ascii=False) if as_json else str(board))


def _sides(ctx: click.Context, paths: Sequence[Path]) -> tuple[Path, Sequence[Path]]:
    """Return the base and the tuned sides: the base of the first run folder, or the first path."""
    base, tuned = (paths[0] if paths else Path()), paths[1:]
    run = RunPaths(base)
    if run.base.is_dir() and run.tuned.is_dir() and not (base / SCORES).exists():
        base, tuned = run.base, paths
    if len(tuned) < 2:
        raise click.UsageError(
            "Give a base and at least two tuned models, or at least two run folders. For one tuned model there is "
            "tunelift compare.",
            ctx,
        )
    return base, tuned


def _names(ctx: click.Context, paths: Sequence[Path]) -> list[str]:
    """Return a name for each: its folder's, with as many of the folders above as tell them apart."""
    parts = [_named_parts(path) for path in paths]
    repeated = [str(path) for path, own in zip(paths, parts, strict=True) if parts.count(own) > 1]
    if repeated:
        raise click.UsageError(f"Each model can be ranked once, but these are the same: {listed(repeated)}.", ctx)
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            break
    return names


def _named_parts(path: Path) -> tuple[str, ...]:
    """Return the path's parts without those that say nothing: scores.jsonl, tuned, and the ending of another file."""
    path = path.resolve()
    if path.is_file():
        path = path.parent if path.name == SCORES else path.with_suffix("")
    return (path.parent if path.name == TUNED else path).parts
