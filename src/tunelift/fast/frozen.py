"""Products with frozen weights, by oneDNN, with weights in its own layout where a copy of them fits in memory.

torch gives float32 products to MKL, which does not use all that processors of other makers than its own can do, and in
both float32 and bfloat16 a weight is brought into the order of the kernel at every call. Weights that do not change can
be brought into it once. `benchmarks/ablation.py` shows what it gives.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunelift.core import machine
from tunelift.fast.blocks import Blocks, blocks_of, pieces
from tunelift.fast.eight_bits import EightBits, bytes_of
from tunelift.fast.four_bits import FourBits, numbers_of
from tunelift.fast.int8 import Int8Tiles, Int8Weight, has_products
from tunelift.fast.screened_head import ScreenedHead, states_of_a_text
from tunelift.fast.undo import Undo
from tunelift.model_facts.parameters import compute_dtype

Narrow = FourBits | EightBits | Blocks
Ways = Literal["none", "forward", "both"]
"""For which products weights are packed: none, x Wᵀ alone where nothing learns, or the gradient's dy W too."""

SHARE_OF_MEMORY = 1 / 8
"""Packed copies take no more of the memory that this process may use; none are made where that is not known."""

FEW_TOKENS = 512
"""Products of more tokens gain less from packed weights, and their activations take more memory."""


