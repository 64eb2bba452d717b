"""Device and dtype: what is asked for, what is measured, and that a measurement is made once."""

from __future__ import annotations

import time

import pytest
import torch

from tunelift.core.errors import InputError
from tunelift.fast import allocator
from tunelift.models import precision


@pytest.mark.parametrize(
    ("gains", "dtype"),
    [
        ({"forward": 2.4, "gradient": 1.7}, torch.bfloat16),
        ({"forward": 0.1}, torch.float32),
        ({"forward": 2.4, "gradient": 0.01}, torch.float32),
        ({"forward": 1.31, "gradient": 1.29}, torch.float32),
    ],
)
def test_a_cpu_runs_in_bfloat16_only_where_both_products_gain(
    gains: dict[str, float], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "probe", lambda: gains)
    chosen = precision.choose("cpu")
    assert chosen.dtype == dtype
    for name, gain in gains.items():
        assert f"{gain:.1f} times ({name})" in chosen.reason


def test_the_measurement_is_made_once_per_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(precision, "probe", lambda: calls.append(1) or {"forward": 0.5})
    first = precision.choose("cpu")
    assert precision.choose("cpu") == first
    assert len(calls) == 1
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    precision.choose("cpu")
    assert len(calls) == 2


def test_the_probe_measures_and_is_quick() -> None:
    torch.manual_seed(0)
    expected = torch.randn(1)
    torch.manual_seed(0)
    begun = time.perf_counter()
    gains = precision.probe()
    assert time.perf_counter() - begun < 3  # half a second on an idle machine
    assert list(gains) == ["forward"] if gains["forward"] < precision.ENOUGH else list(gains) == ["forward", "gradient"]
    assert all(gain > 0 for gain in gains.values())
    assert torch.equal(torch.randn(1), expected)  # the user's random numbers are not used up


def test_what_is_asked_for_is_taken() -> None:
    assert precision.choose("cpu", "bfloat16") == precision.Precision(torch.device("cpu"), torch.bfloat16, "asked for")


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_runs_in_the_half_precision_it_has(
    native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    chosen = precision.choose()
    assert (chosen.device.type, chosen.dtype) == ("cuda", dtype)
    with pytest.raises(InputError, match=r"cuda:1.*not here"):
        precision.choose("cuda:1")


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=r'"cuda", which is not here.\nFound: .*cpu'):
        precision.choose("cuda")
    with pytest.raises(InputError, match="no device"):
        precision.choose("graphics")
    with pytest.raises(InputError, match="not here"):
        precision.choose("meta")


def test_keeping_freed_memory_says_whether_it_did() -> None:
    import platform

    assert allocator.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
