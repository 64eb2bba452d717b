"""The optimisers that a training may have, a row each; whatever they keep is tensors, which a checkpoint holds."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tunelift.core.errors import InputError

LORA_PLUS = 16.0
"""How many times A's rate is that of B (LoRA+, Hayou et al. 2024, arXiv 2402.12354, who recommend 2 to the 4th)."""

TIMES = "times"
"""By what a group's learning rate is multiplied, where that is not the schedule's."""


def adamw(parameters: Mapping[str, Tensor], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019): two numbers in fp32 for each parameter."""
    return _adamw(list(parameters.values()), rate, weight_decay)


def lora_plus(parameters: Mapping[str, Tensor], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with a higher rate for LoRA's B, which begins at zero; raise InputError where there is none."""
    of_b = [name for name in parameters if ".lora_B." in name]
    if not of_b:
        raise InputError("train.optimizer is lora-plus, and the adapter has no LoRA's B.", fix="Leave it out.")
    rest = [parameter for name, parameter in parameters.items() if name not in of_b]
    faster = {"params": [parameters[name] for name in of_b], TIMES: LORA_PLUS}
    groups = [*([{"params": rest}] if rest else []), faster]
    return _adamw(groups, rate, weight_decay)


def _adamw(groups: Any, rate: float, weight_decay: float) -> torch.optim.Optimizer:
    some = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
    fused = all(p.device.type in ("cpu", "cuda") for p in some)  # one pass over each
    return torch.optim.AdamW(groups, lr=rate, weight_decay=weight_decay, fused=fused)


class Adafactor(torch.optim.Optimizer):
    """Adafactor with the rate that is given (Shazeer and Stern 2018, arXiv 1804.04235): of squares rows' and columns'
    means alone are kept, and updates are clipped to a root mean square of 1."""

    TINY, DECAY = 1e-30, -0.8

    def __init__(self, parameters: list[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nobody asks for a closure here
        """Move each parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group["lr"], group["weight_decay"])

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float, weight_decay: float) -> None:
        kept, squares = self.state[parameter], gradient.square().add_(self.TINY)
        if not kept:
            kept["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            means = {"rows": squares.mean(dim=-1), "columns": squares.mean(dim=-2)} if squares.dim() > 1 else {}
            kept |= {name: torch.zeros_like(mean) for name, mean in (means or {"squares": squares}).items()}
        kept["step"] += 1
        share = float(kept["step"]) ** self.DECAY  # of what is new
        if squares.dim() > 1:
            kept["rows"].lerp_(squares.mean(dim=-1), share)
            kept["columns"].lerp_(squares.mean(dim=-2), share)
            by_row = (kept["rows"] / kept["rows"].mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
            update = gradient * by_row * kept["columns"].rsqrt().unsqueeze(-2)
        else:
            update = gradient * kept["squares"].lerp_(squares, share).rsqrt()
        update /= update.square().mean().sqrt().clamp_min(1.0)
        parameter.mul_(1 - weight_decay * rate).sub_(update, alpha=rate)


def adafactor(parameters: Mapping[str, Tensor], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Adafactor: two rows of numbers for each matrix."""
    return Adafactor(list(parameters.values()), rate, weight_decay)


SMALL, BLOCK = 4096, 256
"""Tensors of fewer numbers keep their state in 32 bits, and so many numbers have a scale, as bitsandbytes has it."""


def adamw_8bit(parameters: Mapping[str, Tensor], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW whose two numbers for each parameter have eight bits each (Dettmers et al. 2022, arXiv 2110.02861), by
    bitsandbytes; raise InputError for a device that it has none for."""
    if other := {p.device.type for p in parameters.values()} - {"cpu", "cuda"}:
        raise InputError(f"train.optimizer is adamw-8bit, which there is for cpu and cuda, not for {other.pop()}.")
    from bitsandbytes.optim import AdamW8bit

    class OfTensors(AdamW8bit):  # type: ignore[misc]
        """What it keeps, as tensors alone: steps are whole numbers there, and the codes' values the same for all."""

        def state_dict(self) -> dict[str, Any]:
            told = torch.optim.Optimizer.state_dict(self)
            own = {index: dict(kept) for index, kept in told["state"].items()}
            for kept in own.values():
                kept["step"] = torch.tensor(kept["step"])
                kept.pop("qmap1", None), kept.pop("qmap2", None)
            return {**told, "state": own}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            every = [p for group in self.param_groups for p in group["params"]]
            for index, told in state_dict["state"].items():
                kept = {name: tensor.to(every[index].device) for name, tensor in told.items() if name != "step"}
                if "absmax1" in kept:
                    kept |= {"qmap1": self.name2qmap["dynamic"], "qmap2": self.name2qmap["udynamic"]}
                    kept |= {name: kept[name].to(every[index].device) for name in ("qmap1", "qmap2")}
                self.state[every[index]] = {"step": int(told["step"]), **kept}

    return OfTensors([*parameters.values()], lr=rate, weight_decay=weight_decay, min_8bit_size=SMALL)


def _two_singles(shape: Sequence[int]) -> int:
    return 8 * math.prod(shape)


def _two_bytes(shape: Sequence[int]) -> int:
    count = math.prod(shape)
    return _two_singles(shape) if count < SMALL else 2 * count + 8 * -(-count // BLOCK)


def _two_rows(shape: Sequence[int]) -> int:
    count = math.prod(shape)
    return 4 * (count if len(shape) < 2 or not count else count // shape[-1] + count // shape[-2])


class Optimiser(NamedTuple):
    """`build` makes it of parameters by name, a rate and a weight decay; `keeps` are its bytes for one of a shape."""

    build: Callable[[Mapping[str, Tensor], float, float], torch.optim.Optimizer]
    keeps: Callable[[Sequence[int]], int]


OPTIMISERS = {
    "adamw": Optimiser(adamw, _two_singles),
    "adamw-8bit": Optimiser(adamw_8bit, _two_bytes),
    "lora-plus": Optimiser(lora_plus, _two_singles),
    "adafactor": Optimiser(adafactor, _two_rows),
}


def has_bitsandbytes() -> bool:
    """Tell whether AdamW in eight bits is to be had."""
    return importlib.util.find_spec("bitsandbytes") is not None


def refuse_optimiser(name: str, method: str | None) -> None:
    """Raise InputError for rates of LoRA+ where another method than LoRA is trained (None: it is not known yet), and
    for what needs a package that is not here."""
    if name == "adamw-8bit" and not has_bitsandbytes():
        raise InputError(
            "train.optimizer is adamw-8bit, and bitsandbytes is not installed.",
            fix="pip install 'tunelift[quantized]', or take adafactor, which keeps less and needs nothing.",
        )
    if name == "lora-plus" and method not in (None, "lora"):
        raise InputError(
            f"train.optimizer is lora-plus, which is for LoRA's two matrices, and adapter.method is {method}.",
            fix="Leave it out.",
        )
