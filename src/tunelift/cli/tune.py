"""`tunelift tune`."""

from __future__ import annotations

import click

from tunelift.cli.command import KeyCommand, adapter_problems, config_arguments, config_of

KEYS = ("task", "output", "model", "data", "adapter", "train", "preferences", "track")


@click.command("tune", cls=KeyCommand, keys=KEYS)
@config_arguments
@click.option("--anyway", is_flag=True, help="Begin although memory does not suffice.")
@click.option("--beside-test", is_flag=True, hidden=True, help="By sweep and leaderboard: without rows of the test.")
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...], anyway: bool, beside_test: bool) -> None:
    """Train an adapter on a model, or with --method full all of its weights, and save it. No test row is read.

    An adapter is saved as stock peft reads it, a whole model as stock transformers does.

    \b
    Examples:
      tunelift tune --model gpt2 --data train.jsonl
      tunelift tune --model gemma3-270m --data train.jsonl --epochs 3 adapter.r=16
      tunelift tune --model all-minilm-l6-v2 --task regression --data scores.csv --method full
      tunelift tune config.yaml train.learning_rate=1e-4
    """
    config = config_of(ctx, arguments, needs=("model.name", "data.train"), checks=[adapter_problems])
    from tunelift.adapters.methods import trains_whole
    from tunelift.pipeline.stages import tune_stage

    made = tune_stage(config, anyway=anyway, beside_test=beside_test)
    click.echo(f"{'Model' if trains_whole(config.adapter.method) else 'Adapter'}: {made}")
