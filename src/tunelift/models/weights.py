"""The safetensors files of a model, and the hash that tells one model's weights from another's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path

from tunelift.core import cache, files
from tunelift.core.errors import InputError
from tunelift.untrusted.files import INDEX, SINGLE, inside, read_object


def safetensors(folder: Path) -> list[Path]:
    """Return the safetensors files that hold the model in `folder`, none where there are none.

    Raises InputError for an index that names files elsewhere or that are missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    names = read_object(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{folder / INDEX} has no weight_map.")
    found = [inside(folder, name) for name in sorted(set(names.values()))]
    for file in found:
        if file.parent != folder or file.suffix != ".safetensors" or not file.is_file():
            raise InputError(f"{folder / INDEX} names {file.name}, which is no safetensors file in the folder.")
    return found


def wanted(folder: Path) -> list[str]:
    """Return the names of the files to fetch: the single one, and those that the index names where there is one."""
    names = read_object(folder / INDEX).get("weight_map") if (folder / INDEX).is_file() else None
    return [SINGLE, *(sorted(set(map(str, names.values()))) if isinstance(names, dict) else [])]


def sha256(folder: Path) -> str:
    """Return the file's SHA-256, or of several the SHA-256 of the lines `HASH  NAME`."""
    hashes = {file.name: file_sha256(file) for file in safetensors(folder)}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the file's SHA-256, computed once as long as its size and time of change stay the same."""
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name):
        # the Hub's cache names large files by their hash
        return real.name
    facts = real.stat()
    key = f"{real}|{facts.st_size}|{facts.st_mtime_ns}"
    known = cache.folder() / "hashes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, json.JSONDecodeError, KeyError, TypeError):
        return str(json.loads(known.read_text(encoding="utf-8"))["sha256"])
    digest = files.sha256(real)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        files.write_json(known, {"file": key, "sha256": digest})
    return digest
