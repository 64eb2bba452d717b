"""Settings measured in turns, each in a process of its own: the runs, their medians and spread, the table, the JSON.

A setting is a script with a job: it is started as `python SCRIPT JOB.json RESULT.json` and writes its figures as one
JSON object. Peers have an environment of their own with pinned versions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunelift.core import machine, provenance

HERE = Path(__file__).parent
SCRIPTS = HERE / "peers"
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
"""Added to the environment of every run."""

Result = dict[str, Any]
"""What a script wrote, or {"failed": why}."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to do the work: a script of peers/, the Python that runs it, and its job."""

    name: str
    script: str
    python: str
    job: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to OFFLINE."""


def arguments(doc: str | None, *extra: Callable[[argparse.ArgumentParser], Any]) -> argparse.Namespace:
    """Parse what every benchmark takes, and what `extra` add."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows and one round, to see that it works")
    parser.add_argument("--rounds", type=int, help="how often each setting is measured")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data", help="folder of data files")
    parser.add_argument("--peers-env", type=Path, default=default_environment(), help="environment of the peers")
    parser.add_argument("--out", type=Path, help="write all figures here, as JSON")
    parser.add_argument("--work", type=Path, help="folder to work in; what was measured there is not measured again")
    parser.add_argument("--minutes", type=float, help="begin no run after so many; --work goes on from there")
    for add in extra:
        add(parser)
    return parser.parse_args()


@contextmanager
def work_folder(options: argparse.Namespace) -> Iterator[Path]:
    """Yield the folder that the user named, which stays, or one that is gone afterwards."""
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        yield options.work.resolve()
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)


def deadline(options: argparse.Namespace) -> float:
    """Return the time of `time.monotonic` from which on no run begins."""
    return math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes


def default_environment() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("tunelift") / "benchmark-peers"


ALONE = "# without their dependencies"
"""Begins the line of a requirements file below which packages are installed without what they name."""


def peers_python(folder: Path, requirements: str = "requirements.txt") -> str:
    """Return the Python of an environment of peers, made first where it is missing or of other versions.

    Raises subprocess.CalledProcessError where pip does not come to an end.
    """
    wanted, mark, python = SCRIPTS / requirements, folder / "installed.txt", folder / "bin" / "python"
    if not mark.is_file() or mark.read_bytes() != wanted.read_bytes():
        print(f"installing the peers in {folder}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True)
        whole, _, alone = wanted.read_text(encoding="utf-8").partition(ALONE)
        for options, part in (([], whole), (["--no-deps"], alone)):
            if packages := pins(part):
                subprocess.run([python, "-m", "pip", "install", "--quiet", *options, *packages], check=True)
        shutil.copyfile(wanted, mark)
    return str(python.absolute())


def pins(requirements: str) -> list[str]:
    """Return the packages that the text of a requirements file names, with their versions."""
    return [line for line in requirements.splitlines() if "==" in line and not line.startswith("#")]


def measure(setting: Setting, scratch: Path, limit_seconds: float = 3600, *, number: int = 0) -> Result:
    """Run a setting once and return its figures; one that fails is reported, never left out in silence.

    The script is told the number of its run.
    """
    job, result = scratch / "job.json", scratch / "result.json"
    job.write_text(json.dumps({**setting.job, "number": number}), encoding="utf-8")
    result.unlink(missing_ok=True)
    command = [setting.python, str(SCRIPTS / setting.script), str(job), str(result)]
    environment = os.environ | OFFLINE | setting.environment | {"RUN_BEGAN": str(time.time())}
    print(f"  {setting.name} ...", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit_seconds, check=False
        )
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    except subprocess.TimeoutExpired:
        last = f"over {limit_seconds:.0f} s in all"
    figures: Result = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {"failed": last}
    said = figures.get("stopped") or figures.get("failed") or "done"
    print(f" {said} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    return figures


def once(setting: Setting, scratch: Path, number: int = 0) -> Result:
    """Return what a setting's run of this number gave in this folder; it is measured where it was not, or failed."""
    told = json.dumps([setting.name, setting.script, dict(setting.job), dict(setting.environment), number])
    kept = scratch / "measured" / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    found = measure(setting, scratch, number=number)
    if "failed" not in found:
        kept.parent.mkdir(exist_ok=True)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(kept)
    return found


def in_turns(
    settings: Sequence[Setting],
    rounds: int,
    scratch: Path,
    again: Callable[[str, Mapping[str, list[Result]]], bool],
    latest: float = math.inf,
) -> dict[str, list[Result]]:
    """Measure every setting once, then in turns those for which `again(name, results so far)` says so.

    After `latest` (of `time.monotonic`) no run begins; settings without any are left out then.
    """
    results: dict[str, list[Result]] = {setting.name: [] for setting in settings}
    for number in range(rounds):
        order = settings if number % 2 == 0 else settings[::-1]
        chosen = [s for s in order if number == 0 or (_whole(results[s.name]) and again(s.name, results))]
        for setting in chosen:
            if time.monotonic() > latest:
                print("The time is over; the same command with --work goes on.", file=sys.stderr, flush=True)
                return {name: runs for name, runs in results.items() if runs}
            results[setting.name].append(once(setting, scratch, number))
    return results


def _whole(results: Sequence[Result]) -> bool:
    return not any("failed" in result or "stopped" in result for result in results)


def median(results: Sequence[Result], figure: str) -> float | None:
    """Return the median of a figure over the rounds; None where a run failed or was stopped."""
    if not results or not _whole(results):
        return None
    return statistics.median(result[figure] for result in results)


def spread(results: Sequence[Result], figure: str) -> float:
    """Return (largest - smallest) / median of a figure over the rounds, 0 for one round."""
    values = [result[figure] for result in results]
    return (max(values) - min(values)) / statistics.median(values)


def facts(peers: str | None = None) -> Result:
    """Return what the figures were measured on and with: processor, flags, cores, threads, versions."""
    here = {k: v for k, v in machine.described().items() if k in ("platform", "processor", "flags", "cores")}
    threads = os.environ.get("OMP_NUM_THREADS") or str(here["cores"])
    made = {"machine": here, "threads": threads, "versions": provenance.versions(), "caps": _caps()}
    made["commit"] = provenance.git_commit(HERE)
    if peers:
        made["peers"] = versions_of(peers)
    return made


def versions_of(python: str, requirements: str = "requirements.txt") -> dict[str, str]:
    """Return the versions, in the environment of this Python, of the packages that a requirements file names."""
    named = pins((SCRIPTS / requirements).read_text(encoding="utf-8"))
    names = [line.partition("==")[0].partition("[")[0] for line in named]
    code = f"from importlib.metadata import version as v; print(*[v(n) for n in {names!r}])"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(names, found, strict=True))


def _caps() -> dict[str, str]:
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    return {name: os.environ[name] for name in names if name in os.environ}


def print_facts(made: Result) -> None:
    here = made["machine"]
    print(f"{here['processor']}, {here['cores']} cores, {' '.join(here['flags'])}, {made['threads']} threads")
    for title in ("versions", "peers", "caps"):
        if made.get(title):
            print_versions(title, made[title])


def print_versions(title: str, versions: Mapping[str, str]) -> None:
    print(f"{title}: " + ", ".join(f"{name} {value}" for name, value in versions.items()))


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows as a Markdown table, its columns padded to line up."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(f"\n{title}\n")
    print("\n".join(lines), flush=True)


def finish(out: Path | None, figures: Result) -> None:
    """Write all figures where the user asked for them."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
