"""Is anything lost? A run is killed at many points, the same command is given again, and the bytes are compared.

    python benchmarks/kills.py                                  # 200 points of a tiny run, inside every kind of write
    python benchmarks/kills.py --model gemma3-270m --kills 5    # the real command and model, at random times
    python benchmarks/kills.py --model gemma3-270m --kills 5 --minutes 30 --json FILE

Prints a Markdown table, and exits with 1 where a run did not go on by itself, did more than `save_every` steps again
for a kill, or ended in other bytes. On the real model every step is one of the command line's: nothing is simulated.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1] / "tests" / "faults")]

SAVE_EVERY = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a real model, run by the command line; a tiny one in this process otherwise")
    parser.add_argument("--kills", type=int, default=None, help="200 on the tiny model, 5 on a real one")
    parser.add_argument("--minutes", type=float, default=8, help="what the training of the real model is sized for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["TUNELIFT_STATE"] = f"{place}/state"
        if not options.model:
            os.environ["TUNELIFT_CACHE"] = f"{place}/cache"
        rows = _real(options, Path(place)) if options.model else _tiny(options, Path(place))
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row[column]) for column in columns) + " |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["failed"] == 0 for row in rows) else 1


def _tiny(options: argparse.Namespace, place: Path) -> list[dict[str, Any]]:
    """Kill a fresh run at each of so many points, evenly over its events; every other one some instants later."""
    import run_to_kill
    from checkpoint_trainings import in_child

    from tunelift.evaluation import run as evaluation

    evaluation.KEPT_AT_ONCE = run_to_kill.ITEMS_AT_ONCE
    kills, draw = options.kills or 200, random.Random(options.seed)
    _quietly(lambda: in_child(lambda: run_to_kill.run_killed(place, place / "whole", 10**9)))
    expected, events = run_to_kill.result(place / "whole"), int((place / "events").read_text())
    found: dict[str, Counter[str]] = {}
    for number in range(kills):
        output, after = place / "killed", 1 + events * number // kills
        shutil.rmtree(place / "cache")  # or every item would be known from the run before
        delay = draw.uniform(0.0005, 0.02) if number % 2 else 0.0
        code = _quietly(lambda: in_child(lambda: run_to_kill.run_killed(place, output, after, delay)))  # noqa: B023
        stage = _stage(output) if code == -signal.SIGKILL else "not killed: it had ended"
        ended = _quietly(lambda: in_child(lambda: run_to_kill.run_in(place, output)))  # noqa: B023
        again = run_to_kill.steps_done_again(output) if ended == 0 else 0
        good = ended == 0 and run_to_kill.result(output) == expected and again <= run_to_kill.SAVE_EVERY
        found.setdefault(stage, Counter()).update(killed=1, failed=int(not good), again=again)
        shutil.rmtree(output)
        print(f"\r{number + 1}/{kills}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return [
        {"killed in": stage, "kills": counts["killed"], "failed": counts["failed"], "steps done again": counts["again"]}
        for stage, counts in sorted(found.items())
    ]


def _stage(output: Path) -> str:
    """Return how far a killed run had come, by what is in its folder."""

    def there(name: str) -> bool:
        return (output / name).exists()

    if there("comparison.json"):
        return "7 report"
    if there("tuned/metrics.json"):
        return "6 comparison"
    if there("adapter"):
        return "5 proofs and tuned evaluation"
    if there("events.jsonl"):
        return "4 training"
    if there("base/metrics.json"):
        return "3 baselines"
    return "2 base evaluation" if there("manifest.json") else "1 beginning"


def _quietly(action: Any) -> Any:
    """Run `action` with what is said on standard error thrown away."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        return action()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _real(options: argparse.Namespace, place: Path) -> list[dict[str, Any]]:
    """Train once in peace and once under kills, at times spread over the training, and compare."""
    kills, draw = options.kills or 5, random.Random(options.seed)
    seconds = _train(options, place / "first", steps=2 * SAVE_EVERY)[1] / (2 * SAVE_EVERY)
    steps = max(4 * SAVE_EVERY, round(options.minutes * 60 / seconds))
    whole, _, memory = _train(options, place / "whole", steps)
    rows, times, peaks = [], list[str](), list[int]()
    for number in range(kills):
        process = _start(options, place / "killed", steps)
        wait = draw.uniform(0.5, 1.5) * seconds * steps / (kills + 1)
        peaks.append(_watch(process, _begun(place / "killed"), wait))
        times.append(f"{_steps(place / 'killed')}")
        print(f"kill {number + 1}/{kills} after step {times[-1]}", file=sys.stderr)
    killed, _, memory_killed = _train(options, place / "killed", steps)
    done = _counted(place / "killed")
    again = done.total() - len(done)
    good = killed == whole and again <= kills * SAVE_EVERY
    rows.append({
        "model": options.model, "steps": steps, "kills": kills, "failed": int(not good),
        "killed after step": ", ".join(times), "steps done again": again,
        "peak memory of each killed start (MB)": ", ".join(map(str, peaks)),
        "resident at the end of each tenth but the first, in peace (MB)": ", ".join(map(str, memory[1:])),
        "resident at the end, in peace and after the kills (MB)": ", ".join(map(str, memory[-1:] + memory_killed[-1:])),
    })  # fmt: skip
    return rows


