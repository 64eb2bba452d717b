"""Every compiled kernel equals its slow twin in torch, forward and backward; without a compiler all runs as before."""

from __future__ import annotations

import math
import os
import platform
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm, apply_rotary_pos_emb
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import tiny_models
from tunelift.fast import apply, fusing, kernels, restore
from tunelift.fast.head import LIKELY, TILE, Head, over_vocabulary
from tunelift.fast.lora import fuse
from tunelift.fast.undo import Undo


def reason() -> str:
    try:
        kernels.library(torch.float32)
    except kernels.UncompiledError as error:
        return str(error)
    return ""


compiled = pytest.mark.skipif(bool(reason()), reason=f"no compiled kernels: {reason()}")
ROUNDED = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
"""What one rounding more or less may change, of the largest value."""

both_types = pytest.mark.parametrize("dtype", ROUNDED)


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_equal_with_gradients(ours: Callable[..., Tensor], exact: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Compare with the twin in fp64, results and gradients by each input, but for a rounding to the inputs' dtype."""
    dtype = inputs[0].dtype
    above = numbers(*ours(*inputs).shape, dtype=dtype, seed=9)
    found = []
    for function, kind in ((ours, dtype), (exact, torch.float64)):
        leaves = [x.detach().to(kind).requires_grad_() for x in inputs]
        result = function(*leaves)
        found.append([result, *torch.autograd.grad(result, leaves, above.to(kind))])
    for own, twin in zip(*found, strict=True):
        assert own.dtype == dtype
        assert float((own.double() - twin).abs().max()) <= ROUNDED[dtype] * float(twin.abs().max())


@compiled
@both_types
@pytest.mark.parametrize(("made", "offset"), [(LlamaRMSNorm, 0.0), (Gemma3RMSNorm, 1.0)])
@pytest.mark.parametrize("turned", [False, True])
def test_norm(made: type[Any], offset: float, turned: bool, dtype: torch.dtype) -> None:
    norm = made(24, eps=1e-5).to(dtype)
    norm.weight.data = 30 + numbers(24, dtype=dtype, seed=1)  # so large that adding 1 is within bfloat16's rounding
    assert fusing.as_norm(norm) == (1e-5, offset)

    def exact(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * (offset + norm.weight.double().detach())

    def ours(x: Tensor) -> Tensor:
        norm.weight.requires_grad_(False)
        return fusing._norm(norm, norm.forward, 1e-5, offset, x)

    x = numbers(1, 5, 3, 24, dtype=dtype)
    assert_equal_with_gradients(ours, exact, x.transpose(1, 2) if turned else x)


@compiled
@both_types
@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("size", [(3, 7), (5, 1000)])
def test_gate(kind: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    functions = kernels.library(dtype)
    assert_equal_with_gradients(
        lambda gate, up: fusing._Gate.apply(gate, up, kind, functions),
        lambda gate, up: fusing.ACTIVATIONS[kind](gate) * up,
        numbers(*size, dtype=dtype) * 4,
        numbers(*size, dtype=dtype, seed=1),
    )


@compiled
@both_types
@pytest.mark.parametrize("turned", [False, True])
def test_rotary_positions(turned: bool, dtype: torch.dtype) -> None:
    angles = numbers(2, 1, 7, 16, dtype=dtype, seed=3)

    def one(x: Tensor) -> Tensor:
        return torch.cat(fusing._rotary(apply_rotary_pos_emb, x, x[:, :2], *angles), dim=1)

    def exact(x: Tensor) -> Tensor:
        return torch.cat(apply_rotary_pos_emb(x, x[:, :2], *angles.double()), dim=1)

    x = numbers(1, 7, 4, 16, dtype=dtype).transpose(1, 2) if turned else numbers(1, 4, 7, 16, dtype=dtype)
    assert_equal_with_gradients(one, exact, x)


@compiled
@both_types
@pytest.mark.parametrize("p", [0.1, 0.7])
def test_dropout(p: float, dtype: torch.dtype) -> None:
    module, x = torch.nn.Dropout(p), (1 + numbers(9, 1000).abs()).to(dtype).requires_grad_()
    undo = Undo()
    assert fusing.fuse_passes(torch.nn.Sequential(torch.nn.Linear(1, 1, dtype=dtype), module), undo) == "on: 1 dropouts"
    torch.manual_seed(0)
    found = module(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    factors = torch.where(found != 0, 1 / (1 - p), 0.0)
    assert torch.allclose(found, (x * factors).to(dtype), rtol=ROUNDED[dtype])
    assert torch.allclose(gradient, factors.to(dtype), rtol=ROUNDED[dtype])
    assert float((found != 0).double().mean()) == pytest.approx(1 - p, abs=0.02)
    assert not torch.equal(module(x), found)
    torch.manual_seed(0)
    assert torch.equal(module(x), found)
    assert torch.equal(module.eval()(x), x)
    undo.all()


@compiled
@both_types
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.3, None), (0.5, 5.0)])
@pytest.mark.parametrize("likely_first", [False, True])
def test_softmax_of_a_head(scale: float, softcap: float | None, likely_first: bool, dtype: torch.dtype) -> None:
    size = LIKELY + TILE + 700
    weight, hidden = numbers(size, 16, dtype=dtype), numbers(9, 16, dtype=dtype, seed=1) * 2
    head = Head(weight, numbers(size, dtype=dtype, seed=2), scale, softcap, skip_below=0.0)
    if likely_first:
        head.order_by(hidden)
        assert head.likely_first is not None
    ours = over_vocabulary(head, hidden, gradient=True)
    with kernels.without():
        twin = over_vocabulary(head, hidden, gradient=True)
    # Sanitizers keep sums from being made in vectors, of which each number rounds less.
    slack = 10 if os.environ.get(kernels.SWITCH) == "sanitize" else 1
    for own, other in zip(ours, twin, strict=True):
        assert float((own - other).abs().max()) <= slack * ROUNDED[dtype] * float(other.abs().max())


@compiled
@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=70))
def test_softmax_of_any_logits(values: list[float]) -> None:
    logits = torch.tensor([values])
    highest, mass = torch.full((1, 1), -math.inf), torch.zeros(1, 1)
    fall, share = torch.empty(1, 1), torch.empty(1, 1)
    kernels.call(
        kernels.library(torch.float32),
        "tile_softmax",
        logits,
        None,
        highest,
        mass,
        fall,
        share,
        *logits.shape,
        1.0,
        0.0,
        1,
    )
    assert float(highest + mass.log()) == pytest.approx(
        float(torch.logsumexp(torch.tensor(values), 0)), rel=1e-6, abs=1e-6
    )
    assert torch.allclose(logits / mass, torch.softmax(torch.tensor([values]), -1), atol=1e-6)


