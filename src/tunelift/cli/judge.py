"""`tunelift judge`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tunelift.cli.command import KeyCommand


@click.command("judge", cls=KeyCommand)
@click.argument("sources", nargs=-1, metavar="RUN_FOLDER | BASE TUNED")
@click.option(
    "--labels", metavar="FILE.csv", help="A person's labels; where there is no such file, a sheet is written."
)
@click.option("--by", metavar="NAME", help="person, a metric, or FILE.py:FUNCTION, instead of a judge at an address.")
@click.option("--address", metavar="URL", help="OpenAI-compatible address of the judge, such as https://HOST/v1.")
@click.option("--served-model", metavar="NAME", default="", help="Name of the judge at that address.")
@click.option("--key-from", metavar="VARIABLE", help="Environment variable that holds the key; never the key.")
@click.option("--request", metavar="JSON", default="{}", help='Fields of its requests, such as {"temperature": null}.')
@click.option("--criterion", metavar="TEXT", help="What makes an answer better.")
@click.option("--marks", is_flag=True, help="Give each answer a mark from 1 to 5, instead of comparing two.")
@click.option("--sheet", metavar="NUMBER", type=click.IntRange(20), default=50, show_default=True,
              help="Items on a sheet to be labelled.")  # fmt: skip
@click.option("--seed", metavar="NUMBER", type=int, default=0, show_default=True, help="Seed of the draw.")
@click.option("--cache/--no-cache", default=True, help="Keep the judge's answers, and ask nothing twice.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of sentences.")
@click.pass_context
def command(ctx: click.Context, /, sources: tuple[str, ...], labels: str | None, as_json: bool, **options: Any) -> None:
    """Say whose answers are better: by a judge that a person's labels correct, by a function, or by a person alone.

    A sheet of items, drawn by seed, is written for the person first; whose answer is whose does not stand on it. With
    20 labels or more the judge is asked about every item, twice for two answers in either order. Its agreement with the
    labels is told, what place and length do to it, and a win rate whose interval is right however biased it is.

    \b
    Examples:
      tunelift judge runs/chat --labels labels.csv --address https://HOST/v1 --served-model NAME --key-from MY_KEY
      tunelift judge runs/chat --labels labels.csv --by person
      tunelift judge base/scores.jsonl tuned/scores.jsonl --by rouge_l
    """
    if len(sources) not in (1, 2):
        raise click.UsageError("Give a run folder, or two files of rows: base and tuned.", ctx)
    if options["by"] is None and options["address"] is None:
        raise click.UsageError("Say who judges: --address URL --served-model NAME, or --by person, or a function.", ctx)
    if options["by"] is not None and options["address"] is not None:
        raise click.UsageError("--by and --address exclude each other.", ctx)
    _refuse_unread(ctx, options, labels)
    from tunelift.comparison.judged import lines
    from tunelift.config.schema import EndpointSection
    from tunelift.evaluation.judging import CRITERION
    from tunelift.pipeline.judging import Question, judge

    names = ("address", "served_model", "key_from")
    settings = EndpointSection(**{name: options[name] for name in names}, request=_fields(ctx, options["request"]))
    question = Question(
        options["by"], options["criterion"] or CRITERION, options["marks"], options["seed"], options["sheet"],
        options["cache"],
    )  # fmt: skip
    told = judge(sources, question, settings, Path(labels) if labels else None)
    if told is not None:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else "\n".join(lines(told)))


def _refuse_unread(ctx: click.Context, options: dict[str, Any], labels: str | None) -> None:
    """Refuse what is for a judge at an address, or for a person, where another judges."""
    by = options["by"]
    if by is None:
        return
    usual = {"served_model": "", "key_from": None, "request": "{}", "criterion": None}
    unread = [f"--{name.replace('_', '-')}" for name, value in usual.items() if options[name] != value]
    unread += ["--labels"] if labels is not None and by != "person" else []
    if unread:
        raise click.UsageError(f"{', '.join(unread)} would not be looked at with --by {by}. Leave it out.", ctx)


def _fields(ctx: click.Context, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.UsageError('--request takes an object of JSON, such as {"temperature": null}.', ctx)
    return found
