"""`tunelift serve`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tunelift.cli.command import KeyCommand, config_of
from tunelift.core.errors import InputError
from tunelift.core.text_files import text_of

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN = "TUNELIFT_TOKEN"

WHOLE = click.IntRange(min=1)


@click.command("serve", cls=KeyCommand, keys=("model",), stage="evaluate")
@click.argument("arguments", nargs=-1, metavar="[RUN | ADAPTER | NAME=FOLDER]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--name", metavar="NAME", help="What the base is called; its own name otherwise.")
@click.option("--token-file", metavar="FILE", help=f"A file with the token that clients send; or {TOKEN} holds it.")
@click.option("--rows", type=WHOLE, default=32, show_default=True, help="Answers that are written at once.")
@click.option("--queue", type=WHOLE, default=256, show_default=True, help="Requests that may wait beside them.")
@click.option(
    "--kept-tokens", type=click.IntRange(min=256), default=16384, show_default=True,
    help="Tokens whose keys and values are kept, of all requests together.",
)  # fmt: skip
@click.option("--most-new-tokens", type=WHOLE, default=1024, show_default=True, help="Longest answer (tokens).")
@click.option("--most-bytes", type=WHOLE, default=2**20, show_default=True, help="Largest body of a request.")
@click.option("--seconds", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Longest request.")
@click.option("--embeddings", is_flag=True, help="The model is a sentence model: serve vectors, as its runs do anyway.")
@click.option(
    "--adapters-from", multiple=True, type=click.Path(exists=True, file_okay=False), metavar="FOLDER",
    help="Let clients load and unload adapters of this folder while it runs; may be given several times.",
)  # fmt: skip
@click.pass_context
def command(ctx: click.Context, /, arguments: tuple[str, ...], **options: Any) -> None:
    """Serve a base and its adapters, each under a name of its own, to OpenAI's clients.

    Before it listens, items of each run are scored through the server, and must be what the run measured.

    \b
    Examples:
      tunelift serve runs/demo
      tunelift serve --model gemma3-270m topics=runs/demo other=my-adapter --port 8001
      TUNELIFT_TOKEN=... tunelift serve runs/demo --host 0.0.0.0
      tunelift serve --model gemma3-270m --adapters-from runs
      tunelift serve --model all-minilm-l6-v2 --embeddings
    """
    token = _token(options["token_file"])
    if options["host"] not in LOOPBACK and token is None:
        raise InputError(
            f"{options['host']} can be reached from other machines, and no token is asked for.",
            fix=f"Set {TOKEN}, or give --token-file FILE; or serve this machine alone: --host 127.0.0.1",
        )
    sources, overrides = named_folders(arguments)
    config = config_of(ctx, overrides)
    from tunelift.pipeline.listening import serve_stage

    serve_stage(config.model, sources, token, options)


def named_folders(arguments: Sequence[str]) -> tuple[list[tuple[str | None, str]], list[str]]:
    """Return the folders among arguments with their names, FOLDER or NAME=FOLDER, and the other arguments."""
    found, others = list[tuple[str | None, str]](), list[str]()
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        if Path(argument).is_dir():
            found.append((None, argument))
        elif equals and Path(folder).is_dir():
            found.append((name, folder))
        elif equals and "." in name:
            others.append(argument)
        else:
            raise InputError(
                f"There is no folder {folder or argument}.", fix="Give FOLDER or NAME=FOLDER of an adapter."
            )
    return found, others


def _token(file: str | None) -> str | None:
    """Return the token of the file or of the environment, None where there is none; one that is empty is refused."""
    found = os.environ.get(TOKEN) if file is None else text_of(Path(file))
    if found is None:
        return None
    found = found.strip()
    if not found or not found.isascii() or any(letter.isspace() for letter in found):
        raise InputError(
            "The token is empty, or holds blanks or letters beyond ASCII.", fix="One word of ASCII letters."
        )
    return found
