"""Every PEFT method on tiny models of six architectures: right, or refused before anything is computed, and why.

    python benchmarks/methods.py [--methods lora,vera] [--models decoder,gpt2] [--write docs/methods.md]

Each row of the table of methods is held to `tests/method_battery.py` on each model: about ten minutes of one core. The
table is printed as Markdown, and written between its marks in the file named. Exit code 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

MODELS = {
    "decoder": "Llama", "gpt2": "GPT-2", "gemma3_text": "Gemma 3", "qwen3_moe": "Qwen3-MoE", "mamba": "Mamba",
    "encoder": "BERT classifier",
}  # fmt: skip
BEGIN, END = "<!-- made by benchmarks/methods.py -->", "<!-- until here -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="names with commas between; all where none are named")
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between its marks in this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"TUNELIFT_STATE": f"{scratch}/state", "TUNELIFT_CACHE": f"{scratch}/cache"}
        from tunelift.adapters.methods import METHODS

        models = options.models.split(",")
        found = {}
        peft_methods = [name for name in METHODS if not METHODS.get(name).whole]
        for name in options.methods.split(",") if options.methods else peft_methods:
            found[name] = {model: verdict(name, model, Path(scratch)) for model in models}
            print(f"{name}: {'; '.join(f'{MODELS[m]} {said}' for m, said in found[name].items())}", file=sys.stderr)
    text = table(found, models)
    print(text)
    if options.write:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(BEGIN)
        options.write.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return int(any(said.startswith("wrong") for row in found.values() for said in row.values()))


def verdict(name: str, model: str, scratch: Path) -> str:
    """Return "right", "refused: " with the reason, or "wrong: " with what is."""
    import method_battery

    with (
        tempfile.TemporaryDirectory(dir=scratch) as folder,
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stderr(nowhere),  # bars of transformers
    ):
        bench = method_battery.Bench(name, model, Path(folder) / "refusal")
        if reason := method_battery.refusal(bench):
            return f"refused: {short(reason)}"
        wrong = method_battery.hold(name, Path(folder), [model])
    return f"wrong: {'; '.join(wrong)}" if wrong else "right"


def short(reason: str) -> str:
    """Return a reason without what is the same in all, and without numbers of these models."""
    reason = reason.removeprefix("- ").rpartition("these settings: ")[2].rstrip(".")
    reason = re.sub(r"Conv1D\([^)]*\)|of type <class '[\w.]+\.Conv1D'>", "Conv1D", reason)
    if "Conv1D" in reason and "support" in reason:
        return "peft adapts no Conv1D with it"
    reason = re.sub(r"(Unsupported model type for adaption prompt): .*", r"\1", reason)
    return re.sub(r"adapter: [\w -]+ does not go with the task [\w-]+: ", "", reason)


def table(found: dict[str, dict[str, str]], models: list[str]) -> str:
    """Return the table as Markdown: refusals are numbered, their reasons below."""
    from tunelift.adapters.methods import METHODS, REFUSED, title_of

    reasons: list[str] = []
    lines = [f"| method | {' | '.join(MODELS[model] for model in models)} | merges |", f"|{'---|' * (len(models) + 2)}"]
    for name, row in found.items():
        cells = []
        for model in models:
            kind, _, reason = row[model].partition(": ")
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{kind} ({reasons.index(reason) + 1})" if reason else kind)
        merges = "yes" if METHODS.get(name).merges else "no"
        lines.append(f"| `{name}` ({title_of(name)}) | {' | '.join(cells)} | {merges} |")
    versions = ", ".join(f"{package} {version(package)}" for package in ("peft", "transformers", "torch"))
    said = [f"{number}. {reason}." for number, reason in enumerate(reasons, 1)]
    never = [f"| {title} | {why} |" for _, (title, why) in sorted(REFUSED.items())]
    return "\n".join(
        [
            f"{versions}, Python {platform.python_version()}; tiny models of random weights, float32 on a CPU.",
            *("", *lines, ""),
            *(["Refused before anything is computed:", "", *said, ""] if said else []),
            *("Refused on every model:", "", "| method | why |", "|---|---|", *never, ""),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
