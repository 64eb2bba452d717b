"""`tunelift run`."""

from __future__ import annotations

from pathlib import Path

import click

from tunelift.cli.command import KeyCommand, adapter_problems, config_arguments, config_of
from tunelift.cli.shared import check_margin, close, duration, gate_options
from tunelift.run_files.layout import RunPaths

KEYS = ("task", "output", "model", "data", "adapter", "train", "preferences", "evaluate", "larger_model", "track")


@click.command("run", cls=KeyCommand, keys=KEYS)
@config_arguments
@gate_options
@click.option(
    "--for", "within", metavar="TIME", callback=duration, help="Fit epochs and test items into a time, such as 30m."
)
@click.option("--anyway", is_flag=True, help="Begin although memory does not suffice.")
@click.option(
    "--chosen", type=click.Path(path_type=Path), hidden=True, help="By tunelift leaderboard, for its finalists."
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    arguments: tuple[str, ...],
    *,
    require_better: tuple[str, ...],
    require_no_worse: tuple[str, ...],
    within: float | None,
    anyway: bool,
    chosen: Path | None,
) -> None:
    """Measure a model, tune it, measure it again on the same items, compare, and write a report.

    \b
    Examples:
      tunelift run --model gemma3-270m --data bbc-news
      tunelift run --model gpt2 --data rows.csv --prompt "Message: {text}\\nIntent:" --completion " {category}"
      tunelift run config.yaml
      tunelift run config.yaml train.learning_rate=1e-4 adapter.r=16 --output runs/second
      tunelift run config.yaml --require-better accuracy
      tunelift run config.yaml --for 30m
    """
    config = config_of(ctx, arguments, needs=("model.name", "data.train"), checks=[adapter_problems])
    check_margin(ctx, require_no_worse, config.evaluate.margin)
    from tunelift.config.load import default_output
    from tunelift.pipeline.run import run
    from tunelift.pipeline.tuning import Chosen

    if within is not None:
        from tunelift.pipeline.planning import shortened

        config = shortened(config, within)
    trained = Chosen.read(chosen) if chosen else None
    comparison = run(config, [*require_better, *require_no_worse], trained, anyway=anyway)
    click.echo(str(comparison))
    click.echo(f"Report: {RunPaths(config.output or default_output(config)).page}")
    if require_better or require_no_worse:
        from tunelift.comparison.gates import check_gates

        close(ctx, check_gates(comparison, require_better, require_no_worse))
