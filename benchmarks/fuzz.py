"""Does any file crash, hang or fill the memory? Random inputs to every reader of files that strangers may have made.

    python benchmarks/fuzz.py [--inputs 200000] [--target NAME ...] [--json FILE]

Each target gets inputs bred from a few sound ones: by atheris (libFuzzer, led by coverage) where it is installed, or
by mutations of our own (`--engine own`). Wrong is: any exception but tunelift's own errors, more than 2 s of processor
time, or more memory than 4 MB and 300 bytes for each byte of input. Time and memory are also tried on inputs blown up
to 100 kB. What is found wrong is written to --crashes. Prints a Markdown table; exits with 1 where something was found.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunelift.core import files, progress
from tunelift.core.errors import InputError, TuneliftError
from tunelift.data.columns import ANSWERS

SECONDS, FREE_BYTES, BYTES_PER_BYTE = 2.0, 4 * 2**20, 300
ALARM = 60.0
"""Seconds of the clock after which an input that never ends is given up."""
BLOWN_UP, EVERY = 100_000, 1000
LONGEST = 4096
"""Bytes of one input; every 1000th is also tried blown up."""
SEPARATOR = b"\x1e"
"""Between the files of an input that has several; no text file of ours holds it."""
SCORES = Path(__file__).parents[1] / "tests" / "comparison" / "data"

Read = Callable[[Path, bytes], object]
"""Writes an input into a folder and reads it as the product does."""


# ---- targets: a function that imports what it needs and returns (read, sound inputs)


def rows(ending: str, *sound: str) -> tuple[Read, list[bytes]]:
    from tunelift.config.schema import DataSection
    from tunelift.data.examples import make_examples
    from tunelift.data.formats import read_file

    def read(folder: Path, content: bytes) -> object:
        return make_examples(read_file(written(folder / f"rows.{ending}", content)), DataSection(), ANSWERS)

    encodings = ("utf-8", "utf-8-sig", "utf-16", "latin-1")
    return read, [text.encode(encoding, "replace") for text in sound for encoding in encodings]


def csv() -> tuple[Read, list[bytes]]:
    return rows("csv", 'text,label\n"a, ""b""\nc",x\nd,y\n', "prompt,completion,id\ngrüße,b,1\n,d,2\n")


def tsv() -> tuple[Read, list[bytes]]:
    return rows("tsv", 'text\tlabel\n"a\tx\nbü\ty\n')


def jsonl() -> tuple[Read, list[bytes]]:
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    plain = '{"prompt": "a\\ud83d\\ude00", "completion": "ü", "id": 1}\n{"prompt": NaN, "completion": 1e999}\n'
    return rows("jsonl", plain, json.dumps(chat) + "\n" + json.dumps(chat), '{"instruction": "a", "output": true}')


def plain_json() -> tuple[Read, list[bytes]]:
    return rows("json", '[{"text": "a", "label": 1}, {"text": "ü", "label": null}]', '{"data": [{"text": "a"}]}')


def txt() -> tuple[Read, list[bytes]]:
    return rows("txt", "one\n\ntwo\r\nüü\u2028three\n")


def config() -> tuple[Read, list[bytes]]:
    """The YAML file, and overrides as a shell passes them."""
    from tunelift.config.load import dump, load_config
    from tunelift.config.yaml_text import LARGEST

    def read(folder: Path, content: bytes) -> object:
        text, *overrides = content.split(SEPARATOR)
        given = [os.fsdecode(part.replace(b"\0", b"")) for part in overrides]
        loaded = load_config(written(folder / "config.yaml", text), given)
        # Escapes make some texts longer, and objects are described in words.
        again = dump(loaded).encode()
        if len(again) <= LARGEST and b"given in Python" not in again:
            assert load_config(written(folder / "again.yaml", again)) == loaded, "it does not load back as it was"
        return loaded

    anchors = (
        "base: &b {r: 8}\nmodel: gpt2\ndata:\n  train: a.csv\n  labels: [yes, no, 0x1F, 1e-4]\nadapter:\n  <<: *b\n"
    )
    sections = 'model: {name: gpt2}\ntrain: {epochs: 2, learning_rate: 1e-4}\ndata: {prompt: "a\\n{text}"}\n'
    return read, [
        anchors.encode(),
        sections.encode() + SEPARATOR + b"train.epochs=3" + SEPARATOR + b"adapter.rank_pattern={q: 2}",
        b"lora_r: 4\nevaluate:\n  metrics: [accuracy]\n  stop: |\n    x\n  margin: .5\n",
    ]


def adapter() -> tuple[Read, list[bytes]]:
    """adapter_config.json and tunelift.json."""
    from tunelift.adapters.store import read_adapter_config, read_lineage

    def read(folder: Path, content: bytes) -> object:
        first, _, second = content.partition(SEPARATOR)
        written(folder / "adapter_config.json", first)
        written(folder / "tunelift.json", second)
        written(folder / "adapter_model.safetensors", tensors_file({}, 0))
        return all_tried(lambda: read_adapter_config(folder), lambda: read_lineage(folder))

    settings = {"peft_type": "LORA", "r": 8, "target_modules": ["q"], "base_model_name_or_path": "gpt2", "bias": "none"}
    lineage = {"format": 1, "base": {"name": "gpt2", "weights_sha256": "0" * 64}, "task": "causal-lm", "labels": []}
    return read, [json.dumps(settings).encode() + SEPARATOR + json.dumps(lineage).encode()]


def manifest() -> tuple[Read, list[bytes]]:
    """manifest.json, events.jsonl and comparison.json, as the report reads them and as a run that goes on does."""
    from tunelift.config.load import dump, load_config
    from tunelift.pipeline.folder import RunFolder
    from tunelift.reporting.run_contents import read_run

    def read(folder: Path, content: bytes) -> object:
        parts = content.split(SEPARATOR)
        for name, part in zip(("manifest.json", "events.jsonl", "comparison.json"), parts, strict=False):
            written(folder / name, part)
        files.read_manifest(folder / "manifest.json")  # both below begin with it, and they are slow
        current = load_config(None, [f"output={folder}"])
        if not (folder / "config.yaml").exists():
            written(folder / "config.yaml", dump(current).encode())
            (folder / "base").mkdir()
        return all_tried(lambda: describe(read_run(folder)), lambda: RunFolder.open(current, "run"))

    def describe(run: Any) -> object:
        return run.title(), run.task(), run.noted("model")

    noted = {"format": 1, "inputs": {"command": "run"}, "seconds": {"base": 1.5}, "status": "running", "task": None}
    facts = {"model": {"name": "gpt2"}, "adapter": {"method": "lora"}, "proofs": [{"name": "a", "passed": True}]}
    event = b'{"step": 1, "loss": 2.5}\n{"step": 2'
    return read, [json.dumps(noted | facts).encode() + SEPARATOR + event + SEPARATOR + b'{"items": 3}']


def gguf() -> tuple[Read, list[bytes]]:
    from tunelift.untrusted.gguf import read as read_gguf

    def read(folder: Path, content: bytes) -> object:
        return read_gguf(written(folder / "model.gguf", content))

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("count") + struct.pack("<II", 4, 7),
        text("flag") + struct.pack("<IB", 7, 1),
        text("tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("") + text("bc"),
        text("nested") + struct.pack("<IIQ", 9, 9, 2) + 2 * struct.pack("<IQ2I", 4, 2, 8, 9),
    ]
    tensors = [
        text("weights") + struct.pack("<I2QIQ", 2, 3, 2, 0, 0),
        text("packed") + struct.pack("<IQIQ", 1, 32, 8, 32),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return read, [head + bytes(-len(head) % 32) + bytes(24 + 8 + 34)]


def safetensors() -> tuple[Read, list[bytes]]:
    from tunelift.untrusted.files import safetensors_header

    def read(folder: Path, content: bytes) -> object:
        return safetensors_header(written(folder / "model.safetensors", content))

    tensors = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
    }
    return read, [tensors_file(tensors, 26)]


def scores() -> tuple[Read, list[bytes]]:
    """Results of any tool, with metrics.json beside them as the second part."""
    from tunelift.comparison.pairing import read_side

    def read(folder: Path, content: bytes) -> object:
        first, _, second = content.partition(SEPARATOR) if not content.startswith(b"PK") else (content, b"", b"")
        written(folder / "metrics.json", second or b"{}")
        return read_side(written(folder / "scores.jsonl", first), "base")

    ours = {"id": "1", "input": "a", "reference": " b", "prediction": " c", "metrics": {"accuracy": 0}, "tokens": 2}
    unscored = {"id": "2", "input": "d", "reference": "e", "prediction": "", "unscored": "too long"}
    info = {"metrics": {"accuracy": {"value": 0.0, "higher_is_better": True}}, "made_with": {"task": "x"}}
    own = "\n".join(json.dumps(row) for row in (ours | {"label_scores": {" b": -0.5}}, unscored))
    table = b"id;question;correct\n1;a;true\n2;b;I\n"
    others = [path.read_bytes() for path in sorted(SCORES.rglob("*")) if path.is_file()]
    return read, [own.encode() + SEPARATOR + json.dumps(info).encode(), table, *others]


TARGETS: dict[str, Callable[[], tuple[Read, list[bytes]]]] = {
    "csv": csv,
    "tsv": tsv,
    "jsonl": jsonl,
    "json": plain_json,
    "txt": txt,
    "config": config,
    "adapter": adapter,
    "manifest": manifest,
    "gguf": gguf,
    "safetensors": safetensors,
    "scores": scores,
}


def tensors_file(header: dict[str, Any], data_bytes: int) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(data_bytes)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def all_tried(*reads: Callable[[], object]) -> object:
    """Try each, though an earlier one refused the input; refuse it where all did."""
    refused = 0
    for read in reads:
        try:
            read()
        except TuneliftError:
            refused += 1
    if refused == len(reads):
        raise InputError("All refused it.")
    return None


# ---- one input, judged


@dataclass
class Tally:
    """What became of a target's inputs; `wrong` maps each kind of fault to the first input that showed it."""

    target: str
    engine: str
    inputs: int = 0
    read: int = 0
    blown_up: int = 0
    slowest: float = 0.0
    memory: float = 0.0
    wrong: dict[str, str] = field(default_factory=dict)

    def fault(self, kind: str, content: bytes, crashes: Path) -> None:
        if kind not in self.wrong:
            crashes.mkdir(parents=True, exist_ok=True)
            self.wrong[kind] = str(written(crashes / f"{self.target}-{len(self.wrong) + 1}", content))