class Weight:
    """The frozen weight (O, I) and bias (O,) of a linear layer, and copies packed for its products.

    `dtype` is that of its products. One that is `narrow`, held in few bits, is widened for each of them.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.plain, self.bias = layer.weight, layer.bias
        self.narrow = narrow_of(layer)
        self.dtype = self.plain.dtype if self.narrow is None else self.narrow.dtype
        self.version = self.plain._version
        self.packed: Tensor | None = None
        self.turned: Tensor | None = None
        self.eight: Int8Weight | None = None
        self.tiles: Int8Tiles | None = None  # of a head
        self.screened: ScreenedHead | None = None  # of a head
        self.only_in: nn.Module | None = None  # as long as it is in training mode there are eight bits

    def __getstate__(self) -> dict[str, Any]:
        # torch cannot copy packed weights, nor write them; a head's tiles are known by where they lie.
        return vars(self) | dict.fromkeys(("packed", "turned", "eight", "tiles", "screened", "only_in"))

    @property
    def is_eight(self) -> bool:
        """Whether products are computed in eight bits now."""
        return self.eight is not None and (self.only_in is None or self.only_in.training)

    def pack(self, ways: Ways) -> None:
        """Make the copies, of the weight's size each; it is not a narrow one."""
        with torch.no_grad():
            self.packed = _packing(self.plain) if ways != "none" else None
            self.turned = _packing(self.plain.t()) if ways == "both" else None

    def of(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b (N, O), x (N, I)."""
        if self.eight is not None and self.is_eight:
            return self.eight.of(x)
        if self.narrow is not None:
            return _of_narrow(x, self.narrow, self.bias)
        if self.screened is not None and self.screened.on:
            return self.screened.logits(x.contiguous(), self.plain, self.bias, self._as_it_is)
        return self._as_it_is(x)

    def _as_it_is(self, x: Tensor) -> Tensor:
        weight = self.plain if self.packed is None else self.packed
        # One row reads a weight in float32 once, in whatever order: oneDNN's own way of doing so takes longer.
        one_row = len(x) == 1 and x.dtype == torch.float32
        if one_row or (weight is self.plain and not _by_onednn(x)):
            weight = self.plain
            return F.linear(x, weight, self.bias)
        return _product(x, weight, self.bias)

    def back(self, dy: Tensor, onto: Tensor | None = None) -> Tensor:
        """Return dy W (N, I), dy (N, O); added to `onto`, which may be lost."""
        if self.eight is not None and self.is_eight:
            return self.eight.back(dy, onto)
        if self.narrow is not None:
            return _back_of_narrow(dy, self.narrow, onto)
        if self.turned is None and not _by_onednn(dy):
            return dy @ self.plain if onto is None else onto.addmm_(dy, self.plain)
        weight = self.plain.t() if self.turned is None else self.turned
        return _product(dy, weight, None, onto)

    @property
    def outputs(self) -> int:
        """Return O."""
        return self.plain.shape[0] if self.narrow is None else self.narrow.shape[0]


def _of_narrow(x: Tensor, narrow: Narrow, bias: Tensor | None) -> Tensor:
    """Return x Wᵀ + b as `Weight.of` does, a piece of the weight after the other."""
    y: Tensor | None = None
    for first, stop in pieces(narrow.shape):
        some = linear(x, narrow.wide(first, stop), None if bias is None else bias[first:stop])
        if some.shape[1] == narrow.shape[0]:
            return some
        y = x.new_empty(x.shape[0], narrow.shape[0]) if y is None else y
        y[:, first:stop] = some
    return x.new_empty(x.shape[0], 0) if y is None else y


def products_dtype(module: nn.Module) -> torch.dtype | None:
    """Return the dtype of a module's products, which layers in few bits say and not their adapters; None for none."""
    narrow = next((held for layer in module.modules() if (held := narrow_of(layer)) is not None), None)
    if narrow is not None:
        return narrow.dtype
    return compute_dtype(module) if any(p.is_floating_point() for p in module.parameters()) else None


def narrow_of(layer: nn.Module) -> Narrow | None:
    return numbers_of(layer) or bytes_of(layer) or blocks_of(layer)


def _back_of_narrow(dy: Tensor, narrow: Narrow, onto: Tensor | None) -> Tensor:
    """Return dy W as `Weight.back` does, a piece of the weight after the other."""
    for first, stop in pieces(narrow.shape):
        some, wide = dy[:, first:stop], narrow.wide(first, stop)
        onto = product(some, wide) if onto is None else onto.addmm_(some, wide)
    return dy.new_zeros(len(dy), narrow.shape[1]) if onto is None else onto


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b for a frozen weight, or a part of one, that is not packed."""
    return _product(x, weight, bias) if _by_onednn(x) else F.linear(x, weight, bias)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W for a frozen weight, or a part of one, that is not packed."""
    return _product(x, weight.t(), None) if _by_onednn(x) else x @ weight


def weight_of(layer: nn.Linear) -> Weight:
    """Return the weight of a layer as the calls inside have it: its own, as long as that is the same one."""
    found: Weight | None = vars(layer).get("frozen")
    if found is None or found.plain is not layer.weight or found.bias is not layer.bias:
        return Weight(layer)
    if isinstance(found.narrow, FourBits) and found.narrow.state is not getattr(layer.weight, "quant_state", None):
        return Weight(layer)
    return found if found.version == found.plain._version else Weight(layer)


def frozen_products(model: Any, undo: Undo, ways: Ways) -> str:
    """Let frozen linear layers compute so until undone; return "on: what" or "off: reason" for the manifest."""
    adapters = of_adapters(model)
    linears = [m for m in model.modules() if is_plain(m) and id(m) not in adapters]
    layers = [m for m in linears if ways == "forward" or not _learns(m)]
    if not layers:
        return "off: the model has no frozen linear layers"
    weights = [Weight(layer) for layer in layers]
    if not all(map(_works, weights)):
        return "off: they are for float32 and bfloat16 on an x86 CPU"
    for layer, weight in zip(layers, weights, strict=True):
        undo.put_name(vars(layer), "frozen", weight)
        if "forward" not in vars(layer):
            undo.put(layer, partial(_forward, layer, layer.forward))
    return f"on: {len(layers)} layers{pack(model, ways)}"


def pack_head(model: Any) -> str:
    """Pack the head's weight, for one who asks for the logits of a few tokens again and again; return what was done.

    That takes the weight's size of memory once more, and is done where it fits beside the other packed copies.
    """
    found = head_of(model)
    if found is None or found.narrow is not None or found.plain.nbytes > room_for_copies(model):
        return ""
    found.pack("forward")
    return ", the head packed"


def screen_head(model: Any, tokenizer: Any) -> str:
    """Keep the head's weight in eight bits too, to screen for the likeliest token; return what was done.

    That takes a quarter of the weight's memory, and is done in float32 where it fits beside the packed copies.
    """
    found = head_of(model)
    if found is None or found.narrow is not None or found.plain.dtype != torch.float32:
        return ""
    if not has_products(found.plain) or found.plain.nbytes // 4 > room_for_copies(model):
        return ""
    seen = states_of_a_text(model, tokenizer)
    if seen is None:
        return ""
    found.screened = ScreenedHead(found.plain, seen)
    return ", the head screened"


def room_for_copies(model: Any) -> float:
    """Return the bytes that are left for copies of weights."""
    copies = sum(weight.plain.nbytes for weight in frozen_weights(model).values() if weight.packed is not None)
    return SHARE_OF_MEMORY * (machine.usable_bytes() or 0) - copies


def head_of(model: Any) -> Weight | None:
    """Return the weight of a model's head, if its products are computed here; None where an adapter changes it."""
    found = vars(model.get_output_embeddings() or nn.Identity()).get("frozen")
    return found if isinstance(found, Weight) and found.version == found.plain._version else None


def pack(model: Any, ways: Ways) -> str:
    """Pack the frozen weights where that fits in memory; return what was done, to be put behind the manifest's "on"."""
    weights = [weight for weight in frozen_weights(model).values() if weight.narrow is None]
    copies = {"none": 0, "forward": 1, "both": 2}[ways]
    fits = copies * sum(weight.plain.nbytes for weight in weights) <= SHARE_OF_MEMORY * (machine.usable_bytes() or 0)
    if not copies or not fits or not weights:
        return ""
    for weight in weights:
        weight.pack(ways)
    return f", {len(weights)} of them packed ({ways})"


def frozen_weights(model: Any) -> dict[str, Weight]:
    """Return the weights of which products are computed here, by layer, without the head's: the largest, often tied."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = {name: vars(module).get("frozen") for name, module in model.named_modules() if module is not head}
    return {name: weight for name, weight in found.items() if isinstance(weight, Weight)}


def of_adapters(model: nn.Module) -> set[int]:
    """Return the modules that adapters have added: those of one that does not learn are frozen too, but small."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuned = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return {id(child) for one in tuned for child in one.modules()} - {
        id(child) for one in tuned for child in one.get_base_layer().modules()
    }


