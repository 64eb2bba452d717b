"""Where keys and values are kept: pages of an arena that requests hold, and beginnings that are known.

A page that is full is the same for all that begin with its tokens, under the same adapter: it is held by each of them.
Pages stay when those have gone, until room is wanted. Of a page of which only a part fits, that part is copied.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

PAGE = 64
"""Tokens of a page."""

_clock = count(1)


@dataclass(slots=True, eq=False)
class Known:
    """A page whose tokens are known to follow those of its parents; `held` by so many requests.

    One that is not full has no children.
    """

    page: int
    tokens: tuple[int, ...]
    parent: Known | None
    held: int = 0
    used: int = 0
    children: dict[tuple[int, ...], Known] = field(default_factory=dict)


@dataclass(slots=True)
class Held:
    """The pages of one request in order. The first are known ones, which it shares; the others are its own.

    `tokens` of its beginning need not be computed. `copied` is (from page, to page, tokens) of a part to copy first.
    """

    pages: list[int]
    shared: list[Known]
    tokens: int
    copied: tuple[int, int, int] | None = None


class Pages:
    """Pages by number, of which `count` are there."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))
        self._roots: dict[str | None, Known] = {}
        self.known = 0

    @property
    def free(self) -> int:
        """Pages that nobody holds, those of known beginnings left out."""
        return len(self._free)

    def take(self, adapter: str | None, ids: Sequence[int], most: int) -> Held | None:
        """Return pages for a request that begins with `ids` and has at most so many tokens; None where none are left.

        At least its last token is left to be computed, by which the first new one is chosen.
        """
        path, node, start = list[Known](), self._root(adapter), 0
        while (child := node.children.get(tuple(ids[start : start + PAGE]))) and start + PAGE < len(ids):
            path.append(child)
            node, start = child, start + PAGE
        best, same = None, 0
        for tokens, child in node.children.items():
            alike = _alike(tokens, ids[start : len(ids) - 1])
            if alike > same:
                best, same = child, alike
        wanted = -(-most // PAGE) - len(path)
        spared = [*path, *([best] if best else [])]
        for known in spared:
            known.held += 1
            known.used = next(_clock)
        if len(self._free) < wanted:
            self._forget(wanted - len(self._free))
        if best:
            best.held -= 1  # it is copied before anything else is taken
        if len(self._free) < wanted:
            self._let_go(path)
            return None
        own = [heapq.heappop(self._free) for _ in range(wanted)]
        copied = (best.page, own[0], same) if best else None
        return Held([*(known.page for known in path), *own], path, start + same, copied)

    def give_back(self, held: Held, adapter: str | None, ids: Sequence[int]) -> None:
        """Take back the pages of a request of which `ids` were computed; what they hold is known from now on."""
        node, own = held.shared[-1] if held.shared else self._root(adapter), held.pages[len(held.shared) :]
        start, on_path = len(held.shared) * PAGE, True
        for page in own:
            tokens = tuple(ids[start : start + PAGE])
            start += PAGE
            on_path = on_path and bool(tokens)
            if on_path and tokens not in node.children:
                node.children[tokens] = Known(page, tokens, node, used=next(_clock))
                self.known += 1
            else:
                heapq.heappush(self._free, page)
            node = node.children[tokens] if on_path else node
        self._let_go(held.shared)

    def share(self, held: Held, adapter: str | None, ids: Sequence[int]) -> None:
        """Let others begin with what a request has computed of its prompt, `ids`; it goes on with the same pages."""
        node = held.shared[-1] if held.shared else self._root(adapter)
        while (end := (len(held.shared) + 1) * PAGE) <= len(ids):
            tokens = tuple(ids[end - PAGE : end])
            if tokens in node.children:
                return  # another was faster: ours stay our own
            known = Known(held.pages[len(held.shared)], tokens, node, held=1, used=next(_clock))
            node.children[tokens] = known
            self.known += 1
            held.shared.append(known)
            node = known

    def forget_all(self, adapter: str | None) -> None:
        """Forget the beginnings under an adapter that nobody holds."""
        root = self._root(adapter)
        while leaves := _leaves(root):
            for leaf in leaves:
                self._drop(leaf)
        if not root.children:
            del self._roots[adapter]

    def _root(self, adapter: str | None) -> Known:
        return self._roots.setdefault(adapter, Known(-1, (), None))

    def _let_go(self, shared: Sequence[Known]) -> None:
        for known in shared:
            known.held -= 1

    def _forget(self, wanted: int) -> None:
        """Free so many known pages, those first that were not used for longest; a page goes after its children."""
        heap = [(leaf.used, id(leaf), leaf) for root in self._roots.values() for leaf in _leaves(root)]
        heapq.heapify(heap)
        while wanted > 0 and heap:
            _, _, leaf = heapq.heappop(heap)
            parent = leaf.parent
            self._drop(leaf)
            wanted -= 1
            if parent and parent.parent and not parent.children and not parent.held:
                heapq.heappush(heap, (parent.used, id(parent), parent))

    def _drop(self, leaf: Known) -> None:
        assert leaf.parent is not None
        del leaf.parent.children[leaf.tokens]
        heapq.heappush(self._free, leaf.page)
        self.known -= 1


def _leaves(root: Known) -> list[Known]:
    """Return the pages that nobody holds and none follows."""
    found, left = [], list(root.children.values())
    while left:
        known = left.pop()
        left += known.children.values()
        if not known.children and not known.held:
            found.append(known)
    return found


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
