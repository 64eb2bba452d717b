"""Requests answered greedily, by transformers' generate in one batch or one by one, or by our engine; seconds by kind.

A request is [prompt tokens, new tokens]; prompts are made up, and no answer ends before its length.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from steps import peak_bytes, read_job, write_result

from tunelift.config.schema import ModelSection
from tunelift.models import load

Asked = Sequence[tuple[list[int], int]]


def main() -> None:
    job = read_job()
    loaded = load(ModelSection(name=job["model"], dtype=job["dtype"]))
    model, kinds = loaded.model.eval(), {}
    with ExitStack() as stack:
        answer, adapters = made(model, loaded.tokenizer, job, stack)
        for kind, requests in job["kinds"].items():
            asked = [(made_up(kind, number, length), new) for number, (length, new) in enumerate(requests)]
            answer([(ids[:8], 2) for ids, _ in asked], adapters)
            began = time.perf_counter()
            answer(asked, adapters)
            seconds = time.perf_counter() - began
            kinds[kind] = {"seconds": seconds, "tokens_per_second": sum(new for _, new in asked) / seconds}
        if "beginning" in job:
            kinds["first token"] = {"seconds": first_token(answer, *job["beginning"])}
    write_result(kinds=kinds, peak_bytes=peak_bytes())


def made_up(kind: str, number: int, length: int) -> list[int]:
    """Return ids of no text, the same for every way of answering."""
    own = random.Random(f"{kind} {number}")
    return [own.randrange(1000, 20000) for _ in range(length)]


def first_token(answer: Callable[..., Any], length: int, known: int) -> float:
    """Return the seconds to the first token of a prompt of which so many tokens were in one before."""
    before, behind = made_up("beginning", 0, length), made_up("behind", 0, length)
    answer([(before, 1)], 0)
    began = time.perf_counter()
    answer([([*before[:known], *behind[known:]], 1)], 0)
    return time.perf_counter() - began


def made(model: Any, tokenizer: Any, job: dict[str, Any], stack: ExitStack) -> tuple[Callable[..., Any], int]:
    """Return what answers, and how many adapters it mixes."""
    if job["way"] == "tunelift":
        return ours(model, tokenizer, job, stack)
    return (one_batch if job["way"] == "generate" else in_a_row)(model), 0


def ours(model: Any, tokenizer: Any, job: dict[str, Any], stack: ExitStack) -> tuple[Callable[..., Any], int]:
    from peft import LoraConfig, get_peft_model

    from tunelift.serving.engine import Engine, Limits, answered
    from tunelift.serving.requests import Request, Stop

    count = job.get("adapters", 0)
    for number in range(count):
        config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        if number == 0:
            model = get_peft_model(model, config, adapter_name="0")
        else:
            model.add_adapter(str(number), config)
    engine = stack.enter_context(Engine(model.eval(), tokenizer, Limits(rows=16, tokens=2**14)))

    def answer(asked: Asked, adapters: int) -> None:
        names = [str(number % adapters) if adapters else None for number in range(len(asked))]
        requests = [
            Request(ids, adapter=name, stop=Stop(max_new_tokens=new))
            for (ids, new), name in zip(asked, names, strict=True)
        ]
        found = answered(engine, requests)
        assert [sum(len(d.tokens) for d in found[r.number]) for r in requests] == [new for _, new in asked]

    return answer, count


def one_batch(model: Any) -> Callable[..., Any]:
    @torch.no_grad()
    def answer(asked: Asked, _: int) -> None:
        longest, most = max(len(ids) for ids, _ in asked), max(new for _, new in asked)
        ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids, _ in asked])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in asked])
        model.generate(
            ids, attention_mask=mask, max_new_tokens=most, min_new_tokens=most, do_sample=False, pad_token_id=0
        )

    return answer


def in_a_row(model: Any) -> Callable[..., Any]:
    batch = one_batch(model)

    def answer(asked: Asked, _: int) -> None:
        for one in asked:
            batch([one], 0)

    return answer


if __name__ == "__main__":
    main()
