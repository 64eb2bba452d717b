"""New tokens: the tokenizer learns them, the embeddings grow by their rows, and an adapter trains those rows alone.

The base's own numbers stay as they are. A grown model is the base again, vocabulary and all, within `shrunk`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from tunelift.adapters.methods import METHODS, Method, title_of
from tunelift.core import randomness
from tunelift.core.errors import InputError, listed

KEY = "new_tokens"
"""In the adapter section."""
GROWN = "grown_from"
"""Where a model keeps what it was before its vocabulary grew."""


@dataclass(frozen=True, slots=True)
class NewTokens:
    """Tokens that a tokenizer has and its base's does not: their ids, and the base's ids of the pieces of each.

    `rows` is how many embeddings a model needs for them, `layers` where the base has those, by name: the embeddings,
    and the head where it has a matrix of its own.
    """

    tokenizer: Any
    ids: tuple[int, ...]
    pieces: tuple[tuple[int, ...], ...]
    rows: int
    layers: tuple[str, ...]

    def asked_of(self, config: Any) -> Any:
        """Return peft's config with these tokens to train; raise InputError where it trains the embeddings already."""
        there = {name.rpartition(".")[2] for name in self.layers}
        for key in ("target_modules", "modules_to_save"):
            named = getattr(config, key, None) or []
            if taken := sorted(there & ({named} if isinstance(named, str) else {*named})):
                raise InputError(f"adapter.{KEY} trains rows of {listed(taken)}, and adapter.{key} all of it.")
        if hasattr(config, "token_indices"):
            told = [index for index in config.token_indices or [] if index not in self.ids]
            return replace(config, token_indices=[*told, *self.ids], target_modules=list(self.layers))
        return replace(config, trainable_token_indices={name: list(self.ids) for name in self.layers})

    def grow(self, model: Any) -> Any:
        """Return the model with rows for all of its tokens."""
        grow(model, self.rows)
        return model

    def begin(self, adapted: Any) -> None:
        """Let each new token begin as the mean of its pieces' rows, in every layer that has rows."""
        import torch

        for layer in _trained(adapted):
            weight, delta = layer.base_layer.weight.detach(), layer.trainable_tokens_delta[adapted.active_adapter]
            if weight.is_meta:
                continue
            places = list(layer.token_indices[adapted.active_adapter])
            with torch.no_grad():
                for index, pieces in zip(self.ids, self.pieces, strict=True):
                    delta[places.index(index)] = weight[list(pieces)].float().mean(dim=0).to(delta)


def wrong(keys: Mapping[str, Any], method: str) -> list[str]:
    """Return what is wrong with the key in the adapter section, a sentence each."""
    tokens = keys.get(KEY)
    if tokens is None:
        return []
    said = ""
    if not isinstance(tokens, (list, tuple)) or not tokens or not all(isinstance(one, str) and one for one in tokens):
        said = "it is a list of texts, each of which becomes a token"
    elif twice := [one for one in tokens if list(tokens).count(one) > 1]:
        said = f"{twice[0]!r} stands there twice"
    elif keys.get("start_from"):
        said = "it cannot be set, since adapter.start_from brings its own tokens"
    elif not _can(METHODS.get(method)):
        able = [name for name in METHODS if _can(METHODS.get(name))]
        said = f"{title_of(method)} trains no rows of the embeddings; take one of {listed(able)}"
    elif keys.get("trainable_token_indices"):
        said = "it sets trainable_token_indices, which cannot be set beside it"
    return [f"adapter.{KEY}: {said}."] if said else []


def _can(method: Method) -> bool:
    return bool(
        method.peft_type
        and method.takes is None
        and {"trainable_token_indices", "token_indices"} & {*method.config_class.__dataclass_fields__}
    )


