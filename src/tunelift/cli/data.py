"""`tunelift data`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from tunelift.cli.command import KeyCommand, config_arguments, config_of

if TYPE_CHECKING:
    from tunelift.data.render import Tokens

KEYS = ("task", "model.name", "model.revision", "data", "train.max_length")


@click.command("data", cls=KeyCommand, keys=KEYS)
@config_arguments
@click.option("--rows", default=3, show_default=True, metavar="NUMBER", help="Rows of each split to show.")
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...], rows: int) -> None:
    """Show what each split holds, how clean it is, and the first rows as tokens with the loss mask.

    Lengths, labels, near duplicates between train and test, and inputs that stand there with different answers.

    Only the tokenizer is loaded. Tokens in the loss are green on a terminal and in [brackets] otherwise.

    \b
    Examples:
      tunelift data --model gpt2 --data rows.csv --prompt "Message: {text}\\nIntent:" --completion " {category}"
      tunelift data config.yaml --rows 10
    """
    config = config_of(ctx, arguments, needs=("model.name",))
    from tunelift.data.show import hygiene_lines
    from tunelift.data.splits import ROLES
    from tunelift.models import load_tokenizer
    from tunelift.pipeline.choices import splits_to_measure, task_for

    task = task_for(config)
    splits = splits_to_measure(config.data, task)
    for line in splits.report.lines():
        click.echo(line)
    for line in ["", *hygiene_lines(splits.report.hygiene)]:
        click.echo(line)
    words = task.reader == "AutoTokenizer"  # others are shown by their names
    tokenizer = load_tokenizer(config.model.name, config.model.revision) if words else None
    for role in ROLES:
        if examples := getattr(splits, role):
            lines, shown = task.shown(examples, tokenizer, config.train.max_length, rows)
            click.echo()
            for line in [role, *lines]:
                click.echo(line)
            for tokens, label in shown:
                _show_row(tokens, label, tokenizer)


def _show_row(tokens: Tokens, label: str, tokenizer: Any) -> None:
    from tunelift.data.show import plain, show

    click.echo()
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(show(tokens, tokenizer).append(label))
    else:
        click.echo(plain(tokens, tokenizer) + label)
