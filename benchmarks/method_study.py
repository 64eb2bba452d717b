"""Methods beside each other on real data: twelve of peft's, all weights, the head alone, and what needs no tuning.

    python benchmarks/method_study.py DATA_FOLDER [--studies sst2] [--methods lora,full] [--write FILE]

DATA_FOLDER holds the public files that STUDIES names. Each method is one `tunelift run` with its own defaults, in a
process and a folder of its own (runs/method-study/STUDY/METHOD, with a whole report); all are then ranked on the same
items by what `tunelift leaderboard` computes, the baselines among them. What is done stays: the same command goes on,
and `--tables` makes the tables of what is there. At most an hour on two cores of their own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunelift.comparison.leaderboard import leaderboard
from tunelift.run_files.layout import SCORES, RunPaths

BEGIN, END = "<!-- made by benchmarks/method_study.py -->", "<!-- until here -->"
TITLE = """# Methods side by side

`python benchmarks/method_study.py DATA_FOLDER --write FILE`: each method with its own defaults, one seed. A rank is 1
plus the number of others that are shown to be better.

"""
FEW_SHOT = "few-shot"
BASELINES = {"banking77": [FEW_SHOT, "majority", "tf-idf"], "sst2": ["majority", "tf-idf", "linear-probe"]}
STUDIES: dict[str, dict[str, Any]] = {
    # Customer questions to a bank, 77 intents (PolyAI, task-specific-datasets).
    "banking77": {
        "model": {"name": "gemma3-270m"},
        "data": {
            "train": "banking77_train.csv",
            "test": "banking77_test.csv",
            "prompt": "Message: {text}\nIntent:",
            "completion": " {category}",
            "max_train": 400,
            "max_validation": 40,
            "max_test": 150,
        },
        "train": {"epochs": 2},
        "evaluate": {"metrics": ["accuracy", "loss"], "baselines": BASELINES["banking77"]},
    },
    # Film-review sentences, negative or positive (Stanford Sentiment Treebank, binary).
    "sst2": {
        "model": {"name": "all-minilm-l6-v2", "dtype": "float32"},
        "task": "sequence-classification",
        "data": {
            "train": "sst2_train.tsv",
            "validation": "sst2_dev.tsv",
            "test": "sst2_test.tsv",
            "columns": ["label", "text"],
            "max_train": 400,
            "max_validation": 100,
        },
        "train": {"epochs": 3},
        "evaluate": {"metrics": ["accuracy", "loss"], "baselines": BASELINES["sst2"]},
    },
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-dora": {"method": "lora", "use_dora": True},
    "lora-pissa": {"method": "lora", "init_lora_weights": "pissa_niter_16"},
    "adalora": {},
    "ia3": {},
    "vera": {},
    "lokr": {},
    "miss": {},
    "oft": {},
    "shira": {},
    "ln-tuning": {},
    "c3a": {},
    "prefix-tuning": {},
    "full": {},
    "head": {},
}
"""What is trained, by the name of its folder; `method` is that name where it does not say otherwise."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the data files lie")
    parser.add_argument("--studies", default=",".join(STUDIES), help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)}")
    parser.add_argument("--quick", action="store_true", help="two steps and sixteen test rows, to try the command")
    parser.add_argument("--output", type=Path, default=Path("runs/method-study"), help="where the runs lie")
    parser.add_argument("--tables", action="store_true", help="run nothing: the tables of what is there")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the tables between their marks in this file, or make it"
    )
    options = parser.parse_args()
    studies, methods = options.studies.split(","), options.methods.split(",")
    if unknown := [*{*studies} - {*STUDIES}, *{*methods} - {*METHODS}]:
        parser.error(f"unknown: {', '.join(unknown)}")
    failed = []
    for study in studies if not options.tables else ():
        settings = settings_of(study, options.folder, quick=options.quick)
        for method in methods:
            said = run(settings, method, options.output / study)
            print(f"{study}, {method}: {said}", file=sys.stderr, flush=True)
            failed += [f"{study}, {method}"] if said.startswith("failed") else []
    text = "\n".join(part for study in studies for part in table(study, options.output / study))
    print(text)
    if options.write:
        whole = options.write.read_text(encoding="utf-8") if options.write.exists() else TITLE
        before, _, rest = whole.partition(BEGIN)
        after = rest.partition(END)[2]
        options.write.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
    return int(bool(failed))


def settings_of(study: str, folder: Path, *, quick: bool = False) -> dict[str, Any]:
    """Return a study's config with the paths of its files; a `quick` one shows that the command works, and no more."""
    settings = dict(STUDIES[study])
    data = dict(settings["data"])
    data |= {role: str(folder / data[role]) for role in ("train", "validation", "test") if role in data}
    if quick:
        settings["train"] = {"steps": 2}
        settings["evaluate"] = settings["evaluate"] | {"forgetting": []}
        data |= {"max_validation": 8, "max_test": 16}
    return settings | {"data": data}


