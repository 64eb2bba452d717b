"""What `tunelift plan` says against what the run then takes: peak of resident memory, and time, over 30 settings.

    python benchmarks/plan.py --folder DIR [--data DIR] [--only NAME,...] [--memory-only] [--dtype KIND] [--quick]
        [--out FILE.json]

Each plan and each run is a process of its own, the plan just before its run. The peak is what the system counts as
resident (VmHWM), files that are mapped included; how much of it was the process's own memory (RssAnon) is looked at
twenty times a second. Nothing is taken from the cache of scores. What is in DIR is not measured again, so that the same
command goes on; the models of random weights are written there too. The data are those of `--data` (banking77, gsm8k).

The goals: memory between 10% below and 3% above the plan, time within 25%. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory import SHAPES, write_model

MOST_OVER, MOST_UNDER, TIME = 0.03, 0.10, 0.25
SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
}  # fmt: skip
"""Of SmolLM2 135M (https://huggingface.co/HuggingFaceTB/SmolLM2-135M, config.json); the weights are random."""
RANDOM = {"smollm2": SMOLLM2, "1b": SHAPES["1b"][0], "tiny": SHAPES["quick"][0]}
POLLED = 0.05
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Setting:
    """A run by its name: the model, the rows, and the keys that differ from the defaults."""

    name: str
    model: str
    rows: str
    keys: str = ""


ROWS = {
    "intents": "task=sequence-classification data.train={data}/banking77_train.csv data.test={data}/banking77_test.csv "
    "data.text=text data.label=category data.max_train=800 data.max_test=400",
    "label": "data.train={data}/banking77_train.csv data.test={data}/banking77_test.csv data.max_train=320 "
    "data.max_test=120 data.prompt=Message:\\ {text}\\nIntent: data.completion=\\ {category} evaluate.metrics=loss",
    "answers": "data.train={data}/gsm8k_train.jsonl data.test={data}/gsm8k_test.jsonl data.max_train=160 "
    "data.max_test=48 data.prompt={question}\\nAnswer: data.completion=\\ {answer} evaluate.metrics=loss",
    "written": "data.train={data}/gsm8k_train.jsonl data.test={data}/gsm8k_test.jsonl data.max_train=96 "
    "data.max_test=48 data.prompt={question}\\nAnswer: data.completion=\\ {answer} evaluate.metrics=exact_match "
    "evaluate.max_new_tokens=32",
    "news": "data.train=bbc-news data.max_train=160 data.max_test=60",
}
BEFORE = "evaluate.cache=false data.max_validation=32"

SETTINGS = [
    Setting("minilm", "all-minilm-l6-v2", "intents"),
    Setting("minilm-batch", "all-minilm-l6-v2", "intents", "train.batch_size=64 train.micro_batch_tokens=4096"),
    Setting("minilm-rank", "all-minilm-l6-v2", "intents", "adapter.r=64"),
    Setting("minilm-float32", "all-minilm-l6-v2", "intents", "model.dtype=float32"),
    Setting("minilm-full", "all-minilm-l6-v2", "intents", "adapter.method=full"),
    Setting("minilm-again", "all-minilm-l6-v2", "intents", "train.gradient_checkpointing=true train.batch_size=32"),
    Setting("smollm2", "smollm2", "answers"),
    Setting("smollm2-short", "smollm2", "label"),
    Setting("smollm2-512", "smollm2", "answers", "train.max_length=512"),
    Setting("smollm2-rank", "smollm2", "answers", "adapter.r=64"),
    Setting("smollm2-batch", "smollm2", "answers", "train.batch_size=32 train.micro_batch_tokens=4096"),
    Setting("smollm2-again", "smollm2", "answers", "train.gradient_checkpointing=true train.micro_batch_tokens=4096"),
    Setting("smollm2-float32", "smollm2", "answers", "model.dtype=float32"),
    Setting("smollm2-int8", "smollm2", "answers", "model.quantization=int8"),
    Setting("smollm2-int4", "smollm2", "label", "model.quantization=int4"),
    Setting("smollm2-written", "smollm2", "written"),
    Setting("gemma", "gemma3-270m", "news"),
    Setting("gemma-labels", "gemma3-270m", "label", "evaluate.metrics=accuracy,loss"),
    Setting("gemma-answers", "gemma3-270m", "answers"),
    Setting("gemma-batch", "gemma3-270m", "news", "train.batch_size=16 train.micro_batch_tokens=4096"),
    Setting("gemma-rank", "gemma3-270m", "answers", "adapter.r=32"),
    Setting("gemma-int8", "gemma3-270m", "answers", "model.quantization=int8"),
    Setting("gemma-written", "gemma3-270m", "written"),
    Setting("gemma-256", "gemma3-270m", "news", "train.max_length=256"),
    Setting("1b", "1b", "answers", "data.max_train=48 data.max_test=16"),
    Setting("1b-rank", "1b", "label", "data.max_train=48 data.max_test=16 adapter.r=64"),
    Setting("1b-again", "1b", "answers", "data.max_train=48 data.max_test=16 train.gradient_checkpointing=true"),
    Setting("1b-int8", "1b", "label", "data.max_train=48 data.max_test=16 model.quantization=int8"),
    Setting("1b-int4", "1b", "label", "data.max_train=48 data.max_test=16 model.quantization=int4"),
    Setting("1b-written", "1b", "written", "data.max_train=48 data.max_test=16 evaluate.max_new_tokens=16"),
]
QUICK = [Setting("tiny", "tiny", "label", "data.max_train=32 data.max_test=12")]
FEW = "evaluate.forgetting=[] "
"""Of models of random weights nothing is forgotten, and bytes as tokens make general text long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where models and figures lie, and stay")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="banking77 and gsm8k")
    parser.add_argument("--only", help="names of settings, with commas between")
    parser.add_argument("--memory-only", action="store_true", help="say nothing of time: the machine is not ours alone")
    parser.add_argument("--dtype", help="of settings that name none; otherwise as each process measures what is fast")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"There is no folder {options.data}: name that of the data with --data.")
    settings = QUICK if options.quick else SETTINGS
    if options.only:
        settings = [setting for setting in settings if setting.name in options.only.split(",")]
    figures = {}
    for setting in settings:
        kept = options.folder / "figures" / f"{setting.name}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            found = measured(setting, options.folder, options.data.resolve(), options.dtype)
            kept.write_text(json.dumps(found, indent=1))
        figures[setting.name] = json.loads(kept.read_text())
        print(f"{setting.name}: {summary(figures[setting.name])}", file=sys.stderr, flush=True)
    missed = table(figures, time_too=not options.memory_only)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1))
    raise SystemExit(f"outside the goals: {', '.join(missed)}" if missed else 0)


def measured(setting: Setting, folder: Path, data: Path, dtype: str | None) -> dict[str, Any]:
    """Return what the plans and the run of a setting say: by shapes alone, with a rehearsal, and measured."""
    keys = arguments(setting, folder, data)
    if dtype and "model.dtype" not in setting.keys:
        keys.append(f"model.dtype={dtype}")
    quick = json.loads(process(["plan", *keys, "--quick", "--json"])[0])
    said, planning = process(["plan", *keys, "--json"])
    output = folder / "runs" / setting.name
    _, ran = process(["run", *keys, f"output={output}"])
    manifest = json.loads((output / "manifest.json").read_text())
    machine = manifest["machine"]
    return {
        "quick": quick, "plan": json.loads(said), "planning": planning, "run": ran,
        "seconds": manifest["seconds"], "fast_paths": manifest.get("fast_paths"),
        "processor": machine["processor"], "cores": machine["cores"], "flags": machine["flags"],
    }  # fmt: skip


def arguments(setting: Setting, folder: Path, data: Path) -> list[str]:
    model = setting.model
    if model in RANDOM:
        write_model(folder / "models" / model, RANDOM[model], 2048)
        model = str(folder / "models" / model)
    beside = FEW if setting.model in RANDOM else ""
    spelled = f"model={model} {ROWS[setting.rows]} {BEFORE} {beside}{setting.keys}"
    words = [word.replace("\0", " ") for word in spelled.replace("\\ ", "\0").split()]
    return [word.replace("{data}", str(data)).replace("\\n", "\n") for word in words]


def process(command: Sequence[str]) -> tuple[str, dict[str, float]]:
    """Run a command of tunelift; return what it printed, and its seconds and peaks (bytes)."""
    began = time.monotonic()
    run = subprocess.Popen(
        [sys.executable, "-m", "tunelift", *command], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    peaks = dict.fromkeys(("VmHWM", "RssAnon", "RssFile"), 0)
    watcher = threading.Thread(target=watch, args=(run.pid, peaks), daemon=True)
    watcher.start()
    said, _ = run.communicate()
    seconds = time.monotonic() - began
    watcher.join(2)
    if run.returncode:
        raise SystemExit(f"tunelift {' '.join(command)} ended with {run.returncode}")
    return said, {"seconds": seconds, "peak": peaks["VmHWM"], "own": peaks["RssAnon"], "files": peaks["RssFile"]}


def watch(process: int, peaks: dict[str, int]) -> None:
    """Note the highest of what the system says of a process, for as long as it is there."""
    while True:
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            return
        known = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "Rss"))}
        if not known:  # it has ended, and nobody has asked for its exit code yet
            return
        for name, highest in peaks.items():
            peaks[name] = max(highest, int(known.get(name, 0)) * 1024)
        time.sleep(POLLED)


def summary(found: dict[str, Any]) -> str:
    plan, run = found["plan"], found["run"]
    return (
        f"memory {plan['bytes'] / 1e6:.0f} MB planned ({found['quick']['bytes'] / 1e6:.0f} by shapes), "
        f"{run['peak'] / 1e6:.0f} measured; {plan['seconds'] or 0:.0f} s planned, {run['seconds']:.0f} measured"
    )


def table(figures: dict[str, dict[str, Any]], *, time_too: bool) -> list[str]:
    """Print a line for each setting; return those outside the goals."""
    missed = []
    head = ("setting", "by shapes", "planned", "measured", "of the plan", "own", "planned s", "measured s", "of it")
    lines = [head]
    for name, found in figures.items():
        plan, run = found["plan"], found["run"]
        memory, seconds = run["peak"] / plan["bytes"], run["seconds"] / plan["seconds"] if plan["seconds"] else 0.0
        in_time = not time_too or abs(seconds - 1) <= TIME
        if not (1 - MOST_UNDER <= memory <= 1 + MOST_OVER and in_time):
            missed.append(name)
        sizes = (found["quick"]["bytes"], plan["bytes"], run["peak"])
        times = (f"{plan['seconds'] or 0:.0f}", f"{run['seconds']:.0f}", f"{seconds:.2f}") if time_too else ("-",) * 3
        lines.append(
            (name, *(f"{size / 1e6:.0f} MB" for size in sizes), f"{memory:.3f}", f"{run['own'] / 1e6:.0f} MB", *times)
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if figures:
        one = next(iter(figures.values()))
        print(f"{one['processor']}, {one['cores']} cores, {' '.join(one['flags'])}")
    return missed


if __name__ == "__main__":
    main()
