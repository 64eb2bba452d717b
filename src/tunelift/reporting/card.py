"""The model card: the run folder's README.md, as the Hub and stock peft users expect it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunelift.adapters.store import read_lineage
from tunelift.core import files
from tunelift.reporting import wording
from tunelift.reporting.run_files import RunFiles, read_run

HEAD_TASK = "sequence-classification"


def write_card(folder: Path) -> Path:
    """Write README.md into a run folder from the files that are there; return its path.

    Raises InputError where the folder holds no run or a file in it is broken.
    """
    run = read_run(Path(folder))
    path = run.folder / "README.md"
    files.write_text(path, card_text(run))
    return path


def card_text(run: RunFiles) -> str:
    """Return the card: YAML front matter for the Hub, then the verdict, the figures, how to load it, what made it."""
    import yaml

    front = yaml.safe_dump(_front_matter(run), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{front}---", f"# {_name(run)}", _lineage(run), *_verdict(run), *_loading(run), *_training(run)]
    return "\n\n".join(parts) + "\n"


def _front_matter(run: RunFiles) -> dict[str, Any]:
    model = run.noted("model")
    method = run.noted("adapter").get("method", "lora")
    front: dict[str, Any] = {"base_model": model["name"]} if model.get("kind") == "hub" else {}
    front |= {"library_name": "peft", "pipeline_tag": _pipeline_tag(run), "tags": [method, "tunelift"]}
    results = _results(run)
    return front | ({"model-index": [{"name": _name(run), "results": results}]} if results else {})


def _results(run: RunFiles) -> list[dict[str, Any]]:
    """Return model-index results: the tuned model's values, and the base's beside them, named as such."""
    metrics = run.comparison.get("metrics") or {}
    values = [
        {"type": name, "name": f"{wording.measure(name)} ({side})", "value": entry[side]}
        for name, entry in metrics.items()
        for side in ("tuned", "base")
        if entry.get(side) is not None
    ]
    dataset = _source(run, "test") or _source(run, "train") or "test items"
    task = {"type": _pipeline_tag(run)}
    return [{"task": task, "dataset": {"type": dataset, "name": dataset}, "metrics": values}] if values else []


def _name(run: RunFiles) -> str:
    return run.folder.resolve().name


def _task(run: RunFiles) -> str:
    return str(run.manifest.get("task") or run.settings().get("task") or "causal-lm")


def _pipeline_tag(run: RunFiles) -> str:
    return "text-classification" if _task(run) == HEAD_TASK else "text-generation"


def _source(run: RunFiles, role: str) -> str | None:
    """Return a data file's name without the folders of the machine it lay on; a Hub id as it is."""
    source = (run.settings().get("data") or {}).get(role)
    if not isinstance(source, str):
        return None
    path = Path(source)
    return path.name if path.is_absolute() or path.suffix or source.startswith((".", "~")) else source


def _lineage(run: RunFiles) -> str:
    model = run.noted("model")
    method = wording.method(run.noted("adapter").get("method", "lora"))
    revision = f" at revision `{model['revision']}`" if model.get("revision") else ""
    base = f"`{_base_name(run)}`{revision}"
    note = f" The base: {model['note']}." if model.get("note") else ""
    weights = f" Its weights have SHA-256 `{model['weights_sha256']}`." if model.get("weights_sha256") else ""
    return f"A {method} adapter for {base}.{note}{weights}"


def _base_name(run: RunFiles) -> str:
    model = run.noted("model")
    name = str(model.get("name") or "its base model")
    return Path(name).name if model.get("kind") in ("folder", "gguf") else name


def _verdict(run: RunFiles) -> list[str]:
    metrics = run.comparison.get("metrics") or {}
    if not metrics:
        return []
    lines = ["| metric | base | tuned | difference | interval | verdict |", "|---|---:|---:|---:|---|---|"]
    for name, entry in metrics.items():
        values = (wording.number(entry["base"]), wording.number(entry["tuned"]), wording.signed(entry["difference"]))
        interval = wording.interval(entry.get("interval"))
        lines.append(f"| {wording.measure(name)} | {' | '.join(values)} | {interval} | {entry['verdict']} |")
    claim = run.comparison.get("claim")
    evidence = wording.evidence_sentence(run.comparison) + (f" The claim: {claim}." if claim else "")
    return [f"**{wording.verdict_sentence(run.comparison)}**", evidence, "\n".join(lines)]


def _loading(run: RunFiles) -> list[str]:
    head = _task(run) == HEAD_TASK
    kind = "SequenceClassification" if head else "CausalLM"
    labels = read_lineage(run.folder / "adapter").get("labels") or []
    count = f"num_labels={len(labels) or 'NUMBER_OF_LABELS'}" if head else ""
    if run.noted("model").get("kind") == "hub":
        lines = [
            f"from peft import AutoPeftModelFor{kind}",
            "from transformers import AutoTokenizer",
            "",
            f'model = AutoPeftModelFor{kind}.from_pretrained("adapter"{", " + count if count else ""})',
        ]
    else:
        lines = [
            "from peft import PeftModel",
            f"from transformers import AutoModelFor{kind}, AutoTokenizer",
            "",
            f'base = AutoModelFor{kind}.from_pretrained("FOLDER_OF_THE_BASE"{", " + count if count else ""})',
            'model = PeftModel.from_pretrained(base, "adapter")',
        ]
    code = "\n".join(["```python", *lines, 'tokenizer = AutoTokenizer.from_pretrained("adapter")', "```"])
    names = [f"Labels, in the order of the head's outputs: {', '.join(map(str, labels))}."] if head and labels else []
    return ["## Load it", code, *names]


def _training(run: RunFiles) -> list[str]:
    sentences = _rows(run)
    trained, adapter = run.noted("train"), run.noted("adapter")
    if trained.get("steps"):
        took = f" in {wording.duration(trained['seconds'])}" if trained.get("seconds") else ""
        tokens = f", {wording.count(trained['tokens'])} tokens" if trained.get("tokens") else ""
        sentences.append(f"{wording.count(trained['steps'])} steps{tokens}{took}.")
    if adapter.get("trainable"):
        shares = wording.count(adapter["trainable"]), wording.count(adapter["total"])
        sentences.append(f"{shares[0]} of {shares[1]} parameters trained ({adapter['percent']:.4g}%).")
    version = run.manifest.get("tunelift", "")
    sentences.append(f"Made with tunelift{' ' + version if version else ''}.")
    return ["## What it was trained on", " ".join(sentences)]


def _rows(run: RunFiles) -> list[str]:
    """Return how many rows were learnt from, chosen by and tested on."""
    splits = run.noted("data").get("splits") or {}
    kept = {split: wording.count(counts["kept"]) for split, counts in splits.items() if counts.get("kept")}
    if "train" not in kept:
        return []
    source = _source(run, "train")
    parts = [f"{kept['train']} rows{f' of `{source}`' if source else ''}"]
    parts += [f"the best adapter chosen on {kept['validation']} others"] if "validation" in kept else []
    parts += [f"tested on {kept['test']} that took no part in either"] if "test" in kept else []
    return [f"{'; '.join(parts)}."]
