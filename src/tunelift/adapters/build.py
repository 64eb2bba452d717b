"""From the configuration to a PEFT model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tunelift.adapters.methods import METHODS
from tunelift.core.errors import InputError, did_you_mean, listed

OURS = {"method", "start_from"}


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters as peft's `print_trainable_parameters` counts them."""

    trainable: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.trainable / self.total

    def __str__(self) -> str:
        return f"trainable params: {self.trainable:,} of {self.total:,} ({self.percent:.4f}%)"


def check_keys(keys: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the adapter section's keys, a sentence each; imports peft only if there are any."""
    extra = keys.keys() - OURS
    method = keys.get("method", "lora")
    if method not in METHODS:
        return [f'adapter.method: there is no PEFT method "{method}".{did_you_mean(str(method), METHODS)}']
    if not extra:
        return []
    fields = {field.name for field in dataclasses.fields(_peft_class(method)) if field.init}
    return [
        f"adapter.{key}: peft's {METHODS.get(method).peft_class} has no such key."
        + (did_you_mean(key, fields) or f" Its keys: {listed(sorted(fields), 99)}.")
        for key in sorted(extra - fields)
    ]


def peft_config(keys: Mapping[str, Any], peft_type: str) -> Any:
    """Return peft's own config for the adapter section's keys; raise InputError for keys or values it refuses."""
    if problems := check_keys(keys):
        raise InputError(*problems, fix="The keys are the fields of peft's own config class.")
    method = METHODS.get(keys.get("method", "lora"))
    values = {**method.defaults, **{key: value for key, value in keys.items() if key not in OURS}}
    try:
        return _peft_class(keys.get("method", "lora"))(task_type=peft_type, **values)
    except (TypeError, ValueError) as error:
        raise InputError(f"adapter: peft refuses these settings: {error}") from error


def attach(model: Any, config: Any, seed: int) -> Any:
    """Return peft's own model around `model`, its new weights drawn by `seed`, in fp32 whatever the base's precision.

    Raises InputError where the target modules are not in the model, listing the linear layers there are.
    """
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        if "arget modules" not in str(error):
            raise InputError(f"adapter: peft refuses this model and these settings: {error}") from error
        raise InputError(
            f"adapter.target_modules: none of {config.target_modules!r} is a layer of this model.",
            fix=f'Use "all-linear", or some of: {listed(_linear_names(model))}.',
        ) from error


def count_parameters(model: Any) -> ParameterCount:
    """Return the trainable and the total number of parameters of a PEFT model."""
    trainable, total = model.get_nb_trainable_parameters()
    return ParameterCount(trainable, total)


def is_adapted(model: Any) -> bool:
    """Return whether `model` is peft's own model around another."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


@contextmanager
def switched_off(model: Any) -> Iterator[Any]:
    """Give the base model for a while: the same object, its adapter switched off."""
    if is_adapted(model):
        with model.disable_adapter():
            yield model
    else:
        yield model


def _peft_class(method: str) -> Any:
    import peft

    return getattr(peft, METHODS.get(method).peft_class)


def _linear_names(model: Any) -> list[str]:
    import torch

    kinds = (torch.nn.Linear,)
    return sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, kinds)})