def new_tokens(model: Any, tokenizer: Any, texts: Sequence[str]) -> NewTokens:
    """Return what texts are as tokens of a copy of the tokenizer.

    They are found whole in any text, and stay in answers, as special ones would not. Raises InputError for one that is
    a token already.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    if there := [text for text in texts if text in known]:
        raise InputError(
            f"adapter.{KEY}: {there[0]!r} is a token already (id {known[there[0]]}).",
            fix="Leave it out; adapter.trainable_token_indices trains tokens that there are.",
        )
    pieces = tuple(tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in texts)
    if bare := [text for text, ids in zip(texts, pieces, strict=True) if not ids]:
        raise InputError(f"adapter.{KEY}: {bare[0]!r} has no tokens now, of which it could begin.")
    own = deepcopy(tokenizer)
    own.add_tokens([AddedToken(text, normalized=False, special=False) for text in texts])
    ids = tuple(own.convert_tokens_to_ids(list(texts)))
    rows = max(_rows(model), max(own.get_vocab().values()) + 1)
    return NewTokens(own, ids, pieces, rows, _layers(model))


def grow(model: Any, rows: int) -> None:
    """Give a model embeddings, and outputs, for so many tokens where it has fewer; raise InputError if it cannot."""
    import torch

    if not rows:  # as of most adapters; a model of pictures has no embeddings of tokens
        return
    before = _rows(model)
    if rows <= before:
        return
    try:
        with randomness.seeded(0):
            model.resize_token_embeddings(rows, mean_resizing=False)
    except (ValueError, TypeError, NotImplementedError, AttributeError, RuntimeError) as error:
        raise InputError(f"adapter.{KEY}: the vocabulary of {type(model).__name__} cannot grow: {error}") from error
    parts = [part for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part is not None]
    if any(len(part.weight) != rows for part in parts):
        raise InputError(f"adapter.{KEY}: the vocabulary of {type(model).__name__} cannot grow.")
    with torch.no_grad():
        for part in parts:
            part.weight[before:].zero_()  # nobody reads them: the adapter's rows stand in their place
    setattr(model, GROWN, (before, parts))


def grown_to(model: Any) -> int:
    """Return how many embeddings a grown model has, 0 for one that has not grown."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return len(getattr(base, GROWN)[1][0].weight) if hasattr(base, GROWN) else 0


@contextmanager
def shrunk(model: Any) -> Iterator[None]:
    """Let a grown model have the base's own vocabulary for a while, bit for bit; others stay as they are."""
    from torch.nn import Parameter

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before, parts = getattr(base, GROWN, (0, []))
    own = [(part, part.weight) for part in parts]
    config, rows = base.config.get_text_config(), grown_to(base)
    cut = {id(weight): Parameter(weight.detach()[:before], requires_grad=weight.requires_grad) for _, weight in own}
    try:
        for part, weight in own:
            _sized(part, cut[id(weight)])
        if parts:
            config.vocab_size = before
        yield
    finally:
        for part, weight in own:
            _sized(part, weight)
        if parts:
            config.vocab_size = rows


def _sized(part: Any, weight: Any) -> None:
    part.weight = weight
    setattr(part, "num_embeddings" if hasattr(part, "num_embeddings") else "out_features", len(weight))


def _rows(model: Any) -> int:
    """Return how many embeddings of tokens a model has; raise InputError for a model that has none."""
    weight = getattr(model.get_input_embeddings(), "weight", None)
    if weight is None or weight.dim() != 2:
        raise InputError(f"adapter.{KEY}: {type(model).__name__} has no embeddings of tokens.")
    return len(weight)


def _layers(model: Any) -> tuple[str, ...]:
    """Return the names of the embeddings, and of a head that is not tied to them."""
    inside, outside = model.get_input_embeddings(), model.get_output_embeddings()
    names = {part: name for name, part in model.named_modules()}
    tied = outside is None or outside.weight is inside.weight
    return (names[inside],) if tied else (names[inside], names[outside])


def _trained(adapted: Any) -> Iterator[Any]:
    """Yield peft's layers with rows of their own: of a tied head they are those of the embeddings."""
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    for module in adapted.modules():
        if isinstance(module, TrainableTokensLayer) and not module.tied_adapter:
            yield module