@compiled
@both_types
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    for bad in (math.nan, math.inf):
        x = numbers(2, 24, dtype=dtype)
        x[1, 5] = bad
        norm = LlamaRMSNorm(24).to(dtype).requires_grad_(False)
        found = fusing._norm(norm, norm.forward, 1e-6, 0.0, x)
        assert torch.isfinite(found[0]).all()
        assert not torch.isfinite(found[1]).all()
        head = Head(numbers(500, 24, dtype=dtype))
        mass = over_vocabulary(head, x)[0]
        assert math.isfinite(mass[0])
        assert not math.isfinite(mass[1])


@compiled
@pytest.mark.parametrize("kind", tiny_models.ARCHITECTURES)
def test_models_give_the_same_loss_and_gradients(kind: str) -> None:
    model = tiny_models.adapted(tiny_models.causal(kind))
    ids = torch.arange(3, 35)[None]

    def loss_and_gradients(some: Any) -> tuple[float, Tensor]:
        some.zero_grad()
        loss = some(input_ids=ids, labels=ids).loss
        loss.backward()
        return float(loss.detach()), torch.cat(
            [p.grad.flatten().float() for p in some.parameters() if p.grad is not None]
        )

    plain_loss, plain = loss_and_gradients(model)
    undo = Undo()
    fusing.fuse_passes(model, undo)
    loss, gradients = loss_and_gradients(model)
    undo.all()
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert float((gradients - plain).abs().max() / plain.abs().max()) < 1e-5
    again_loss, again = loss_and_gradients(model)
    assert (again_loss, torch.equal(again, plain)) == (plain_loss, True)
    rough = model.bfloat16()
    errors = []
    for fused in (True, False):
        fusing.fuse_passes(rough, undo) if fused else undo.all()
        errors.append(float((loss_and_gradients(rough)[1] - plain).norm() / plain.norm()))
    assert errors[0] < 1.5 * errors[1]


