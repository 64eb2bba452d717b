"""`tunelift export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tunelift.cli.command import KeyCommand

TO = ("merged", "gguf", "lora-gguf", "mlx", "onnx", "sentence-transformers", "hub")
TYPES = ("f32", "f16", "bf16", "q8_0", "int8", "int4")
K_QUANTS = ("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k")


@click.command("export", cls=KeyCommand)
@click.argument("run", metavar="RUN_FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--to", type=click.Choice(TO), required=True, help="What it is for.")
@click.option(
    "--type",
    "kind",
    type=click.Choice((*TYPES, *K_QUANTS)),
    default="f32",
    show_default=True,
    help="Of a GGUF or ONNX file's weights.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Where to; in the run otherwise.")
@click.option(
    "--items", type=click.IntRange(min=4), default=64, show_default=True, metavar="NUMBER",
    help="Test items that a file with rounded weights is judged by.",
)  # fmt: skip
@click.option("--repository", metavar="OWNER/NAME", help="With --to hub: where to; new, or empty.")
@click.option("--public", is_flag=True, help="With --to hub: let anybody see it.")
@click.option("--dry-run", is_flag=True, help="With --to hub: list what would be uploaded, and ask nobody.")
def command(
    run: Path,
    to: str,
    kind: str,
    output: Path | None,
    items: int,
    *,
    repository: str | None,
    public: bool,
    dry_run: bool,
) -> None:
    """Write what a run tuned as another program has it, and prove there that it is what was measured.

    What can be run here is run on items of the run's test set and compared token by token: with the base, which shows
    the program's own rounding, and with the tuned model. Where the scores differ by more, nothing is kept. A file with
    rounded weights gets a verdict against the model, as any two models do. What cannot be run says "not proved".

    \b
      merged     all weights, as transformers has them; proved in a new process
      gguf       the merged model for llama.cpp and Ollama (extra gguf; proved where xllamacpp is installed)
      lora-gguf  the adapter alone for llama.cpp
      mlx        the adapter alone for mlx-lm (proved where the extra mlx is installed)
      onnx       a head for ONNX Runtime, in f32 or int8, or what continues text for ONNX Runtime GenAI, in f32, int8 or
                 int4 (extra onnx)
      sentence-transformers  a sentence model, merged, with how its vectors are made (proved where that is installed)
      hub        what was tuned and its card, into a private repository of the Hub; no row of the data

    K-quants (q4_k_m and the like) are made by llama.cpp's own quantiser (extra k-quants).

    \b
    Examples:
      tunelift export runs/demo --to merged
      tunelift export runs/demo --to gguf --type q8_0
      tunelift export runs/demo --to gguf --type q4_k_m --items 500
      tunelift export runs/demo --to lora-gguf --output adapter-for-llama
      tunelift export runs/demo --to mlx
      tunelift export runs/demo --to onnx --type int4
      tunelift export runs/demo --to hub --repository me/topics --dry-run
    """
    if to == "hub":
        return _publish(run, repository, public=public, dry=dry_run)
    if repository or public or dry_run:
        raise click.UsageError("--repository, --public and --dry-run go with --to hub.")
    from tunelift.pipeline.exporting import export_stage, status_of

    folder = export_stage(run, to, output, kind, items)
    said = status_of(folder)
    for proof in said["proofs"]:
        click.echo(f"{'ok' if proof['passed'] else 'FAILED':6} {proof['name']}: {proof['detail']}")
    if fell_back := said.get("fell_back"):
        several = ", ".join(f"{count} are {name}" for name, count in fell_back.items())
        click.echo(f"Of {sum(said['tensors'].values())} tensors, by rows that are no multiple of 256: {several}")
    if numbers := said.get("numbers"):
        several = ", ".join(f"{count:,} numbers in {name}" for name, count in numbers.items())
        click.echo(f"The model takes {said['bytes']:,} bytes, {several}")
    for name, entry in _metrics(said.get("verdict")).items():
        click.echo(_verdict(kind, name, entry))
    reason = f": {said['reason']}" if said.get("reason") else f" in {said['runtime']}"
    click.echo(f"Export: {folder} ({said['status']}{reason})")


def _publish(run: Path, repository: str | None, *, public: bool, dry: bool) -> None:
    if not repository:
        raise click.UsageError("--to hub needs a name: --repository OWNER/NAME.")
    from tunelift.pipeline.publishing import publish

    made = publish(run, repository, public=public, dry=dry)
    for name, size in made.sizes.items():
        click.echo(f"{size:>13,} bytes  {name}")
    kind = "private" if made.private else "public"
    where = f"would go to {repository} ({kind}): nothing was written" if dry else f"are in {made.address} ({kind})"
    click.echo(f"{len(made.sizes)} files {where}")


def _metrics(verdict: Any) -> dict[str, Any]:
    return dict((verdict or {}).get("metrics") or {})


def _verdict(kind: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return "q4_k_m is worse by 1.3 points of accuracy (0.4 to 2.2)", or how far it may be either way."""
    unit, factor = ("points of accuracy", 100) if name == "accuracy" else (f"of {name}", 1)
    values = [factor * value for value in (entry["difference"], *entry["interval"])]
    if entry["verdict"] in ("better", "worse") and values[1] * values[2] > 0:
        by, low, high = abs(values[0]), *sorted(map(abs, values[1:]))
        return f"{kind} is {entry['verdict']} by {by:.3g} {unit} ({low:.2g} to {high:.2g})"
    told = f"{values[0]:+.3g} {unit} ({values[1]:+.2g} to {values[2]:+.2g})"
    return f"{kind} against the model: {entry['verdict']}, {told}"