class Judge:
    """Tries inputs of one target, and notes what must not happen."""

    def __init__(self, seeds: list[bytes], read: Read, folder: Path, tally: Tally, crashes: Path) -> None:
        self.seeds, self.read, self.folder, self.tally, self.crashes = seeds, read, folder, tally, crashes
        signal.signal(signal.SIGALRM, _hanging)
        for content in seeds:  # what is imported only when it is needed counts for no input
            self._tried(content)
        tally.read = 0

    def __call__(self, content: bytes) -> None:
        tally = self.tally
        self._timed(content)
        tally.inputs += 1
        if tally.inputs % EVERY == 0:
            draw = random.Random(tally.inputs)
            large = blown_up(draw.choice([content, *self.seeds]), draw)
            tally.blown_up += 1
            self._timed(large)
            self._weighed(large)

    def _timed(self, content: bytes) -> None:
        began = time.process_time()
        try:
            self._alarmed(content)
        except Hanging:  # or the machine slept, so once more
            try:
                self._alarmed(content)
            except Hanging:
                self.tally.fault(f"no answer in {ALARM:.0f} s", content, self.crashes)
        seconds = time.process_time() - began
        self.tally.slowest = max(self.tally.slowest, seconds)
        if seconds > SECONDS:
            self.tally.fault(f"over {SECONDS:.0f} s", content, self.crashes)

    def _alarmed(self, content: bytes) -> None:
        signal.setitimer(signal.ITIMER_REAL, ALARM)
        try:
            self._tried(content)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _tried(self, content: bytes) -> None:
        try:
            self.read(self.folder, content)
            self.tally.read += 1
        except TuneliftError as error:
            str(error).encode("utf-8", "backslashreplace")
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if "tunelift" in Path(frame.filename).parts] or frames
            where = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
            self.tally.fault(f"{type(error).__name__} in {where}", content, self.crashes)

    def _weighed(self, content: bytes) -> None:
        tracemalloc.start()
        self._tried(content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.tally.memory = max(self.tally.memory, peak / len(content))
        if peak > FREE_BYTES + BYTES_PER_BYTE * len(content):
            self.tally.fault(f"memory of {peak:,} bytes for {len(content):,}", content, self.crashes)


class Hanging(BaseException):
    """Raised by the alarm."""


def _hanging(*_: object) -> None:
    raise Hanging("no answer")


# ---- inputs


def mutated(seeds: list[bytes], draw: random.Random) -> bytes:
    """Return a sound input with one to eight changes, few most often; half have a JSON value exchanged first."""
    content = bytearray(draw.choice(seeds))
    if draw.random() < 0.5:
        content = bytearray(SEPARATOR.join(with_other_value(part, draw) for part in content.split(SEPARATOR)))
        if draw.random() < 0.6:
            return bytes(content)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        start = draw.randrange(len(content) + 1)
        end = min(len(content), start + draw.choice((1, 1, 2, 4, 8, 32, 200)))
        content[start:end] = _replacement(bytes(content[start:end]), seeds, draw)
    return bytes(content[:LONGEST])


ODD = (
    None,
    True,
    -1,
    0,
    0.5,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "1",
    "x",
    "../x",
    [],
    {},
    [[]],
    {"a": None},
    [1],
)


def with_other_value(content: bytes, draw: random.Random) -> bytes:
    """Return JSON, or one of several lines of it, with one value exchanged for an odd one; other content as it is."""
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    try:
        value = holder = {"": json.loads(lines[place])}
    except ValueError:
        return content
    key: Any = ""
    while isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.8:
        holder = holder[key]
        key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
    holder[key] = draw.choice(ODD)
    lines[place] = json.dumps(value[""]).encode()
    return b"\n".join(lines)


PIECES = (
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\n", b"\r", b"\t", b'"', b"'", b","),
    *(b"{", b"}", b"[", b"]", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b'"\\ud800"'),
    *(b"&a ", b"*a", b"<<: *a", b"!!set", b"!!python/name:os.system ", b"? ", b"- ", b"| ", b"%TAG", b"---\n", b"#"),
    *(b"9" * 500, b"9" * 5000, b"[" * 200, b'{"a":' * 100, b"../", b"{text.__class__}", b"a.b.c=1", SEPARATOR),
    *(struct.pack("<Q", number) for number in (0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)),
)


def _replacement(piece: bytes, seeds: list[bytes], draw: random.Random) -> bytes:
    """Return what stands in the place of a piece: nothing, the piece often, other bytes, or a part of another input."""
    other = draw.choice(seeds)
    cut = draw.randrange(len(other) + 1)
    changed = bytes(byte ^ (1 << draw.randrange(8)) for byte in piece)
    repeated, part = piece * draw.choice((2, 3, 50)), other[cut : cut + draw.choice((1, 8, 100))]
    return draw.choice((b"", changed, piece + draw.choice(PIECES), draw.choice(PIECES), repeated, part))


def blown_up(content: bytes, draw: random.Random) -> bytes:
    """Return the input with a part of it, whole lines often, repeated until it has BLOWN_UP bytes."""
    ends = [0, *(index + 1 for index, byte in enumerate(content) if byte == 10), len(content)]
    start = draw.choice([*ends, draw.randrange(len(content) + 1)])
    end = draw.choice([end for end in ends if end > start] or [len(content)])
    end = draw.choice((end, end, start + 1, start + 2, start + 10))
    piece = content[start:end] or b"a"
    return content[:start] + piece * (BLOWN_UP // len(piece)) + content[draw.choice((start, end)) :]


# ---- the two engines, each in a process of its own


def run_own(name: str, inputs: int, seed: int, crashes: Path) -> Tally:
    """Breed inputs by mutations of our own; `seed` draws them."""
    read, seeds = TARGETS[name]()
    tally = Tally(name, "own")
    draw = random.Random(f"{name} {seed}")
    with folder_for_inputs() as folder, quietly():
        judge = Judge(seeds, read, folder, tally, crashes)
        for content in seeds:
            judge(content)
        while tally.inputs < inputs:
            judge(mutated(seeds, draw))
    return tally


def run_atheris(name: str, inputs: int, seed: int, crashes: Path) -> None:
    """Let libFuzzer breed inputs, led by the lines and comparisons that they reach; it ends the process."""
    import atheris

    packages = ["tunelift", "yaml"] if name == "config" else ["tunelift"]
    with atheris.instrument_imports(include=packages, enable_loader_override=False):
        read, seeds = TARGETS[name]()
    tally = Tally(name, "atheris")
    folder, corpus = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    for number, content in enumerate(seeds):
        written(corpus / str(number), content)
    judge = Judge(seeds, read, folder, tally, crashes)

    def one(content: bytes) -> None:
        judge(content)
        if tally.inputs >= inputs:
            print(json.dumps(vars(tally)), flush=True)
            os._exit(0)

    progress.quiet = True
    options = {"seed": seed + 1, "timeout": 0, "report_slow_units": 10**6, "verbosity": 0, "max_len": LONGEST}
    atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)], one)
    atheris.Fuzz()


