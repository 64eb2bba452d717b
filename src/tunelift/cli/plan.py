"""`tunelift plan`."""

from __future__ import annotations

import json

import click

from tunelift.cli.command import KeyCommand, adapter_problems, config_arguments, config_of
from tunelift.cli.shared import duration, size

KEYS = ("task", "output", "model", "data", "adapter", "train", "preferences", "evaluate")


@click.command("plan", cls=KeyCommand, keys=KEYS)
@config_arguments
@click.option("--quick", is_flag=True, help="By shapes and rows alone: no model is loaded, and no time is planned.")
@click.option(
    "--machine", "memory", metavar="SIZE", callback=size, help="Plan for another machine's memory, such as 8GB."
)
@click.option(
    "--for", "within", metavar="TIME", callback=duration, help="Fit epochs and test items into a time, such as 30m."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.pass_context
def command(
    ctx: click.Context, arguments: tuple[str, ...], quick: bool, memory: int | None, within: float | None, as_json: bool
) -> None:
    """Say what a run will take, before it begins: bytes by part, seconds by stage, and what to change.

    Bytes follow from the shapes of the model's weights, the rows as they become tokens, and the settings; seconds, and
    what activations really take, from a rehearsal: a few items and a few steps of this very run. What the machine may
    use is its memory, or less where a container or a limit of the process says so. Nothing is written.

    \b
    Examples:
      tunelift plan config.yaml
      tunelift plan --model gemma3-270m --data bbc-news --quick
      tunelift plan config.yaml --machine 8GB
      tunelift plan config.yaml --for 30m
    """
    config = config_of(ctx, arguments, needs=("model.name", "data.train"), checks=[adapter_problems])
    from tunelift.pipeline.planning import plan

    found = plan(config, memory=memory, within=within, quick=quick)
    click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if as_json else str(found))
