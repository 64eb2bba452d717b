"""Energy counters: what is counted, what is not, and that a machine that does not tell is no failure."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tunelift.core.energy import EnergyMeter


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def zone(root: Path, folder: str, name: str, energy: int, full: int = 1_000_000_000) -> Path:
    """Make one powercap zone; figures in microjoules."""
    (root / folder).mkdir(parents=True)
    (root / folder / "name").write_text(f"{name}\n")
    (root / folder / "max_energy_range_uj").write_text(f"{full}\n")
    (root / folder / "energy_uj").write_text(f"{energy}\n")
    return root / folder / "energy_uj"


def test_packages_are_summed_and_what_lies_within_them_is_not(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 1_000_000)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    psys = zone(tmp_path, "intel-rapl:2", "psys", 0)
    (tmp_path / "intel-rapl").mkdir()
    meter = EnergyMeter(tmp_path)
    first.write_text("8500000\n")
    second.write_text("2000000\n")
    core.write_text("7000000\n")
    psys.write_text("9000000\n")
    assert meter.joules() == pytest.approx(4.5)


def test_a_package_that_two_drivers_show_is_counted_once(tmp_path: Path) -> None:
    counters = [zone(tmp_path, folder, "package-0", 0) for folder in ("intel-rapl:0", "intel-rapl-mmio:0")]
    meter = EnergyMeter(tmp_path)
    for counter in counters:
        counter.write_text("3000000\n")
    assert meter.joules() == pytest.approx(3.0)


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, full=10_000_000)
    meter = EnergyMeter(tmp_path)
    counter.write_text("2000000\n")
    assert meter.joules() == pytest.approx(3.0)
    counter.write_text("6000000\n")
    assert meter.joules() == pytest.approx(7.0)
    counter.write_text("1000000\n")
    assert meter.joules() == pytest.approx(12.0)


def test_a_machine_that_does_not_tell_gives_none(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path / "nowhere").joules() is None
    assert EnergyMeter(tmp_path).joules() is None
    zone(tmp_path, "intel-rapl:0", "package-0", 0).write_text("not a number\n")
    assert EnergyMeter(tmp_path).joules() is None


def test_a_counter_that_only_root_may_read_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    read = Path.read_text

    def refused(self: Path, **how: str) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, **how)

    monkeypatch.setattr(Path, "read_text", refused)
    assert EnergyMeter(tmp_path).joules() is None


def test_gpus_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    millijoules = {0: 1_000, 1: 2_000}
    pynvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: millijoules[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(tmp_path)
    millijoules[0], millijoules[1] = 3_500, 2_500
    counter.write_text("1000000\n")
    assert meter.joules() == pytest.approx(4.0)


def test_a_gpu_that_does_not_tell_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: int) -> int:
        raise RuntimeError("Not Supported")

    pynvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=unsupported,
    )
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(tmp_path)
    counter.write_text("1500000\n")
    assert meter.joules() == pytest.approx(1.5)
