"""lm-evaluation-harness's Hugging Face backend on plain texts: seconds and log-likelihoods by kind and batch size."""

from __future__ import annotations

import time
from typing import Any

from steps import peak_bytes, read_job, write_result


def main() -> None:
    from lm_eval.models.huggingface import HFLM

    job = read_job()
    device = "cuda" if _has_gpu() else "cpu"
    model = HFLM(pretrained=job["model"], dtype=job["dtype"], device=device, batch_size=1)
    kinds: dict[str, dict[str, Any]] = {}
    for kind, items in job["kinds"].items():
        scored(model, [items[0] | {"choices": items[0]["choices"][:2]}])
        for size in job["batch_sizes"][kind]:
            model.batch_size_per_gpu = size
            began = time.perf_counter()
            found = scored(model, items)
            seconds = time.perf_counter() - began
            kinds.setdefault(kind, {})[str(size)] = {"seconds": seconds, "found": found}
    write_result(kinds=kinds, dtype=f"torch.{job['dtype']}", peak_bytes=peak_bytes())


def scored(model: Any, items: list[dict[str, Any]]) -> list[list[float]]:
    """Return the summed log-likelihood (nats) of every choice of every item."""
    from lm_eval.api.instance import Instance

    requests = [
        Instance("loglikelihood", {}, (item["context"], choice), number)
        for item in items
        for number, choice in enumerate(item["choices"])
    ]
    found = iter(model.loglikelihood(requests, disable_tqdm=True))
    return [[next(found)[0] for _ in item["choices"]] for item in items]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
