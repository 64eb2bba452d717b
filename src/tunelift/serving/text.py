"""Token ids to text as they come: never half a character, and nothing that a stop string may yet take away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunelift.evaluation.generation import before_stop

BROKEN = "\N{REPLACEMENT CHARACTER}"


class Speech:
    """The text of one answer, whose tokens come one by one."""

    def __init__(self, tokenizer: Any, stop_strings: Sequence[str], *, special: bool = False) -> None:
        self.special = special
        self.tokenizer, self.stops = tokenizer, [stop for stop in stop_strings if stop]
        self.ids: list[int] = []
        self.stopped = False
        self._told = 0
        self._text = ""
        self._sure = 0  # characters of `_text` that later tokens do not change: those of the first `_settled` ids
        self._settled = 0

    def add(self, token: int) -> str:
        """Take a token; return what may be told of the text now. `stopped` is set once a stop string is there."""
        self.ids.append(token)
        before = self._decoded(self.ids[self._settled : -1]) if self._settled else ""
        tail = self._decoded(self.ids[self._settled :])
        self._text = self._text[: self._sure] + tail
        # A few tokens of context decide how the next one is written, as words do that begin with a blank.
        if len(self.ids) - self._settled > 16 and not tail.endswith(BROKEN) and tail.startswith(before):
            self._move()
        if self.stops and before_stop(self._text, self.stops) != self._text:
            self.stopped = True
            return self._tell(before_stop(self._text, self.stops))
        return self._tell(self._text[: len(self._text) - self._withheld()])

    def end(self) -> str:
        """Return what is left to be told when no token follows."""
        whole = before_stop(self._decoded(self.ids), self.stops)
        return self._tell(whole if whole.startswith(self._text[: self._told]) else before_stop(self._text, self.stops))

    def _move(self) -> None:
        """Decode less from now on: begin where the text of the last ids is the same without those before them."""
        for start in range(len(self.ids) - 4, self._settled, -1):
            rest = self._decoded(self.ids[start:])
            if rest and BROKEN not in rest and self._text.endswith(rest):
                self._sure, self._settled = len(self._text) - len(rest), start
                return

    def _withheld(self) -> int:
        """Return how many characters at the end may not be told yet."""
        text = self._text.rstrip(BROKEN)  # of which the last character may yet come, within a stop string too
        begun = (n for stop in self.stops for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n]))
        return len(self._text) - len(text) + max(begun, default=0)

    def _tell(self, text: str) -> str:
        new = text[self._told :]
        self._told = max(self._told, len(text))
        return new

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not self.special))
