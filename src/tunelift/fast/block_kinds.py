"""The layouts in which a row of a weight lies in blocks of few bits; blocks.c has the same table, in the same order.

int8 and int4 are ours, the others those of ggml (https://github.com/ggml-org/ggml, src/ggml-common.h), by its names.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A layout: its number in blocks.c, the numbers of a block, and the bytes that they take."""

    number: int
    block: int
    bytes: int

    def row_bytes(self, size: int) -> int:
        """Return the bytes of a row of so many numbers; its last block may be filled up."""
        return -(-size // self.block) * self.bytes


_LAYOUTS = {
    "int8": (32, 34),
    "int4": (64, 36),
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q8_0": (32, 34),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
}
GGML_TYPES = {2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 12: "q4_k", 13: "q5_k", 14: "q6_k"}
"""The layouts of GGUF files by the number that ggml has for each."""

KINDS = {name: Kind(number, *sizes) for number, (name, sizes) in enumerate(_LAYOUTS.items())}


def of_number(number: int) -> Kind:
    """Return the layout of this number."""
    return list(KINDS.values())[number]
