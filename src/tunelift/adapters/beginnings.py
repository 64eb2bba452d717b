"""Beginnings of a LoRA that peft takes out of the base's weights (PiSSA, OLoRA, LoRA-GA, CorDA), the base left alone.

peft begins with B0 A0 made of a weight W, and trains B A beside W - s B0 A0. That is W + s (B A - B0 A0): a plain LoRA
of twice the rank beside the base, of which the rear half, A0 and -B0, is held. It is the base at its beginning and when
it is off, and stock peft reads it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from tunelift.adapters.from_rows import LOOKING, Given, covariances, gradients
from tunelift.core.errors import InputError

SUBTRACTED = re.compile(r"pissa(_niter_[1-9][0-9]*)?|olora|lora_ga|corda")
"""PiSSA: Meng et al. 2024, arXiv:2404.02948. OLoRA: Büyükakyüz 2024, arXiv:2406.01775. The others: `from_rows`."""

NAME = "held_halves"
"""Where peft's model keeps what is held."""


@dataclass(frozen=True, slots=True)
class Held:
    """The rear half of a LoRA's A (2r, I), along dimension 0, or of its B (O, 2r), along 1; `values` are what it is."""

    parameter: Any
    dimension: int
    values: Any

    @property
    def part(self) -> Any:
        """Return the half of the parameter that is held, as a view."""
        size = self.values.shape[self.dimension]
        return self.parameter.detach().narrow(self.dimension, size, size)


def is_subtracted(config: Any) -> bool:
    """Tell whether a LoRA of this config begins with something that is taken out of the base."""
    begin = getattr(config, "init_lora_weights", None)
    return isinstance(begin, str) and SUBTRACTED.fullmatch(begin) is not None


def doubled(config: Any) -> Any:
    """Return the config of a plain LoRA of twice the rank and of the same scale."""
    plain, times = deepcopy(config), math.sqrt(2) if config.use_rslora else 2
    plain.init_lora_weights, plain.r, plain.lora_ga_config, plain.corda_config = True, 2 * config.r, None, None
    plain.lora_alpha = times * config.lora_alpha
    plain.rank_pattern = {name: 2 * rank for name, rank in (config.rank_pattern or {}).items()}
    plain.alpha_pattern = {name: times * alpha for name, alpha in (config.alpha_pattern or {}).items()}
    return plain


