"""`tunelift advise`."""

from __future__ import annotations

import json

import click

from tunelift.cli.command import KeyCommand, config_arguments, config_of

KEYS = ("task", "model", "data", "train.max_length", "train.seed", "evaluate", "larger_model")


@click.command("advise", cls=KeyCommand, keys=KEYS)
@config_arguments
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...], as_json: bool) -> None:
    """Say before a model is tuned whether tuning is the answer, with the measurements that say so.

    Does the base know this with a few examples? Is it form, skill or facts that it lacks? Does a simple model do it
    already? Are there enough rows for the effect looked for (--margin)? Which rows contradict each other? All is
    measured on validation rows; of the test the number of rows is used. Nothing is written.

    \b
    Examples:
      tunelift advise config.yaml
      tunelift advise --model gemma3-270m --data bbc-news --margin 0.02
      tunelift advise --model gpt2 --data rows.csv --prompt "Message: {text}\\nIntent:" --completion " {category}"
    """
    config = config_of(ctx, arguments, needs=("model.name", "data.train"))
    from tunelift.pipeline.advising import advise

    advice = advise(config)
    click.echo(json.dumps(advice.to_dict(), indent=2, ensure_ascii=False) if as_json else str(advice))
