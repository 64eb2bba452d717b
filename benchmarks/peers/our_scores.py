"""tunelift's scorer on the same texts, without a closing token: seconds and log-likelihoods by kind."""

from __future__ import annotations

import time
from typing import Any

from steps import peak_bytes, read_job, write_result

from tunelift.config.schema import ModelSection
from tunelift.core.records import Example
from tunelift.data.render import Renderer
from tunelift.evaluation.ranking import continuations
from tunelift.evaluation.tree_ranking import Tree
from tunelift.fast.target_model import target_model
from tunelift.fast.unpad import sped_up
from tunelift.models import LoadedModel, load


def main() -> None:
    job = read_job()
    loaded = load(ModelSection(name=job["name"], dtype=job["dtype"]))
    kinds: dict[str, dict[str, Any]] = {}
    with sped_up(loaded.model, "forward"):  # as an evaluation does
        view, state = target_model(loaded.model)
        for kind, items in job["kinds"].items():
            scored(loaded, view, items[:1])
            began = time.perf_counter()
            found = scored(loaded, view, items)
            kinds[kind] = {"ours": {"seconds": time.perf_counter() - began, "found": found}}
    write_result(kinds=kinds, dtype=str(loaded.dtype), target_only_head=state, peak_bytes=peak_bytes())


def scored(loaded: LoadedModel, view: Any, items: list[dict[str, Any]]) -> list[list[float | None]]:
    """Return the summed log-likelihood (nats) of every choice of every item, None where it cannot be the best."""
    renderer = Renderer(loaded.tokenizer, 2**31)
    examples = [Example(str(number), item["context"], "") for number, item in enumerate(items)]
    rows = renderer.continued(examples, [item["choices"] for item in items])
    prompts = [prompt for prompt, _ in rows]
    choices = [[ids[: len(ids) - len(renderer.end)] for ids in answers] for _, answers in rows]
    if "right" in items[0]:
        return Tree(view).rank(prompts, choices, [item["right"] for item in items], silent)
    found = continuations(view, prompts, choices, loaded.device, silent)
    return [[total for total, _ in row] for row in found]


def silent(amount: int = 1, note: str = "") -> None:
    """No progress is shown."""


if __name__ == "__main__":
    main()
