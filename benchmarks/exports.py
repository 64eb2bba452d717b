"""Real models with a small adapter through every export that has a runtime here; the table of docs/exports.md.

    python benchmarks/exports.py --model MODEL [--data bbc-news] [--rows 96] [--steps 30] [--items 64] [--keep FOLDER]
        [--out FILE.json] [--kind answers] [KEY=VALUE ...]
    python benchmarks/exports.py --run runs/demo [--items 64] [--out FILE.json]

MODEL is a Hub id, a folder, a .gguf file or a bundled name. A LoRA is trained for a few steps on BBC News topics, and
exported to everything; each export is proved as `tunelift export` proves it. Printed is one row for each export: what
its proof found, and the verdict on the test items where weights are rounded. Nothing is timed. With --kind head a
classifier is exported to ONNX, with --kind embedding a sentence model to sentence-transformers. Further settings of the
run are given behind:

    python benchmarks/exports.py --kind head --model all-minilm-l6-v2 --data sst2_train.tsv --rows 200 --steps 12 \\
        data.test=sst2_dev.tsv data.text=text data.label=label train.learning_rate=0.003
    python benchmarks/exports.py --kind embedding --model all-minilm-l6-v2 --data banking77_train.csv --rows 400 \\
        --steps 12 --items 120 data.test=banking77_test.csv data.label=category

With --kind chat the rows are short conversations of alpaca_demo.json and kto_demo.json (those marked as good), of which
--data is the folder:

    python benchmarks/exports.py --kind chat --model SmolLM2-135M-Instruct.Q4_1.gguf --data DIR --rows 431 --steps 49 \\
        train.learning_rate=0.0005 evaluate.metrics=loss
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TEXTS = ["data.prompt=Headline: {headline}\nTopic:", "data.completion= {topic}"]
TASKS = {
    "answers": TEXTS,
    "chat": [],
    "head": ["task=sequence-classification"],
    "embedding": ["task=sentence-embedding"],
}
OTHERS = {
    "head": (("merged", "f32"), ("onnx", "f32"), ("onnx", "int8")),
    "embedding": (("sentence-transformers", "f32"),),
}
EXPORTS = (
    ("merged", "f32"),
    ("gguf", "f32"),
    ("gguf", "f16"),
    ("gguf", "bf16"),
    ("gguf", "q8_0"),
    ("gguf", "q6_k"),
    ("gguf", "q4_k_m"),
    ("gguf", "q2_k"),
    ("mlx", "f32"),
    ("lora-gguf", "f32"),
    ("onnx", "f32"),
    ("onnx", "int8"),
    ("onnx", "int4"),
)


WEIGHTS = (".gguf", ".safetensors", ".onnx", ".data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model")
    which.add_argument("--run", type=Path, help="A run that is there is exported, and nothing trained.")
    parser.add_argument("--data", default="bbc-news")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--keep", help="Run and exports stay here.")
    parser.add_argument("--out")
    parser.add_argument("--kind", choices=TASKS, default="answers")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(options.keep or scratch)
        place.mkdir(parents=True, exist_ok=True)
        run = options.run or place / "run"
        if not options.run and not (run / "tuned" / "metrics.json").is_file():
            chat = options.kind == "chat"
            data = conversations(Path(options.data), place, options.items) if chat else ["--data", options.data]
            tunelift(
                *("run", "--model", options.model, *data, *TASKS[options.kind], f"output={run}"),
                *(f"train.steps={options.steps}", f"data.max_train={options.rows}", f"data.max_test={options.items}"),
                *("adapter.r=8", "adapter.lora_alpha=16", "evaluate.baselines=[]", "evaluate.forgetting=[]"),
                *options.settings,
            )
        found = [exported(run, to, kind, options.items) for to, kind in OTHERS.get(options.kind, EXPORTS)]
    proved = next(one["proof"]["items"] for one in found if "proof" in one)
    print(f"\n{options.run or options.model}, {proved} items for the proofs, {options.items} for the verdicts\n")
    print(table(found))
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def conversations(data: Path, place: Path, items: int) -> list[str]:
    """Write short conversations, the first `items` of them for the test; return the words that name the files."""
    marked, asked_for = (
        json.loads((data / name).read_text(encoding="utf-8")) for name in ("kto_demo.json", "alpaca_demo.json")
    )
    liked = [row["messages"] for row in marked if row["label"]]
    rows = [talk for talk in liked if sum(len(one["content"]) for one in talk) <= 900]
    for row in asked_for:
        asked = "\n\n".join(filter(None, (row["instruction"], row["input"])))
        if len(asked) + len(row["output"]) <= 450:
            rows.append([{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}])
    random.Random(1).shuffle(rows)
    for name, some in (("test", rows[:items]), ("train", rows[items:])):
        lines = (json.dumps({"messages": talk}) + "\n" for talk in some)
        (place / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return ["--data", str(place / "train.jsonl"), f"data.test={place / 'test.jsonl'}"]


def exported(run: Path, to: str, kind: str, items: int) -> dict[str, Any]:
    """Export once; return what export.json says, and the numbers of the proof."""
    folder = run / "exports" / (f"{to}-{kind}" if to in ("gguf", "onnx") else to)
    if not folder.exists():
        command = ["export", str(run), "--to", to, "--type", kind, "--items", str(items)]
        done = subprocess.run(
            [sys.executable, "-m", "tunelift", *command], stderr=subprocess.PIPE, text=True, check=False
        )
        print(done.stderr, file=sys.stderr, end="", flush=True)
        if done.returncode:  # its proof failed, or it cannot be
            why = next(line for line in done.stderr.splitlines() if line.startswith("Error: "))
            return {"to": to, "type": kind, "refused": why.removeprefix("Error: ")}
    said: dict[str, Any] = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    sizes = sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in WEIGHTS)
    return {**said, "bytes": sizes, "proof": numbers(folder)}


def numbers(folder: Path) -> dict[str, Any]:
    """Return how far apart the sides of a proof are, in nats of a token."""
    from tunelift.exporting import evidence
    from tunelift.exporting.equality import equal, share_left

    names = "model", "merged", "exported", "base", "base-there", "base-rounded", "rounded"
    sides = {name: evidence.read(folder, name) for name in names}

    def apart(one: str, other: str) -> float | None:
        a, b = sides[one], sides[other]
        return None if a is None or b is None else equal(a, b, 0).largest

    model = sides["model"] or {}
    whole = [sides[name] for name in ("base", "model", "base-rounded", "rounded")]
    return {
        "left": None if None in whole else share_left(*whole),
        "items": len(model),
        "tokens": sum(map(len, model.values())),
        "base": apart("base", "base-there"),
        "adapter acts by": apart("model", "base"),
        "merging": apart("model", "merged"),
        "export": apart("merged" if sides["merged"] else "model", "exported"),
    }


def table(found: list[dict[str, Any]]) -> str:
    head = [
        "export",
        "runtime",
        "MB",
        "base alone",
        "merging",
        "export",
        "adapter acts by",
        "left of it",
        "verdict against the model",
    ]
    lines = [head, ["---"] * len(head)]
    for one in found:
        name = f"{one['to']} {one['type']}" if one["to"] in ("gguf", "onnx") else one["to"]
        if "refused" in one:
            lines.append([name, *[""] * (len(head) - 2), one["refused"]])
            continue
        proof = one["proof"]
        told = [f"{proof[key]:.1e}" if proof[key] is not None else "" for key in ("base", "merging", "export")]
        acts = "" if proof["adapter acts by"] is None else f"{proof['adapter acts by']:.2g}"
        left = "" if proof["left"] is None else f"{proof['left']:.0%}"
        lines.append([name, one["runtime"], f"{one['bytes'] / 1e6:.0f}", *told, acts, left, verdict(one)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(one: dict[str, Any]) -> str:
    entries = (one.get("verdict") or {}).get("metrics") or {}
    said = []
    for name, entry in entries.items():
        low, high = entry["interval"]
        said.append(f"{name} {entry['verdict']}: {entry['difference']:+.4f} ({low:+.4f} to {high:+.4f})")
    return "; ".join(said) or "equal, token by token"


def tunelift(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "tunelift", *arguments], check=True)


if __name__ == "__main__":
    main()
