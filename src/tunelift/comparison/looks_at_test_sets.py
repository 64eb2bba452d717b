"""How often one test set was looked at: the error rates of a verdict hold for the first look.

The count is kept in the user's state folder (TUNELIFT_STATE where that is set), as one short line of two hashes for
each result that was compared on a test set. It holds nothing of the rows themselves.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from tunelift.core.records import ScoreRow, as_text, content_hash, content_of

FILE = "looks.txt"
_UNCOUNTED = ContextVar("uncounted", default=False)


def test_hash(rows: Iterable[ScoreRow]) -> str | None:
    """Return the hash (16 hex digits) of a test set: of its inputs and references, in any order, by any ids.

    None where an item's input is not known: "1" to "100" are the ids of many a test set.
    """
    contents = [content_of(row) for row in rows]
    if not all(given for given, _ in contents):
        return None
    return _short_hash("\n".join(sorted(content_hash(given, right) for given, right in contents)))


def tuned_hash(rows: Iterable[ScoreRow]) -> str:
    """Return the hash (16 hex digits) of a result: of its rows' ids, metrics, counts and predictions, in any order."""
    parts = ("metrics", "counts", "prediction")
    lines = sorted(as_text([str(row["id"]), *map(row.get, parts)]) for row in rows)
    return _short_hash("\n".join(lines))


def count_look(test: str | None, tuned: str) -> int | None:
    """Note that the result `tuned` was compared on the test set `test`, both by their hashes.

    Returns how many different results have been compared on it so far, this one included: the same comparison once
    more is no new look. None where the test set is not known, or the state folder cannot be read or written, so that
    this never fails a comparison.
    """
    if test is None or _UNCOUNTED.get():
        return None
    try:
        path = _folder() / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        if tuned not in _results_on(test, path):
            _append(path, f"{test} {tuned}")
        seen = _results_on(test, path)
    except OSError:
        return None
    return len(seen)


@contextmanager
def uncounted() -> Iterator[None]:
    """Let comparisons be no looks for a while: one that is made again, or of a file with the model that it is of."""
    token = _UNCOUNTED.set(True)
    try:
        yield
    finally:
        _UNCOUNTED.reset(token)


def _folder() -> Path:
    import platformdirs

    return Path(os.environ.get("TUNELIFT_STATE") or platformdirs.user_state_path("tunelift"))


def _results_on(test: str, path: Path) -> set[str]:
    """Return the results noted for a test set; a line that is not two words is skipped."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    pairs = (line.split() for line in text.splitlines())
    return {words[1] for words in pairs if len(words) == 2 and words[0] == test}


def _append(path: Path, line: str) -> None:
    """Add a line in one write to the file's end, which two processes may do at once."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        # The line break in front ends a line that a crash cut off; blank lines are skipped.
        os.write(handle, f"\n{line}\n".encode())
    finally:
        os.close(handle)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:16]
