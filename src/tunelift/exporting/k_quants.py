"""K-quants by llama.cpp's own quantiser, in a process of its own.

`python -m tunelift.exporting.k_quants REQUEST ANSWER`. The quantiser is cyllama's. It chooses the type
of each tensor; its blocks are of 256 numbers, and a tensor whose rows are no multiple of that gets another, which is
read back from the file.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunelift.core.errors import InputError
from tunelift.exporting.processes import answer_of
from tunelift.untrusted.gguf import read

PACKAGE = "cyllama"
K_QUANTS = {
    "q2_k": 10,
    "q3_k_s": 11,
    "q3_k_m": 12,
    "q3_k_l": 13,
    "q4_k_s": 14,
    "q4_k_m": 15,
    "q5_k_s": 16,
    "q5_k_m": 17,
    "q6_k": 18,
}
"""llama.cpp's numbers for mixtures of types (enum llama_ftype in include/llama.h)."""

BLOCK = 256


def need_quantiser() -> None:
    """Raise InputError where the quantiser is missing."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise InputError(
            f"K-quants are made by llama.cpp's own quantiser, and the package {PACKAGE}, which has it, is not here.",
            fix="Install it: pip install 'tunelift[k-quants]'",
        )


def named() -> str:
    """Return the quantiser with its version."""
    return f"llama.cpp ({PACKAGE} {version(PACKAGE)})"


def quantise(exact: Path, file: Path, kind: str) -> None:
    """Write a file of `kind` from one in 32 bits; raise TuneliftError with llama.cpp's words where it does not."""
    import torch  # not by the process that llama.cpp runs in

    request = {
        "exact": str(exact.resolve()),
        "file": str(file.resolve()),
        "type": K_QUANTS[kind],
        "threads": torch.get_num_threads(),
    }
    answer_of(["-m", __name__], request, f"llama.cpp does not write {kind}")


def types_of(file: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many tensors of a file have which type, and how many of those have it by their width.

    The latter are matrices in blocks, or in 16 bits, whose rows are no multiple of 256.
    """
    from gguf.constants import GGMLQuantizationType

    counted, by_width = dict[str, int](), dict[str, int]()
    for tensor in read(file).tensors.values():
        used = GGMLQuantizationType(tensor.type).name.lower()
        counted[used] = counted.get(used, 0) + 1
        if used != "f32" and tensor.shape[-1] % BLOCK:
            by_width[used] = by_width.get(used, 0) + 1
    return counted, by_width


def main(asked: str, answered: str) -> None:
    """Answer one request, as JSON files."""
    from cyllama.llama import llama_cpp as runtime

    request: dict[str, Any] = json.loads(Path(asked).read_text(encoding="utf-8"))
    params = runtime.LlamaModelQuantizeParams()
    params.ftype, params.nthread = request["type"], request["threads"]
    runtime.model_quantize(request["exact"], request["file"], params)
    Path(answered).write_text("{}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
