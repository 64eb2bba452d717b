"""`tunelift demo`."""

from __future__ import annotations

import click

from tunelift.cli.command import KeyCommand
from tunelift.run_files.layout import RunPaths

PLAN = """\
The demo measures Gemma 3 270M on naming the topic of BBC News headlines, tunes it with LoRA, measures it again on the
same headlines and compares. Model and data come from installed packages: nothing is downloaded. On 2 cores it
takes some minutes. Everything it writes is in {folder}.
"""


@click.command("demo", cls=KeyCommand)
@click.option("--output", metavar="FOLDER", default="runs/demo", show_default=True, help="Run folder.")
def command(output: str) -> None:
    """See it all on a small model and the BBC News topics, with nothing to prepare.

    \b
    Examples:
      tunelift demo
      tunelift demo --output runs/first
    """
    click.echo(PLAN.format(folder=output))
    from tunelift.pipeline.demo import demo_config
    from tunelift.pipeline.run import run

    click.echo(str(run(demo_config(output))))
    click.echo(f"Report: {RunPaths(output).page}")
