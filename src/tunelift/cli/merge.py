"""`tunelift merge`."""

from __future__ import annotations

from pathlib import Path

import click

from tunelift.cli.command import KeyCommand


@click.command("merge", cls=KeyCommand)
@click.argument("adapters", nargs=-1, metavar="ADAPTER ADAPTER...", type=click.Path(exists=True, path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Where to save it.")
@click.option(
    "--how",
    type=click.Choice(["weighted", "svd", "ties", "dare"]),
    default="weighted",
    show_default=True,
    help="The weighted sum exactly, or cut to a rank; TIES; DARE.",
)
@click.option("--weights", metavar="A,B,...", help="A weight for each; otherwise equal ones that sum to 1, of ties 1.")
@click.option(
    "--rank", type=int, metavar="NUMBER", help="The most that a layer may have: all together; svd: the largest of them."
)
@click.option("--density", type=float, metavar="SHARE", help="The share of changes that ties and dare keep, as 0.5.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws what dare leaves out.")
@click.pass_context
def command(ctx: click.Context, /, adapters: tuple[Path, ...], weights: str | None, **options: object) -> None:
    """Combine LoRA adapters on one base into one, in the space of the weights, and save it as stock peft's LoRA.

    What comes out is measured like any adapter: tunelift compare --adapter FOLDER. A run's folder stands for its
    adapter. Refused is what is no sum of products: DoRA, trained biases, heads and embeddings, other methods.

    \b
    Examples:
      tunelift merge runs/sports runs/tech --output merged
      tunelift merge a b c --weights 0.5,0.3,0.2 --how svd --rank 16 --output merged
      tunelift merge a b --how ties --density 0.5 --output merged
    """
    from tunelift.adapters.combining import combine
    from tunelift.run_files.layout import RunPaths, is_adapter

    folders = [RunPaths(path).adapter if is_adapter(RunPaths(path).adapter) else path for path in adapters]
    try:
        numbers = [float(part) for part in weights.split(",")] if weights else None
    except ValueError as error:
        raise click.UsageError(f"--weights takes numbers with commas between, not {weights!r}.", ctx) from error
    made = combine(folders, weights=numbers, **options)  # type: ignore[arg-type]
    lost = f"; the ranks leave out {made.left_out:.2%} of it" if made.left_out > 0 else ""
    click.echo(f"Adapter: {made.folder} (rank {made.rank}{lost})")
