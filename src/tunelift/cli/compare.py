"""`tunelift compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunelift.cli.command import KeyCommand, config_of
from tunelift.core import files

if TYPE_CHECKING:
    from tunelift.comparison import Comparison

KEYS = ("task", "model", "data", "train.max_length", "evaluate")


class CompareCommand(KeyCommand):
    """Two scores files need neither the schema nor its options; they are compared within a second."""

    def needs_keys(self, args: Sequence[str]) -> bool:
        names = {argument.partition("=")[0] for argument in args}
        return bool(names & {"--adapter", "--data", "--model", "--help", "-h"})


@click.command("compare", cls=CompareCommand, keys=KEYS, stage="evaluate")
@click.argument("arguments", nargs=-1, metavar="BASE TUNED | RUN_FOLDER | [CONFIG.yaml] [KEY=VALUE]...")
@click.option("--adapter", metavar="FOLDER", help="Measure the model without and with this adapter on --data.")
@click.option("--metric", metavar="NAME", help="The metric that the headline is about.")
@click.option("--margin", type=float, help="A difference smaller than this does not matter: allows equivalent.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Level of the interval.")
@click.option("--json", "as_json", is_flag=True, help="Print comparison.json instead of sentences.")
@click.option("--output", metavar="PATH", help="Write comparison.json to this file; with --adapter: the run folder.")
@click.pass_context
def command(ctx: click.Context, /, arguments: tuple[str, ...], adapter: str | None, **options: Any) -> None:
    """Say whether the tuned model is better than the base, by what was measured on the same items.

    Takes two scores files (or folders with one), or a run folder, or an adapter made anywhere and test rows.

    \b
    Examples:
      tunelift compare base/scores.jsonl tuned/scores.jsonl --metric accuracy --margin 0.01
      tunelift compare runs/gpt2-rows
      tunelift compare --adapter my-adapter --data test.csv
    """
    comparison = _with_adapter(ctx, arguments, adapter, options) if adapter else _of_files(ctx, arguments, options)
    as_json = options["as_json"]
    click.echo(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False) if as_json else str(comparison))


def _of_files(ctx: click.Context, arguments: tuple[str, ...], options: dict[str, Any]) -> Comparison:
    from tunelift.comparison import compare

    if len(arguments) == 1 and Path(arguments[0], "base").is_dir():
        arguments = tuple(str(Path(arguments[0], side)) for side in ("base", "tuned"))
    if len(arguments) != 2:
        raise click.UsageError("Give two scores files, or one run folder that has base/ and tuned/, or --adapter.", ctx)
    base, tuned = arguments
    comparison = compare(base, tuned, metric=options["metric"], margin=options["margin"], level=options["level"])
    if options["output"]:
        files.write_json(Path(options["output"]), comparison.to_dict())
    return comparison


def _with_adapter(ctx: click.Context, arguments: tuple[str, ...], adapter: str, options: dict[str, Any]) -> Comparison:
    for name in ("metric", "margin", "level"):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name} belongs to the comparison of what was measured: "
                f"give it to `tunelift compare RUN_FOLDER --{name} ...` afterwards.",
                ctx,
            )
    flags = {"output": options["output"]} if options["output"] else {}
    config = config_of(ctx, arguments, needs=("data.test",), flags=flags)
    from tunelift.pipeline.stages import compare_adapter

    return compare_adapter(config, adapter)
