"""Tags, pairs of texts and questions side by side: an encoder with LoRA, transformers' Trainer and tunelift.

    python benchmarks/tasks.py [--quick] [--here] [--kinds tags,pairs,questions] [--model NAME] [--out FILE.json]
    python benchmarks/tasks.py --kinds questions --steps 40 --rounds 3    # within a quarter of an hour
    python benchmarks/tasks.py --without-dropout --rounds 1               # both learn the same, or do not

The same rows in the same order from the same initial adapter and head; AdamW 1e-3, the model's dropout, float32. Each
round has a seed of its own, which decides what dropout drops: how held-out results differ is shown over the rounds.
Trainer has the collator that its documentation has for the task, and rows made as it makes them: for questions that
pads every window to 384 tokens. A second one pads them by batch, as the documentation does for other tasks. Tags are
WNUT-17's, questions XQuAD's, pairs headlines of BBC News with the beginning of their article or of another one of its
topic.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import side_by_side
from side_by_side import Result, Setting

from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core import progress
from tunelift.core.records import Example, Pair, Spans, Tags, Words
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows
from tunelift.data.windows import overlap
from tunelift.evaluation.plan import Plan
from tunelift.metrics import resolve
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS

OURS, THEIRS, BY_BATCH = "tunelift", "Trainer", "Trainer, padded by batch"
SEED = 0
WARM = 2  # steps that are not counted: the first ones compile and fill caches

Rows = list[dict[str, Any]]
"""What both sides train on, as JSON has it."""


def tags(data: Path) -> tuple[Sequence[Example], Sequence[Example]]:
    reading, section = TASKS.get("token-classification").reading, DataSection()
    train, test = (make_examples(read_rows(data / f"wnut17_{n}.conll"), section, reading)[0] for n in ("train", "test"))
    return train, test


def pairs(data: Path) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return articles' beginnings with their own headline or another's; those of train and test are other articles."""
    rows, draw, made = read_rows("bbc-news").rows, random.Random(SEED), list[Example]()
    for i, row in enumerate(draw.sample(rows, len(rows))):
        others = [other["headline"] for other in rows if other["topic"] == row["topic"] and other is not row]
        own = draw.random() < 0.5
        pair = Pair(" ".join(str(row["text"]).split()[:40]), str(row["headline"] if own else draw.choice(others)))
        made.append(Example(str(i), str(pair), "own" if own else "another's", pair))
    return made[400:], made[:400]


