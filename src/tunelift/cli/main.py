"""The table of commands. Importing this costs no more than click, so that help comes at once."""

from __future__ import annotations

import keyword
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

import tunelift
from tunelift.cli import failures
from tunelift.cli.command import SETTINGS, common_options
from tunelift.core import garbage, progress, stopping
from tunelift.core.errors import did_you_mean

COMMANDS = {
    "run": "Measure, tune, measure again, compare, and write a report.",
    "sweep": "Train with several settings, choose one on validation, and run it to a verdict.",
    "evaluate": "Measure a model, or a model with an adapter, on test rows.",
    "tune": "Train an adapter, or all weights, and save it for stock peft or transformers.",
    "compare": "Say whether the tuned model is better, with honest statistics.",
    "plan": "Say before a run how much memory and time it takes, and what to change.",
    "advise": "Say before a model is tuned whether tuning is the answer.",
    "judge": "Say whose answers are better, by a judge that a person's labels correct.",
    "merge": "Combine LoRA adapters on one base into one: weighted sum, SVD, TIES, DARE.",
    "export": "Write what was tuned for transformers, llama.cpp and Ollama, and prove it there.",
    "import": "Make an adapter of mlx-lm or llama.cpp one for stock peft, and prove that it acts as there.",
    "verify": "Make verdict, hashes and proofs of a run or an export again from its files.",
    "redact": "Write a copy of a run that can be shared, without the texts of its rows.",
    "leaderboard": "Rank several tuned models against one base, and call ties ties.",
    "generate": "Show the answers of the base and the tuned model side by side.",
    "chat": "Talk to the base and the tuned model side by side.",
    "serve": "Serve base and adapters on one OpenAI-compatible address, once they are shown to be those measured.",
    "data": "Show the rows as the model gets them: splits, tokens, loss mask.",
    "methods": "Show what each PEFT method can do, by trying it on a model's architecture.",
    "convert-config": "Turn a config of Axolotl, LLaMA-Factory or TRL into one of tunelift.",
    "demo": "See it all on a small model and real data, nothing to prepare.",
    "cache": "Show and clear what is kept, so that it need not be computed again.",
    "runs": "List run folders with verdict, time and size, and remove them.",
    "doctor": "Show versions, device, precision, cache and what is installed.",
}


class Tunelift(click.Group):
    """The commands of COMMANDS, each imported from the file of its name when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_") + "_" * keyword.iskeyword(cmd_name)
        command: click.Command = import_module(f"tunelift.cli.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f'There is no command "{args[0]}".{hint} Commands: {", ".join(COMMANDS)}.', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*common_options(), *super().get_params(ctx)]

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run the command line and exit with the code of `failures`."""
        args = sys.argv[1:] if args is None else list(args)
        debug = "--debug" in args or os.environ.get("TUNELIFT_DEBUG", "0") not in ("", "0")
        progress.quiet = False
        run = super().main
        stopping.end_with_parent()
        sys.exit(failures.exit_code_of(lambda: run(args, prog_name="tunelift", standalone_mode=False), debug))


@click.group(cls=Tunelift, context_settings=SETTINGS, epilog="tunelift COMMAND --help shows examples and every option.")
@click.version_option(tunelift.__version__, message="tunelift %(version)s")
def cli() -> None:
    """Measure a pre-trained model, fine-tune it with PEFT, measure it again, and know whether it got better."""


def main() -> None:
    """Run the command line; the process is to end with it."""
    try:
        cli.main()
    finally:
        garbage.left_where_it_is()
