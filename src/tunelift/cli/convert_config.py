"""`tunelift convert-config`."""

from __future__ import annotations

from pathlib import Path

import click

from tunelift.cli.command import KeyCommand, adapter_problems
from tunelift.core import files
from tunelift.core.progress import note

OF = ("axolotl", "llama-factory", "trl")


@click.command("convert-config", cls=KeyCommand)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--of", "named", type=click.Choice(OF), help="The trainer; by the file's keys otherwise.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it there, not to stdout.")
def command(file: Path, named: str | None, output: Path | None) -> None:
    """Turn a config of Axolotl, LLaMA-Factory or TRL into one of tunelift.

    What the file leaves to that trainer's defaults is written out. Every key is accounted for: what means something
    else here stands as a comment at the head of the result, keys that nobody knows are named, and a training of a kind
    that cannot be done here is refused.

    \b
    Examples:
      tunelift convert-config llama3_lora_sft.yaml
      tunelift convert-config lora-1b.yml -o config.yaml
      tunelift convert-config sft.yaml --of trl -o config.yaml && tunelift run config.yaml
    """
    from tunelift.config.converting import as_yaml, convert
    from tunelift.config.dialects import DIALECTS
    from tunelift.config.load import load_config

    dialect, converted = convert(file, DIALECTS, named)
    text = as_yaml(converted, f"From {file.name}, a config of {dialect.name}.")
    load_config(None, [], converted.settings, [adapter_problems])
    if converted.needless:
        note(f"Decided here without a key: {', '.join(converted.needless)}.")
    for said in converted.different:
        note(said)
    if converted.unknown:
        note(f"Not known, and left out: {', '.join(converted.unknown)}.")
    if output is None:
        click.echo(text, nl=False)
    else:
        files.write_text(output, text)
