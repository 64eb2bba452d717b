"""mlx-lm as a scorer on the CPU, in a process of its own: `python -m tunelift.exporting.mlx_runtime REQUEST ANSWER`."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunelift.exporting.equality import Item
from tunelift.exporting.processes import answer_of

PACKAGES = ("mlx", "mlx_lm")


def is_there() -> bool:
    """Tell whether the runtime is installed."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def named() -> str:
    """Return the runtime with its versions."""
    return f"mlx-lm {version('mlx-lm')} (mlx {version('mlx')})"


def ask(model: Path, items: Sequence[Item], adapter: Path) -> dict[str, Any]:
    """Let mlx-lm score items by a model in transformers' layout, and again with an adapter on it.

    Returns {"base", "scores"}. Raises TuneliftError, with what mlx-lm said, where it does not load the files.
    """
    request = {
        "model": str(model.resolve()),
        "adapter": str(adapter.resolve()),
        "items": [[item.name, list(item.ids), list(item.targets)] for item in items],
    }
    return answer_of(["-m", __name__], request, f"mlx-lm does not run {adapter}")


def _ready(model: Any) -> Any:
    model.eval()  # which returns the model in some versions only
    return model


def main(asked: str, answered: str) -> None:
    """Answer one request, as JSON files."""
    import mlx.core as mx
    from mlx_lm.utils import load_adapters, load_model

    mx.set_default_device(mx.cpu)
    request = json.loads(Path(asked).read_text(encoding="utf-8"))

    def scores(model: Any) -> dict[str, list[float]]:
        found = {}
        for name, ids, targets in request["items"]:
            logits = model(mx.array([ids]))[0].astype(mx.float32)
            told = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            found[name] = [told[place - 1, ids[place]].item() for place in targets]
        return found

    model, _ = load_model(Path(request["model"]))
    base = scores(_ready(model))
    answer = {"base": base, "scores": scores(_ready(load_adapters(model, request["adapter"])))}
    Path(answered).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
