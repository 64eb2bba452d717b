"""A decoder's layers in one call each, in steps that compute one next token of each answer (fast/decoder.c).

What a layer is made of is told by the names that transformers gives its parts, none of which may be left over; whether
that is all that it does, and whom it lets see whom, by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunelift.fast import kernels
from tunelift.fast.frozen import is_plain, narrow_of, room_for_copies
from tunelift.fast.fusing import as_gate, as_norm
from tunelift.fast.screened_head import TEXT
from tunelift.fast.undo import Undo
from tunelift.model_facts.anatomy import base_of
from tunelift.serving.attention import Arena, Asked, Part, Step, paged
from tunelift.serving.lora import ByToken
from tunelift.serving.pages import PAGE

KNOWN = {f"{name}Attention" for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3")}
"""The attention of transformers that is computed here. Others are not tried: what one does at far positions alone, as
scaling queries by where they are, no short row shows."""

HALF = 0.05
"""How far logits in half precision may be from the model's own, of their length."""

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
GATE = ("gate_proj", "up_proj", "down_proj")


class OtherwiseError(Exception):
    """A layer is something else than what is computed here; the message says in what."""


@dataclass(slots=True)
class Layer:
    """One layer: its norms, and its weights in panels with their biases."""

    norms: dict[str, Tensor | None]
    weights: list[Tensor | None]
    heads: int
    groups: int
    head: int
    inner: int
    numbers: tuple[int | float, ...]
    """Activation, epsilon of the norms, of those of heads, and what is added to a norm's weights."""
    scale: float = 0.0
    window: int = 0


