"""The engine: everyone's answer is that of a request alone, whoever else is in the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model

from tiny_models import causal, tokenizer
from tunelift.core.errors import InputError
from tunelift.evaluation.generation import Decoding, continue_greedily
from tunelift.fast import int8, kernels
from tunelift.fast.screened_head import ScreenedHead
from tunelift.serving.engine import Engine, FullError, Limits, answered
from tunelift.serving.pages import PAGE, Pages
from tunelift.serving.requests import GREEDY, Request, Sampling, Stop
from tunelift.serving.sampling import Sampler
from tunelift.serving.text import Speech
from tunelift.serving.trial import why_alone

TOKENIZER = tokenizer()
NATS = 1e-3


def rows(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, 300, (length,), generator=generator).tolist() for length in lengths]


def ids_of(engine: Engine, requests: list[Request]) -> list[list[int]]:
    found = answered(engine, requests)
    assert not [delta.reason for deltas in found.values() for delta in deltas if delta.reason]
    return [[token.id for delta in found[r.number] for token in delta.tokens] for r in requests]


def adapted(*configs: Any, model: Any = None) -> Any:
    torch.manual_seed(1)
    model = get_peft_model(model or causal(), configs[0], adapter_name="a0")
    for number, config in enumerate(configs[1:], start=1):
        model.add_adapter(f"a{number}", config)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora", "ia3", "prompt")):
            parameter.data += torch.randn_like(parameter) * 0.3
    return model.eval()


def lora(r: int = 4, **settings: Any) -> LoraConfig:
    return LoraConfig(**{"target_modules": "all-linear", "r": r, "task_type": "CAUSAL_LM", **settings})


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "gemma3_text", "phi3"])
@pytest.mark.parametrize("compiled", [True, False])
def test_answers_are_those_of_evaluation(kind: str, compiled: bool) -> None:
    """More prompts than rows, longer than a chunk, a page and a sliding window, of which two begin alike."""
    model = causal(kind)
    prompts = rows(3, 40, 17, 90, 5)
    prompts.append([*prompts[3][:70], 9, 8, 7])
    decoding = Decoding({1}, 12, 128)
    wanted = [answer.ids for answer in continue_greedily(model, TOKENIZER, prompts, decoding, 8, lambda *_, **__: None)]
    with (
        kernels.without() if not compiled else torch.no_grad(),
        Engine(model, TOKENIZER, Limits(3, 9, 640, 32)) as engine,
    ):
        requests = [Request(prompt, stop=Stop(frozenset({1}), (), 12)) for prompt in prompts]
        assert ids_of(engine, requests) == wanted
        again = [Request(prompts[3], stop=Stop(frozenset({1}), (), 12))]
        found = answered(engine, again)[again[0].number]
    assert found[0].known == len(prompts[3]) - 1
    assert [token.id for delta in found for token in delta.tokens] == wanted[3]
    assert engine.pages.free + engine.pages.known == engine.pages.count


@pytest.mark.skipif(not int8.has_products(torch.zeros(16, 16)), reason="this processor has no products in int8")
@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "granite", "phi"])
def test_the_likeliest_token_is_screened_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where nothing else is asked of the logits, and no adapter changes them behind the head."""
    asked = list[int]()
    plain = ScreenedHead.logits
    monkeypatch.setattr(ScreenedHead, "logits", lambda self, x, *rest: asked.append(len(x)) or plain(self, x, *rest))
    model, prompts = causal(kind), rows(3, 40, 17)
    decoding = Decoding({1}, 12, 128)
    wanted = [answer.ids for answer in continue_greedily(model, TOKENIZER, prompts, decoding, 8, lambda *_, **__: None)]
    with Engine(model, TOKENIZER, Limits(3, 9, 640, 32)) as engine:
        assert "screened" in engine.fast_paths["frozen_products"]
        assert ids_of(engine, [Request(p, stop=Stop(frozenset({1}), (), 12)) for p in prompts]) == wanted
        assert asked
        asked.clear()
        ids_of(engine, [Request(prompts[0], some, None, Stop((), (), 3)) for some in ASKING_MORE])
        answered(engine, [Request(prompts[0], scored_from=1, stop=Stop(max_new_tokens=1))])
    assert not asked
    model = adapted(lora(target_modules=["lm_head", "q_proj"]), model=causal(kind))
    with Engine(model, TOKENIZER) as engine:
        ids_of(engine, [Request(prompts[0], adapter="a0", stop=Stop(max_new_tokens=3))])
    assert not asked