def run(settings: Mapping[str, Any], method: str, folder: Path) -> str:
    """Run a method in its folder unless that was done; return what became of it, in a few words."""
    output, refusal = folder / method, folder / f"{method}.refused"
    if is_done(output) or refusal.exists():
        return "done before"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{method}.yaml"  # JSON is YAML
    whole = {**settings, "adapter": {"method": method} | METHODS[method], "output": str(output)}
    config.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    began = time.monotonic()
    command = [sys.executable, "-c", "from tunelift.cli.main import main; main()", "run", str(config)]
    with (folder / f"{method}.log").open("w+", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        log.seek(0)
        last = log.read()
    if code == 2:
        refusal.write_text(reason_in(last), encoding="utf-8")
        return f"refused: {reason_in(last)}"
    return f"{time.monotonic() - began:.0f} s" if code == 0 else f"failed with {code}, see {log.name}"


def is_done(folder: Path) -> bool:
    """Tell whether a run ended with its comparison."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and read(manifest).get("status") == "complete"


def reason_in(said: str) -> str:
    """Return the first problem of an error that a run ended with."""
    lines = [line for line in said.splitlines() if line.startswith(("Error: ", "- "))]
    return (lines or said.splitlines() or [""])[0].removeprefix("Error: ").removeprefix("- ")


def table(study: str, folder: Path) -> Iterator[str]:
    """Yield the lines of a study's table as Markdown: every method that is done, and the baselines, by their ranks."""
    done = [method for method in METHODS if is_done(folder / method)]
    yield f"### {study}\n"
    if len(done) < 2:
        yield "Fewer than two methods are done.\n"
        return
    first = RunPaths(folder / done[0])
    sides = {method: RunPaths(folder / method).tuned / SCORES for method in done}
    ranked = {*BASELINES[study]} - {FEW_SHOT}  # which is asked another prompt
    sides |= {path.name: path / SCORES for path in first.baselines() if path.name in ranked}
    board = leaderboard(first.base / SCORES, sides, metric="accuracy").to_dict()
    against = {frozenset((duel["one"], duel["other"])): duel for duel in board["pairs"]}
    manifests = {name: read(folder / name / "manifest.json") for name in done}
    facts = manifests[done[0]]
    rows = facts["data"]["splits"]["train"]["kept"]
    yield (
        f"{facts['model']['name']}, {facts['dtype']}; {rows} rows trained, {board['items']} tested; "
        f"base {board['base']:.3f}. Differences have their 95% interval, and the word that p after Holm's correction "
        f"allows, over the {len(board['candidates'])} of the table or over their {len(board['pairs'])} pairs.\n"
    )
    yield "| rank | method | trained | accuracy | minus base | minus TF-IDF | forgetting | memory |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in board["candidates"]:
        name = one["name"]
        place = f"{one['rank']}{' (tied)' if one['tied'] else ''}"
        duel = against.get(frozenset((name, "tf-idf")))
        told = [f"{one['tuned']:.3f}", difference(one, one["verdict"]), beside(duel, "tf-idf") if duel else "-"]
        own = cost(manifests[name], read(folder / name / "comparison.json")) if name in manifests else ["-"] * 2
        trained = f"{manifests[name]['adapter']['trainable']:,}" if name in manifests else "-"
        shown = f"`{name}`" if name in manifests else name
        yield f"| {place} | {shown} | {trained} | {' | '.join([*told, *own])} |"
    yield ""
    if beaten := {name: few for name in done if (few := few_shot(folder / name))}:
        yield from beside_few_shot(beaten)
    for path in sorted(folder.glob("*.refused")):
        yield f"`{path.stem}` is refused: {path.read_text(encoding='utf-8')}\n"
    if missing := [name for name in METHODS if name not in done and not (folder / f"{name}.refused").exists()]:
        yield f"Not done: {', '.join(missing)}.\n"
    machine = facts["machine"]
    yield (
        f"{machine['processor']} ({', '.join(machine['flags'])}), {machine['cores']} cores; "
        f"torch {version('torch')}, peft {version('peft')}, transformers {version('transformers')}.\n"
    )


def few_shot(folder: Path) -> dict[str, Any] | None:
    """Return how a run stands beside the base with examples in its prompt, None where that was not measured."""
    found: dict[str, Any] | None = (read(folder / "comparison.json").get("baselines") or {}).get(FEW_SHOT)
    return found


def beside_few_shot(beaten: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a sentence on the base with examples in its prompt, which is no candidate: its prompt is another."""
    one = next(iter(beaten.values()))
    words = {word: [f"`{name}`" for name, few in beaten.items() if few["verdict"] == word]
             for word in ("better", "worse", "inconclusive")}  # fmt: skip
    told = "; ".join(f"{word} than it: {', '.join(names)}" for word, names in words.items() if names)
    told = told.replace("inconclusive than it", "inconclusive beside it")
    yield f"The base with {one['description']} ({FEW_SHOT}): {one['base']:.3f}. By each run's own test, {told}.\n"


def difference(entry: Mapping[str, Any], word: str, sign: int = 1) -> str:
    """Return a difference, its interval and the verdict's word; with `sign` -1 the other way round."""
    value, (low, high) = entry["difference"], entry["interval"] or (float("nan"), float("nan"))
    ends = sorted((sign * low, sign * high))
    return f"{sign * value + 0.0:+.3f} ({ends[0]:+.3f} to {ends[1]:+.3f}), {word}"


def beside(duel: Mapping[str, Any], other: str) -> str:
    """Return how the one that `other` is compared with stands beside it: a duel's difference is second minus first."""
    word = "inconclusive" if duel["better"] is None else "worse" if duel["better"] == other else "better"
    return difference(duel, word, -1 if duel["other"] == other else 1)


def cost(manifest: Mapping[str, Any], compared: Mapping[str, Any]) -> list[str]:
    """Return what a method costs: bits per byte of general text that it forgot, and the most memory its training had.

    How long it took stands in its manifest, and says something where the machine had nothing else to do.
    """
    forgotten = (compared.get("forgetting") or {}).get("general-text")
    bits = "-" if forgotten is None else f"{forgotten['difference']:+.3f} bits, {forgotten['verdict']}"
    return [bits, f"{manifest['train']['peak_bytes'] / 2**30:.1f} GiB"]


def read(path: Path) -> dict[str, Any]:
    """Return a JSON file's object."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
