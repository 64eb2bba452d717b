"""Device and dtype: what is asked for, what is measured, and that a measurement is made once."""

from __future__ import annotations

import time

import pytest
import torch

from tunelift.core import machine
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
    monkeypatch.setattr(machine, "had_cores", lambda work: (work(), True))
    first = precision.choose("cpu")
    assert precision.choose("cpu") == first
    assert len(calls) == 1
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    precision.choose("cpu")
    assert len(calls) == 2


def test_what_a_busy_machine_measured_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = iter([({"forward": 0.5}, False), ({"forward": 2.4, "gradient": 1.7}, True)])
    monkeypatch.setattr(machine, "had_cores", lambda work: next(gains))
    assert precision.choose("cpu").dtype == torch.float32
    assert precision.choose("cpu").dtype == precision.choose("cpu").dtype == torch.bfloat16


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


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_each_process_of_torchrun_takes_the_gpu_of_its_local_rank(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.choose(asked).device == torch.device("cuda")  # alone
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert precision.choose(asked).device == torch.device("cuda", rank)
        assert precision.choose("cpu").device == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match=r"local rank 2, and 2 GPUs are here.*\n.*no more processes.*cpu.*cuda:0"):
        precision.choose(asked)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_all_processes_would_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.choose("cuda:1").device == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(InputError, match=r'"cuda:1", and 2 processes.*\n.*Set it to cuda:'):
        precision.choose("cuda:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # one process on each of several machines
    assert precision.choose("cuda:1").device == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # each is shown one of its own
    assert precision.choose("cuda:0").device == torch.device("cuda", 0)


def test_keeping_freed_memory_says_whether_it_did() -> None:
    import platform

    assert allocator.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