def _start(options: argparse.Namespace, output: Path, steps: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "tunelift", "tune", "--model", options.model, "--data", "bbc-news",
        "--output", str(output), "data.prompt=Headline: {headline}\nTopic:", "data.completion= {topic}",
        "data.max_train=400", f"train.steps={steps}", f"train.save_every={SAVE_EVERY}", "train.evaluate_every=20",
        "adapter.lora_dropout=0.05",
    ]  # fmt: skip
    with (output.parent / f"{output.name}.err").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def _train(options: argparse.Namespace, output: Path, steps: int) -> tuple[str, float, list[int]]:
    """Train to the end; return the hash of the adapter's weights, the seconds that the steps took, and the memory (MB).

    The memory is what is resident at the end of each tenth of the steps of which this process did any.
    """
    process, resident = _start(options, output, steps), dict[int, int]()
    while process.poll() is None:
        resident[10 * _steps(output) // steps] = _memory(process, "VmRSS")  # the last reading of each tenth stays
        time.sleep(1)
    if code := process.returncode:
        print((output.parent / f"{output.name}.err").read_text(), file=sys.stderr)
        raise SystemExit(f"tunelift tune ended with {code}")
    manifest = json.loads((output / "manifest.json").read_text())
    weights = (output / "adapter" / "adapter_model.safetensors").read_bytes()
    memory = [resident[tenth] for tenth in sorted(resident) if tenth < 10]  # after the last step come the proofs
    return hashlib.sha256(weights).hexdigest(), manifest["train"]["seconds"], memory


def _begun(output: Path) -> Any:
    """Return a function that tells whether a step was done since now."""
    before = _counted(output).total()
    return lambda: _counted(output).total() > before


def _watch(process: subprocess.Popen[bytes], begun: Any, wait: float) -> int:
    """Kill a training `wait` seconds after its first step; return its peak memory (MB)."""
    while process.poll() is None and not begun():
        time.sleep(0.2)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(wait)
    peak = _memory(process, "VmHWM")
    process.kill()
    process.wait()
    return peak


def _memory(process: subprocess.Popen[bytes], name: str) -> int:
    """Return a line of Linux's account of a process (MB): VmHWM is its peak, VmRSS what is resident now."""
    status = Path(f"/proc/{process.pid}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith(name)), 0)


def _counted(output: Path) -> Counter[int]:
    """Return how often each step was done."""
    file, steps = output / "events.jsonl", Counter[int]()
    for line in file.read_text().splitlines() if file.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            steps.update([event["step"]] if event["event"] == "train" else [])
    return steps


def _steps(output: Path) -> int:
    return max(_counted(output), default=0)


if __name__ == "__main__":
    sys.exit(main())