ASKING_MORE = (Sampling(logprobs=0), Sampling(temperature=1.0), Sampling(presence=1.0), Sampling(bias={3: 1.0}))


@pytest.mark.parametrize(
    ("configs", "mixed"),
    [
        ((lora(), lora(2), lora(8, target_modules=["q_proj"])), True),
        ((lora(target_modules=["lm_head", "q_proj"]), lora(2), lora(target_modules=["lm_head"])), True),
        ((lora(), lora(use_dora=True)), False),
        ((IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]),), False),
        ((PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),), False),
    ],
)
def test_each_request_has_its_own_adapter_within_a_batch(configs: tuple[Any, ...], mixed: bool) -> None:
    model = adapted(*configs)
    names = [None, *(f"a{number}" for number in range(len(configs)))]
    alone = why_alone(model, TOKENIZER, NATS)
    prompts = rows(3, 70, 33)

    def requests() -> list[Request]:
        return [Request(p, GREEDY, name, Stop(max_new_tokens=6)) for p in prompts for name in names]

    with Engine(model, TOKENIZER, Limits(16, 64, 2048, 24), alone) as engine:
        assert (engine.unmixed is None) == mixed
        together = ids_of(engine, requests())
    with Engine(model, TOKENIZER, Limits(1, 64, 2048), "to be compared with") as engine:
        assert together == ids_of(engine, requests())
    with Engine(causal(), TOKENIZER, Limits(1, 9, 2048)) as engine:
        assert together[:: len(names)] == ids_of(engine, [Request(p, stop=Stop(max_new_tokens=6)) for p in prompts])
    assert len({tuple(ids) for ids in together}) > len(prompts)  # adapters do something


def test_a_model_that_takes_no_pages_answers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    model = causal("bloom")
    alone = why_alone(model, TOKENIZER, NATS)
    assert alone is not None
    prompts = rows(3, 20)
    wanted = continue_greedily(model, TOKENIZER, prompts, Decoding({1}, 5, 128), 8, lambda *_, **__: None)
    with Engine(model, TOKENIZER, Limits(), alone) as engine:
        requests = [Request(prompt, stop=Stop(frozenset({1}), (), 5)) for prompt in prompts]
        assert ids_of(engine, requests) == [answer.ids for answer in wanted]


def test_prompts_are_scored_as_by_one_pass() -> None:
    model, (row,) = causal(), rows(100)
    with torch.no_grad():
        likely = model(torch.tensor([row])).logits[0].log_softmax(dim=-1)
    wanted = [float(likely[place, token]) for place, token in enumerate(row[1:])]
    with Engine(model, TOKENIZER, Limits(2, 9, 1024, 32)) as engine:
        for start in (1, 50, 99):
            request = Request(row, Sampling(logprobs=2), None, Stop(max_new_tokens=0), scored_from=start)
            (delta,) = answered(engine, [request])[request.number]
            assert [token.id for token in delta.prompt] == row[start:]
            assert [token.logprob for token in delta.prompt] == pytest.approx(wanted[start - 1 :], abs=1e-3)
            assert all(token.top[0][1] >= (token.logprob or 0) - 1e-6 for token in delta.prompt)
            assert (delta.finish, delta.tokens) == ("length", ())
        assert delta.known > 0


