"""llama.cpp as a scorer, in a process of its own: `python -m tunelift.exporting.llama_cpp REQUEST ANSWER`.

The runtime is the package xllamacpp. A token's log-probability is read by making it the next
one: a bias decides what is sampled, and the log-probability that is told with it is the model's own, before any bias.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tunelift.exporting.equality import Item
from tunelift.exporting.processes import answer_of

PACKAGE = "xllamacpp"
CERTAIN = 1e6
"""A bias, in logits, that no other token comes near."""

ALL = 1_000_000
"""More tokens than any vocabulary has."""


def is_there() -> bool:
    """Tell whether the runtime is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def named() -> str:
    """Return the runtime with its version."""
    return f"llama.cpp ({PACKAGE} {version(PACKAGE)})"


def ask(
    model: Path,
    items: Sequence[Item],
    *,
    lora: Path | None = None,
    texts: Sequence[str] = (),
    messages: Sequence[Sequence[dict[str, str]]] = (),
) -> dict[str, Any]:
    """Let llama.cpp score items, cut texts and write conversations; return {"scores", "ends", "texts", "messages"}.

    "ends" are the names of items of which the last token ended the answer. Raises TuneliftError, with what llama.cpp
    said, where it does not load the files or dies.
    """
    import torch  # not by the process that llama.cpp runs in

    request = {
        "model": str(model.resolve()),
        "lora": str(lora.resolve()) if lora else None,
        "threads": torch.get_num_threads(),
        "items": [[item.name, list(item.ids), list(item.targets)] for item in items],
        "texts": list(texts),
        "messages": [list(conversation) for conversation in messages],
    }
    return answer_of(["-m", __name__], request, f"llama.cpp does not run {(lora or model).name}")


def main(asked: str, answered: str) -> None:
    """Answer one request, as JSON files."""
    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    longest = max([len(ids) for _, ids, _ in request["items"]], default=1)
    server = _server(request["model"], request["lora"], longest + 8, request["threads"])
    scores: dict[str, list[float]] = {}
    ends: list[str] = []
    for name, ids, targets in request["items"]:
        scores[name] = []
        stopped = False
        for place in targets:
            logprob, stopped = _score(server, ids[:place], ids[place])
            scores[name].append(logprob)
        if stopped:
            ends.append(name)
    address = server.listening_address
    texts = [
        _post(f"{address}/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        for text in request["texts"]
    ]
    shown = [_post(f"{address}/apply-template", {"messages": one})["prompt"] for one in request["messages"]]
    found = {"scores": scores, "ends": ends, "texts": texts, "messages": shown}
    Path(answered).write_text(json.dumps(found), encoding="utf-8")


def _server(model: str, lora: str | None, context: int, threads: int) -> Any:
    """Load a model as exactly as llama.cpp can: on the CPU, its cache in 32 bits, nothing repacked or fused."""
    import xllamacpp as runtime

    params = runtime.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = params.fit_params = False
    params.no_extra_bufts = params.swa_full = True
    params.cache_type_k = params.cache_type_v = runtime.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = runtime.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if lora:
        params.lora_adapters = [runtime.CommonAdapterLoraInfo(lora, 1.0)]
    return runtime.Server(params)


def _score(server: Any, before: list[int], token: int) -> tuple[float, bool]:
    """Return the log-probability of a token behind others, and whether it ends the answer.

    Of a token that is a part of a letter nothing is told when it comes: it is looked for among all, behind another.
    """
    choice = _next(server, before, token, 1)
    if choice["logprobs"]:
        told = choice["logprobs"]["content"][0]
        if told["id"] != token:
            raise RuntimeError(f"error: the token {token} was asked for, and {told['id']} came")
        return told["logprob"], choice["finish_reason"] == "stop"
    for other in range(ALL):
        told = _next(server, before, other, ALL)["logprobs"]
        if told:
            found = {one["id"]: one["logprob"] for one in told["content"][0]["top_logprobs"]}
            return found[token], False
    raise RuntimeError("error: no token's log-probability is told")


def _next(server: Any, before: list[int], token: int, count: int) -> Any:
    """Make a token the next one; return what is told of it, and of so many others."""
    asked = {
        "prompt": before,
        "n_predict": 1,
        "n_probs": count,
        "logit_bias": [[token, CERTAIN]],
        "temperature": 0,
        "top_k": 1,
        "cache_prompt": True,
    }
    answer = server.handle_completions(asked)
    return (json.loads(answer) if isinstance(answer, str | bytes) else answer)["choices"][0]


def _post(address: str, body: dict[str, Any]) -> Any:
    request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
