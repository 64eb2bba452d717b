"""bitsandbytes, imported without the compiled code that it would fetch from the Hub."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from types import ModuleType


def import_bitsandbytes() -> None:
    """Import it where it is installed; call this before peft is imported, which imports it.

    On a processor with AVX512-BF16 bitsandbytes 0.50 asks the package kernels, as it is imported, to fetch compiled
    code from the Hub and to load it, and where that package is missing it warns that it should be installed. The code
    is for one product in evaluation, which is switched off here (`models/quantized.py:keep`).
    """
    if "bitsandbytes" in sys.modules or find_spec("bitsandbytes") is None:
        return
    # Whatever it fails with is said where it is needed: peft and transformers import it again.
    with _without("kernels"), _silent("bitsandbytes.backends.cpu.ops"), suppress(Exception):
        importlib.import_module("bitsandbytes")


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Let imports of a package fail for the calls inside."""
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    was_there, found = package in modules, modules.get(package)
    modules[package] = None  # which Python takes for a package that cannot be imported
    try:
        yield
    finally:
        del modules[package]
        if was_there:
            modules[package] = found


@contextmanager
def _silent(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