def _learns(layer: nn.Linear) -> bool:
    return any(p.requires_grad for p in layer.parameters())


def _forward(layer: nn.Linear, plain: Callable[..., Tensor], x: Tensor, *args: Any, **options: Any) -> Tensor:
    kinds = (torch.float32, torch.bfloat16)
    found = weight_of(layer)
    suits = x.device.type == "cpu" and x.dtype == found.dtype and x.dtype in kinds and x.numel() > 0
    more = bool(args or options) or torch.is_autocast_enabled("cpu")
    if more or not suits or (torch.is_grad_enabled() and _learns(layer)):
        return plain(x, *args, **options)
    if not torch.is_grad_enabled():
        return as_batch(found.of(x.reshape(-1, x.shape[-1])), x)
    y: Tensor = _Linear.apply(x, found)  # type: ignore[no-untyped-call]
    return y


class _Linear(torch.autograd.Function):
    """x (..., I) -> x Wᵀ + b (..., O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weight) -> Tensor:
        ctx.weight = weight
        return as_batch(weight.of(x.reshape(-1, x.shape[-1])), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        (dy,) = gradients
        dx: Tensor = ctx.weight.back(dy.reshape(-1, dy.shape[-1]))
        return dx.view(*dy.shape[:-1], -1), None


def as_batch(y: Tensor, x: Tensor) -> Tensor:
    """Return rows (N, O) as a batch like x (..., I): (..., O), and no view, to which nobody could write in place."""
    found: Tensor = torch.ops.aten._unsafe_view.default(y, (*x.shape[:-1], y.shape[-1]))
    return found


def _packing(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, onto: Tensor | None = None) -> Tensor:
    """Return x (N, I) times weight (O, I) transposed, a plain one or a packed one, plus bias (O,) and `onto` (N, O)."""
    pointwise = torch.ops.mkldnn._linear_pointwise
    x = x.contiguous()
    if onto is None:
        found: Tensor = pointwise.default(x, weight, bias, "none", [], "")
    elif onto.shape != (len(x), len(weight)):  # oneDNN would read beyond it
        raise ValueError(f"{tuple(onto.shape)} cannot be added to rows of {len(x)} by {len(weight)}")
    else:
        found = pointwise.binary(x, onto, weight, bias, "add")
    return found


def _by_onednn(x: Tensor) -> bool:
    """Tell whether plain weights too go to oneDNN: torch gives those in bfloat16 to it by itself."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and len(x) > 0 and _here()


def is_plain(layer: nn.Module) -> bool:
    """Tell whether a layer is torch's own linear one, or one of few bits."""
    return type(layer) is nn.Linear or narrow_of(layer) is not None


def _works(weight: Weight) -> bool:
    return weight.plain.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16) and _here()


_found: list[bool] = []


@torch.no_grad()
def _here() -> bool:
    """Tell whether torch's interface to oneDNN, which is not a public one, is here and right."""
    if not _found:
        try:
            _found.append(platform.machine() in ("x86_64", "AMD64") and _is_right())
        except Exception:  # whatever another version of torch makes of these calls
            _found.append(False)
    return _found[0]


def _is_right() -> bool:
    own = torch.Generator().manual_seed(0)
    shapes = (5, 32), (48, 32), (48,), (5, 48)
    x, weight, bias, onto = (torch.randn(s, generator=own, dtype=torch.float32, device="cpu") for s in shapes)
    expected = F.linear(x, weight, bias) + onto
    both = (weight, _packing(weight))
    return all(torch.allclose(_product(x, one, bias, onto), expected, rtol=1e-4, atol=1e-5) for one in both)