@compiled
@pytest.mark.parametrize("kind", tiny_models.ARCHITECTURES)
def test_with_fused_lora_too(kind: str) -> None:
    """Then what norms and gates give is made again on the way back, not kept for it."""
    model = tiny_models.adapted(tiny_models.causal(kind))
    ids, undo = torch.arange(3, 35)[None], Undo()
    gradients = []
    for fused in (False, True):
        if fused:
            fusing.fuse_passes(model, undo)
            fuse(model, undo)
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    undo.all()
    assert float((gradients[1] - gradients[0]).abs().max() / gradients[0].abs().max()) < 1e-5


@compiled
@pytest.mark.parametrize("fused", [False, True])
def test_what_is_made_again_is_not_kept(fused: bool) -> None:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    layer, undo = model.get_base_model().model.layers[0], Undo()
    fusing.fuse_passes(model, undo)
    if fused:
        fuse(model, undo)
    normed = layer.input_layernorm(numbers(1, 9, 32).requires_grad_())
    read = [getattr(layer.self_attn, name)(normed).sum() for name in ("q_proj", "k_proj", "v_proj")]
    alive = weakref.ref(normed)
    del normed
    assert (alive() is None) == fused
    sum(read).backward()
    undo.all()


@compiled
def test_what_was_written_to_is_not_made_again() -> None:
    """A model that changes what a norm gave, in place, means the changed numbers."""
    gradients = []
    for fused in (False, True):
        model = tiny_models.adapted(tiny_models.causal("llama"))
        layer, undo = model.get_base_model().model.layers[0], Undo()
        if fused:
            fusing.fuse_passes(model, undo)
            fuse(model, undo)
        layer.self_attn.q_proj(layer.input_layernorm(numbers(1, 9, 32).requires_grad_()).mul_(3)).sum().backward()
        gradients.append(layer.self_attn.q_proj.lora_A["default"].weight.grad)
        undo.all()
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


