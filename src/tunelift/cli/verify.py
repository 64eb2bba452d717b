"""`tunelift verify`."""

from __future__ import annotations

from pathlib import Path

import click

from tunelift.cli.command import KeyCommand


@click.command("verify", cls=KeyCommand)
@click.argument("folder", metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_context
def command(ctx: click.Context, folder: Path) -> None:
    """Make verdict, hashes and proofs of a run, an export or an import again from its files; name what does not agree.

    No model is loaded and nothing is downloaded: it is for a folder that somebody else made. The exit code is 3 where
    anything does not agree.

    \b
    Examples:
      tunelift verify runs/demo
      tunelift verify runs/demo/exports/gguf-q8_0
    """
    from tunelift.pipeline.verifying import untold, verify

    right, wrong = verify(folder)
    for line in right:
        click.echo(f"agrees          {line}")
    for line in untold(folder):
        click.echo(f"cannot be told  {line}")
    for line in wrong:
        click.echo(f"DOES NOT AGREE  {line}")
    if wrong:
        ctx.exit(3)