@contextlib.contextmanager
def folder_for_inputs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    with progress.silenced():
        yield


def fuzz(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one target in a process of its own and return its tally, with the seconds it took."""
    command = [sys.executable, __file__, "--worker", "--target", name, "--engine", arguments.engine]
    options = {"--inputs": arguments.inputs, "--seed": arguments.seed, "--crashes": arguments.crashes}
    began = time.monotonic()
    done = subprocess.run(
        [*command, *(str(part) for pair in options.items() for part in pair)], capture_output=True, check=False
    )
    lines = done.stdout.decode().splitlines()
    if done.returncode or not lines:
        said = done.stderr.decode(errors="replace")[-2000:]
        return vars(Tally(name, arguments.engine, wrong={f"the process ended with {done.returncode}": said}))
    return json.loads(lines[-1]) | {"seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--target", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    installed = importlib.util.find_spec("atheris") is not None
    parser.add_argument("--engine", choices=["atheris", "own"], default="atheris" if installed else "own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crashes", type=Path, default=Path("fuzz-crashes"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run = run_atheris if arguments.engine == "atheris" else run_own
        print(json.dumps(vars(run(arguments.target[0], arguments.inputs, arguments.seed, arguments.crashes))))
        return 0
    found = []
    print("| target | engine | inputs | read | blown up | slowest, s | most bytes per byte | seconds | wrong |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.target:
        tally = fuzz(name, arguments)
        found.append(tally)
        cells = [f"{tally[key]:,}" for key in ("inputs", "read", "blown_up")]
        cells += [f"{tally['slowest']:.2f}", f"{tally['memory']:.0f}", str(tally.get("seconds", ""))]
        print(f"| {name} | {tally['engine']} | {' | '.join(cells)} | {len(tally['wrong'])} |", flush=True)
        for kind, file in tally["wrong"].items():
            print(f"  {kind}: {file}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if any(tally["wrong"] for tally in found) else 0


if __name__ == "__main__":
    sys.exit(main())
