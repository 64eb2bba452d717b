"""`make kernels-elsewhere`: the native kernels as other processors and compilers have them.

The kernels' own tests hold what they compute on this machine to slow twins. Here their calls are recorded while those
tests run (without AVX512, so that packed weights lie as they do elsewhere), with what each call left in memory where
its test passed. A program without Python, compiled for each target with the kernels, makes the same calls: for aarch64
by GCC's cross compiler under emulation, and here by clang without OpenMP and for a processor without AVX. Whole numbers
must be the same, others within a rounding or two of the largest value. A target whose tools are not installed is
skipped, and it is said which; on Debian: apt-get install gcc-aarch64-linux-gnu qemu-user clang
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tunelift.fast import compiling, kernels

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FAST = ("kernels", "block_attention", "low_rank", "int8", "screened_head", "four_bits")
TESTS = (
    *(HERE / f"test_fast_{name}.py" for name in FAST),
    ROOT / "tests" / "models" / "test_models_blocks.py",
    ROOT / "tests" / "serving" / "test_serving_layers.py",
)
SLOW = ("others_may_have_written", "told_to_take_for_less", "whole_run", "an_adapter_learns", "read_no_weights")
"""Tests, by words of their names, that are about more than calls."""

MOST_CALLS, MOST_BYTES = 40, 2**22
"""Of each kernel and type, calls of different sizes; and of one call."""

WRITTEN = {
    **{"rms_norm": (2, 3), "rms_norm_backward": (4,), "gated": (2,), "gated_backward": (3, 4), "rotated": (3,)},
    **{"dropout": (1,), "tile_softmax": (0, 2, 3, 4, 5), "low_rank_in": (2,), "low_rank_out": (2,)},
    **{"low_rank_weights": (2,), "int8_rows": (2, 3), "int8_pack": (3, 4, 5), "int8_product": (6,)},
    **{"four_bits_wide": (3,), "blocks_wide": (1,), "likeliest": (4, 5)},
    **{"panels": (1,), "decoder_layer": (1, 18, 19)},
    **{"attention": (4, 5), "attention_backward": (7, 8, 9)},
}
"""Which pointers a kernel writes through to the caller; its work space is its own affair."""

ALLOWED = {"float32": 1e-5, "bfloat16": 2**-8}
"""Of the largest value: another order of a sum, and in bfloat16 a number that is then rounded the other way."""


NATIVE = {(name, "bfloat16") for name in ("low_rank_in", "low_rank_out", "low_rank_weights")}
"""What runs with AVX512-BF16 alone: elsewhere it is computed as torch has it."""

ONE_TYPE = {("likeliest", "bfloat16")}
"""What has numbers of one type, whatever the elements are."""

KERNELS = list(WRITTEN)
POINTERS = {name: sum(issubclass(kind, ctypes.c_void_p) for kind in kinds) for name, kinds in kernels.ARGUMENTS.items()}
DTYPES = {
    (name, dtype): [(kernels.KINDS | {kernels.E: getattr(torch, dtype)})[kind] for kind in kernels.TENSORS[name]]
    for name in KERNELS
    for dtype in ALLOWED
}


class Target(NamedTuple):
    """A compiler with its flags, what runs its programs here, and what it stands for."""

    about: str
    compiler: tuple[str, ...]
    runner: tuple[str, ...] = ()


COMMON = ("-O3", "-fno-trapping-math", "-fno-math-errno", "-fno-strict-aliasing", "-static", "-w")
TARGETS = [
    Target("aarch64, GCC, OpenMP", ("aarch64-linux-gnu-gcc", *COMMON, "-fopenmp"), ("qemu-aarch64",)),
    Target("aarch64, GCC, no OpenMP", ("aarch64-linux-gnu-gcc", *COMMON), ("qemu-aarch64",)),
    Target("this machine, clang, no OpenMP", ("clang", *COMMON, "-march=native", "-mno-avx512f")),
    Target("x86-64 without AVX, clang, no OpenMP", ("clang", *COMMON, "-march=x86-64")),
    Target("x86-64 without AVX, cc, OpenMP", ("cc", *COMMON, "-march=x86-64", "-fopenmp")),
]


class Recorder:
    """Keeps the calls of the compiled functions; as a plugin of pytest it knows whose test passed."""

    def __init__(self) -> None:
        self.kept: dict[str, list[bytes]] = {dtype: [] for dtype in ALLOWED}
        self.pending: list[tuple[str, bytes]] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.sizes: set[tuple[Any, ...]] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep what a passed test called."""
        if report.when == "call" and report.passed:
            for dtype, call in self.pending:
                self.kept[dtype].append(call)
        if report.when == "call":
            self.pending.clear()

    def call(self, name: str, dtype: str, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Make a call, and keep what went in and what came out, unless there are enough like it."""
        pointers = arguments[: POINTERS[name]]
        sizes = (name, dtype, arguments[POINTERS[name] :], tuple(pointer is None for pointer in pointers))
        if name not in WRITTEN or sizes in self.sizes or self.counts[name, dtype] >= MOST_CALLS:
            return function(*arguments)
        call = Call(name, dtype, arguments)
        answer = function(*arguments)
        if call.size <= MOST_BYTES:
            if not name.startswith("attention"):
                self.sizes.add(sizes)
            self.counts[name, dtype] += 1
            self.pending.append((dtype, call.written()))
        return answer


class Call:
    """One call: the memory that its pointers lead into as it was before, and how far each of them reaches."""

    def __init__(self, name: str, dtype: str, arguments: tuple[Any, ...]) -> None:
        count = POINTERS[name]
        self.name, self.dtype, self.numbers = name, dtype, arguments[count:]
        self.plan = arguments[0]._obj if name.startswith("attention") else None
        addresses = [ctypes.addressof(self.plan) if self.plan and not i else arguments[i] for i in range(count)]
        self.kinds = [torch.uint8, *DTYPES[name, dtype]] if self.plan else list(DTYPES[name, dtype])
        self.reach = [n if place else 0 for place, n in zip(addresses, self._extents(), strict=True)]
        self.pointers = addresses
        tables = self._tables()
        spans = [(place, size) for place, size in [*zip(addresses, self.reach, strict=True), *tables] if place]
        self.regions = list(_united(spans))
        self.before = [ctypes.string_at(start, stop - start) for start, stop in self.regions]
        self.size = sum(map(len, self.before))
        plan = addresses[0]
        self.addresses = [(*self._place(plan + 8 * i), *self._place(place)) for i, (place, _) in enumerate(tables)]

    def written(self) -> bytes:
        """Return the call as elsewhere.c reads it, with what it has left."""
        out = [_whole(KERNELS.index(self.name), len(self.regions), len(self.pointers))]
        for content in self.before:
            out += [_whole(len(content)), content]
        out += [_whole(*(self._place(place) if place else (-1, 0))) for place in self.pointers]
        out += [_whole(len(self.numbers)), *(struct.pack("<qd", int(x), float(x)) for x in self.numbers)]
        out += [_whole(len(self.addresses))]
        out += [_whole(region, offset, target) for region, offset, target, _ in self.addresses]
        left = [i for i in WRITTEN[self.name] if self.pointers[i]]
        out += [_whole(len(left))]
        for i in left:
            kind = {torch.float32: 0, torch.bfloat16: 1}.get(self.kinds[i], 2)
            size = self.reach[i]
            out += [_whole(i, kind, size // self.kinds[i].itemsize, size), ctypes.string_at(self.pointers[i], size)]
        return b"".join(out)

    def _place(self, address: int) -> tuple[int, int]:
        """Return the region that an address lies in, and how far from its beginning."""
        for number, (start, stop) in enumerate(self.regions):
            if start <= address < max(stop, start + 1):
                return number, address - start
        raise ValueError(f"{self.name}: an address outside what was recorded")

    def _extents(self) -> list[int]:
        """Return how many bytes a kernel may touch behind each pointer."""
        if self.plan:
            return self._extents_of_attention()
        touched = kernels.TOUCHED[self.name](*self.numbers)
        return [_elements(extent) * kind.itemsize for extent, kind in zip(touched, self.kinds, strict=True)]

    def _extents_of_attention(self) -> list[int]:
        p, threads, back = self.plan, self.numbers[-1], self.name == "attention_backward"
        segments = _table(p.segments, self._segments() * 3)
        keys = max(segments[1::3])
        strided = [
            (heads - 1) * getattr(p, f"{name}_head") + (rows - 1) * getattr(p, f"{name}_token") + p.size
            for name, heads, rows in (("query", p.heads, p.tokens), ("key", p.groups, keys), ("value", p.groups, keys))
        ]
        row, side = p.tokens * p.heads * p.size, keys * p.groups * p.size
        rows = [row, row, p.heads * p.tokens, row, side, side] if back else [row, p.heads * p.tokens]
        library = kernels.library(getattr(torch, self.dtype))
        space = library.attention_space(ctypes.byref(p), int(back), threads)
        elements = [ctypes.sizeof(p), *strided, *rows, space]
        return [count * kind.itemsize for count, kind in zip(elements, self.kinds, strict=True)]

    def _segments(self) -> int:
        """Return how many segments a plan has, those without columns among them."""
        p = self.plan
        blocks = _table(p.blocks, 6 * (max(_table(p.tasks, 4 * p.task_count)[::4]) + 1))
        sees = max(first + count for first, count in zip(blocks[2::6], blocks[3::6], strict=True))
        return max(int(p.segment_count), 1 + max(_table(p.sees, sees)))

    def _tables(self) -> list[tuple[int, int]]:
        """Return address and bytes of each table of an attention's plan, in the order of its pointers."""
        if not self.plan:
            return []
        p = self.plan
        tasks = _table(p.tasks, 4 * p.task_count)
        blocks = _table(p.blocks, 6 * (max(tasks[::4]) + 1))
        rows = [blocks[i : i + 6] for i in range(0, len(blocks), 6)]
        sees = max(first + count for _, _, first, count, _, _ in rows)
        seen = max(begins + (stop - start) * width for start, stop, _, _, begins, width in rows)
        bytes_of = (self._segments() * 24, len(blocks) * 8, sees * 8, len(tasks) * 8, seen)
        return list(zip((p.segments, p.blocks, p.sees, p.tasks, p.seen), bytes_of, strict=True))


class Functions:
    """What ctypes gives, each function with a recorder before it."""

    def __init__(self, library: Any, dtype: str, recorder: Recorder) -> None:
        self._library, self._dtype, self._recorder = library, dtype, recorder

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        self.__dict__[name] = one = Function(function, self._dtype, self._recorder)
        return one


class Function:
    """A function of ctypes, the argtypes and restype of which are set as on ctypes' own."""

    def __init__(self, function: Any, dtype: str, recorder: Recorder) -> None:
        self.__dict__.update(function=function, dtype=dtype, recorder=recorder)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.function, name, value)

    def __call__(self, *arguments: Any) -> Any:
        return self.recorder.call(self.function.__name__, self.dtype, self.function, arguments)


