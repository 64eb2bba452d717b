"""`apply` makes a stock model fast under anyone's loop, `restore` takes it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.fast import int8_trial
from tunelift.fast.allocator import keep_freed_memory
from tunelift.fast.attention import registered
from tunelift.fast.frozen import frozen_products
from tunelift.fast.fusing import fuse_passes
from tunelift.fast.lora import fuse
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.targets import IGNORED, TargetModel
from tunelift.fast.trials import some_ids
from tunelift.fast.undo import Undo, in_evaluation, named, without_cache
from tunelift.fast.unpad import rows_of, unpad
from tunelift.model_facts.anatomy import base_of
from tunelift.model_facts.parameters import device_of, is_wide

ALONE = {"input_ids", "attention_mask", "labels", "use_cache", "return_dict", "num_items_in_batch"}
"""Arguments of a training call that is computed at its targets only."""

TRIED_LATER = "tried on the first batch with labels"

_applied: WeakKeyDictionary[Any, Undo] = WeakKeyDictionary()


def apply(model: Any, *, products: Literal["int8"] | None = None) -> dict[str, str]:
    """Make a stock transformers or peft model fast in the user's own loop, `Trainer` and TRL included.

    Returns each fast path by name with "on", or "off" and the reason, and says the latter. In training, a call with
    `labels` gives the same loss; its `outputs.logits` are computed when asked for, (B, T, V). Evaluation and generation
    give what they gave before, logits included. `restore` undoes all of it.

    With `products="int8"` those with frozen weights are computed in eight bits in training mode, if a trial on the
    first batch with labels shows that loss and gradient are the same but for a hundredth; what came of it then stands
    in the dictionary that was returned.
    """
    if products not in (None, "int8"):
        raise InputError(f'products is {products!r}; "int8" is allowed, or None for what the model has.')
    restore(model)
    undo = Undo()
    base = base_of(model)
    keep_freed_memory()
    states = {"fused_lora": fuse(model, undo), "fused_passes": fuse_passes(model, undo)}
    states["frozen_products"] = frozen_products(model, undo, "none")  # the user may change the weights
    causal = hasattr(base, "get_output_embeddings") and base.get_output_embeddings() is not None
    if causal:
        view, _ = target_model(model)
        states |= view.fast_paths
        states.pop("last_layer", None)  # `outputs.logits` may be asked for
        reason = other_loss(model, view) if isinstance(view, TargetOnly) else None
        if reason is not None:
            states |= dict.fromkeys(view.fast_paths.keys() & states.keys(), f"off: {reason}")
        elif isinstance(view, TargetOnly):
            undo.put(base, partial(_at_targets, base, base.forward, view, _pads_anywhere(model)))
            if view.packs:  # else a model may ask for its attention by name, and take another way under ours
                # For good, since checkpointing computes the attention again when the call is over.
                undo.attention.append((view.decoder.config, view.decoder.config._attn_implementation))
                view.decoder.config._attn_implementation = registered(view.decoder.config._attn_implementation)
    states |= unpad(model, undo, always=not causal)
    if products == "int8":
        reason = int8_trial.refused(model)
        states["int8_products"] = f"off: {reason}" if reason else TRIED_LATER
        if not reason:
            undo.put(base, partial(_tried_first, base, base.forward, model, states))
    _applied[base] = undo
    for name, state in states.items():
        if state.startswith("off"):
            progress.note(f"fast: {name.replace('_', ' ')} is {state}")
    return states


def _tried_first(base: Any, forward: Any, model: Any, states: dict[str, str], *args: Any, **inputs: Any) -> Any:
    """Try products in eight bits on the first call that has a loss to learn from, then leave all calls as they are."""
    inputs = named(forward, args, inputs)
    learns = base.training and torch.is_grad_enabled() and inputs.get("labels") is not None
    if states["int8_products"] == TRIED_LATER and learns:

        def loss() -> Tensor:
            base.training = True  # for the way that a training call takes; what is inside drops nothing out
            try:
                found: Tensor = forward(**inputs)["loss"]
            finally:
                base.training = False
            return found

        states["int8_products"] = state = int8_trial.take(model, loss)
        for weight in int8_trial.weights_of(model):
            weight.only_in = base
        progress.note(f"fast: int8 products are {state}")
    return forward(**inputs)


def restore(model: Any) -> None:
    """Undo `apply`; parameters were never touched. A model without it is left as it is."""
    base = base_of(model)
    undo = _applied.pop(base, None)
    if undo is not None:
        undo.all()


@dataclass
class TrainingOutput(ModelOutput):  # type: ignore[misc]
    """The loss of a training call. `logits` (B, T, V) are computed when asked for: a loss at the targets needs none."""

    loss: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        make: Callable[[], Tensor] = self.__dict__["make_logits"]
        return make()


def _at_targets(base: Any, forward: Any, view: TargetOnly, anywhere: bool, *args: Any, **inputs: Any) -> Any:
    """Compute a training call with labels at its targets; leave any other call to the model."""
    inputs = named(forward, args, inputs)
    ids, labels = inputs.get("input_ids"), inputs.get("labels")
    asked = {name for name, value in inputs.items() if value is not None and name not in ALONE}
    mask = inputs.get("attention_mask")
    plain = base.training and not (asked or inputs.get("use_cache") or inputs.get("return_dict") is False)
    if not plain or ids is None or labels is None or (mask is not None and mask.dim() != 2):
        return forward(**inputs)
    if not bool((labels[:, 1:] != IGNORED).any()):  # what a model makes of a loss over nothing is its own
        return forward(**inputs)
    mask = torch.ones_like(ids) if mask is None else mask.long()
    begins = mask.argmax(dim=1, keepdim=True)
    ids, mask, labels = (_moved(tensor, begins) for tensor in (ids, mask, labels))
    # Behind padding a model is asked for a row's first token too; whatever it says of it is its own.
    asked_first = bool(((labels[:, 0] != IGNORED) & (begins.squeeze(1) > 0)).any())
    if rows_of(ids, mask) is None or asked_first or (not anywhere and int(begins.max())):
        return forward(**inputs)
    hidden, targets, padded = view.at_targets({"input_ids": ids, "attention_mask": mask}, labels, whole=True)
    if view.frozen.likely_first is None:
        view.frozen.order_by(hidden)
    count = inputs.get("num_items_in_batch")
    output = TrainingOutput(
        loss=view.losses_of(hidden, targets).sum() / (max(len(targets), 1) if count is None else count)
    )
    output.make_logits = lambda: _moved(view.logits(padded()), -begins)
    return output


def _moved(batch: Tensor, by: Tensor) -> Tensor:
    """Return a batch (B, T, ...) of which each row is moved so many places (B, 1) to the left, around its end."""
    width = batch.shape[1]
    numbers = torch.arange(max(width, len(batch)), dtype=torch.long, device=batch.device)
    return batch[numbers[: len(batch), None], (numbers[None, :width] + by) % width]


@torch.no_grad()
def other_loss(model: Any, view: TargetModel) -> str | None:
    """Return why a model's own loss over labels is not the one over next tokens that is computed here, or None."""
    ids = torch.tensor([some_ids(model, 0, 64)], dtype=torch.long, device=device_of(model))
    inputs, more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, without_cache(model)
    try:
        with in_evaluation(model):
            own, ours = (
                float(model(**inputs, **more, labels=ids).loss),
                float(view.loss_sum(inputs, ids)) / (ids.numel() - 1),
            )
    except Exception as error:  # whatever a model makes of labels, it is left to it
        return f"the model takes no labels as they are ({error or type(error).__name__})"
    allowed = 1e-4 if is_wide(model) else 1e-2
    return None if abs(own - ours) <= allowed * max(1.0, abs(own)) else "the model's own loss is another"


@torch.no_grad()
def _pads_anywhere(model: Any) -> bool:
    """Tell whether padding on the left changes nothing: positions are relative, or counted from the first token."""
    device = device_of(model)
    ids = torch.arange(1, 9, dtype=torch.long, device=device)[None]
    padded = torch.cat([torch.zeros_like(ids), ids], dim=1)
    mask = torch.cat([torch.zeros_like(ids), torch.ones_like(ids)], dim=1)
    with in_evaluation(model):
        own = model(input_ids=ids, attention_mask=torch.ones_like(ids), **without_cache(model)).logits
        left = model(input_ids=padded, attention_mask=mask, **without_cache(model)).logits[:, 8:]
    return float((left - own).abs().max() / own.abs().max()) < (1e-4 if own.dtype.itemsize >= 4 else 5e-2)
