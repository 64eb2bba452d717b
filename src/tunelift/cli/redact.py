"""`tunelift redact`."""

from __future__ import annotations

from pathlib import Path

import click

from tunelift.cli.command import KeyCommand


@click.command("redact", cls=KeyCommand)
@click.argument("run", metavar="RUN_FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", required=True, help="Where the copy goes.")
@click.option("--no-rows", is_flag=True, help="Leave the texts of all rows out; names stand for them.")
@click.option("--mask", "patterns", multiple=True, metavar="REGEX", help="Mask what this matches; give it again.")
def command(run: Path, output: Path, no_rows: bool, patterns: tuple[str, ...]) -> None:
    """Write a copy of a run that can be shared: verdict, report and card without what must not be seen.

    Without rows, each text becomes a name that says only which texts are the same, and numbers stay, so that
    `tunelift verify` makes the verdict again from the copy. With patterns, what they match is masked in every text.
    Paths of this machine, sources and examples of duplicates are left out in any case, and so are the adapter, exports
    and the training's own texts. The copy's manifest says what was done, and what cannot be made again from it.

    \b
    Examples:
      tunelift redact runs/demo --no-rows --output shared/demo
      tunelift redact runs/demo --mask '[0-9]{6,}' --mask '\\S+@\\S+' --output shared/demo
    """
    from tunelift.pipeline.redacting import redact

    for line in redact(run, output, rows=not no_rows, patterns=patterns):
        click.echo(f"cannot be told  {line}")
    click.echo(f"Redacted: {output}")