def test_requests_join_leave_and_are_cancelled_between_steps() -> None:
    first, second, third = (Request(row, stop=Stop(max_new_tokens=9)) for row in rows(5, 6, 7))
    with Engine(causal(), TOKENIZER, Limits(rows=2, queue=2, tokens=512)) as engine:
        engine.submit(first)
        assert [delta.number for delta in engine.step()] == [first.number]
        engine.submit(second)
        engine.submit(third)
        with pytest.raises(FullError):
            engine.submit(third)
        assert {delta.number for delta in engine.step()} == {first.number, second.number}
        assert engine.cancel(first.number)
        assert not engine.cancel(first.number)
        assert {delta.number for delta in engine.step()} == {second.number, third.number}
        engine.cancel(second.number)
        engine.cancel(third.number)
        assert engine.idle
        assert engine.step() == []
        assert engine.pages.free + engine.pages.known == engine.pages.count


def test_what_can_never_be_answered_is_refused_and_a_failure_ends_only_its_own(monkeypatch: Any) -> None:
    with Engine(causal(), TOKENIZER, Limits(rows=2, tokens=512)) as engine:
        for request in (
            Request([]), Request([400]), Request([-1]), Request([3], adapter="none"), Request([3] * 600),
            Request([3], stop=Stop(max_new_tokens=0)), Request([3], Sampling(bias={400: 1.0})),
        ):  # fmt: skip
            with pytest.raises(InputError):
                engine.submit(request)
        request = Request([3, 4], stop=Stop(max_new_tokens=2))
        engine.submit(request)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_logits", lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
            (delta,) = engine.step()
        assert (delta.finish, delta.reason, engine.idle) == ("error", "no memory", True)
        assert ids_of(engine, [Request([3, 4], stop=Stop(max_new_tokens=2))])[0]


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"min_p": 2}, {"top_k": -1}, {"logprobs": 99}])
def test_sampling_has_limits(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Sampling(**wrong)
    with pytest.raises(InputError):
        Sampling(temperature=float("nan"))


def test_a_seed_draws_the_same_whoever_is_in_the_batch() -> None:
    model, prompts = causal(), rows(4, 30, 9)
    seeded = [Request(prompts[0], Sampling(temperature=1.5, seed=7), None, Stop(max_new_tokens=8)) for _ in range(2)]
    others = [Request(p, Sampling(temperature=1.0), None, Stop(max_new_tokens=8)) for p in prompts]
    with Engine(model, TOKENIZER, Limits(8, 9, 1024)) as engine:
        alone = ids_of(engine, seeded[:1])
        assert ids_of(engine, [*others, seeded[1]])[-1] == alone[0]


def test_tokens_are_drawn_as_often_as_their_shares_say() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])

    def counts(**settings: Any) -> list[float]:
        sampler = Sampler(Sampling(temperature=1.0, seed=1, **settings), [])
        drawn = [sampler.choose(logits.clone()) for _ in range(2000)]
        return [drawn.count(token) / len(drawn) for token in range(4)]

    shares = logits.softmax(dim=0)
    assert counts() == pytest.approx(shares.tolist(), abs=0.04)
    two = (shares[:2] / shares[:2].sum()).tolist()
    for limited in ({"top_k": 2}, {"top_p": 0.8}, {"min_p": 0.3}):
        assert counts(**limited) == pytest.approx([*two, 0, 0], abs=0.04)
    assert counts(bias={3: 100.0}) == [0, 0, 0, 1]


def test_penalties_change_what_is_likeliest() -> None:
    logits = torch.tensor([3.0, 2.5, -1.0])

    def said(**settings: Any) -> list[int]:
        sampler = Sampler(Sampling(**settings), [2])
        return [sampler.choose(logits.clone()) for _ in range(3)]

    assert Sampler(GREEDY, []).plain
    assert said() == [0, 0, 0]
    assert said(presence=1.0) == [0, 1, 0]
    assert said(frequency=0.4) == [0, 0, 1]
    assert said(repetition=1.5) == [0, 1, 0]


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=3))
@example("0t0", ["t", "0t0"])
@settings(max_examples=150, deadline=None)
def test_text_is_told_piece_by_piece_and_up_to_a_stop(text: str, stops: list[str]) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    speech, told = Speech(TOKENIZER, stops), ""
    whole = TOKENIZER.decode(ids, skip_special_tokens=True)
    for token in ids:
        new = speech.add(token)
        assert "\ufffd" not in new or "\ufffd" in text
        told += new
        if speech.stopped:
            break
    else:
        told += speech.end()
    # The answer ends with the token that completes a stop; another that began before it is never completed.
    pieces = (TOKENIZER.decode(ids[: n + 1], skip_special_tokens=True) for n in range(len(ids)))
    said = next((piece for piece in pieces if any(stop in piece for stop in stops)), whole)
    cuts = [said.index(stop) for stop in stops if stop in said]
    assert told == said[: min(cuts, default=len(said))]


