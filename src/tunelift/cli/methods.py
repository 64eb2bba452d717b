"""`tunelift methods`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunelift.cli.command import KeyCommand
from tunelift.core import files, provenance

if TYPE_CHECKING:
    from tunelift.adapters.abilities import Ability

DECIDING = ("torch", "transformers", "peft")
"""What decides how a method does on a model; --json has the others too."""


@click.command("methods", cls=KeyCommand)
@click.argument("names", nargs=-1, metavar="[METHOD]...")
@click.option("--model", metavar="NAME", help="Try them on a tiny twin of this model's architecture.")
@click.option("--task", metavar="NAME", help="The task to try them for; what suits the model otherwise.")
@click.option("--revision", metavar="TEXT", help="The model's revision on the Hub.")
@click.option("--for", "runtime", metavar="PROGRAM", help="What transformers, llama.cpp, onnx and others take of each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--markdown", "file", type=click.Path(path_type=Path), metavar="FILE", help="Write it as Markdown too.")
@click.pass_context
def command(ctx: click.Context, /, names: tuple[str, ...], as_json: bool, file: Path | None, **asked: Any) -> None:
    """Show what each method can do: as recorded, or seen by trying it on a model's architecture.

    With --model each method is built, trained for a few steps, saved, loaded by stock peft, merged and put beside
    another of its kind, on a tiny model with the same layers and random weights. Of the model only its config is read:
    how many numbers a method trains is counted on its shapes. What cannot be used is listed with the reason.

    \b
    Columns:
      begins as the base  a new adapter changes no answer yet
      trains              every tensor moves
      switches off        without the adapter the base is there, bit for bit
      peft reads it       stock peft gives the same with what was saved
      merges              peft can add it to the base's weights
      stands beside       two of them can be on one model, each acting alone
      learning rate       the one that is taken where you set none

    \b
    Examples:
      tunelift methods
      tunelift methods --model Qwen/Qwen3-0.6B
      tunelift methods lora vera ia3 --model all-minilm-l6-v2 --task sequence-classification
      tunelift methods --model gpt2 --json
      tunelift methods --for llama.cpp
      tunelift methods lora ia3 vera --for llama.cpp --model Qwen/Qwen3-0.6B
    """
    runtime = asked.pop("runtime")
    if runtime and (asked["task"] or asked["revision"]):
        raise click.UsageError(
            "--task and --revision do not go with --for: each program is tried for a task of its own.", ctx
        )
    if runtime:
        return _for(runtime, names, asked["model"], as_json=as_json, file=file)
    if (asked["task"] or asked["revision"]) and not asked["model"]:
        raise click.UsageError("--task and --revision go with --model.", ctx)
    found, about, task = _tried(names, **asked) if asked["model"] else (*_recorded(names), None)
    abilities = [ability.to_dict() for ability in found]
    from tunelift.wording.abilities_text import describe, markdown

    if file:
        files.write_text(file, markdown(abilities, about) + "\n")
    versions = provenance.versions()
    shown = {"model": asked["model"], "task": task, "versions": versions, "methods": abilities}
    click.echo(json.dumps(shown, indent=2) if as_json else describe(abilities, about))


def _for(runtime: str, names: tuple[str, ...], model: str | None, *, as_json: bool, file: Path | None) -> None:
    from tunelift.pipeline.runtimes import as_rows, taken
    from tunelift.wording.abilities_text import table
    from tunelift.wording.numbers import aligned

    found, about = taken(runtime, names, model)
    rows = as_rows(found)
    if file:
        files.write_text(file, f"{about}\n\n{table(rows[0], rows[1:])}\n")
    shown = {"for": runtime, "model": model, "about": about, "methods": found}
    click.echo(json.dumps(shown, indent=2) if as_json else f"{about}\n\n{aligned(rows)}")


def _recorded(names: tuple[str, ...]) -> tuple[list[Ability], str]:
    from tunelift.adapters.abilities import recorded

    return recorded(names), "What the records say, whatever the model; --model NAME tries them on one."


def _tried(
    names: tuple[str, ...], *, model: str, task: str | None, revision: str | None
) -> tuple[list[Ability], str, str]:
    from tunelift.config.schema import ModelSection
    from tunelift.pipeline.methods import task_to_try, tried

    section = ModelSection(name=model, revision=revision)
    task = task_to_try(section, task).name
    used = ", ".join(f"{name} {version}" for name, version in provenance.versions().items() if name in DECIDING)
    about = f"Tried on a tiny twin of {model}'s architecture for the task {task}, in float32 on a CPU ({used})."
    return tried(section, task, names), about, task
