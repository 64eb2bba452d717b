"""What all prompts of a data set begin and end with: the words of their template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD, _WORD_AT_END, _WORD_AT_START = re.compile(r"\w"), re.compile(r"\w+\Z"), re.compile(r"\A\w+")


@dataclass(frozen=True, slots=True)
class SharedWords:
    """The common beginning and end of texts, in whole words."""

    prefix: str
    suffix: str

    @classmethod
    def of(cls, texts: Sequence[str]) -> SharedWords:
        """Find the frame of texts; texts that are all equal are framed by nothing."""
        if len(set(texts)) < 2:
            return cls("", "")
        prefix = _WORD_AT_END.sub("", common_start(texts))
        backwards = common_start([text[len(prefix) :][::-1] for text in texts])
        return cls(prefix, _WORD_AT_START.sub("", backwards[::-1]))

    def inside(self, text: str) -> str:
        """Return what stands between the common beginning and end."""
        return text.removeprefix(self.prefix).removesuffix(self.suffix)

    @property
    def first_line(self) -> str:
        """The line with which every text begins, as far as it is common; empty where it holds no word."""
        lines = self.prefix.strip().splitlines()
        return lines[0].strip() if lines and _WORD.search(lines[0]) else ""


def common_start(texts: Sequence[str]) -> str:
    """Return what all texts begin with: what the first and the last of them in sorted order do."""
    first, last = min(texts), max(texts)
    differs = (i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1])
    return first[: next(differs, len(first))]
