"""`tunelift import`."""

from __future__ import annotations

from pathlib import Path

import click

from tunelift.cli.command import KeyCommand


@click.command("import", cls=KeyCommand)
@click.argument("adapter", metavar="FOLDER_OR_FILE", type=click.Path(exists=True, path_type=Path))
@click.option("--model", required=True, metavar="NAME", help="The base that it was trained on, for transformers.")
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Where to save it.")
@click.option("--revision", metavar="TEXT", help="The base's revision on the Hub.")
def command(adapter: Path, model: str, output: Path, revision: str | None) -> None:
    """Make an adapter of mlx-lm or llama.cpp one in stock peft's layout, and prove that it acts as it did there.

    Both programs run it on its base and are compared token by token, where the other one is installed (extras mlx and
    llama-cpp); import.json says "not proved" otherwise. Folders of peft, Unsloth, LLaMA-Factory, Axolotl and torchtune
    that hold adapter_model.safetensors need no import.

    \b
    Examples:
      tunelift import adapters --model Qwen/Qwen3-0.6B --output from-mlx
      tunelift import adapter.gguf --model gemma3-270m --output from-llama
      tunelift compare --adapter from-mlx --data test.csv
    """
    from tunelift.pipeline.importing import import_stage

    said = import_stage(adapter, model, output, revision)
    for proof in said["proofs"]:
        click.echo(f"{'ok' if proof['passed'] else 'FAILED':6} {proof['name']}: {proof['detail']}")
    reason = f": {said['reason']}" if said.get("reason") else f" in {said['runtime']}"
    click.echo(f"Adapter: {output} ({said['layers']} layers, {said['status']}{reason})")
