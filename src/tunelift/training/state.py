"""What the loop knows after a step: all of it goes into a checkpoint, and comes back bit by bit."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tunelift.core import machine
from tunelift.core.errors import InputError
from tunelift.model_facts.parameters import device_of, is_half, stored_dtypes
from tunelift.training import ranks
from tunelift.training.optimisers import OPTIMISERS

FIRST, LOWEST, HIGHEST = 2.0**16, 1.0, 2.0**24
STEPS_TO_DOUBLE = 2000


@dataclass(slots=True)
class Fit:
    """How a training went. `seconds` are those of the steps and the looks at validation, of every session.

    `losses` are those of the steps that moved the parameters; `skipped` counts the others, whose loss or gradient was
    no finite number. `stopped` is empty while it goes on.
    """

    steps: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    best_step: int | None = None
    best_loss: float | None = None
    skipped: int = 0
    stopped: str = ""


@dataclass(slots=True)
class LossScale:
    """By how much the loss is scaled on the way back where float16 computes: most gradients are too small for it.

    The rule and its numbers are those of torch.amp.GradScaler (Micikevicius et al., arXiv 1710.03740): a gradient that
    became infinite halves the scale, and so many steps without one double it. The step is not lost, as it is there: it
    is computed again. `value` is the scale in force, a power of two, and `steps` how many steps fitted it since it was
    changed; `fixed` it stays 1.
    """

    value: float
    fixed: bool
    steps: int = 0

    @classmethod
    def of(cls, model: nn.Module) -> LossScale:
        """Return the scale that a training of this model begins with.

        float16 may have a part in the gradient by the weights, frozen or not, or by the caller's autocast.
        """
        kinds = {p.device.type for p in model.parameters()}
        fixed = torch.float16 not in stored_dtypes(model) and not any(
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16 for kind in kinds
        )
        return cls(1.0 if fixed else FIRST, fixed)

    def fitted(self) -> None:
        """Count a step whose gradient was finite."""
        self.steps += 1
        if not self.fixed and self.steps >= STEPS_TO_DOUBLE:
            self.value, self.steps = min(2 * self.value, HIGHEST), 0

    def lowered(self) -> bool:
        """Halve the scale after a gradient that was not finite; return whether it could be."""
        if self.value <= LOWEST:
            return False
        self.value, self.steps = self.value / 2, 0
        return True


class Footprint(NamedTuple):
    """What a training takes (bytes): a checkpoint, memory beside the model, and what is saved of it in the end.

    Of these `parameters` are what is trained, `exact` copies in fp32 of what is in half precision, and `moments` what
    each optimiser would keep, by its name.
    """

    checkpoint: int
    memory: int
    saved: int
    parameters: int = 0
    exact: int = 0
    moments: Mapping[str, int] = {}

    @classmethod
    def of(cls, parameters: Iterable[Tensor], saved: int | None = None, optimiser: str = "adamw") -> Footprint:
        """Return that of a `State` of these: gradients, moments, the best look's values, copies of halves in fp32.

        A checkpoint is written tensor by tensor. One that is gone on from is read whole, when there are no gradients
        and its own best values are taken. What is saved are these parameters, where nothing else is said.
        """
        some = list(parameters)
        own = size_of(some)
        exact = 4 * sum(p.numel() for p in some if is_half(p))
        moments = {name: sum(row.keeps(p.shape) for p in some) for name, row in OPTIMISERS.items()}
        checkpoint = 2 * own + exact + moments[optimiser]
        memory = 2 * own + 2 * exact + moments[optimiser]
        return cls(checkpoint, memory, own if saved is None else saved, own, exact, moments)


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def check_memory(model: nn.Module, footprint: Footprint) -> None:
    """Raise InputError where memory cannot hold a model and what its training takes beside, activations aside.

    Nothing is said of a device that does not say what it has.
    """
    device = device_of(model)
    usable = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else machine.usable_bytes()
    weights = size_of(model.parameters())
    if usable is None or device.type not in ("cpu", "cuda") or weights + footprint.memory <= usable:
        return
    parts = f"weights {weights / 1e9:.1f} GB, gradients and the optimiser's state {footprint.memory / 1e9:.1f} GB"
    raise InputError(
        f"Memory does not suffice for this training: it takes {parts}, and there are {usable / 1e9:.1f} GB.",
        fix="Train an adapter (adapter.method: lora), which has few of the latter, or take a smaller model.",
    )


class State:
    """Parameters, optimiser, account and random numbers of a training."""

    def __init__(self, model: nn.Module, rate: float, weight_decay: float, optimiser: str = "adamw") -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        # A step is often less than what a half-precision number of that size can tell: those are moved in fp32.
        halves = {name: p for name, p in self.parameters.items() if is_half(p)}
        self.exact = {name: p.detach().float() for name, p in halves.items()}
        moved = {name: self.exact.get(name, p) for name, p in self.parameters.items()}
        self.moved = list(moved.values())
        self.optimiser = OPTIMISERS[optimiser].build(moved, rate, weight_decay)
        self.scale = LossScale.of(model)
        self.fit = Fit()
        self.best: dict[str, Tensor] = {}
        self.looked = 0  # the last step after which validation was looked at
        self.looks_since = 0  # looks without improvement
        self.bad_in_a_row = 0

    def gather(self) -> list[Tensor]:
        """Hand the gradients of parameters in half precision to their copies in fp32; return all that is moved."""
        for name, exact in self.exact.items():
            gradient = self.parameters[name].grad
            exact.grad = None if gradient is None else gradient.float()
        return self.moved

    def move(self) -> None:
        """Move the parameters by the gradients that are gathered."""
        self.optimiser.step()
        self._copy(self.exact)

    def clear(self) -> None:
        """Drop all gradients."""
        for parameter in (*self.parameters.values(), *self.exact.values()):
            parameter.grad = None

    def keep_best(self) -> None:
        self.best = {name: p.detach().clone() for name, p in self.parameters.items()}

    def put_back_best(self) -> None:
        """Give the parameters the values of the best look at validation, if there was one."""
        self._copy(self.best)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state by name."""
        moments = self.optimiser.state_dict()["state"]
        named = {f"parameter/{name}": p.detach() for name, p in self.parameters.items()}
        named |= {f"exact/{name}": tensor for name, tensor in self.exact.items()}
        named |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        named |= {f"optimiser/{i}/{key}": tensor for i, some in moments.items() for key, tensor in some.items()}
        for kind, numbers in _torch_states(self.device).items():
            named |= {f"random/{kind}/{rank}": own for rank, own in enumerate(ranks.of_all(numbers))}
        return {name: tensor.contiguous() for name, tensor in named.items()}

    def facts(self) -> dict[str, Any]:
        """Return what is no tensor, as JSON has it."""
        version, numbers, gauss = random.getstate()
        kind, keys, *position = np.random.get_state(legacy=True)
        return {
            "fit": asdict(self.fit),
            "looked": self.looked,
            "looks_since": self.looks_since,
            "bad_in_a_row": self.bad_in_a_row,
            "loss_scale": asdict(self.scale),
            "python_random": [version, list(numbers), gauss],
            "numpy_random": [kind, keys.tolist(), *position],  # type: ignore[union-attr]
        }

    def put_back(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Make this the state that `tensors` and `facts` were taken from."""
        self.fit = Fit(**facts["fit"])
        self.looked, self.looks_since = facts["looked"], facts["looks_since"]
        self.bad_in_a_row = facts["bad_in_a_row"]
        self.scale = LossScale(**facts.get("loss_scale", asdict(self.scale)))
        self._copy(below("parameter/", tensors))
        exact = below("exact/", tensors)
        for name, own in self.exact.items():
            own.copy_(exact.get(name, self.parameters[name].detach()))
        best = below("best/", tensors)
        self.best = {name: tensor.to(self.parameters[name].device) for name, tensor in best.items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in below("optimiser/", tensors).items():
            index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = tensor
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        _put_back_torch_states(below("random/", tensors), self.device)
        version, numbers, gauss = facts["python_random"]
        random.setstate((version, tuple(numbers), gauss))
        kind, keys, *position = facts["numpy_random"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *position))

    def _copy(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in tensors.items():
                self.parameters[name].copy_(tensor)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _torch_states(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's random numbers on the CPU, and on the GPU that is trained on, whichever it is."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def _put_back_torch_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Take the numbers of this rank; another number of ranks begins with the seed's."""
    for name, numbers in states.items():
        kind, rank = name.split("/")
        if int(rank) != ranks.position()[0]:
            continue
        if kind == "cuda":
            torch.cuda.set_rng_state(numbers, device)
        else:
            (torch if kind == "cpu" else torch.get_device_module(kind)).set_rng_state(numbers)
