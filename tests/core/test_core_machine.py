from __future__ import annotations

import mmap
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunelift.core import machine

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
UNLIMITED_V1 = 9223372036854771712
V2 = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"


def system(root: Path, group: str, mounts: str, limits: dict[str, object]) -> Path:
    """Make a /proc and a /sys below `root`; `limits` are files below /sys/fs/cgroup."""
    for name, text in {"cgroup": group, "mountinfo": mounts}.items():
        (root / "proc/self").mkdir(parents=True, exist_ok=True)
        (root / "proc/self" / name).write_text(text + "\n", encoding="ascii")
    for name, value in limits.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n", encoding="ascii")
    return root


def test_the_machine_has_cores_and_memory() -> None:
    known = machine.described()
    assert known["cores"] >= 1
    assert known["memory_bytes"] > 2**28
    assert known["processor"]
    assert set(known["flags"]) <= set(machine.CPU_FLAGS)


def test_the_first_processor_is_named_and_every_kind_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["model name\t: Fast 1\nflags\t\t: sse avx2", "model name\t: Small 1\nflags\t\t: sse"]
    file = tmp_path / "cpuinfo"
    file.write_text("\n\n".join(f"processor\t: {i}\n{kinds[i // 2]}" for i in range(4)) + "\n\n", encoding="ascii")
    monkeypatch.setattr(machine, "CPUINFO", file)
    assert machine.processor() == "Fast 1"
    assert machine.instructions() == "\n".join(kinds)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert machine.processor() == (platform.processor() or platform.machine())
    assert machine.instructions() == platform.processor()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b/memory.max": 3000, "a/memory.max": "max"}, 3000),
        ({"a/b/memory.max": 3000, "a/memory.max": 2000}, 2000),  # every group above counts
        ({"a/b/memory.max": "max", "memory.max": 1000}, 1000),
        ({"a/b/memory.max": 3000, "a/b/memory.high": 2500}, 2500),
        ({"a/b/memory.max": "max", "a/memory.max": "max"}, MACHINE),
        ({"other/memory.max": 1000}, MACHINE),
        ({"a/b/memory.max": "", "a/memory.max": "much"}, MACHINE),
        ({"a/b/memory.max": 2**62}, MACHINE),
    ],
)
def test_the_smallest_limit_along_the_groups_own_path(limits: dict[str, object], expected: int, tmp_path: Path) -> None:
    assert machine.usable_bytes(system(tmp_path, "0::/a/b", V2, limits)) == expected


@pytest.mark.parametrize("group", ["0::/", "0::/../elsewhere", "0::/docker/abc", ""])
def test_a_container_that_sees_its_own_part_alone(group: str, tmp_path: Path) -> None:
    mounts = V2.replace(" / /sys", " /docker/abc /sys")
    assert machine.usable_bytes(system(tmp_path, group, mounts, {"memory.max": 5000})) == 5000


def test_version_1_and_both_at_once(tmp_path: Path) -> None:
    group = "9:name=systemd:/x\n4:cpu,memory:/a/b\n0::/c"
    name = "memory.limit_in_bytes"
    limits: dict[str, object] = {f"memory/a/b/{name}": UNLIMITED_V1, f"memory/a/{name}": 7000}
    both = f"{V1}\n{V2.replace('/sys/fs/cgroup', '/sys/fs/cgroup/unified')}"
    assert machine.usable_bytes(system(tmp_path, group, both, limits)) == 7000
    assert machine.usable_bytes(system(tmp_path, group, both, limits | {"unified/c/memory.max": 6000})) == 6000
    assert machine.usable_bytes(system(tmp_path, group, V1.replace("rw,memory", "rw,cpu"), limits)) == MACHINE


def test_a_mount_with_a_space_in_its_name(tmp_path: Path) -> None:
    mounts = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/own\\040one")
    assert machine.usable_bytes(system(tmp_path, "0::/", mounts, {"own one/memory.max": 4000})) == 4000


