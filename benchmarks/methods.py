"""Every PEFT method on tiny models of six architectures: right, or refused before anything is computed, and why.

    python benchmarks/methods.py [--methods lora,vera] [--models decoder,gpt2] [--write docs/methods.md]

Each row of the table of methods, and LoRA with each setting that makes it another method, is held to all checks of
`tests/method_battery.py` on each model: begun, trained, proved, switched off, saved, merged, put beside another, killed
by SIGKILL as it trains and gone on with, rows alone and together, in bfloat16. What was saved is read by stock peft in
a process of its own (`tests/stock_reader.py`). About twenty minutes of one core. What was found on a model is kept in a
file, and the same command goes on (`--again` begins anew). The tables are printed as Markdown, and written between
their marks in the file named. Exit code 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from method_battery import Bench

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

MODELS = {
    "decoder": "Llama", "gpt2": "GPT-2", "gemma3_text": "Gemma 3", "qwen3_moe": "Qwen3-MoE", "mamba": "Mamba",
    "encoder": "BERT classifier",
}  # fmt: skip
BEGIN, END = "<!-- made by benchmarks/methods.py -->", "<!-- until here -->"


Found = dict[str, dict[str, str]]
"""What became of a method on each model: "right", "refused: why" or "wrong: what"."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="names with commas between; all, and LoRA's kin, where none are named")
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between their marks in this file")
    parser.add_argument("--kept", type=Path, default=Path("methods.json"), help="where what was found is kept")
    parser.add_argument("--again", action="store_true", help="hold them again to what was found before")
    options = parser.parse_args()
    models = options.models.split(",")
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # one thread, or a fork would hang
    found: dict[str, Found] = {} if options.again or not options.kept.exists() else json.loads(options.kept.read_text())
    for model in models:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ |= {"TUNELIFT_STATE": f"{scratch}/state", "TUNELIFT_CACHE": f"{scratch}/cache"}
            of_model(model, options.methods, Path(scratch), found, options.kept)
    rows = {name: row for name, row in found.items() if set(models) <= row.keys()} if options.methods else found
    text = tables(rows, models)
    print(text)
    if options.write:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(BEGIN)
        options.write.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return int(any(said.startswith("wrong") for row in found.values() for said in row.values()))


def of_model(model: str, named: str | None, scratch: Path, found: dict[str, Found], kept: Path) -> None:
    """Hold every method to the battery on one model, and read what they saved in one process."""
    import torch
    import transformers

    import method_battery
    from tunelift.adapters.methods import METHODS

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    rows = [name for name in METHODS if METHODS.get(name).peft_type]  # of the others nothing of peft is put on
    kin = [f"lora: {name}" for name in method_battery.KIN if model in method_battery.ONLY.get(name, MODELS)]
    names = named.split(",") if named else [*rows, *kin]
    held, jobs = {}, []
    for name in names:
        if model in found.get(name, {}):
            continue
        held[name], job = verdict(name, model, scratch)
        jobs += job
        print(f"{MODELS[model]}, {name}: {held[name]}", file=sys.stderr, flush=True)
    for name, wrong in read_by_stock(jobs, scratch):
        held[name] = f"{held[name]}; {wrong}" if held[name].startswith("wrong") else f"wrong: {wrong}"
        print(f"{MODELS[model]}, {name}: {wrong}", file=sys.stderr, flush=True)
    for name, said in held.items():
        found.setdefault(name, {})[model] = said
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")


