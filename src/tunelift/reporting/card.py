"""The model card: the run folder's README.md, as the Hub and stock peft users expect it, its front matter included."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tunelift.adapters.methods import title_of, trains_head_alone
from tunelift.adapters.store import read_lineage
from tunelift.core import files
from tunelift.reporting import wording
from tunelift.reporting.changes import cut_answers
from tunelift.reporting.evidence import metric_rows
from tunelift.reporting.markdown import baseline_table, entry_table, forgetting_table, recipe_line, verdict_lines
from tunelift.reporting.run_contents import RunContents, read_run
from tunelift.run_files.layout import RunPaths

ORIGINALS = {
    "gemma3-270m": "google/gemma-3-270m",
    "all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2",
}
"""The Hub ids of the models that the bundled packages hold."""

HUB_DATASET = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@[\w./-]+)?")
FILE_ENDINGS = {".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt"}


def write_card(folder: Path) -> Path:
    """Write README.md into a run folder from the files that are there; return its path.

    Raises InputError where the folder holds no run or a file in it is broken.
    """
    run = read_run(Path(folder))
    path = RunPaths(run.folder).card
    files.write_text(path, card_text(run))
    return path


def card_text(run: RunContents, repository: str = "") -> str:
    """Return the card: YAML front matter for the Hub, then the verdict, the figures, how to load it, what made it.

    In a `repository` of the Hub it is loaded by that name.
    """
    import yaml

    front = yaml.safe_dump(front_matter(run), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---",
        f"# {name(run)}",
        _lineage(run),
        *_evidence(run),
        *_loading(run, repository),
        *_training(run),
    ]
    return "\n\n".join(parts) + "\n"


def _lineage(run: RunContents) -> str:
    model = run.noted("model")
    revision = f" at revision `{model['revision']}`" if model.get("revision") else ""
    known = str(model.get("name") or "its base model")
    base = f"`{Path(known).name if model.get('kind') in ('folder', 'gguf') else known}`{revision}"
    note = f" The base: {model['note']}." if model.get("note") else ""
    original = base_model(run) if model.get("kind") == "bundled" else None
    holds = f" It is `{original}`; on that model's own weights the figures can differ." if original else ""
    weights = f" The base's weights have SHA-256 `{model['weights_sha256']}`." if model.get("weights_sha256") else ""
    return f"{_what(run, base)}{note}{holds}{weights}"


def _what(run: RunContents, base: str) -> str:
    """Say in a sentence what was made of the base."""
    method = str(run.noted("adapter").get("method", "lora"))
    if run.tuned_whole():
        return f"{base}, all of its weights fine-tuned."
    if trains_head_alone(method):
        return f"A head for {base}, trained alone and saved as a LoRA on no layer, which stock peft loads."
    return f"A{'n' * (title_of(method)[0] in 'AEIO')} {title_of(method)} adapter for {base}."


def _evidence(run: RunContents) -> list[str]:
    """Return the verdict and the figures behind it, those that do not flatter included."""
    rows = metric_rows(run.comparison)
    if not rows:
        return []
    sections = {
        "Against baselines": baseline_table(run),
        "Over seeds": recipe_line(run),
        "Forgetting": forgetting_table(run),
    }
    parts = [part for title, text in sections.items() if text for part in (f"## {title}", text)]
    return [*verdict_lines(run), entry_table(rows, "metric"), *parts, *_limits(run)]


def _limits(run: RunContents) -> list[str]:
    """Say what a reader may trip over: answers that got worse, items that were left out, proofs that failed."""
    said = []
    metric, entry = wording.headline(run.comparison)
    if lost := (entry.get("discordant") or {}).get("lost"):
        said.append(f"{wording.count(lost)} test items went from right to wrong ({wording.measure(metric)}).")
    if left_out := run.comparison.get("left_out"):
        said.append(f"{wording.count(left_out)} item{'s' * (left_out != 1)} left out, as no score could be had.")
    said += [cut] if (cut := cut_answers(run)) else []
    failed = [str(proof["name"]) for proof in run.manifest.get("proofs") or [] if not proof.get("passed")]
    said += [f"Proofs that failed: {', '.join(failed)}."] if failed else []
    said += [str(run.noted("redacted")["said"])] if run.noted("redacted") else []
    return ["## What to know before using it", " ".join(said)] if said else []


def _loading(run: RunContents, repository: str = "") -> list[str]:
    head, auto, reader = run.task().has_classes, run.task().auto_class, run.task().reader
    with_peft = auto.replace("Auto", "AutoPeft", 1)
    folder, named = _made(run)
    named = repository or named
    labels = read_lineage(folder).get("labels") or []
    count = f"num_labels={len(labels) or 'NUMBER_OF_LABELS'}" if head else ""
    count += f', problem_type="{run.task().problem_type}"' * (not run.task().by_class)
    hub = run.noted("model").get("kind") == "hub"
    if run.tuned_whole():
        lines = [
            f"from transformers import {auto}, {reader}",
            "",
            f'model = {auto}.from_pretrained("{named}")',
        ]
    elif hub and run.task().peft_type:
        lines = [
            f"from peft import {with_peft}",
            f"from transformers import {reader}",
            "",
            f'model = {with_peft}.from_pretrained("{named}"{", " + count if count else ""})',
        ]
    else:
        base = base_model(run) if hub else "FOLDER_OF_THE_BASE"
        lines = [
            "from peft import PeftModel",
            f"from transformers import {auto}, {reader}",
            "",
            f'base = {auto}.from_pretrained("{base}"{", " + count if count else ""})',
            f'model = PeftModel.from_pretrained(base, "{named}")',
        ]
    called = "tokenizer" if reader == "AutoTokenizer" else "processor"
    code = "\n".join(["```python", *lines, f'{called} = {reader}.from_pretrained("{named}")', "```"])
    what = "Labels" if run.task().by_class else "Outputs"
    names = [f"{what}, in the order of the head's outputs: {', '.join(map(str, labels))}."] if head and labels else []
    how = run.task().threshold
    threshold = None if how is None else read_lineage(folder).get("threshold", how.neutral)
    said = [how.card.format(f"{threshold:.6g}")] if how and threshold is not None else []
    said += [run.task().card_note] if run.task().card_note else []
    return ["## Load it", code, *names, *said]


def _made(run: RunContents) -> tuple[Path, str]:
    """Return the folder of what was tuned, and how the card calls it: of a comparison it lies elsewhere."""
    folder, source = RunPaths(run.folder).made, run.noted("adapter").get("source")
    if folder.is_dir() or not source:
        return folder, folder.name
    return Path(source), "FOLDER_OF_THE_MODEL" if run.tuned_whole() else "FOLDER_OF_THE_ADAPTER"


def _training(run: RunContents) -> list[str]:
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


def _rows(run: RunContents) -> list[str]:
    """Return how many rows were learnt from, chosen by and tested on."""
    splits = run.noted("data").get("splits") or {}
    kept = {split: wording.count(counts["kept"]) for split, counts in splits.items() if counts.get("kept")}
    if "train" not in kept:
        return []
    given = source(run, "train")
    parts = [f"{kept['train']} rows{f' of `{given}`' if given else ''}"]
    best = "weights" if run.tuned_whole() else "adapter"
    parts += [f"the best {best} chosen on {kept['validation']} others"] if "validation" in kept else []
    parts += [f"tested on {kept['test']} that took no part in either"] if "test" in kept else []
    return [f"{'; '.join(parts)}."]


def front_matter(run: RunContents) -> dict[str, Any]:
    """Return the front matter; what is not known (such as the licence that the adapter shall have) is absent.

    The keys are those of huggingface_hub's ModelCardData, `model-index` as its `eval_results_to_model_index` makes it.
    """
    base = base_model(run)
    datasets = [name for name in {dataset(run, "train"): None, dataset(run, "test"): None} if name]
    tags = [str(run.noted("adapter").get("method", "lora")), "tunelift"]
    relation, library = ("finetune", "transformers") if run.tuned_whole() else ("adapter", "peft")
    tags += [f"base_model:{relation}:{base}"] if base else []
    front: dict[str, Any] = {"base_model": base, "base_model_relation": relation} if base else {}
    front |= {"library_name": library, "pipeline_tag": run.task().pipeline_tag, "tags": tags}
    front |= {"datasets": datasets} if datasets else {}
    results = _results(run)
    return front | ({"model-index": [{"name": name(run), "results": results}]} if results else {})


def base_model(run: RunContents) -> str | None:
    """Return the base's id on the Hub, for a bundled package that of the model it holds; None for local files."""
    model = run.noted("model")
    if model.get("kind") == "hub":
        return str(model["name"])
    return ORIGINALS.get(str(model.get("name"))) if model.get("kind") == "bundled" else None


