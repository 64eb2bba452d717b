"""How much energy the machine used while something ran, where it tells: the processor's counters and NVIDIA's."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows RAPL, the energy counters of Intel and AMD processors, in microjoules."""


class EnergyMeter:
    """Counts from the moment it is made. It never raises: a counter that cannot be read is left out.

    Processors are counted by package; cores, graphics and what else lies within a package are in its figure already.
    All programs on the machine are counted, not only this one. A counter that wrapped around is taken to have done so
    once, so `joules` is to be asked at least once in the time that takes (with RAPL minutes to hours, depending on the
    load). On a machine with a GPU whose processor does not tell, the figure is the GPU's alone, and the reverse.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        """Note the counters; `root` is the folder of the powercap classes."""
        self._sources = [*_packages(root), *_gpus()]
        self._spent = [0.0] * len(self._sources)
        self._last = [source.read() for source in self._sources]

    def joules(self) -> float | None:
        """Return the joules used since the meter was made, or None where no counter could be read both times."""
        known = False
        for index, source in enumerate(self._sources):
            before, now = self._last[index], source.read()
            if before is None or now is None:
                continue
            self._spent[index] += now - before if now >= before else max(0.0, now - before + source.full)
            self._last[index], known = now, True
        return sum(self._spent) if known else None


class _Counter:
    """One rising counter in joules; `full` joules are lost when it wraps around."""

    def __init__(self, read: Callable[[], float], full: float = 0.0) -> None:
        self._read, self.full = read, full

    def read(self) -> float | None:
        """Return the counter's joules, or None where it cannot be read now."""
        try:
            return self._read()
        except Exception:  # no permission, a driver gone: whatever it is, energy is not worth a failed run
            return None


def _packages(root: Path) -> list[_Counter]:
    """Return a counter for each processor package: the zones whose name is package-N, and no zone within them.

    A package may be shown by two drivers (intel-rapl and intel-rapl-mmio); the first with a number is taken.
    """
    found: dict[str, _Counter] = {}
    try:
        zones = sorted(zone for zone in root.iterdir() if re.fullmatch(r"[\w-]+:\d+", zone.name))
    except OSError:
        return []
    for zone in zones:
        try:
            name = (zone / "name").read_text(encoding="utf-8").strip()
            full = _microjoules(zone / "max_energy_range_uj")
        except (OSError, ValueError):
            continue
        if name.startswith("package"):
            found.setdefault(name, _Counter(partial(_microjoules, zone / "energy_uj"), full))
    return list(found.values())


def _microjoules(file: Path) -> float:
    return int(file.read_text(encoding="utf-8")) / 1e6


def _gpus() -> list[_Counter]:
    """Return a counter for each NVIDIA GPU, by NVML's millijoules since the driver was loaded."""
    try:
        pynvml = import_module("pynvml")
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # not installed, no driver, no permission
        return []
    return [_Counter(partial(_gpu_joules, pynvml, handle)) for handle in handles]


def _gpu_joules(pynvml: Any, handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