def _elements(extent: kernels.Extent) -> int:
    if isinstance(extent, int):
        return extent
    return 1 + sum((count - 1) * stride for count, stride in extent) if all(count for count, _ in extent) else 0


def _table(address: int, count: int) -> list[int]:
    return list((ctypes.c_int64 * count).from_address(address))


def _united(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield runs of memory (start, stop) that hold all spans (start, bytes); what overlaps is in one."""
    found: list[list[int]] = []
    for start, size in sorted(spans):
        if found and start < found[-1][1]:
            found[-1][1] = max(found[-1][1], start + size)
        else:
            found.append([start, start + size])
    yield from ((start, stop) for start, stop in found)


def _whole(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def header() -> str:
    """Return calls.h: each kernel declared, and called with what was recorded."""
    types = {ctypes.c_int64: "int64_t", ctypes.c_int: "int", ctypes.c_float: "float", ctypes.c_double: "double"}
    lines = []
    for name in KERNELS:
        kinds = kernels.ARGUMENTS[name]
        declared = ["void *" if issubclass(kind, ctypes.c_void_p) else types[kind] for kind in kinds]
        pointers = POINTERS[name]
        given = [f"p[{i}]" for i in range(pointers)]
        for i, kind in enumerate(declared[pointers:]):
            given.append(f"({kind}){'d' if kind in ('float', 'double') else 'n'}[{i}]")
        lines += [
            f"void {name}({', '.join(declared)});",
            f"static void call_{name}(void **p, int64_t *n, double *d) {{ (void)d; {name}({', '.join(given)}); }}",
        ]
    lines += [
        f"enum {{ KERNELS = {len(KERNELS)} }};",
        "static void (*const functions[])(void **, int64_t *, double *) = {",
        *(f"    call_{name}," for name in KERNELS),
        "};",
        f"static const char *const names[] = {{{', '.join(f'{chr(34)}{name}{chr(34)}' for name in KERNELS)}}};",
    ]
    return "\n".join(lines) + "\n"


def recorded(scratch: Path) -> dict[str, Path]:
    """Run the kernels' tests; return a file of calls for each type."""
    recorder = Recorder()

    def compiled(flags: tuple[str, ...], **how: Any) -> Any:
        dtype = "bfloat16" if "-DBFLOAT16" in flags else "float32"
        return Functions(compiling.compiled(flags, **how), dtype, recorder)

    kernels.compiled = compiled
    chosen = " and ".join(f"not {name}" for name in SLOW)
    code = pytest.main(["-p", "no:xdist", "-q", "--no-header", "-k", chosen, *map(str, TESTS)], plugins=[recorder])
    if code:
        sys.exit("The kernels' tests fail on this machine: first make them pass.")
    found = {}
    for dtype, calls in recorder.kept.items():
        found[dtype] = scratch / f"{dtype}.calls"
        found[dtype].write_bytes(_whole(len(calls)) + b"".join(calls))
    missing = {(name, dtype) for name in KERNELS for dtype in ALLOWED} - set(recorder.counts) - NATIVE - ONE_TYPE
    if missing:
        sys.exit(f"No test calls {missing}")
    return found


def holds(target: Target, files: dict[str, Path], scratch: Path) -> bool:
    """Compile the kernels for a target, repeat all calls there, and tell whether they leave the same."""
    right = True
    for dtype, file in files.items():
        program = scratch / "program"
        flags = kernels.TYPES[getattr(torch, dtype)]
        sources = [*map(str, compiling.SOURCES), str(HERE / "elsewhere.c")]
        include = ("-I", str(scratch), "-I", str(compiling.SOURCES[0].parent))
        command = [*target.compiler, *flags, *include, *sources, "-o", str(program), "-lm"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode:
            print(f"  {dtype}: it does not compile\n{built.stderr[:2000]}")
            right = False
            continue
        again = [*target.runner, str(program), str(file), str(ALLOWED[dtype])]
        done = subprocess.run(again, capture_output=True, text=True, check=False)
        print(
            f"  {dtype}: {'the same' if done.returncode == 0 else f'exit code {done.returncode}'}\n{done.stdout}",
            end="",
        )
        right &= done.returncode == 0
    return right


def main() -> int:
    """Record once, and repeat on every target whose tools are here; return the exit code."""
    tried, right = 0, True
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        files = recorded(scratch)
        (scratch / "calls.h").write_text(header(), encoding="utf-8")
        for target in TARGETS:
            absent = [tool for tool in (target.compiler[0], *target.runner[:1]) if shutil.which(tool) is None]
            print(f"{target.about}: {f'skipped, there is no {absent[0]}' if absent else ''}", flush=True)
            if not absent:
                tried += 1
                right &= holds(target, files, scratch)
    print(f"kernels-elsewhere: {tried} of {len(TARGETS)} targets, {'all hold' if right else 'NOT ALL HOLD'}")
    return 0 if right and tried else 1


if __name__ == "__main__":
    if os.environ.get("ATEN_CPU_CAPABILITY") != "avx2":  # which torch reads when it is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"})
    sys.exit(main())
