"""`tunelift compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunelift.cli.command import MEASURING, KeyCommand, config_of
from tunelift.cli.shared import check_margin, close, gate_options, side_options
from tunelift.core import files
from tunelift.core.errors import listed
from tunelift.run_files.layout import RunPaths

if TYPE_CHECKING:
    from tunelift.comparison import Comparison
    from tunelift.comparison.gates import Gate

KEYS = ("task", "model", "data", "train.max_length", *MEASURING, "evaluate.forgetting", "evaluate.tasks")
MEANING = ("higher_better", "lower_better", "columns")


class CompareCommand(KeyCommand):
    """Two scores files need neither the schema nor its options; they are compared within a second."""

    def needs_keys(self, args: Sequence[str]) -> bool:
        names = {argument.partition("=")[0] for argument in args}
        return bool(names & {"--adapter", "--data", "--model", "--help", "-h"})


@click.command("compare", cls=CompareCommand, keys=KEYS, stage="evaluate")
@click.argument("arguments", nargs=-1, metavar="BASE TUNED | RUN_FOLDER | [CONFIG.yaml] [KEY=VALUE]...")
@click.option(
    "--adapter",
    metavar="FOLDER",
    help="Measure the model and this adapter or tuned model, or that of a run, on --data.",
)
@click.option("--metric", metavar="NAME", help="The metric that the headline is about.")
@click.option(
    "--margin",
    type=float,
    help="A difference smaller than this, in the metric's units, does not matter.",
    metavar="NUMBER",
)
@click.option("--level", type=float, default=0.95, show_default=True, help="Level of the interval.")
@click.option(
    "--slice", "--slices", "slices", metavar="COLUMN", multiple=True,
    help='Compare the values of this key of the rows each by itself ("reference": each label). Repeatable.',
)  # fmt: skip
@side_options
@gate_options
@click.option("--json", "as_json", is_flag=True, help="Print comparison.json instead of sentences.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a short text for a CI log or a pull request.")
@click.option("--output", metavar="PATH", help="Write comparison.json to this file; with --adapter: the run folder.")
@click.pass_context
def command(ctx: click.Context, /, arguments: tuple[str, ...], adapter: str | None, **options: Any) -> None:
    """Say whether the tuned model is better than the base, by what was measured on the same items.

    Takes two scores files (or folders with one), or a run folder, or an adapter made anywhere and test rows. With
    --require-better or --require-no-worse the command is a gate for CI: its exit code is 0 where all of them pass and 3
    where one does not. Gates are about the base, not about other baselines; a single one makes its metric the headline,
    and of several the further ones are judged with Holm's correction.

    Whether a higher value of a metric is better is known of the tool that wrote the file, of the metric's name, or of
    --higher-better and --lower-better. Where nobody says, a difference is shown, and nothing is called better.

    \b
    Examples:
      tunelift compare base/scores.jsonl tuned/scores.jsonl --metric accuracy --margin 0.01
      tunelift compare base/scores.jsonl tuned/scores.jsonl --slice reference
      tunelift compare before.csv after.csv --metric toxicity --lower-better toxicity --columns id=qid,input=text
      tunelift compare runs/gpt2-rows
      tunelift compare runs/gpt2-rows --require-better accuracy --markdown
      tunelift compare runs/gpt2-rows --require-no-worse loss --margin 0.02
      tunelift compare --adapter my-adapter --data test.csv
    """
    if options["as_json"] and options["as_markdown"]:
        raise click.UsageError("--json and --markdown exclude each other.", ctx)
    comparison = _with_adapter(ctx, arguments, adapter, options) if adapter else _of_files(ctx, arguments, options)
    from tunelift.comparison.gates import check_gates

    gates = check_gates(comparison, options["require_better"], options["require_no_worse"])
    click.echo(_shown(comparison, gates, options))
    close(ctx, gates, show=not options["as_markdown"], to_stderr=options["as_json"])


def _of_files(ctx: click.Context, arguments: tuple[str, ...], options: dict[str, Any]) -> Comparison:
    check_margin(ctx, options["require_no_worse"], options["margin"])
    from tunelift.comparison.gates import gate_metric

    metric = gate_metric(options["metric"], options["require_better"], options["require_no_worse"])
    settings = {"metric": metric, "margin": options["margin"], "level": options["level"]}
    meaning = {name: options[name] for name in MEANING}
    if len(arguments) == 1 and RunPaths(arguments[0]).base.is_dir():
        comparison = _of_run(ctx, arguments[0], options["slices"], meaning, settings)
    elif len(arguments) == 2:
        from tunelift.comparison import compare

        base, tuned = arguments
        comparison = compare(base, tuned, slices=options["slices"], **settings, **meaning)
    else:
        raise click.UsageError("Give two scores files, or one run folder that has base/ and tuned/, or --adapter.", ctx)
    if options["output"]:
        files.write_json(Path(options["output"]), comparison.to_dict())
    return comparison


def _of_run(
    ctx: click.Context, folder: str, slices: Sequence[str], meaning: dict[str, Any], settings: dict[str, Any]
) -> Comparison:
    if any(meaning.values()):
        flags = listed(_flag(name) for name, value in meaning.items() if value)
        raise click.UsageError(f"{flags} goes with two files: a run says what its metrics are.", ctx)
    if slices:
        run = RunPaths(folder)
        raise click.UsageError(
            f"--slice goes with two sides: tunelift compare {run.base} {run.tuned} --slice {slices[0]}. A run "
            "folder has the slices that evaluate.slices named.",
            ctx,
        )
    from tunelift.comparison.run_folder import compare_run

    return compare_run(folder, **settings)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _with_adapter(ctx: click.Context, arguments: tuple[str, ...], adapter: str, options: dict[str, Any]) -> Comparison:
    for name in ("metric", "level", *MEANING):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = _flag(name)
            raise click.UsageError(
                f"{flag} belongs to the comparison of what was measured: give it to "
                f"`tunelift compare RUN_FOLDER {flag} ...` afterwards, or to a comparison of two files.",
                ctx,
            )
    slices = list(options["slices"]) or None
    given = {"output": options["output"], "evaluate.margin": options["margin"], "evaluate.slices": slices}
    flags = {key: value for key, value in given.items() if value is not None}
    config = config_of(ctx, arguments, needs=("data.test",), flags=flags)
    check_margin(ctx, options["require_no_worse"], config.evaluate.margin)
    from tunelift.pipeline.stages import compare_adapter

    return compare_adapter(config, adapter, [*options["require_better"], *options["require_no_worse"]])


def _shown(comparison: Comparison, gates: Sequence[Gate], options: dict[str, Any]) -> str:
    if options["as_json"]:
        return json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False)
    if options["as_markdown"]:
        from tunelift.wording.comparison_text import markdown

        return markdown(comparison.to_dict(), gates)
    return str(comparison)
