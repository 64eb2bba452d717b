"""`tunelift sweep`."""

from __future__ import annotations

import click

from tunelift.cli.command import KeyCommand, adapter_problems, config_arguments, config_of
from tunelift.cli.shared import AT_ONCE, STORAGE
from tunelift.run_files.layout import RunPaths, SweepPaths

KEYS = ("task", "output", "model", "data", "adapter", "train", "preferences", "evaluate", "track")


@click.command("sweep", cls=KeyCommand, keys=KEYS)
@config_arguments
@click.option("--on", default="local", metavar="WHERE", show_default=True, help="local, ray, or ray://HOST:PORT.")
@click.option("--at-once", type=click.IntRange(1), default=1, show_default=True, help=AT_ONCE)
@click.option("--storage", metavar="ADDRESS", help=STORAGE)
@click.option("--anyway", is_flag=True, help="Begin although memory does not suffice for all.")
@click.pass_context
def command(
    ctx: click.Context, arguments: tuple[str, ...], on: str, at_once: int, storage: str | None, anyway: bool
) -> None:
    """Train with several settings, choose one on validation, and run that one to a verdict.

    The config names the values under `sweep`; every combination is trained, each in a folder of its own, by the same
    data. The one with the lowest loss on validation is measured on the test rows, and no other; the verdict says among
    how many it was chosen. A sweep that was killed goes on with what is missing.

    Ranges are drawn from by Optuna (extra optuna), `trials` times, and lists with them; trainings whose looks at
    validation fall behind the median of those before are ended early.

    With --on ray the trainings are tasks of a Ray cluster (extra ray), whose workers share the folder, or keep what
    they make at the address of --storage (extra storage): from there a lost one is gone on with, here or elsewhere.

    \b
    In the config:
      sweep:
        train.learning_rate: [1e-4, 3e-4, 1e-3]
        adapter.r: [4, 16]

    \b
    Or:
      sweep:
        trials: 20
        train.learning_rate: {low: 1e-5, high: 1e-3, log: true}
        adapter.r: {low: 4, high: 64, step: 4}
        adapter.method: [lora, vera]

    \b
    Examples:
      tunelift sweep config.yaml
      tunelift sweep config.yaml --at-once 2 --output runs/sweep
      tunelift sweep config.yaml --on ray --at-once 4
      tunelift sweep config.yaml --on ray://10.0.0.5:10001 --storage s3://bucket/sweep
    """
    config = config_of(ctx, arguments, needs=("model.name", "data.train"), checks=[adapter_problems])
    from tunelift.config.load import default_output
    from tunelift.scale.sweep import sweep
    from tunelift.wording.numbers import aligned

    comparison, ranked = sweep(config, on=on, at_once=at_once, anyway=anyway, storage=storage)
    told = [f"ended early, after look {one.pruned}" if one.pruned else f"{one.loss:.4g}" for one in ranked]
    lines = [("setting", "validation loss"), *zip([one.name for one in ranked], told, strict=True)]
    click.echo(aligned(lines))
    click.echo(f"\nChosen: {ranked[0].name}\n")
    click.echo(str(comparison))
    click.echo(f"Report: {RunPaths(SweepPaths(config.output or default_output(config)).chosen).page}")