def questions(data: Path) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return XQuAD's questions; those of a passage are on one side."""
    task = TASKS.get("question-answering")
    section = task.reading.grouped(DataSection())
    examples, _ = make_examples(read_rows(data / "xquad_en.json"), section, task.reading)
    passages = sorted({str(example.cluster) for example in examples})
    held_out = set(random.Random(SEED).sample(passages, len(passages) // 4))
    return ([e for e in examples if e.cluster not in held_out], [e for e in examples if e.cluster in held_out])


class Kind(NamedTuple):
    """The task, what reads its rows for training and those held out, what both sides are told, and what is measured."""

    task: str
    read: Callable[[Path], tuple[Sequence[Example], Sequence[Example]]]
    job: dict[str, Any]
    metrics: list[str]


KINDS = {
    "tags": Kind("token-classification", tags, {"batch_size": 16, "max_length": 256}, ["seqeval_f1", "token_accuracy"]),
    "pairs": Kind("sequence-classification", pairs, {"batch_size": 16, "max_length": 256}, ["accuracy"]),
    "questions": Kind(
        "question-answering", questions, {"batch_size": 8, "max_length": 384, "pad": "max_length"}, ["squad_f1"]
    ),
}


def main() -> None:
    options = side_by_side.arguments(
        __doc__,
        lambda parser: parser.add_argument("--kinds", default=",".join(KINDS), help="which of them, with commas"),
        lambda parser: parser.add_argument("--model", default="all-minilm-l6-v2", help="an encoder: name or folder"),
        lambda parser: parser.add_argument("--steps", type=int, help="steps of each run; an epoch otherwise"),
        lambda parser: parser.add_argument("--without-dropout", action="store_true", help="nothing is left to a seed"),
        lambda parser: parser.add_argument("--here", action="store_true", help="run Trainer with this Python too"),
    )
    progress.quiet = True
    peers = sys.executable if options.here else side_by_side.peers_python(options.peers_env)
    figures = side_by_side.facts(None if options.here else peers)
    side_by_side.print_facts(figures)
    figures["kinds"] = {}
    for kind in options.kinds.split(","):
        figures["kinds"][kind] = compared(kind, options, peers)
        show(kind, figures["kinds"][kind])
    side_by_side.finish(options.out, figures)


def compared(kind: str, options: Any, peers: str) -> Result:
    """Train both in turns and measure what they made on the held-out rows."""
    task_name, read, job, _ = KINDS[kind]
    train, test = read(options.data)
    steps, rounds = (4, 1) if options.quick else (options.steps, options.rounds or 5)
    train = train[: steps * job["batch_size"]] if steps else train
    test = test[:40] if options.quick else test
    task = TASKS.get(task_name)
    labels = sorted(task.labels_in([*train, *test]) if kind == "tags" else task.labels_in(train))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        session = Session.open(ModelSection(name=options.model, dtype="float32"), task, labels, SEED, ordered=True)
        session.will_train(train, TrainSection())
        session.attach({"method": "lora", "r": 8, "lora_dropout": 0.0}, SEED)
        session.save_adapter(folder / "initial")
        rows = {
            "train": [as_json(example, labels, kind) for example in train],
            "labels": labels if kind != "questions" else [],
        }
        rows |= {"model": session.identity.path, "adapter": str(folder / "initial")}
        (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
        job = {**job, "kind": kind, "task": task_name, "auto_class": task.auto_class, "rows": str(folder / "rows.json"),
               "stride": overlap(job["max_length"]), "learning_rate": 1e-3, "limit_seconds": 600.0,
               "dropout": not options.without_dropout}  # fmt: skip
        jobs = {OURS: job, THEIRS: job, **({BY_BATCH: job | {"pad": "batch"}} if "pad" in job else {})}
        ways = {OURS: ("task_ourselves.py", sys.executable)}
        settings = [
            Setting(name, *ways.get(name, ("task_trainer.py", peers)), {**own, "out": str(folder / name)})
            for name, own in jobs.items()
        ]
        results = side_by_side.in_turns(settings, rounds, folder, lambda *_: True)
        made = {name: figures_of(runs) for name, runs in results.items()}
        for name, found in made.items():
            if "failed" not in found:
                adapters = [folder / name / str(number) for number in range(found["rounds"])]
                found["held_out"] = [measured(options.model, KINDS[kind], labels, one, test) for one in adapters]
    return made


def as_json(example: Example, labels: Sequence[str], kind: str) -> dict[str, Any]:
    """Return a row as both sides read it."""
    given, wanted = example.given, example.wanted
    if isinstance(given, Words) and isinstance(wanted, Tags):
        return {"words": list(given.words), "tags": [labels.index(tag) for tag in wanted.tags]}
    assert isinstance(given, Pair)
    if kind == "pairs":
        return {"texts": [given.first, given.second], "label": labels.index(example.completion)}
    assert isinstance(wanted, Spans)
    span = wanted.spans[0]
    return {"question": given.first, "passage": given.second, "answer": span.text, "start": span.start}


def figures_of(runs: Sequence[Result]) -> Result:
    """Return medians over the rounds: seconds of a step, peak memory, and the first batch's loss."""
    if bad := next((run for run in runs if "failed" in run or "stopped" in run), None):
        return {"failed": bad.get("failed") or bad.get("stopped")}
    seconds = []
    for run in runs:
        steps = run["steps"][WARM:] or run["steps"]
        seconds.append({"seconds": sum(step["seconds"] for step in steps) / len(steps)})
    kept = {name: runs[0][name] for name in ("first_loss", "first_loss_alone", "rows") if name in runs[0]}
    peaks = [{"peak": run["peak_bytes"]} for run in runs]
    return {
        "seconds_a_step": side_by_side.median(seconds, "seconds"), "spread": side_by_side.spread(seconds, "seconds"),
        "peak_bytes": side_by_side.median(peaks, "peak"), "rounds": len(runs), **kept,
    }  # fmt: skip


def measured(model: str, kind: Kind, labels: list[str], adapter: Path, test: Sequence[Example]) -> dict[str, float]:
    """Return what an adapter, whoever trained it, makes of the held-out rows."""
    session = Session.open(ModelSection(name=model, dtype="float32"), TASKS.get(kind.task), labels, SEED, ordered=True)
    session.load_adapter(adapter)
    plan = Plan(resolve(kind.metrics), task=session.task, labels=session.labels, max_length=kind.job["max_length"])
    return session.score(test, plan, "held out").metrics


def show(kind: str, found: Result) -> None:
    """Print a kind's table: all sides, and how they stand to ours."""
    ours = found[OURS]
    rows = [row_of(name, own) for name, own in found.items()]
    side_by_side.print_table(f"{kind}: {ours.get('rows', '?')} rows, {ours.get('rounds', 0)} rounds in turns", rows)
    for name, theirs in found.items():
        if name == OURS or "failed" in ours or "failed" in theirs:
            continue
        alone, metric = theirs["first_loss_alone"], KINDS[kind].metrics[0]
        results = ([one[metric] for one in found["held_out"]] for found in (ours, theirs))
        print(f"\nbeside {name}: time {theirs['seconds_a_step'] / ours['seconds_a_step']:.2f}x, memory "
              f"{ours['peak_bytes'] / theirs['peak_bytes']:.2f} of it; first batch's loss apart by "
              f"{abs(ours['first_loss'] - alone) / max(1, abs(alone)):.1e} (each row alone); {metric} "
              f"{apart(*results)}")  # fmt: skip


def mean(found: Result, metric: str) -> float:
    return statistics.mean(one[metric] for one in found["held_out"])


def apart(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the mean difference over the seeds, ours less theirs, and its 95% interval by Student's t."""
    from scipy import stats

    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    difference, seeds = statistics.mean(differences), len(differences)
    if seeds < 2:
        return f"{difference:+.4f}, one seed"
    half = float(stats.t.ppf(0.975, seeds - 1)) * statistics.stdev(differences) / seeds**0.5
    return f"{difference:+.4f} ({difference - half:+.4f} to {difference + half:+.4f}, {seeds} seeds)"


def row_of(name: str, found: Result) -> dict[str, str]:
    if "failed" in found:
        return {"": name, "seconds a step": str(found["failed"])[:60]}
    held_out = ", ".join(f"{metric} {mean(found, metric):.4f}" for metric in found["held_out"][0])
    return {
        "": name, "seconds a step": f"{found['seconds_a_step']:.3f} ({found['spread']:.0%} spread)",
        "peak memory": f"{found['peak_bytes'] / 2**20:.0f} MiB", "first batch's loss": f"{found['first_loss']:.6f}",
        "held out": held_out,
    }  # fmt: skip


if __name__ == "__main__":
    main()