def begin(adapted: Any, config: Any, given: Given | None = None) -> None:
    """Give each LoRA of a peft model, of twice the rank, its beginning in both halves, and hold the rear one.

    `config` is the one that was asked for, of the rank itself. LoRA-GA and CorDA begin with `given` rows; without any,
    as where nothing is to be trained, they are left plain ones. Raises InputError for layers that peft cannot begin so.
    """
    import torch
    from peft.tuners.lora.config import CordaConfig

    how, held, layers = config.init_lora_weights, [], list(_layers(adapted, config.init_lora_weights))
    seen: dict[str, Any] = {}
    if how == "corda" and config.corda_config and vars(config.corda_config) != vars(CordaConfig()):
        raise InputError(
            "adapter.corda_config: CorDA begins with the covariance over training rows here (ipm), and reads and "
            "writes no files for it. kpm keeps what other rows show, which are not given.",
            fix="Leave it out.",
        )
    if how in LOOKING:
        for name, layer in layers:
            _check_suits(name, layer, how, len(layer.lora_A[adapted.active_adapter].weight) // 2)
        if given is None or any(layer.get_base_layer().weight.is_meta for _, layer in layers):
            return
        seen = (gradients if how == "lora_ga" else covariances)(adapted, layers, given)
    for name, layer in layers:
        adapter = adapted.active_adapter
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        _check_suits(name, layer, how, len(a) // 2)
        if layer.get_base_layer().weight.is_meta:  # of shapes nothing can be begun with
            continue
        a0, b0 = _begun(layer, config, len(a) // 2, layer.scaling[adapter], seen.get(name))
        with torch.no_grad():
            a.copy_(torch.cat([a0, a0]))
            b.copy_(torch.cat([b0, -b0], dim=1))
        held += [Held(a, 0, a0.to(a)), Held(b, 1, -b0.to(b))]
    for one in held:
        one.parameter.register_hook(_front_of(one.dimension))
    setattr(adapted, NAME, held)


def held_in(model: Any) -> list[Held]:
    """Return what is held of a model's adapter; nothing where its training moves all of it."""
    return list(getattr(model, NAME, ()))


def hold(model: Any, _step: int) -> None:
    """Put back, after a step, what is held: without a gradient weight decay alone has moved it."""
    for one in held_in(model):
        one.part.copy_(one.values)


def _front_of(dimension: int) -> Any:
    """Return a hook that keeps a gradient's front half and makes the rear one zero."""

    def front(gradient: Any) -> Any:
        size = gradient.shape[dimension] // 2
        gradient = gradient.clone()
        gradient.narrow(dimension, size, size).zero_()
        return gradient

    return front


def _layers(adapted: Any, how: str) -> Iterator[tuple[str, Any]]:
    """Yield the layers with a LoRA, by name; raise InputError where one is not on a linear layer."""
    from peft.tuners.lora.layer import Linear, LoraLayer

    for name, layer in adapted.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            if type(layer) is not Linear:
                kind = type(layer.get_base_layer()).__name__
                raise InputError(
                    f"adapter.init_lora_weights: {name} is no linear layer ({kind}), and {how} begins on those.",
                    fix="Leave it out of adapter.target_modules and adapter.target_parameters.",
                )
            yield name, layer


def _check_suits(name: str, layer: Any, how: str, rank: int) -> None:
    """Raise InputError for a layer that has no beginning of this rank, or of which peft would make a wrong one."""
    weight = layer.get_base_layer().weight
    if layer.fan_in_fan_out and how == "olora":  # peft 0.21 takes the weight for one the other way round
        raise InputError(
            f"adapter.init_lora_weights: peft's OLoRA takes the weight of {name}, a Conv1D, the wrong way round.",
            fix="Take pissa.",
        )
    if (2 * rank if how == "lora_ga" else rank) > min(weight.shape):  # its A0 and B0 are of other singular vectors
        raise InputError(
            f"adapter.init_lora_weights: {name} ({' x '.join(map(str, weight.shape))}) has no {how} of rank {rank}.",
            fix="Lower adapter.r.",
        )


def _begun(layer: Any, asked: Any, rank: int, scale: float, seen: Any = None) -> tuple[Any, Any]:
    """Return A0 (r, I) and B0 (O, r) as peft makes them, in fp32, of a copy of the layer that it may write into.

    `seen` is the loss's gradient at the layer's weight, of which LoRA-GA makes them, or the covariance of what the
    layer takes, which CorDA needs.
    """
    import peft
    import torch
    from peft.tuners.lora import corda
    from peft.tuners.lora.config import CordaConfig

    own: Any = deepcopy(layer.get_base_layer()).float()
    copy = torch.nn.ModuleDict({"layer": own})
    how = asked.init_lora_weights
    beside = {
        "lora_ga": {"lora_ga_config": asked.lora_ga_config or peft.LoraGAConfig()},
        "corda": {"corda_config": CordaConfig()},
    }
    config = peft.LoraConfig(
        r=rank, lora_alpha=scale * rank, target_modules=["layer"], init_lora_weights=how,
        fan_in_fan_out=layer.fan_in_fan_out, **beside.get(how, {}),
    )  # fmt: skip
    if how == "corda":
        own.covariance_matrix, own.rank, own.corda_method = seen, rank, "ipm"
        corda.collect_eigens(copy, config, verbose=False)
        corda.crop_corda_eigens(copy, config)
    else:
        own._peft_loraga_grad = seen
    made = peft.inject_adapter_in_model(config, copy)["layer"]
    (adapter,) = made.lora_A
    return made.lora_A[adapter].weight.detach(), made.lora_B[adapter].weight.detach()
