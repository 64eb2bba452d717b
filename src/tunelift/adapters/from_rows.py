"""Beginnings of a LoRA that look at training rows first: EVA and CorDA at what layers take, LoRA-GA at the gradient.

EVA (Paischer et al. 2024, arXiv:2410.07170) gives A the first right singular vectors of what a layer takes, and ranks
to the layers that need them; B is zero, so that the base is as it was. LoRA-GA (Wang et al. 2024, arXiv:2407.05000)
begins with B0 A0 made of the gradient of the loss, CorDA (Yang et al. 2024, arXiv:2406.05223) with one made of the
weight and the covariance of what the layer takes; `beginnings` takes both out again beside the base.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunelift.adapters.targets import kind
from tunelift.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from tunelift.tasks.base import Batch

LOOKING = ("eva", "lora_ga", "corda")
LOOKING_AT_TOKENS = ("eva", "corda")
"""Values of `init_lora_weights` that need rows, and those that need rows of tokens."""
ROWS_AT_ONCE = 8
MOST_ROWS = 64
"""Of the training rows, evenly spread over them."""
PASSES = 200
"""After so many forward passes EVA's vectors have not settled, and will not."""


@dataclass(frozen=True, slots=True)
class Given:
    """Training rows to begin with, as a task makes them, and a batch of some, and the loss of a model on one.

    The loss is the sum over the batch's targets, in nats.
    """

    rows: Callable[[], Sequence[Any]]
    collate: Callable[[Sequence[Any]], Batch]
    loss: Callable[[Any], Callable[[Batch], Tensor]]

    def batches(self, enough: Callable[[Batch], bool] = lambda _: True) -> Iterator[Batch]:
        """Yield the rows in batches, each of so many more rows that it is enough; what is left over is not used."""
        some: list[Any] = []
        rows = self.rows()
        for at in range(0, len(rows), ROWS_AT_ONCE):
            some += rows[at : at + ROWS_AT_ONCE]
            if enough(batch := self.collate(some)):
                yield batch
                some = []


def looks_at_rows(config: Any) -> bool:
    """Tell whether an adapter of this config begins with something that follows from training rows."""
    return getattr(config, "init_lora_weights", None) in LOOKING


def gradients(adapted: Any, layers: Sequence[tuple[str, Any]], given: Given) -> dict[str, Tensor]:
    """Return the mean gradient of the loss, by the target, at the weight of each LoRA's base layer, in fp32.

    B is still zero, so that it is the base's. Raises InputError where a layer has none.
    """
    import torch

    weights = {name: layer.get_base_layer().weight for name, layer in layers}
    found: dict[str, Tensor] = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    loss, batches = given.loss(adapted), [batch for batch in given.batches() if batch.targets]
    with _evaluating(adapted), _moving(weights.values()), torch.enable_grad():
        for batch in batches:
            mean = loss(batch) / batch.targets
            made = torch.autograd.grad(mean, list(weights.values()), allow_unused=True, materialize_grads=True)
            _add(found.values(), made, 1 / len(batches))
    bare = sorted({kind(name) for name, gradient in found.items() if not 0 < float(gradient.norm()) < float("inf")})
    if bare:
        raise InputError(
            f"adapter.init_lora_weights: the loss has no gradient at {', '.join(bare)} on the first rows, with which "
            "lora_ga begins.",
            fix="Leave these layers out of adapter.target_modules, or begin otherwise.",
        )
    return found


