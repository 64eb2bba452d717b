"""`tunelift generate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from tunelift.cli.command import KeyCommand, config_of
from tunelift.run_files.layout import RunPaths

if TYPE_CHECKING:
    from tunelift.config.schema import Config

KEYS = ("model", "evaluate.max_new_tokens", "evaluate.stop", "evaluate.thinking", "evaluate.batch_size")


@click.command("generate", cls=KeyCommand, keys=KEYS, stage="evaluate")
@click.argument("arguments", nargs=-1, metavar="[RUN_FOLDER | CONFIG.yaml] [KEY=VALUE]...")
@click.option("--adapter", metavar="FOLDER", help="Answer with this adapter, or this tuned model, as well.")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="A prompt; may be given several times.")
@click.option("--file", type=click.File(encoding="utf-8"), help="A file with a prompt per line; - is standard input.")
@click.pass_context
def command(
    ctx: click.Context,
    arguments: tuple[str, ...],
    adapter: str | None,
    prompts: tuple[str, ...],
    file: IO[str] | None,
) -> None:
    """Show the answers of the base and the tuned model to given prompts, side by side.

    An adapter that was trained on conversations is asked through the chat template; else prompts are taken as they are.

    \b
    Examples:
      tunelift generate runs/gpt2-rows --prompt "Message: my card is lost\\nIntent:"
      tunelift generate --adapter my-adapter --file prompts.txt
      echo "Once upon a time" | tunelift generate --model gpt2 --file -
    """
    lines = [line.rstrip("\r") for line in file.read().split("\n") if line.strip()] if file else []
    asked = [prompt.replace("\\n", "\n") for prompt in [*prompts, *lines]]
    if not asked:
        raise click.UsageError("Give --prompt TEXT or --file FILE.", ctx)
    config, adapter = _model(ctx, arguments, adapter)
    from tunelift.pipeline.generating import generate_stage

    _show(generate_stage(config, adapter, asked))


def _model(ctx: click.Context, arguments: tuple[str, ...], adapter: str | None) -> tuple[Config, str | None]:
    """Return the config and the adapter: those of a run folder, with what the command line says on top."""
    if not arguments or not Path(arguments[0]).is_dir():
        return config_of(ctx, arguments, needs=() if adapter else ("model.name",)), adapter
    from tunelift.pipeline.stages import from_run_folder

    found = str(from_run_folder(arguments[0])[1])
    return config_of(ctx, (str(RunPaths(arguments[0]).config), *arguments[1:])), adapter or found


def _show(answers: Sequence[dict[str, str]]) -> None:
    sides = [side for side in ("base", "tuned") if any(side in answer for answer in answers)]
    if not sys.stdout.isatty():
        for answer in answers:
            click.echo("".join(f"{name}: {answer[name]}\n" for name in ("prompt", *sides)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table("prompt", *sides, show_lines=True)
    for answer in answers:
        shown.add_row(*(Text(answer[name]) for name in ("prompt", *sides)))
    Console().print(shown)
