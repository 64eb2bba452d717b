"""Random numbers from a seed, and no trace of that: the caller's own go on afterwards as if none had been drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


def sample(some: Sequence[T], most: int, seed: str) -> list[T]:
    """Return at most so many of them, drawn by seed, in their order."""
    if len(some) <= most:
        return list(some)
    return [some[i] for i in sorted(random.Random(seed).sample(range(len(some)), most))]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's random numbers, on every device in use, begin at `seed` in the calls inside.

    Those of torch, Python and NumPy are put back.
    """
    import numpy as np

    python, numbers = random.getstate(), np.random.get_state()
    back = _begun_at(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        for put_back in back:
            put_back()


def _begun_at(seed: int) -> list[Callable[[], Any]]:
    """Seed each of torch's generators, and return what puts it back as it was.

    torch.manual_seed would reach a GPU that nobody uses yet, too, and be found there when somebody does.
    """
    import torch

    cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    generators = [torch.default_generator, *cuda]
    back: list[Callable[[], Any]] = [partial(one.set_state, one.get_state()) for one in generators]
    for generator in generators:
        generator.manual_seed(seed)
    if torch.backends.mps.is_available():
        back.append(partial(torch.mps.set_rng_state, torch.mps.get_rng_state()))
        torch.mps.manual_seed(seed)
    return back