def covariances(adapted: Any, layers: Sequence[tuple[str, Any]], given: Given) -> dict[str, Tensor]:
    """Return the covariance (I, I) of what each LoRA's base layer takes, in fp32, as peft's CorDA makes it.

    Of each row by itself: X / |max X| of its tokens (T, I), X^T X; the mean of these over the rows. Raises InputError
    where a layer takes nothing.
    """
    import torch

    found: dict[str, Tensor] = {}
    passes = dict.fromkeys((name for name, _ in layers), 0)
    mask: Any = None

    def look(name: str) -> Callable[[Any, Any, Any], None]:
        def looked(_layer: Any, taken: Any, _given: Any) -> None:
            states = _taken(taken, mask, name).detach().float()
            states = states / states.max().abs()
            found[name] = found.get(name, 0) + states.T @ states
            passes[name] += 1

        return looked

    hooks = [layer.get_base_layer().register_forward_hook(look(name)) for name, layer in layers]
    try:
        with torch.no_grad(), _evaluating(adapted):
            for row in given.rows():
                inputs = given.collate([row]).inputs
                mask = inputs["attention_mask"].bool()
                adapted(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    bare = sorted({kind(name) for name in passes if name not in found or not bool(torch.isfinite(found[name]).all())})
    if bare:
        raise InputError(
            f"adapter.init_lora_weights: {', '.join(bare)} takes no numbers on the first rows, with whose covariance "
            "corda begins.",
            fix="Leave these layers out of adapter.target_modules, or begin otherwise.",
        )
    return {name: total / passes[name] for name, total in found.items()}


def _add(sums: Iterable[Tensor], parts: Iterable[Tensor], times: float) -> None:
    for whole, part in zip(sums, parts, strict=True):
        whole.add_(part.float(), alpha=times)


def explain(adapted: Any, given: Given) -> None:
    """Give each LoRA EVA's beginning: peft's own, from the rows' target tokens or all of their tokens.

    Raises InputError where there are fewer of them than vectors to find, or these do not settle.
    """
    import torch
    from peft import initialize_lora_eva_weights

    config, passes = adapted.active_peft_config, 0
    ranks = [config.r, *(config.rank_pattern or {}).values()]
    least = round(max(ranks) * config.eva_config.rho)

    def enough(batch: Batch) -> bool:
        """What a layer takes once a row, as a pooler does, is as many vectors as there are rows."""
        looked_at = int(_looked_at(batch.inputs["attention_mask"], batch.labels, config).sum())
        return looked_at >= least and (_of_tokens(batch) or batch.rows >= least)

    batches = [{**batch.inputs, "labels": batch.labels} for batch in given.batches(enough)]
    if not batches:
        raise InputError(
            f"adapter.init_lora_weights: eva looks for {least} vectors (r times rho) in up to {MOST_ROWS} rows, or "
            "in their target tokens where tokens are labelled, and of those there are fewer.",
            fix="Lower adapter.r or adapter.eva_config.rho, or set adapter.eva_config: {use_label_mask: false}.",
        )

    def forward(model: Any, inputs: Mapping[str, Any]) -> None:
        nonlocal passes
        passes += 1
        if passes > PASSES:
            raise InputError(
                f"adapter.init_lora_weights: eva's vectors have not settled after {PASSES} passes, or a layer is given "
                "fewer than it looks for.",
                fix="Lower adapter.eva_config.tau, which is how alike two looks must be, or adapter.r.",
            )
        model(**{name: value for name, value in inputs.items() if name != "labels"})

    with warnings.catch_warnings(), _evaluating(adapted):
        warnings.simplefilter("ignore")  # what peft says of layers that begin otherwise
        initialize_lora_eva_weights(
            adapted,
            batches,
            forward_fn=forward,
            prepare_model_inputs_fn=lambda inputs, asked: _looked_at(inputs["attention_mask"], inputs["labels"], asked),
            prepare_layer_inputs_fn=_taken,
            show_progress_bar=False,
        )
    for name, parameter in adapted.named_parameters():
        if "lora_" not in name:
            continue
        parameter.data = parameter.data.float()  # peft makes layers of another rank anew, in the base's precision
        if not bool(torch.isfinite(parameter).all()):
            raise InputError(f"adapter.init_lora_weights: eva's beginning of {name} is not finite on these rows.")


def _looked_at(mask: Tensor, labels: Tensor, config: Any) -> Tensor:
    """Return which tokens of a batch EVA looks at, (B, T) bool."""
    seen: Tensor = mask.bool()
    if config.eva_config.use_label_mask and labels.shape == mask.shape:
        seen = seen & (labels != config.eva_config.label_mask_value)
    return seen


def _taken(taken: Any, looked_at: Tensor, _layer: str) -> Tensor:
    """Return the vectors (N, I) of what a layer takes: where it takes tokens, of those that are looked at."""
    states: Tensor = taken[0] if isinstance(taken, (tuple, list)) else taken
    by_token = states.dim() == 3 and states.shape[:2] == looked_at.shape
    return (states[looked_at] if by_token else states.reshape(-1, states.shape[-1])).contiguous()


def _of_tokens(batch: Batch) -> bool:
    return batch.labels.shape == batch.inputs["input_ids"].shape


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextlib.contextmanager
def _moving(weights: Any) -> Iterator[None]:
    """Let weights have gradients for a while."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