class InOneCall:
    """The layers of a model, which compute so in the calls inside `of`."""

    def __init__(self, model: Any, undo: Undo, adapters: ByToken) -> None:
        """Read the layers; raise OtherwiseError for others. They have to be tried (`learn`) before they are used."""
        self.adapters = adapters
        self.step: _Told | None = None
        with kernels.without():  # parts are told by what they give as they are, to the last bits
            self.modules = _layers(model)
            self.layers = [self._read(module) for module in self.modules]
        weights = [weight for module in self.modules for weight in _weights(module)]
        self.dtype = weights[0].dtype
        if any(weight.dtype != self.dtype or weight.device.type != "cpu" for weight in weights):
            raise OtherwiseError("they are for weights of one dtype on a CPU")
        self.functions = kernels.of(torch.empty(1, dtype=self.dtype, device="cpu"))
        if self.functions is None:
            raise OtherwiseError(f"there are no compiled functions for {self.dtype}")
        if sum(weight.nbytes for weight in weights) > room_for_copies(model):
            raise OtherwiseError("copies of the weights would take too much memory")
        for layer, module in zip(self.layers, self.modules, strict=True):
            layer.weights = self._in_panels(module)
        parts = [part for module in self.modules for part in _parts(module)]
        self._parts = [getattr(part, "base_layer", part) for part in parts]
        self._read_from = self._numbers()
        for number, module in enumerate(self.modules):
            undo.put(module, partial(self._forward, number, module.forward))

    def _numbers(self) -> list[tuple[int, int, int]]:
        """Return what changes where a weight or bias does: which it is, where it lies, how often it was written."""
        every = (x for part in self._parts for x in part._parameters.values() if x is not None)
        return [(id(x), x.data_ptr(), x._version) for x in every]

    def learn(self, asked: Sequence[Asked], most: int) -> None:
        """Take scales and windows from what each layer asked of attention, for rows of up to so many tokens."""
        if [one.module for one in asked] != [module.self_attn for module in self.modules]:
            raise OtherwiseError("they attend in another order")
        for layer, one in zip(self.layers, asked, strict=True):
            if one.options.get("softcap") is not None or one.options.get("dropout"):
                raise OtherwiseError("their scores are capped or dropped")
            layer.scale = one.options.get("scaling") or layer.head**-0.5
            layer.window = window_of(one.rule.allowed, most)

    @contextmanager
    def of(self, step: Step) -> Iterator[None]:
        """Let the call inside compute this step's layers so, if each of its parts is one token that sees others.

        Once weights are others than those that lie in panels, all is computed as the model has it.
        """
        fits = all(part.stop - part.start == 1 for part in step.parts) and len(step.arena.layers) == len(self.layers)
        fits = fits and step.device.type == "cpu" and self._numbers() == self._read_from
        self.step = _Told.of(step) if fits else None
        try:
            yield
        finally:
            self.step = None

    def _forward(self, number: int, plain: Callable[..., Tensor], x: Tensor, *args: Any, **options: Any) -> Tensor:
        told, positions = self.step, options.get("position_embeddings")
        if told is None or args or positions is None:
            return plain(x, *args, **options)
        layer, (cosine, sine) = self.layers[number], positions
        keys, values = told.step.arena.layers[number]
        rows, size = x.shape[1:]
        fits = (len(x), rows) == (1, len(told.places)) and cosine.shape == sine.shape == (1, rows, layer.head)
        if not fits or kernels.of(x, cosine, sine, keys, values) is None:
            return plain(x, *args, **options)
        adapters = self._low_rank(self.modules[number])
        if adapters is None:
            return plain(x, *args, **options)
        whose, low, ranks, count = adapters
        norms, queries, side = layer.norms, layer.heads * layer.head, layer.groups * layer.head
        threads = torch.get_num_threads()
        work = kernels.work_space(
            rows * (2 * size + 2 * queries + 2 * side + 2 * layer.inner + sum(ranks))
            + threads * layer.heads * told.most
        )
        y = torch.empty_like(x, dtype=torch.float32)
        kernels.call(
            *(self.functions, "decoder_layer", _wide(x), y, _wide(cosine), _wide(sine)),
            *(norms[name] for name in NORMS),
            *(*layer.weights, keys, values, told.places, told.runs, told.first, whose, *low, work),
            *(rows, size, layer.heads, layer.groups, layer.head, layer.inner, layer.window, told.most, len(keys)),
            *(count, len(told.runs) // 2, *ranks, *layer.numbers, layer.scale),
        )
        told.step.calls += 1  # by which a layer that is computed as it is finds its own keys
        return y.to(x.dtype)

    def _low_rank(self, module: Any) -> tuple[Tensor | None, list[Tensor | None], list[int], int] | None:
        """Return whose adapter each row has, A and B of each linear layer, their ranks, and how many adapters.

        None where one is of another dtype.
        """
        if not self.adapters.adapters:
            return None, [None] * 14, [0] * 7, 0
        laid_out = [self.adapters.laid_out(linear) for linear in _linears(module)]
        if any(a.dtype != torch.float32 or b.dtype != torch.float32 for a, b in filter(None, laid_out)):
            return None
        both = [side for pair in laid_out for side in (pair or (None, None))]
        ranks = [0 if pair is None else pair[0].shape[1] for pair in laid_out]
        return self.adapters.whose, both, ranks, self.adapters.count

    def _read(self, module: Any) -> Layer:
        attention, gate = module.self_attn, module.mlp
        inside = hasattr(module, "pre_feedforward_layernorm")
        named = {
            "before": module.input_layernorm,
            "query": getattr(attention, "q_norm", None),
            "key": getattr(attention, "k_norm", None),
            "after": module.post_attention_layernorm if inside else None,
            "before gate": module.pre_feedforward_layernorm if inside else module.post_attention_layernorm,
            "after gate": module.post_feedforward_layernorm if inside else None,
        }
        own = {name: None if norm is None else _norm(norm, name) for name, norm in named.items()}
        epsilons = {found[0] for name, found in own.items() if found and name not in ("query", "key")}
        of_heads = {found[0] for name, found in own.items() if found and name in ("query", "key")} or {0.0}
        offsets = {found[1] for found in own.values() if found}
        kind = as_gate(gate)
        if len(epsilons) != 1 or len(of_heads) != 1 or len(offsets) != 1 or kind is None:
            raise OtherwiseError("their norms or gates are of several kinds")
        q, k, v, _, g, *_ = (_base(linear) for linear in _linears(module))
        head = attention.head_dim
        for name, size in (("query", head), ("key", head)):
            if named[name] is not None and named[name].weight.shape != (size,):
                raise OtherwiseError("their norms of heads span several")
        groups = k.weight.shape[0] // head
        if (
            q.weight.shape[0] % k.weight.shape[0]
            or k.weight.shape != v.weight.shape
            or k.weight.shape[0] % head
            or head % 2
        ):
            raise OtherwiseError("their heads are of several widths")
        (epsilon,), (of_head,), (offset,) = epsilons, of_heads, offsets
        norms = {name: None if norm is None else _wide(norm.weight.detach()) for name, norm in named.items()}
        numbers = kind, epsilon, of_head, offset
        return Layer(norms, [], q.weight.shape[0] // head, groups, head, len(g.weight), numbers)

    def _in_panels(self, module: Any) -> list[Tensor | None]:
        q, k, v, o, g, u, d = (_base(linear) for linear in _linears(module))
        return [part for some in ((q, k, v), (o,), (g, u), (d,)) for part in self._panels(some)]

    def _panels(self, linears: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
        """Return the weights of layers with one input, one below the other, in panels, and their biases."""
        weight = torch.cat([linear.weight.detach() for linear in linears])
        out, size = weight.shape
        padded = -(-out // kernels.LANES_AT_MOST) * kernels.LANES_AT_MOST
        made = torch.zeros(padded * size, dtype=self.dtype, device="cpu")
        kernels.call(self.functions, "panels", weight, made, out, size)
        if all(linear.bias is None for linear in linears):
            return made, None
        zeros = [torch.zeros(len(linear.weight), dtype=torch.float32, device="cpu") for linear in linears]
        own = zip(linears, zeros, strict=True)
        return made, torch.cat([zero if linear.bias is None else _wide(linear.bias.detach()) for linear, zero in own])


@torch.no_grad()
def layers_tried(model: Any, tokenizer: Any, undo: Undo, adapters: ByToken, most: int) -> tuple[InOneCall | None, str]:
    """Return the layers in one call each, and what is to be said of them: "on: how many" or "off: why".

    Rows will have up to `most` tokens.

    Two rows of other lengths are read, and what follows each is asked of the layers and of the model as it is.
    """
    own = Undo()
    try:
        found = InOneCall(model, own, adapters)
        ids = list(tokenizer(TEXT)["input_ids"])
        short = len(ids) // 2
        # Each row is read but for its last token, in pages that do not follow one another.
        rows = (ids, [3, 0, 4]), (ids[:short], [2, 5, 1])
        arena = Arena(6 * PAGE)
        reading, at = list[Part](), 0
        for row, pages in rows:
            reading.append(Part(at, at + len(row) - 1, 0, pages))
            at += len(row) - 1
        step = Step(arena, reading, torch.device("cpu"))
        step.asked = []
        everything = [token for row, _ in rows for token in row[:-1]]
        _called(model, step, everything, [place for row, _ in rows for place in range(len(row) - 1)])
        found.learn(step.asked, most)
        last = [Part(n, n + 1, len(row) - 1, pages) for n, (row, pages) in enumerate(rows)]
        asked = [row[-1] for row, _ in rows], [len(row) - 1 for row, _ in rows]
        right = _called(model, Step(arena, last, torch.device("cpu")), *asked)
        step = Step(arena, last, torch.device("cpu"))
        step.asked = []
        with adapters.of([None, None]), found.of(step):
            fast = _called(model, step, *asked)
    except Exception as error:  # whatever another model makes of this, it is computed as it is
        own.all()
        return None, f"off: {error or type(error).__name__}"
    if step.asked or not _alike(right, fast):
        own.all()
        return None, "off: the layers do more than what is computed here"
    for one in own.replaced:
        undo.replaced.append(one)
    return found, f"on: {len(found.layers)} layers"


def _alike(right: Tensor, fast: Tensor) -> bool:
    """Tell whether logits are the model's own but for rounding: in half precision that is as large as the model's."""
    if right.dtype == torch.float32:
        return torch.allclose(right, fast, rtol=0, atol=1e-4 * float(right.abs().max()))
    right, fast = right.float(), fast.float()
    return float((right - fast).norm()) <= HALF * float(right.norm())


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.float32).contiguous()


def _called(model: Any, step: Step, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
    row, places = (torch.tensor([x], dtype=torch.long, device="cpu") for x in (ids, positions))
    with paged(base_of(model).config.get_text_config(), step):
        found = model(input_ids=row, position_ids=places, attention_mask=torch.ones_like(row), use_cache=False)
    logits: Tensor = found.logits[0]
    return logits


NORMS = ("before", "query", "key", "after", "before gate", "after gate")


@dataclass(frozen=True, slots=True)
class _Told:
    """A step as C takes it: where each row's keys and values go, and the runs that it sees."""

    step: Step
    places: Tensor
    runs: Tensor
    first: Tensor
    most: int

    @staticmethod
    def of(step: Step) -> _Told:
        runs, first = list[int](), [0]
        for own in step.runs:
            for run in own:
                runs += run
            first.append(len(runs) // 2)
        if max(runs) > step.arena.tokens:
            raise kernels.UnsafeCallError(f"a page lies beyond the {step.arena.tokens} tokens that are kept")
        pairs, begins = (torch.tensor(table, dtype=torch.int32, device="cpu") for table in (runs, first))
        return _Told(step, step.places.to(torch.int32), pairs, begins, max(part.seen for part in step.parts))


def window_of(allowed: Callable[..., Tensor], most: int) -> int:
    """Return of how many places before it, itself among them, a token sees those, 0 for all; for rows of up to `most`.

    Raises OtherwiseError where it is another rule.
    """
    zero = torch.zeros((), dtype=torch.long, device="cpu")

    def seen(place: int) -> Tensor:
        own, every = torch.tensor([[place]], device="cpu"), torch.arange(most, device="cpu")[None]
        return allowed(zero, zero, own, every).expand(1, most)[0]

    count = int(seen(most - 1).sum())
    window = 0 if count == most else count
    near = [*range(4), most // 2, most - 1, *(count + n for n in (-1, 0, 1))]
    for place in {place for place in near if 0 <= place < most}:
        every = torch.arange(most, device="cpu")
        if not torch.equal(seen(place), (every <= place) & (every > place - (window or most))):
            raise OtherwiseError("their tokens see others by another rule")
    return window


def _layers(model: Any) -> list[Any]:
    """Return the layers of a decoder; raise OtherwiseError for one with parts that are not known."""
    found = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) and hasattr(one[0], "mlp")]
    if len(found) != 1:
        raise OtherwiseError("there is no one list of layers")
    around = {"input_layernorm", "post_attention_layernorm"}
    known = around, around | {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
    for module in found[0]:
        parts = {name for name, child in module.named_children() if _has_parameters(child)}
        inside = {
            name for name, child in getattr(module, "self_attn", module).named_children() if _has_parameters(child)
        }
        if parts - {"self_attn", "mlp"} not in known or not {"self_attn", "mlp"} <= parts:
            raise OtherwiseError(f"a layer is made of {', '.join(sorted(parts))}")
        if inside - {"q_norm", "k_norm"} != set(ATTENTION) or len(inside) == 5:
            raise OtherwiseError(f"attention is made of {', '.join(sorted(inside))}")
        kind = type(module.self_attn)
        if kind.__name__ not in KNOWN or not kind.__module__.startswith("transformers.models."):
            raise OtherwiseError(f"{kind.__name__} is not among those that are known")
        if {id(p) for p in module.parameters()} != {id(p) for part in _parts(module) for p in part.parameters()}:
            raise OtherwiseError("a layer has parameters of its own")
    return list(found[0])


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _parts(module: Any) -> list[nn.Module]:
    norms = [child for name, child in module.named_children() if name.endswith("layernorm")]
    heads = [norm for name in ("q_norm", "k_norm") if (norm := getattr(module.self_attn, name, None)) is not None]
    return [*norms, *heads, *_linears(module)]


def _linears(module: Any) -> list[Any]:
    return [
        *(getattr(module.self_attn, name) for name in ATTENTION),
        *(getattr(module.mlp, name) for name in GATE),
    ]


def _weights(module: Any) -> list[Tensor]:
    return [_base(linear).weight for linear in _linears(module)]


def _base(linear: Any) -> nn.Linear:
    """Return a linear layer without what peft has put around it; raise OtherwiseError for others."""
    found: nn.Linear = getattr(linear, "base_layer", linear)
    if not is_plain(found) or narrow_of(found) is not None:
        raise OtherwiseError("a layer's weights are not plain ones")
    return found


def _norm(norm: Any, name: str) -> tuple[float, float]:
    found = as_norm(norm)
    if found is None:
        raise OtherwiseError(f"the norm {name} is another one")
    return found