def test_a_long_text_is_the_same_piece_by_piece() -> None:
    text = "Zwölf Boxkämpfer jagen 🙂 Viktor quer über den Sylter Deich. " * 6
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    speech = Speech(TOKENIZER, [])
    pieces = [speech.add(token) for token in ids]
    assert "".join([*pieces, speech.end()]) == TOKENIZER.decode(ids)
    assert "\ufffd" not in "".join(pieces)
    assert speech._settled > len(ids) // 2  # little is decoded again


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 200), st.booleans()), max_size=40))
@settings(max_examples=100, deadline=None)
def test_no_page_is_lost_or_held_twice(asked: list[tuple[int, int, bool]]) -> None:
    """Requests of three kinds, which begin alike within a kind, come and go; some write and some are forgotten."""
    pages, held = Pages(12), []
    for kind, length, leaves in asked:
        ids = [kind] * length
        found = pages.take("a" if kind else None, ids, length + 10)
        if found is None:
            assert held or length + 10 > 12 * PAGE
        else:
            assert found.tokens < length
            assert len(found.pages) == -(-(length + 10) // PAGE)
            pages.share(found, "a" if kind else None, ids)
            held.append((found, kind, [*ids, 5, 5]))
        own = [page for one, _, _ in held for page in one.pages[len(one.shared) :]]
        assert len(set(own)) == len(own)
        assert pages.free + pages.known + len(own) == pages.count
        if leaves and held:
            gone, its_kind, written = held.pop(0)
            pages.give_back(gone, "a" if its_kind else None, written)
    for one, kind, ids in held:
        pages.give_back(one, "a" if kind else None, ids)
    assert pages.free + pages.known == pages.count
    pages.forget_all("a")
    pages.forget_all(None)
    assert (pages.free, pages.known) == (pages.count, 0)


def test_prompts_that_come_together_share_their_beginning() -> None:
    """Four that begin alike, one of another adapter's and one that begins otherwise: what is common is read once."""
    (row, other), base = rows(150, 40), causal(max_position_embeddings=512)
    model = adapted(lora(), model=base)
    prompts = [(row, None), ([*row[:140], 7, 8], None), (row, "a0"), (other, None), (row[:130], None), (row, None)]

    def requests() -> list[Request]:
        return [Request(ids, Sampling(logprobs=0), name, Stop(max_new_tokens=6)) for ids, name in prompts]

    with Engine(model, TOKENIZER, Limits(1, 9, 2048), "to be compared with") as engine:
        wanted = ids_of(engine, requests())
    with Engine(model, TOKENIZER, Limits(8, 9, 2048, 64)) as engine:
        asked = requests()
        found = answered(engine, asked)
        assert [[token.id for delta in found[r.number] for token in delta.tokens] for r in asked] == wanted
        known = [found[request.number][0].known for request in asked]
        assert known[0] == known[2] == known[3] == 0
        assert min(known[1], known[4], known[5]) >= 2 * PAGE
        # One whose reader goes is not forgotten.
        first = Request([5, *row], adapter=None, stop=Stop(max_new_tokens=2))
        second = Request([5, *row[:140]], adapter=None, stop=Stop(max_new_tokens=2))
        engine.submit(first)
        engine.submit(second)
        engine.step()
        assert [one.request for one in engine.running] == [first]
        engine.cancel(first.number)
        told = [delta for _ in range(9) for delta in engine.step()]
        assert told[-1].finish == "length"
        assert engine.pages.free + engine.pages.known == engine.pages.count