def verdict(name: str, model: str, scratch: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return what became of a method, and what is to be read of it by stock peft."""
    import method_battery

    row, _, kin = name.partition(": ")
    keys, known = method_battery.KIN.get(kin, ({}, {}))
    folder = scratch / re.sub(r"\W+", "-", name)
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stderr(nowhere),  # bars of transformers
    ):
        bench = method_battery.Bench(row, folder, model, keys, known, kills=True)
        if reason := method_battery.refusal(bench):
            return f"refused: {short(reason)}", []
        wrong = method_battery.held(bench, method_battery.WHOLE)
        try:
            jobs = [job(name, bench)]
        except Exception as error:  # what could not be trained was said above
            wrong, jobs = wrong or [str(error)], []
    return (f"wrong: {'; '.join(wrong)}" if wrong else "right"), jobs


def job(name: str, bench: Bench) -> dict[str, Any]:
    """Return what the reading process needs to know."""
    from safetensors.torch import save_file

    from tunelift.pipeline.trying import IDS, logits

    expected = bench.folder / "expected.safetensors"
    save_file({"logits": logits(bench.tuned.model.eval())}, expected)
    return {
        "name": name, "base": str(bench.base), "adapter": str(bench.saved), "auto_class": bench.task.auto_class,
        "options": {} if bench.bare else {"num_labels": 2}, "rows": IDS, "expected": str(expected),
    }  # fmt: skip


def read_by_stock(jobs: list[dict[str, Any]], scratch: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, what is wrong) of adapters that stock peft does not read within 1e-5 in a process of its own."""
    if not jobs:
        return
    file = scratch / "jobs.json"
    file.write_text(json.dumps(jobs), encoding="utf-8")
    command = [sys.executable, str(Path(__file__).parents[1] / "tests" / "stock_reader.py"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    apart = json.loads(done.stdout.splitlines()[-1])
    for one in jobs:
        off = apart[one["adapter"]]
        if isinstance(off, str) or not off <= 1e-5:
            yield one["name"], f"read by stock peft in another process: {off}"


def short(reason: str) -> str:
    """Return a reason without what is the same in all, and without numbers of these models."""
    reason = reason.removeprefix("- ").rpartition("these settings: ")[2].rstrip(".")
    reason = re.sub(r"Conv1D\([^)]*\)|of type <class '[\w.]+\.Conv1D'>", "Conv1D", reason)
    if "Conv1D" in reason and "support" in reason:
        return "peft adapts no Conv1D with it"
    reason = re.sub(r"(Unsupported model type for adaption prompt): .*", r"\1", reason)
    return re.sub(r"adapter: [\w -]+ does not go with the task [\w-]+: ", "", reason)


def tables(found: dict[str, Found], models: list[str]) -> str:
    """Return the tables as Markdown: refusals are numbered, their reasons below."""
    from peft import PeftType

    from tunelift.adapters.methods import METHODS, REFUSED, title_of

    reasons: list[str] = []
    lines = [f"| method | {' | '.join(MODELS[model] for model in models)} | merges |", f"|{'---|' * (len(models) + 2)}"]
    for name, row in found.items():
        cells = []
        for model in models:
            kind, _, reason = row.get(model, "-").partition("; ")[0].partition(": ")  # the first of what is wrong
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{kind} ({reasons.index(reason) + 1})" if reason else kind)
        merges = "" if name not in METHODS else "yes" if METHODS.get(name).merges else "no"
        called = f"`{name}` ({title_of(name)})" if name in METHODS else name
        lines.append(f"| {called} | {' | '.join(cells)} | {merges} |")
    types = {name: METHODS.get(name).peft_type for name in found if name in METHODS}
    right = [len({kind for name, kind in types.items() if found[name].get(model) == "right"}) for model in models]
    lines.append(f"| right, of {len(list(PeftType))} types | {' | '.join(map(str, right))} | |")
    versions = ", ".join(f"{package} {version(package)}" for package in ("peft", "transformers", "torch"))
    said = [f"{number}. {reason.rstrip('.')}." for number, reason in enumerate(reasons, 1)]
    never = [f"| {title} | {why} |" for _, (title, why) in sorted(REFUSED.items())]
    return "\n".join(
        [
            f"{versions}, Python {platform.python_version()}; tiny models of random weights, on a CPU.",
            *("", *lines, ""),
            *(["Refused before anything is computed, or not seen to be right:", "", *said, ""] if said else []),
            *("Refused on every model:", "", "| method | why |", "|---|---|", *never, ""),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
