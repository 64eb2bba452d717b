"""`tunelift tune`."""

from __future__ import annotations

import click

from tunelift.cli.command import KeyCommand, adapter_problems, config_arguments, config_of

KEYS = ("task", "output", "model", "data", "adapter", "train")


@click.command("tune", cls=KeyCommand, keys=KEYS)
@config_arguments
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Train an adapter on a model and save it in the PEFT layout. No test row is read.

    \b
    Examples:
      tunelift tune --model gpt2 --data train.jsonl
      tunelift tune --model gemma3-270m --data train.jsonl --epochs 3 adapter.r=16
      tunelift tune config.yaml train.learning_rate=1e-4
    """
    config = config_of(ctx, arguments, needs=("model.name", "data.train"), checks=[adapter_problems])
    from tunelift.pipeline.stages import tune_stage

    click.echo(f"Adapter: {tune_stage(config)}")
