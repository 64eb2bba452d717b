"""On which device and in which precision a model runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tunelift.core import cache, files, machine
from tunelift.core.errors import InputError
from tunelift.core.timing import shortest

if TYPE_CHECKING:
    import torch

ENOUGH = 1.3
"""bfloat16 must be so much faster than float32, in both directions, before a CPU runs in it."""

PROBE = 3
"""Raised when something else is measured."""

ROWS, INPUTS, OUTPUTS = 256, 640, 2048

CAPS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that forbid instructions, and so change what is fast."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The device, the dtype, and a sentence on why this dtype."""

    device: torch.device
    dtype: torch.dtype
    reason: str


def choose(device: str = "auto", dtype: str = "auto") -> Precision:
    """Choose the device (the first of cuda, mps, cpu unless named) and the dtype (what suits the device unless named).

    Of several processes on one machine each takes the GPU of its local rank. Raises InputError for a device that is
    not here.
    """
    import torch

    place = _device(device)
    if dtype != "auto":
        return Precision(place, getattr(torch, dtype), "asked for")
    return Precision(place, *_suited(place.type))


def _device(name: str) -> torch.device:
    import torch

    here = machine.devices()
    try:
        device = torch.device(next(kind for kind, count in here.items() if count) if name == "auto" else name)
    except RuntimeError as error:
        raise InputError(
            f'model.device is "{name}", which is no device.', fix="Allowed: auto, cuda, cuda:1, mps, cpu."
        ) from error
    if (device.index or 0) >= here.get(device.type, 0):
        found = ", ".join(kind for kind, count in here.items() if count)
        raise InputError(f'model.device is "{name}", which is not here.', fix=f"Found: {found}. auto takes the first.")
    return _of_local_rank(device, here["cuda"]) if device.type == "cuda" else device


def _of_local_rank(device: torch.device, count: int) -> torch.device:
    """Return the GPU, of `count`, that is this process's own among those that torchrun and its like have started here.

    Raises InputError where there is none, or where all of them would take the one that is named.
    """
    import torch

    processes, rank = (os.environ.get(name, "") for name in ("LOCAL_WORLD_SIZE", "LOCAL_RANK"))
    if not rank.isdecimal():
        return device
    if device.index is not None:
        if count > 1 and processes.isdecimal() and int(processes) > 1:
            raise InputError(
                f'model.device is "{device}", and {processes} processes were started here: all would take that one.',
                fix="Set it to cuda: each process then takes the GPU of its local rank.",
            )
        return device
    if int(rank) >= count:
        raise InputError(
            f"This process has the local rank {rank}, and {count} GPU{'s are' if count > 1 else ' is'} here: none is "
            "left for it.",
            fix="Start no more processes than there are GPUs, or set model.device to cpu. Where each process is shown "
            "a GPU of its own (CUDA_VISIBLE_DEVICES), set it to cuda:0.",
        )
    return torch.device("cuda", int(rank))


def _suited(kind: str) -> tuple[torch.dtype, str]:
    """Return what suits a kind of device, and why.

    For a CPU it is measured, once for this machine: which precision is fast differs by a hundred times among them.
    """
    import torch

    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "the GPU computes in bfloat16"
        return torch.float16, "the GPU has no bfloat16"
    if kind == "mps":
        if torch.backends.mps.is_macos_or_newer(14, 0):
            return torch.bfloat16, "bfloat16 on Apple's GPU (not tested by us)"
        return torch.float16, "before macOS 14 Apple's GPU has no bfloat16 (not tested by us)"
    gains = _measured()
    shown = " and ".join(f"{gain:.1f} times ({name})" for name, gain in gains.items())
    chosen = torch.bfloat16 if all(gain >= ENOUGH for gain in gains.values()) else torch.float32
    return chosen, f"measured on this CPU: bfloat16 reaches {shown} the speed of float32"


def _measured() -> dict[str, float]:
    """Return how many times as fast as float32 bfloat16 is, by product; a lost first one spares the second."""
    import torch

    caps = [os.environ.get(name) for name in CAPS]
    facts = [PROBE, machine.processor(), machine.vectors(), torch.get_num_threads(), torch.__version__, *caps]
    known = cache.folder() / "precision" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return {name: float(gain) for name, gain in json.loads(known.read_text(encoding="utf-8"))["gains"].items()}
    gains, alone = machine.had_cores(probe)
    if alone:  # what was measured beside other work is no fact of this machine: the next run measures again
        with contextlib.suppress(OSError):  # a cache that cannot be written costs half a second, nothing else
            files.write_json(known, {"machine": facts, "gains": gains})
    return gains


def probe() -> dict[str, float]:
    """Time the two products of a linear layer in both precisions (under half a second) and return bfloat16's gain."""
    import torch

    from tunelift.fast import frozen  # as a training has them

    own = torch.Generator().manual_seed(0)  # the user's seed must give the same numbers whether or not we measure
    shapes = (ROWS, INPUTS), (OUTPUTS, INPUTS), (ROWS, OUTPUTS)
    inputs, weight, gradient = (torch.randn(shape, generator=own) for shape in shapes)
    products: dict[str, Callable[[torch.dtype], Callable[[], Any]]] = {
        "forward": lambda kind: partial(frozen.linear, inputs.to(kind), weight.to(kind)),
        "gradient": lambda kind: partial(frozen.product, gradient.to(kind), weight.to(kind)),
    }
    gains: dict[str, float] = {}
    for name, product in products.items():
        single, half = shortest(product(torch.float32), product(torch.bfloat16))
        gains[name] = round(single / half, 3)
        if gains[name] < ENOUGH:
            break
    return gains
