"""A layer in one call for the next tokens of answers: what it gives is what the model's own layers give."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tiny_models import causal, tokenizer
from tunelift.fast import kernels
from tunelift.serving.engine import Engine, Limits, answered
from tunelift.serving.layers import OtherwiseError, window_of
from tunelift.serving.requests import Request, Sampling, Stop

TOKENIZER = tokenizer()
KINDS = {
    "llama": {},
    "llama, biases": {"attention_bias": True, "mlp_bias": True},
    "llama, sizes of no vector": {"hidden_size": 36, "intermediate_size": 52, "head_dim": 6},
    "mistral": {"sliding_window": 9},
    "qwen2": {},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 9},
}

if kernels.of(torch.zeros(1)) is None:
    pytest.skip("there is no C compiler", allow_module_level=True)


def rows(*lengths: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(2, 250, (length,), generator=draw).tolist() for length in lengths]


def told(engine: Engine, prompts: list[list[int]], adapters: tuple[str | None, ...] = (None,)) -> list[Any]:
    """The tokens and log-probabilities of answers to prompts."""
    requests = [
        Request(prompt, Sampling(logprobs=1), adapters[n % len(adapters)], Stop(max_new_tokens=6 + n % 5))
        for n, prompt in enumerate(prompts)
    ]
    found = answered(engine, requests)
    assert not [delta.reason for deltas in found.values() for delta in deltas if delta.reason]
    return [[(token.id, token.logprob) for delta in found[r.number] for token in delta.tokens] for r in requests]


def model_of(kind: str) -> Any:
    return causal(kind.split(",", maxsplit=1)[0], **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_models_own_layers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that are longer than a page and a window, begin alike, and come and go."""
    prompts = rows(3, 40, 17, 90, 5, 1, 2)
    prompts.append([*prompts[3][:70], 9, 8, 7])
    with Engine(model_of(kind), TOKENIZER, Limits(5, 9, 1024, 32)) as engine:
        assert engine.fast_paths["decoder_layers"].startswith("on: "), engine.fast_paths
        calls = counted(monkeypatch)
        fast = told(engine, prompts)
        assert calls
        engine._layers = None
        calls.clear()
        plain = told(engine, prompts)
        assert not calls
    for own, other in zip(fast, plain, strict=True):
        assert [token for token, _ in own] == [token for token, _ in other]
        assert [value for _, value in own] == pytest.approx([value for _, value in other], abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_they_are_nearer_to_single_precision_than_the_models_own(kind: str) -> None:
    prompts = rows(3, 40, 17, 90, 5, 2)
    model = model_of(kind).bfloat16()
    states = dict[str, torch.Tensor]()
    for name, own in (("fast", model), ("plain", model), ("right", deepcopy(model).float())):
        with Engine(own, TOKENIZER, Limits(6, 9, 1024, 32)) as engine:
            assert engine.fast_paths["decoder_layers"].startswith("on: "), engine.fast_paths
            if name != "fast":
                engine._layers = None
            states[name] = hidden(engine, prompts).float()
    off = {name: float((states[name] - states["right"]).norm()) for name in ("fast", "plain")}
    assert 0 < off["fast"] <= off["plain"] < 0.02 * float(states["right"].norm())


def test_adapters_on_a_model_in_bfloat16_act_in_the_same_call(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = get_peft_model(causal("llama").bfloat16(), lora(4, lora_alpha=64), adapter_name="one").eval()
    model.add_adapter("two", lora(3, target_modules=["q_proj", "down_proj"], lora_alpha=64))
    prompt, found = rows(33)[0], dict[str, list[float]]()
    names: tuple[str | None, ...] = ("one", None, "two")
    for name, own in (("fast", model), ("right", deepcopy(model).float())):
        with Engine(own, TOKENIZER, Limits(16, 16, 1024, 64)) as engine:
            calls = counted(monkeypatch)
            told(engine, [prompt] * 3, names)  # from here on the prompt is known but for its last token
            assert len(calls) > 6
            calls.clear()
            found[name] = [row[0][1] for row in told(engine, [prompt] * 3, names)]
            assert calls
    assert found["fast"] == pytest.approx(found["right"], abs=0.01)
    assert min(abs(found["right"][n] - found["right"][1]) for n in (0, 2)) > 0.05


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls = list[str]()
    call = kernels.call
    monkeypatch.setattr(
        kernels,
        "call",
        lambda f, name, *a: (calls.append(name) if name == "decoder_layer" else None, call(f, name, *a))[1],
    )
    return calls


@pytest.mark.parametrize("count", [2, 5, 7, 13, 17, 25, 30])
def test_a_row_gets_the_same_to_the_last_bit_whoever_is_beside_it(count: int) -> None:
    """However many rows there are, and on however many threads."""
    prompts = rows(*range(3, 3 + count))
    with Engine(causal("qwen3"), TOKENIZER, Limits(32, 64, 4096, 2048)) as engine:
        engine.model.lm_head.forward = torch.nn.Linear.forward.__get__(engine.model.lm_head)
        alone = [hidden(engine, [prompt])[0] for prompt in prompts[:3]]
        together = hidden(engine, prompts)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            assert torch.equal(hidden(engine, prompts), together)
        finally:
            torch.set_num_threads(threads)
    for own, other in zip(alone, together, strict=False):
        assert torch.equal(own, other)


def hidden(engine: Engine, prompts: list[list[int]]) -> torch.Tensor:
    """The last layer's states of what follows each prompt, (N, D)."""
    seen = list[torch.Tensor]()
    last = engine.model.model.layers[-1]
    before = last.forward
    last.forward = lambda *args, **options: seen.append(before(*args, **options)) or seen[-1]
    # The prompts' keys and values come one prompt after another, so that they too are the same.
    for prompt in prompts:
        answered(engine, [Request(prompt, stop=Stop(max_new_tokens=1))])
    seen.clear()
    answered(engine, [Request(prompt, stop=Stop(max_new_tokens=1)) for prompt in prompts])
    last.forward = before
    return seen[0][0]


def lora(r: int, **settings: Any) -> LoraConfig:
    return LoraConfig(
        **{"r": r, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM", **settings}
    )


@pytest.mark.parametrize("kind", ["llama", "llama, biases", "gemma3_text", "llama, sizes of no vector"])
def test_each_token_has_its_own_adapter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other ranks, on some of the layers, with other scales; one is put on while the engine runs."""
    torch.manual_seed(0)
    model = get_peft_model(model_of(kind), lora(4), adapter_name="all")
    model.add_adapter("some", lora(7, target_modules=["q_proj", "down_proj"], lora_alpha=3))
    model.add_adapter("scaled", lora(2, target_modules=["v_proj", "up_proj"], use_rslora=True))
    prompts, names = rows(3, 12, 33, 5, 8, 21, 4, 9, 30), ("all", None, "some", "scaled")
    with Engine(model.eval(), TOKENIZER, Limits(16, 16, 2048, 64)) as engine:
        assert engine.fast_paths["decoder_layers"].startswith("on: ")
        calls = counted(monkeypatch)

        def both(names: tuple[str | None, ...]) -> None:
            kept, alone = engine._layers, list[Any]()
            calls.clear()
            fast = told(engine, prompts, names)
            assert calls
            engine._layers = None
            alone = told(engine, prompts, names)
            engine._layers = kept
            for own, other in zip(fast, alone, strict=True):
                assert [token for token, _ in own] == [token for token, _ in other]
                assert [v for _, v in own] == pytest.approx([v for _, v in other], abs=1e-4)

        both(names)

        def put(model: Any) -> Any:
            model.add_adapter("later", lora(3, target_modules=["o_proj", "k_proj", "gate_proj"]))
            return model

        engine.put_on("later", TOKENIZER, put)
        both(("later", "all"))
        engine.take_off("all")
        both(("later", None))


def test_layers_that_are_computed_as_they_are_find_their_own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter in half precision on one layer: that one is the model's own, behind and before others in one call."""
    torch.manual_seed(0)
    model = get_peft_model(
        causal("llama"), lora(4, target_modules=["q_proj", "down_proj"], layers_to_transform=[1]), adapter_name="one"
    )
    for name, module in model.named_modules():
        if "lora_" in name and isinstance(module, torch.nn.Linear):
            module.to(torch.bfloat16)
    prompts = rows(3, 12, 33)
    with Engine(model.eval(), TOKENIZER, Limits(16, 16, 1024, 64)) as engine:
        calls = counted(monkeypatch)
        mixed = told(engine, prompts, ("one",))
        assert calls
        engine._layers = None
        plain = told(engine, prompts, ("one",))
    for own, other in zip(mixed, plain, strict=True):
        assert [token for token, _ in own] == [token for token, _ in other]
        assert [v for _, v in own] == pytest.approx([v for _, v in other], abs=1e-2)


def test_an_adapter_put_on_a_model_that_had_none_acts() -> None:
    prompts = rows(3, 12, 33)
    with Engine(causal("llama"), TOKENIZER, Limits(16, 16, 1024, 64)) as engine:
        base = told(engine, prompts)
        torch.manual_seed(0)
        engine.put_on("new", TOKENIZER, lambda model: get_peft_model(model, lora(4), adapter_name="new"))
        tuned = told(engine, prompts, ("new",))
        again = told(engine, prompts)
        engine._layers = None
        plain = told(engine, prompts, ("new",))
    assert [[token for token, _ in row] for row in tuned] == [[token for token, _ in row] for row in plain]
    ids = [[[token for token, _ in row] for row in one] for one in (base, again, tuned)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("part", ["mlp.down_proj", "self_attn.q_proj", "input_layernorm"])
@pytest.mark.parametrize("how", ["in place", "another parameter", "another place"])
def test_weights_that_become_others_are_those_that_answer(part: str, how: str) -> None:
    """Panels are copies: what is written to the model's own weights later is not in them."""
    prompts = rows(3, 40)
    with Engine(model_of("llama"), TOKENIZER, Limits(5, 9, 1024, 32)) as engine:
        assert engine.fast_paths["decoder_layers"].startswith("on: ")
        told(engine, prompts)
        owner = engine.model.model.layers[1].get_submodule(part)
        with torch.no_grad():
            if how == "in place":
                owner.weight.mul_(-3)
            elif how == "another place":
                owner.weight.data = owner.weight.data * -3
            else:
                owner.weight = torch.nn.Parameter(owner.weight * -3)
        engine.pages.forget_all(None)
        found = told(engine, prompts)
        engine._layers = None
        engine.pages.forget_all(None)
        right = told(engine, prompts)
    for own, other in zip(found, right, strict=True):
        assert [token for token, _ in own] == [token for token, _ in other]
        assert [value for _, value in own] == pytest.approx([value for _, value in other], abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("gemma2", "not among"),
        ("gpt2", "made of"),
        ("phi3", "made of"),
        ("granite", "not among"),
        ("olmo2", ""),
        ("cohere", ""),
        ("mixtral", ""),
    ],
)
def test_other_layers_are_left_as_they_are(kind: str, said: str) -> None:
    model = causal(kind)
    with Engine(model, TOKENIZER, Limits(4, 4, 512)) as engine:
        found = engine.fast_paths["decoder_layers"]
        assert found.startswith("off: ") and said in found, found
        assert engine._layers is None


def test_a_layer_that_does_something_more_is_found_out() -> None:
    model = causal("llama")
    own = type(model.model.layers[1]).forward

    class Louder(type(model.model.layers[1])):  # type: ignore[misc]
        def forward(self, *args: Any, **options: Any) -> Any:
            return own(self, *args, **options) * 1.01

    model.model.layers[1].__class__ = Louder
    with Engine(model, TOKENIZER, Limits(4, 4, 512)) as engine:
        assert "do more than" in engine.fast_paths["decoder_layers"]


def test_without_compiled_functions_and_in_float16_they_are_off() -> None:
    with kernels.without(), Engine(causal("llama"), TOKENIZER, Limits(4, 4, 512)) as engine:
        assert engine.fast_paths["decoder_layers"].startswith("off: ")
    with Engine(causal("llama").half(), TOKENIZER, Limits(4, 4, 512)) as engine:
        assert engine.fast_paths["decoder_layers"].startswith("off: ")


def test_a_window_is_told_from_the_rule() -> None:
    def rule(window: int | None, hole: int | None = None) -> Any:
        def allowed(_: Any, __: Any, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            seen = (other <= own) & (other != (-1 if hole is None else hole))
            return seen if window is None else seen & (other > own - window)

        return allowed

    assert window_of(rule(None), 64) == 0 and window_of(rule(64), 64) == 0
    assert window_of(rule(63), 64) == 63 and window_of(rule(1), 64) == 1
    for other in (rule(None, 2), lambda _, __, own, other: (other <= own) & (other // 8 == own // 8)):
        with pytest.raises(OtherwiseError):
            window_of(other, 64)
