"""`tunelift chat`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tunelift.cli.command import KeyCommand, config_of
from tunelift.cli.serve import named_folders
from tunelift.core.errors import InputError

if TYPE_CHECKING:
    from tunelift.pipeline.chatting import Chat

HELP = """/good [MODEL], /bad [MODEL]  save the last answer as a row of data, wanted or not
/system TEXT                begin anew with this system text; without TEXT, with none
/new                        begin anew
/quit                       end"""


@click.command("chat", cls=KeyCommand, keys=("model", "evaluate.max_new_tokens"), stage="evaluate")
@click.argument("arguments", nargs=-1, metavar="[RUN | ADAPTER | NAME=FOLDER]...")
@click.option("--system", default="", metavar="TEXT", help="A system text to begin with.")
@click.option("--temperature", default=0.0, show_default=True, help="0 takes the likeliest token, as evaluation does.")
@click.option("--seed", type=int, help="Draws the same each time.")
@click.option("--save", "file", default="chat.jsonl", show_default=True, help="Where judged answers are added.")
@click.pass_context
def command(
    ctx: click.Context, arguments: tuple[str, ...], system: str, temperature: float, seed: int | None, file: str
) -> None:
    """Talk to a base and its adapters side by side, through the model's own chat template.

    What you judge by /good and /bad becomes rows of data; /help shows what else there is.

    \b
    Examples:
      tunelift chat runs/demo
      tunelift chat --model HuggingFaceTB/SmolLM2-135M-Instruct --system "Be brief."
      tunelift chat first=runs/a second=runs/b --temperature 0.7
    """
    folders, overrides = named_folders(arguments)
    config = config_of(ctx, overrides, needs=() if folders else ("model.name",))
    from tunelift.pipeline.chatting import chat_stage
    from tunelift.serving.requests import Sampling

    sampling = Sampling(temperature=temperature, seed=seed)
    with chat_stage(config.model, folders, sampling, config.evaluate.max_new_tokens) as chat:
        chat.begin(system)
        _talk(chat, Path(file))


def _talk(chat: Chat, file: Path) -> None:
    for line in _lines():
        try:
            if not _obeyed(chat, line, file):
                return
        except InputError as error:
            click.echo(str(error), err=True)


def _lines() -> Iterator[str]:
    """Yield what is typed, or the lines of standard input, without blank ones."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            yield line.strip()


def _obeyed(chat: Chat, line: str, file: Path) -> bool:
    """Do what a line says: ask, or one of the commands. Returns False for the one that ends the talk."""
    from tunelift.pipeline.chatting import save_row

    word, _, rest = line.partition(" ")
    if word == "/quit":
        return False
    if word in ("/good", "/bad"):
        row = chat.row(rest.strip() or list(chat.models)[-1], word == "/good")
        save_row(file, row)
        click.echo(f"{row['model']}'s answer is in {file}, {'wanted' if row['label'] else 'not wanted'}.")
    elif word in ("/new", "/system"):
        chat.begin(rest.strip() if word == "/system" else chat.system)
    elif word.startswith("/"):
        click.echo(HELP)
    else:
        _show(chat.say(line))
    return True


def _show(answers: Mapping[str, str]) -> None:
    if not sys.stdout.isatty():
        click.echo("".join(f"{name}: {answer}\n" for name, answer in answers.items()))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*answers)
    shown.add_row(*(Text(answer) for answer in answers.values()))
    Console().print(shown)
