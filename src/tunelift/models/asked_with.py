"""What an adapter is asked with: the tokenizer and the chat template beside it, where they are not the base's."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from tunelift.core.errors import InputError
from tunelift.models.loader import read_tokenizer
from tunelift.untrusted import gate

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
TEMPLATE = "chat_template.jinja"


def tokenizer_beside(folder: str | Path, model: Any, base: Any, grows_to: int = 0) -> tuple[Any, list[str]]:
    """Return the tokenizer that the tuned side is asked with, `base` itself where nothing differs, and what to say.

    With the adapter on the model has embeddings for `grows_to` tokens, if it has no more itself. Where the base has no
    chat template it gets the adapter's, since it must be asked somehow. Raises InputError for a tokenizer that cannot
    be loaded, or that has more tokens than the model.
    """
    folder = Path(folder)
    gate.check(folder)
    if not any((folder / name).is_file() for name in VOCABULARIES):
        return _with_template(folder, base)
    own = read_tokenizer(f"the adapter {folder}", str(folder), folder, model.config)
    rows, largest = max(grows_to, len(model.get_input_embeddings().weight)), max(own.get_vocab().values())
    if largest >= rows:
        raise InputError(
            f"The tokenizer of the adapter {folder} has the token {largest}, and the model has {rows} embeddings.",
            fix="It was made on a model with a larger vocabulary: name that one.",
        )
    notes = [] if _alike(own, base) else ["its own tokenizer is used for the tuned side, which is not the base's"]
    notes += _templates(own.chat_template, base)
    return (own, notes) if notes else (base, [])


def _with_template(folder: Path, base: Any) -> tuple[Any, list[str]]:
    """Return the base's tokenizer with the template that alone lies beside an adapter."""
    template = (folder / TEMPLATE).read_text(encoding="utf-8") if (folder / TEMPLATE).is_file() else None
    if not (notes := _templates(template, base)):
        return base, []
    own = deepcopy(base)
    own.chat_template = template
    return own, notes


def _templates(own: Any, base: Any) -> list[str]:
    """Say how templates differ; give the adapter's to a base that has none."""
    if own is None or own == base.chat_template:
        return []
    if base.chat_template is None:
        base.chat_template = own
        return ["the base has no chat template, and is asked with the adapter's"]
    return ["its own chat template is used for the tuned side; the base is asked with its own"]


def _alike(own: Any, base: Any) -> bool:
    """Tell whether two tokenizers give the same tokens for any text, and end with the same."""
    if own.get_vocab() != base.get_vocab() or own.eos_token_id != base.eos_token_id:
        return False
    backends = [getattr(one, "backend_tokenizer", None) for one in (own, base)]
    if None in backends:
        return type(own) is type(base)
    parts = [json.loads(backend.to_str()) | {"padding": None, "truncation": None} for backend in backends]  # type: ignore[union-attr]
    return bool(parts[0] == parts[1])