@compiled
def test_a_second_derivative_is_refused() -> None:
    gate = numbers(2, 16).requires_grad_()
    found = (fusing._Gate.apply(gate, numbers(2, 16), 0, kernels.library(torch.float32)) ** 2).sum()
    (slope,) = torch.autograd.grad(found, gate, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@compiled
def test_a_learning_norm_gets_its_gradient() -> None:
    model = tiny_models.causal("llama")
    undo = Undo()
    fusing.fuse_passes(model, undo)
    ids = torch.arange(3, 12)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    undo.all()
    assert float(model.model.norm.weight.grad.abs().max()) > 0


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of Llama's file as they are before any model has been made fast, whoever forgot to take it back."""
    names = vars(sys.modules[type(tiny_models.causal("llama")).__module__])
    plain = names["apply_rotary_pos_emb"]
    monkeypatch.setitem(names, "apply_rotary_pos_emb", plain.args[0] if hasattr(plain, "func") else plain)
    return names


@compiled
def test_apply_is_taken_back_whole(names: dict[str, Any]) -> None:
    model = tiny_models.causal("llama")
    before = names["apply_rotary_pos_emb"]
    assert apply(model)["fused_passes"] == "on: 7 norms, 3 gates, rotary positions"
    assert names["apply_rotary_pos_emb"] is not before
    restore(model)
    assert names["apply_rotary_pos_emb"] is before
    assert not any("forward" in module.__dict__ for module in model.modules())


@compiled
@pytest.mark.parametrize("first", [0, 1])
def test_two_models_of_a_kind_are_taken_back_in_any_order(first: int, names: dict[str, Any]) -> None:
    models = [tiny_models.causal("llama", seed) for seed in (0, 1)]
    before = names["apply_rotary_pos_emb"]
    for model in models:
        assert apply(model)["fused_passes"].startswith("on")
    restore(models[first])
    restore(models[1 - first])
    assert names["apply_rotary_pos_emb"] is before


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Sets another compiler for an empty cache; what was loaded before is forgotten."""
    if os.environ.get(kernels.SWITCH) == "sanitize":
        pytest.skip("with sanitizers compiling takes long, and is no subject")
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path))
    kernels._library.cache_clear()
    yield lambda command: monkeypatch.setenv("CC", command)
    kernels._library.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are compiled on Linux only")
@pytest.mark.parametrize(
    ("command", "said"),
    [("no-such-compiler", "there is no C compiler (cc)"), ("false", "the C compiler failed")],
)
def test_without_a_compiler_all_runs_as_before(command: str, said: str, compiler: Any, tmp_path: Path) -> None:
    compiler(command)
    model = tiny_models.causal("llama")
    ids = torch.arange(3, 12)[None]
    before = model(input_ids=ids).logits
    undo = Undo()
    assert fusing.fuse_passes(model, undo).startswith(f"off: {said}")
    assert kernels.of(before) is None
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not list(tmp_path.rglob("*.so"))


@compiled
def test_what_others_may_have_written_is_not_loaded(compiler: Any, tmp_path: Path) -> None:
    """It is removed, and made again; a folder of another user is not touched."""
    compiler("cc")
    folder = tmp_path / "kernels"
    folder.mkdir()
    for path, mode in ((folder, 0o777), (folder, 0o770), (folder / "any.so", 0o666), (folder / "any.so", 0o664)):
        kernels._library.cache_clear()
        kernels.library(torch.float32)
        (made,) = folder.glob("*.so")
        assert [x.stat().st_mode & 0o022 for x in (folder, made)] == [0, 0]
        made.unlink()  # not written to: this process has it in memory
        made.write_bytes(b"what another user could have put here")
        (made if path.suffix else path).chmod(mode)
        (folder / "scratch").mkdir(exist_ok=True)
    kernels._library.cache_clear()
    kernels.library(torch.float32)
    if os.getuid() == 0:
        os.chown(folder, 12345, -1)
        kernels._library.cache_clear()
        with pytest.raises(kernels.UncompiledError, match="belongs to another user; TUNELIFT_CACHE names"):
            kernels.library(torch.float32)


@compiled
def test_a_link_is_not_followed_to_compiled_code(compiler: Any, tmp_path: Path) -> None:
    compiler("cc")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kernels").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(kernels.UncompiledError, match="cannot be loaded"):
        kernels.library(torch.float32)


@compiled
@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("objdump"), reason="x86 and objdump are needed")
def test_a_processor_that_torch_is_told_to_take_for_less_is_less(
    compiler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler("cc")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    kernels.library(torch.float32)
    (made,) = tmp_path.rglob("*.so")
    assert b"zmm" not in subprocess.run(["objdump", "-d", made], capture_output=True, check=True).stdout


def test_they_can_be_forbidden(compiler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.SWITCH, "0")
    assert fusing.fuse_passes(tiny_models.causal("llama"), Undo()) == "off: TUNELIFT_KERNELS is 0"
    assert kernels.of(torch.zeros(1)) is None


@compiled
def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SHORT", 0)
    norm = LlamaRMSNorm(24).requires_grad_(False)
    x, threads = numbers(64, 24), torch.get_num_threads()
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(fusing._norm(norm, norm.forward, 1e-6, 0.0, x))
    torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_short_passes_wake_no_thread() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    found = [kernels.threads_for(count) for count in (1, kernels.SHORT, kernels.SHORT + 1)]
    torch.set_num_threads(threads)
    assert found == [1, 1, 2]