@pytest.mark.parametrize("mounts", ["", "- cgroup2", "30 20 0:26 / - cgroup2", "30 20 0:26 / /sys/fs/cgroup rw - "])
def test_what_cannot_be_read_is_no_limit(mounts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.usable_bytes(tmp_path) == MACHINE  # no /proc at all
    root = system(tmp_path, "nonsense", mounts, {"memory.max": 5000})
    assert machine.usable_bytes(root) == MACHINE
    for page, pages in ((4096, -1), (0, 0)):  # -1: not known
        monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": page, "SC_PHYS_PAGES": pages}.__getitem__)
        assert machine.usable_bytes(root) is None
    monkeypatch.delattr(os, "sysconf")  # Windows
    assert machine.usable_bytes(root) is None


def test_work_that_waited_for_a_core_is_told_from_work_that_had_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "THREADS", tmp_path)
    for thread in ("1", "2"):
        (tmp_path / thread).mkdir()

    def work(waited: tuple[int, int]) -> tuple[str, bool]:
        for thread in ("1", "2"):
            (tmp_path / thread / "schedstat").write_text("5 7 1\n")
        begun = time.perf_counter()

        def some() -> str:
            while time.perf_counter() - begun < 0.01:
                pass
            for thread, more in zip(("1", "2"), waited, strict=True):
                (tmp_path / thread / "schedstat").write_text(f"5 {7 + more} 1\n")
            return "done"

        return machine.had_cores(some)

    assert work((0, 0)) == ("done", True)
    assert work((0, 10**9)) == ("done", False)  # a second of the hundredth, as no machine does


@pytest.mark.parametrize(("load", "had"), [(0.5, True), (99.0, False), (None, True)])
def test_where_no_waiting_is_counted_the_load_of_the_last_minute_tells(
    load: float | None, had: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "schedstat").write_text("0 0 0\n")  # as where the kernel counts nothing
    monkeypatch.setattr(machine, "THREADS", tmp_path)

    def told() -> tuple[float, float, float]:
        if load is None:
            raise OSError("no load here")
        return load, 0.0, 0.0

    monkeypatch.setattr(os, "getloadavg", told)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    assert machine.had_cores(lambda: 1) == (1, had)


def test_limits_of_memory_are_told_with_what_they_do(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/a/b", V2, {"a/b/memory.max": 3000, "a/b/memory.high": 2500})
    (root / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 4 kB\nSwapTotal: 2 kB\n")
    found = {limit.name: limit for limit in machine.memory_limits(root)}
    assert found["memory.max of the control group"] == machine.MemoryLimit(
        "memory.max of the control group", 3000, 3000 + 2048, kills=True
    )
    high = found["memory.high of the control group"]
    assert (high.bytes, high.hard, high.kills) == (2500, None, False)
    assert [limit.bytes for limit in machine.memory_limits(root)] == [2500, 3000, MACHINE]
    assert machine.available_bytes(root) == 4096


def test_version_1_without_a_limit_is_none(tmp_path: Path) -> None:
    root = system(tmp_path, "4:memory:/a", V1, {"memory/a/memory.limit_in_bytes": UNLIMITED_V1})
    assert [limit.name for limit in machine.memory_limits(root)] == ["the machine's memory"]


def test_limits_of_the_process_are_told_as_what_may_be_added() -> None:
    code = (
        "import resource; from tunelift.core import machine\n"
        "now = machine.resident()\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (now.data + 50_000_000, resource.RLIM_INFINITY))\n"
        "limit = {one.name: one for one in machine.memory_limits()}['RLIMIT_DATA']\n"
        "assert abs(limit.bytes - now.all - 50_000_000) < 5_000_000, (limit, now)\n"
        "assert limit.hard == limit.bytes and not limit.kills\n"
    )
    if machine.resident() is None:
        pytest.skip("the system does not say what a process has")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_peak_can_begin_anew() -> None:
    if machine.resident() is None:
        pytest.skip("the system does not say what a process has")
    block = mmap.mmap(-1, 200_000_000)  # of its own: what malloc has may stay with the process
    block.write(bytes(200_000_000))
    peak = machine.resident()
    block.close()
    machine.forget_peak()
    now = machine.resident()
    assert peak is not None and now is not None
    assert now.peak < peak.peak - 100_000_000
    assert (machine.seconds_since_start() or 0) > 0
