"""Blocks of few bits that weights were brought into, kept in the cache: a model is quantised once, and mapped after.

A folder holds the packed weights by their parameters' names, and the SHA-256 of that file, by which a damaged one is
told. All that is not in blocks is read from the model's own files, as ever.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelift.core import cache, files, progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VERSION = 1
"""Part of the folder's name; raised when the same weights would be quantised differently."""

WORTH_KEEPING = 2**26
"""Numbers in blocks from which on they are kept: fewer are quantised in about a second."""

WEIGHTS, FACTS = "blocks.safetensors", "kept.json"


def place(name: str, weights_sha256: str, kind: str, dtype: torch.dtype) -> Path:
    """Return where the blocks of a model with these weights lie, or would; they are made of its weights in `dtype`."""
    plain = re.sub(r"[^\w.-]", "-", Path(name).name)[:64]
    held = f"{kind}-{str(dtype).removeprefix('torch.')}"
    return cache.folder() / "models" / f"{plain}-{weights_sha256[:32]}-{held}-v{VERSION}"


def found(folder: Path) -> dict[str, Tensor]:
    """Return the packed weights in a folder by their parameters' names, mapped from the file; none where it has none.

    A folder that is not as it was written is removed, and said to be.
    """
    from safetensors import safe_open

    if not folder.is_dir():
        return {}
    try:
        if files.sha256(folder / WEIGHTS) != files.read_object(folder / FACTS)["sha256"]:
            raise ValueError("its bytes are others than were written")
        with safe_open(folder / WEIGHTS, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except Exception as error:  # whatever it holds was not written here
        progress.note(f"cache: {folder.name} is damaged ({error}); it is made again")
        shutil.rmtree(folder, ignore_errors=True)
        return {}


def keep(folder: Path, model: Any, known: Mapping[str, Tensor]) -> None:
    """Keep a model's blocks in a folder, unless that has them, they are few, or there is no room for them."""
    from filelock import FileLock

    from tunelift.core.tensor_file import write_tensors
    from tunelift.fast.blocks import in_blocks

    layers = in_blocks(model)
    packed = {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}
    numbers = sum(layer.in_features * layer.out_features for layer in layers.values())
    if packed.keys() <= known.keys() or numbers < WORTH_KEEPING:
        return

    def fill(staging: Path) -> None:
        _, sha256 = write_tensors(staging / WEIGHTS, packed)
        files.write_json(staging / FACTS, {"sha256": sha256, "kinds": sorted({one.kind for one in layers.values()})})

    # A cache that cannot be written, or that another process is at, costs time, nothing else.
    with contextlib.suppress(OSError):
        files.make_folder(folder.parent)
        if shutil.disk_usage(folder.parent).free > 2 * sum(tensor.nbytes for tensor in packed.values()):
            with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
                files.write_folder(folder, fill)