def name(run: RunContents) -> str:
    """Return what the adapter or the model is called: its run folder's name."""
    return run.folder.resolve().name


def source(run: RunContents, role: str) -> str | None:
    """Return a data file's name without the folders of the machine it lay on; a Hub id as it is."""
    given = (run.settings().get("data") or {}).get(role)
    if not isinstance(given, str):
        return None
    path = Path(given)
    return path.name if path.is_absolute() or path.suffix or given.startswith((".", "~")) else given


def dataset(run: RunContents, role: str) -> str | None:
    """Return the Hub id of a split's data set; None for files, folders and bundled data."""
    given = (run.settings().get("data") or {}).get(role)
    found = HUB_DATASET.fullmatch(given) if isinstance(given, str) else None
    if found is None or Path(found[0]).suffix in FILE_ENDINGS or found[0].startswith(".") or Path(found[0]).exists():
        return None
    return found["name"]


def _results(run: RunContents) -> list[dict[str, Any]]:
    """Return the results on the test items, and beside them those on each set that may have been forgotten."""
    names = (find(run, role) for role in ("test", "train") for find in (dataset, source))
    tested = next(filter(None, names), "test items")
    metrics = run.comparison.get("metrics") or {}
    values = [value for metric, entry in metrics.items() for value in _values(metric, entry)]
    results = [_result(run, tested, values)] if values else []
    for kept, entry in (run.comparison.get("forgetting") or {}).items():
        values = _values(str(entry.get("metric", "value")), entry)
        results += [_result(run, kept, values)] if values and kept != tested else []
    return results


def _result(run: RunContents, tested: str, values: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "task": {"type": run.task().pipeline_tag},
        "dataset": {"type": tested, "name": tested, "split": "test"},
        "metrics": values,
    }


def _values(metric: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tuned model's value, and the base's beside it, named as such."""
    return [
        {"type": metric, "name": f"{wording.measure(metric)} ({side})", "value": entry[side]}
        for side in ("tuned", "base")
        if entry.get(side) is not None
    ]
