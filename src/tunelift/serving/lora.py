"""Adapters by token: of one row of tokens each has its own LoRA, or none.

The adapters that are at work in a batch lie in one tensor, each as high as the highest rank, with zeros. Where their
tokens are about as many of each, two batched products have them all; otherwise each adapter takes its own tokens. A
token without an adapter gets nothing added, and so the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from tunelift.adapters.build import is_adapted
from tunelift.fast.attention import UnpackableError
from tunelift.fast.undo import Undo


class ByToken:
    """The LoRA layers of peft's model while they add, to each token of a row, what its adapter adds."""

    def __init__(self, model: Any, undo: Undo) -> None:
        self.adapters: list[str] = []
        self._undo, self._taken = undo, set[Any]()
        self._at_work: list[str] = []
        self._all = self._kept = Whose((), None)
        self.whose = torch.zeros(0, dtype=torch.int32)
        """The place of each token's adapter among those at work, -1 of none (N,)."""
        self._stacked: dict[int, tuple[Tensor, Tensor] | None] = {}
        self.changed(model)

    def changed(self, model: Any) -> None:
        """Know of adapters that have come or gone: layers are taken or let go, and what was laid out is forgotten."""
        self._at_work, self._stacked = [], {}
        self._head = model.get_output_embeddings()
        here = set(model.modules())
        self._taken &= here
        self._undo.replaced = [one for one in self._undo.replaced if one[0] in here]
        for module in model.modules():
            if _is_lora(module) and module not in self._taken:
                self._taken.add(module)
                self._undo.put(module, partial(self._forward, module, module.base_layer))

    @contextmanager
    def of(self, adapters: Sequence[str | None], kept: Sequence[int] | None = None) -> Iterator[None]:
        """Let the tokens of the call inside, (N,), have these adapters; the head sees those that are kept alone."""
        wanted = list(dict.fromkeys(name for name in adapters if name is not None))
        if not set(wanted) <= set(self._at_work) or len(self._at_work) > 2 * max(1, len(wanted)):
            self._at_work, self._stacked = wanted, {}
        numbers = {name: number for number, name in enumerate(self._at_work)}
        whose = [-1 if name is None else numbers[name] for name in adapters]
        self._all, self.adapters = Whose(whose, Even.of(whose, len(self._at_work))), wanted
        self.whose = torch.tensor(whose, dtype=torch.int32)
        self._kept = self._all
        if kept is not None and _is_lora(self._head):
            some = [whose[at] for at in kept]
            self._kept = Whose(some, Even.of(some, len(self._at_work)))
        yield

    def _forward(self, module: Any, base: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found = base(x, *args, **kwargs)
        if not self.adapters:
            return found
        stacked = self.laid_out(module)
        if stacked is None:
            return found
        a, b = stacked
        rows, into = x.reshape(-1, x.shape[-1]).to(a.dtype), found.reshape(-1, found.shape[-1])
        own = self._kept if module is self._head else self._all
        if len(rows) != len(own.numbers):
            raise UnpackableError("a layer with an adapter is asked about some of the tokens alone")
        return own.added(into, rows, a, b).to(found.dtype).view(found.shape)

    @property
    def count(self) -> int:
        """How many adapters are laid out."""
        return len(self._at_work)

    def laid_out(self, module: Any) -> tuple[Tensor, Tensor] | None:
        """Return A (K, R, in) and B turned, with its scale, (K, R, out) of the K adapters at work; None of none."""
        if id(module) not in self._stacked:
            self._stacked[id(module)] = self._lay_out(module) if module in self._taken else None
        return self._stacked[id(module)]

    def _lay_out(self, module: Any) -> tuple[Tensor, Tensor] | None:
        names = [name for name in self._at_work if name in module.lora_A]
        if not names:
            return None
        rank = max(module.lora_A[name].weight.shape[0] for name in names)
        like = module.lora_A[names[0]].weight
        a = like.new_zeros(len(self._at_work), rank, like.shape[1])
        b = like.new_zeros(len(self._at_work), rank, module.lora_B[names[0]].weight.shape[0])
        for number, name in enumerate(self._at_work):
            if name in names:
                own = module.lora_A[name].weight
                a[number, : len(own)] = own
                b[number, : len(own)] = module.lora_B[name].weight.t() * module.scaling[name]
        return a, b


@dataclass(frozen=True, slots=True)
class Whose:
    """The number of each token's adapter, -1 of none (N,), and how they are laid out, if they are even."""

    numbers: Sequence[int]
    even: Even | None

    def added(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return y (N, out) and what tokens x (N, in) get by A (K, R, in) and B (K, R, out)."""
        if self.even is not None:
            return self.even.added(y, x, a, b)
        added, at = x.new_zeros(len(x), b.shape[2]), 0
        for number, run in groupby(self.numbers):
            start, at = at, at + len(list(run))
            if number >= 0:
                torch.mm(x[start:at] @ a[number].t(), b[number], out=added[start:at])
        return y + added


@dataclass(frozen=True, slots=True)
class Even:
    """Tokens laid out by adapter, as many places for each: `grid` (K, L) says which token is where.

    Places that are left over hold any token; `back` (N,) says where each token is, the first place behind all for one
    without an adapter. With `as_they_are` the tokens lie so already, and none is without.
    """

    grid: Tensor
    back: Tensor
    as_they_are: bool

    @staticmethod
    def of(whose: Sequence[int], adapters: int) -> Even | None:
        """Lay out the tokens of a row, by the number of each one's adapter or -1; None where they are too uneven."""
        tokens: list[list[int]] = [[] for _ in range(adapters)]
        for token, number in enumerate(whose):
            if number >= 0:
                tokens[number].append(token)
        wide = max(map(len, tokens), default=0)
        if wide * adapters > 2 * len(whose):
            return None
        back = [adapters * wide] * len(whose)
        for number, own in enumerate(tokens):
            for place, token in enumerate(own):
                back[token] = number * wide + place
        grid = [own + [0] * (wide - len(own)) for own in tokens]
        as_they_are = back == list(range(adapters * wide))
        return Even(torch.tensor(grid, dtype=torch.long), torch.tensor(back, dtype=torch.long), as_they_are)

    def added(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return y (N, out) and what tokens x (N, in) get by A (K, R, in) and B (K, R, out)."""
        if self.as_they_are and y.dtype == x.dtype:
            own = x.reshape(len(a), -1, x.shape[1]) @ a.transpose(1, 2)
            return torch.baddbmm(y.reshape(len(a), -1, y.shape[1]), own, b).flatten(0, 1)
        found = (x[self.grid] @ a.transpose(1, 2) @ b).flatten(0, 1)
        return y + torch.cat([found, found.new_zeros(1, found.shape[1])])[self.back]


class InTurns:
    """Peft's model, of which one adapter is on in a call: that of all of its tokens."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @contextmanager
    def of(self, adapters: Sequence[str | None], kept: Sequence[int] | None = None) -> Iterator[None]:
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
