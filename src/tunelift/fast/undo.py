"""What was put in the place of modules' `forward`, and the mode that they were in, and how both come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, update_wrapper
from inspect import Parameter, signature
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch

from tunelift.model_facts.anatomy import base_of

DRAWN = 0.02
"""Deviation of the numbers that stand for an adapter's tensor that begins at zero."""

_ABSENT = object()
_numbers = count()
_all: WeakValueDictionary[int, Undo] = WeakValueDictionary()
"""In the order in which they were begun."""


class Undo:
    """Functions in the place of modules' `forward`, taken out again in the opposite order."""

    def __init__(self) -> None:
        _all[next(_numbers)] = self
        self.replaced: list[tuple[Any, Any, Any]] = []
        self.attention: list[tuple[Any, str]] = []
        self.names: list[tuple[dict[str, Any], str, Any, Any]] = []  # before is _ABSENT where there was no such name

    def put(self, module: Any, forward: Any) -> None:
        """Let `module.forward` be another function."""
        update_wrapper(forward, module.forward)  # Trainer drops the columns that are not in its signature
        self.replaced.append((module, module.__dict__.get("forward"), forward))
        module.forward = forward

    def put_name(self, names: dict[str, Any], name: str, function: Any) -> None:
        """Let a name, of a module's file or of a module's own, stand for something else."""
        self.names.append((names, name, names.get(name, _ABSENT), function))
        names[name] = function

    def all(self) -> None:
        """Put everything back, but for what somebody else has replaced meanwhile."""
        self._take_out()
        self.replaced.clear()
        self.attention.clear()
        self.names.clear()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Put everything back for a while."""
        names = [(config, config._attn_implementation) for config, _ in self.attention]
        taken = self._take_out()
        try:
            yield
        finally:
            for put in reversed(taken):
                put()
            for config, name in names:
                config._attn_implementation = name

    def _take_out(self) -> list[Callable[[], None]]:
        """Put everything back, and return what puts each of ours in again."""
        again = list[Callable[[], None]]()
        for module, before, ours in reversed(self.replaced):
            if module.__dict__.get("forward") is not ours:
                continue
            again.append(partial(setattr, module, "forward", ours))
            if before is None:
                del module.forward  # the class's own shows again
            else:
                module.forward = before
        for names, name, before, ours in reversed(self.names):
            if names.get(name) is not ours:
                continue
            again.append(partial(names.__setitem__, name, ours))
            if before is _ABSENT:
                del names[name]
            else:
                names[name] = before
        for config, name in self.attention:
            config._attn_implementation = name
        return again


@contextmanager
def stock() -> Iterator[None]:
    """Let all models be as they were before anything was put in, for a while."""
    with ExitStack() as stack:
        for undo in reversed(list(_all.values())):
            stack.enter_context(undo.aside())
        yield


@contextmanager
def in_evaluation(model: Any) -> Iterator[None]:
    """Let a model be in evaluation mode for a while; then each of its modules is as it was, whatever the others are."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def in_training(model: Any) -> Iterator[None]:
    """Let a model be in training mode for a while; then each of its modules is as it was."""
    asked = [module for module in model.modules() if not module.training]
    model.train()
    try:
        yield
    finally:
        for module in asked:
            module.training = False


@contextmanager
def acting(model: Any) -> Iterator[None]:
    """Let trained tensors that are all zero hold small numbers for a while, so that an adapter does what it will do."""
    own = torch.Generator().manual_seed(0)
    zeros = [p for p in model.parameters() if p.requires_grad and not p.detach().any()]
    try:
        with torch.no_grad():
            for p in zeros:
                p.copy_(torch.randn(p.shape, generator=own, dtype=torch.float32).mul_(DRAWN))
        yield
    finally:
        with torch.no_grad():
            for p in zeros:
                p.zero_()


def without_cache(model: Any) -> dict[str, bool]:
    """Return the argument that keeps a model's call from making a cache, which some cannot make, if there is one.

    Some take it with all else that they hand on to their decoder.
    """
    base = base_of(model)
    takes = signature(base.forward).parameters
    hands_on = any(one.kind is Parameter.VAR_KEYWORD for one in takes.values()) and hasattr(base.config, "use_cache")
    return {"use_cache": False} if "use_cache" in takes or hands_on else {}


def named(forward: Callable[..., Any], args: tuple[Any, ...], inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by their names."""
    return dict(zip(signature(forward).parameters, args, strict=False)) | inputs
