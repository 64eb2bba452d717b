"""`tunelift evaluate`."""

from __future__ import annotations

import click

from tunelift.cli.command import MEASURING, KeyCommand, config_arguments, config_of
from tunelift.wording.numbers import aligned

KEYS = ("task", "output", "model", "data", "train.max_length", *MEASURING)


@click.command("evaluate", cls=KeyCommand, keys=KEYS, stage="evaluate")
@config_arguments
@click.option(
    "--adapter", metavar="FOLDER", help="Measure the model with this adapter or tuned model, or that of a run."
)
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...], adapter: str | None) -> None:
    """Measure a model, or a model with an adapter, on test rows; one row of scores per item.

    \b
    Examples:
      tunelift evaluate --model gpt2 --data test.jsonl
      tunelift evaluate --adapter runs/gpt2-train/adapter --data test.jsonl --metrics accuracy,loss
      tunelift evaluate config.yaml data.max_test=100
    """
    config = config_of(ctx, arguments, needs=() if adapter else ("model.name",))
    from tunelift.pipeline.stages import evaluate_stage

    rows = [("metric", "value", "items", "better")]
    for name, entry in evaluate_stage(config, adapter).info.get("metrics", {}).items():
        better = "higher" if entry["higher_is_better"] else "lower"
        rows.append((name, f"{entry['value']:.4g}", str(entry["items"]), better))
    click.echo(aligned(rows, "<>"))
