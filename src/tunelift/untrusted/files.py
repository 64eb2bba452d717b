"""What a stranger's file may do to us: sizes, paths that stay in their folder, and safetensors headers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tunelift.core import text_files
from tunelift.core.errors import InputError

MAX_JSON_BYTES = 64 * 2**20
"""The largest tokenizer.json in use has 33 MB (a vocabulary of 262,144); every other file of a model is far smaller."""

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Where a model's weights lie: in one file, or in those that an index names."""


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises InputError, naming the file and where in it, for other files: too large, too deep, a key twice in one object.
    """
    return text_files.json_object(text_files.json_value(read_text(path), str(path)), str(path))


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """Read a text file of at most `max_bytes`; raise InputError for another."""
    text_files.check_size(path, max_bytes)
    return text_files.text_of(path)


def inside(folder: Path, name: str) -> Path:
    """Return `folder / name`, which may not exist; raise InputError where that lies outside the folder.

    Symbolic links are followed to their end, `..` is resolved, and names are compared part by part. The Hub's cache
    keeps the files of snapshots/COMMIT in blobs/ beside snapshots/; links to there stay inside.
    """
    try:
        home, target = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a NUL character
        raise InputError(f"{folder} holds a name or a link that leads nowhere: {error}.") from error
    roots = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(target.is_relative_to(root) for root in roots):
        what = "is a link that leads" if (folder / name).is_symlink() else "lies"
        raise InputError(
            f"{folder / name} {what} outside the folder, to {target}.",
            fix="What a file names stays in its folder. Copy what is yours into it.",
        )
    return folder / name


def tensors_in(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of each tensor in a sound safetensors file, without reading their data."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        return {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()}


def safetensors_header(path: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file, without reading their data.

    Raises InputError for a header that does not fit the file: lengths, types, shapes, and tensors that overlap, leave
    gaps, or reach beyond the end. The library's own parser decides, so that what passes here is read the same later.
    """
    from safetensors import SafetensorError, safe_open

    text_files.check_size(path, sys.maxsize)
    try:
        with safe_open(path, "np") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a sound safetensors file: {error}.",
            fix="It may be cut off or damaged; copy or download it again.",
        ) from error
