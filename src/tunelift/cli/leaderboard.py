"""`tunelift leaderboard`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tunelift.cli.command import KeyCommand, adapter_problems, config_of
from tunelift.cli.shared import AT_ONCE, STORAGE, side_options
from tunelift.core.errors import listed
from tunelift.run_files.layout import SCORES, TUNED, RunPaths

KEYS = ("output", "model", "data", "train", "evaluate", "leaderboard", "track")


class LeaderboardCommand(KeyCommand):
    """Folders of scores need neither the schema nor its options."""

    def needs_keys(self, args: Sequence[str]) -> bool:
        return any(argument.endswith((".yaml", ".yml")) or argument in ("--help", "-h") for argument in args)


@click.command("leaderboard", cls=LeaderboardCommand, keys=KEYS)
@click.argument("paths", nargs=-1, metavar="BASE TUNED TUNED... | RUN RUN... | CONFIG.yaml [KEY=VALUE]...")
@click.option("--metric", metavar="NAME", help="The metric that the ranks are about; base's first one otherwise.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Level of the intervals.")
@side_options
@click.option(
    "--on", default="local", metavar="WHERE", show_default=True, help="Of a config: local, ray, or ray://HOST:PORT."
)
@click.option("--at-once", type=click.IntRange(1), default=1, show_default=True, help=AT_ONCE)
@click.option("--storage", metavar="ADDRESS", help=f"Of a config: {STORAGE[0].lower()}{STORAGE[1:]}")
@click.option("--anyway", is_flag=True, help="Of a config: begin although memory does not suffice for all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def command(ctx: click.Context, /, paths: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Rank several tuned models against one base, on the same items, and call ties ties.

    BASE and TUNED are scores files, folders with one, or run folders (their tuned side is meant); the folder's name is
    the model's. Where the first is a run folder, its base is taken, and its tuned side is ranked with the others. A
    rank is 1 plus the number of other models that are shown to be better.

    A config that names methods below `leaderboard` has them trained first: each with its own learning rate, chosen on
    validation; the better half goes on with twice the length; the finalists alone are measured on the test rows, with
    every seed of train.seeds. What was done stays: the same command goes on.

    \b
    Examples:
      tunelift leaderboard runs/rank-8 runs/rank-16 runs/dora
      tunelift leaderboard base/scores.jsonl one/scores.jsonl two/scores.jsonl --metric accuracy
      tunelift leaderboard runs/rank-8 runs/rank-16 --json
      tunelift leaderboard methods.yaml --output runs/methods --at-once 2
    """
    if any(path.endswith((".yaml", ".yml")) for path in paths):
        _of_config(ctx, paths, as_json, options)
        return
    for name in ("on", "at_once", "storage", "anyway"):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with a config: nothing is trained here.", ctx)
        del options[name]
    base, tuned = _sides(ctx, [Path(path) for path in paths])
    from tunelift.comparison.leaderboard import leaderboard

    board = leaderboard(base, dict(zip(_names(ctx, tuned), tuned, strict=True)), **options)
    click.echo(json.dumps(board.to_dict(), indent=2, ensure_ascii=False) if as_json else str(board))


def _of_config(ctx: click.Context, arguments: Sequence[str], as_json: bool, options: dict[str, Any]) -> None:
    """Train what a config names, and rank it."""
    for name in ("metric", "level", "higher_better", "lower_better", "columns"):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag} goes with files: a config says what is measured.", ctx)
    config = config_of(ctx, arguments, needs=("model.name", "data.train"), checks=[adapter_problems])
    from tunelift.config.load import default_output
    from tunelift.run_files.layout import LeaderboardPaths
    from tunelift.scale.leaderboard import rank
    from tunelift.wording.leaderboard_text import further

    board, summary = rank(config, **{name: options[name] for name in ("on", "at_once", "storage", "anyway")})
    if as_json:
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    click.echo("\n\n".join([str(board), *further(summary)]))
    click.echo(f"\nTable and figure: {LeaderboardPaths(config.output or default_output(config)).markdown}")


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
