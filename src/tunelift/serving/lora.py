"""Adapters by token: of one row of tokens each has its own LoRA, or none.

The adapters that are at work in a batch lie one below the other: one product with all of their A, in which what is
another's adapter is set to zero, and one with all of their B. A token without an adapter gets zeros, and so the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunelift.adapters.build import is_adapted
from tunelift.fast.undo import Undo


class ByToken:
    """The LoRA layers of peft's model while they add, to each token of a row, what its adapter adds."""

    def __init__(self, model: Any, undo: Undo) -> None:
        self.adapters: list[str] = []
        self._undo, self._taken = undo, set[Any]()
        self._at_work: list[str] = []
        self._mine: dict[tuple[int, ...], Tensor] = {}
        self._rows: Tensor | None = None
        self._stacked: dict[int, tuple[Tensor, Tensor, tuple[int, ...]]] = {}
        self.changed(model)

    def changed(self, model: Any) -> None:
        """Know of adapters that have come or gone: layers are taken or let go, and what was laid out is forgotten."""
        self._at_work, self._stacked = [], {}
        here = set(model.modules())
        self._taken &= here
        self._undo.replaced = [one for one in self._undo.replaced if one[0] in here]
        for module in model.modules():
            if _is_lora(module) and module not in self._taken:
                self._taken.add(module)
                self._undo.put(module, partial(self._forward, module, module.base_layer))

    @contextmanager
    def of(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Let the tokens of the call inside, (N,), have these adapters."""
        wanted = list(dict.fromkeys(name for name in adapters if name is not None))
        if not set(wanted) <= set(self._at_work) or len(self._at_work) > 2 * max(1, len(wanted)):
            self._at_work, self._stacked = wanted, {}
        numbers = {name: number for number, name in enumerate(self._at_work)}
        self._rows = torch.tensor([-1 if name is None else numbers[name] for name in adapters], dtype=torch.long)
        self._mine, self.adapters = {}, wanted
        yield

    def _forward(self, module: Any, base: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found = base(x, *args, **kwargs)
        if not self.adapters:
            return found
        if id(module) not in self._stacked:
            self._stacked[id(module)] = self._laid_out(module)
        a, b, ranks = self._stacked[id(module)]
        if not len(a):
            return found
        inner = nn.functional.linear(x.to(a.dtype), a).masked_fill(self._others(ranks, x.device), 0)
        return (found + nn.functional.linear(inner, b)).to(found.dtype)

    def _laid_out(self, module: Any) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Return A (R, in), B (out, R) with its scale, and the ranks of the adapters at work, 0 for one without."""
        names = [name for name in self._at_work if name in module.lora_A]
        ranks = tuple(module.lora_A[name].weight.shape[0] if name in names else 0 for name in self._at_work)
        if not names:
            return torch.empty(0), torch.empty(0), ranks
        a = torch.cat([module.lora_A[name].weight for name in names])
        b = torch.cat([module.lora_B[name].weight * module.scaling[name] for name in names], dim=1)
        return a.detach(), b.detach(), ranks

    def _others(self, ranks: tuple[int, ...], device: torch.device) -> Tensor:
        """Return which of the ranks of all adapters are not of the token's own, (N, R) bool."""
        if ranks not in self._mine:
            assert self._rows is not None
            owner = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
            self._mine[ranks] = (owner[None] != self._rows[:, None]).to(device)
        return self._mine[ranks]


class InTurns:
    """Peft's model, of which one adapter is on in a call: that of all of its tokens."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @contextmanager
    def of(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Let the call inside have this adapter, which is the same for all tokens."""
        name, *others = dict.fromkeys(adapters)
        assert not others
        if not is_adapted(self.model):
            yield
            return
        if name is not None and self.model.active_adapter != name:
            self.model.set_adapter(name, inference_mode=True)
        with self.model.disable_adapter() if name is None else nullcontext():
            yield

    def changed(self, model: Any) -> None:
        """Know of adapters that have come or gone."""
        self.model = model


def unmixed(model: Any) -> str | None:
    """Say why the adapters of a model cannot be mixed in one call, or return None."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for config in (getattr(model, "peft_config", None) or {}).values():
        if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
            return "not all are LoRA"
        if getattr(config, "bias", "none") != "none":
            return "one trains biases of the base"
        if getattr(config, "alora_invocation_tokens", None):
            return "one looks in a row for where it begins to act"
    for module in model.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return "one has modules of its own beside LoRA"
        if isinstance(module, BaseTunerLayer) and not _is_lora(module):
            return f"one is on a {type(module).__name__} that is not plain LoRA"
    return None


def _is_lora(module: Any) -> bool:
    """Tell whether a layer of peft adds s B A x to a linear layer, and nothing else."""
    from peft.tuners.lora.layer import Linear

    four_bits = "peft.tuners.lora.bnb", "Linear4bit"  # which is there with bitsandbytes alone
    if type(module) is not Linear and (type(module).__module__, type(module).__name__) != four_bits:
        return False
    thin = [*module.lora_A.values(), *module.lora_B.values()]
    return all(type(layer) is nn.Linear and layer.bias is None for layer in thin) and not module.lora_variant
