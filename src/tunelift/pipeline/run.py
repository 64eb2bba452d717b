"""The whole run on one screen."""

from __future__ import annotations

import time

from tunelift.comparison import Comparison, compare
from tunelift.config.schema import Config
from tunelift.core import progress
from tunelift.core.records import Scores
from tunelift.data.splits import load_splits
from tunelift.models import natural_task
from tunelift.pipeline.choices import check_labels, evaluation_plan, label_texts, metrics_for
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.session import Session
from tunelift.pipeline.stages import concluded, head_labels, measured, report, say_data, tune


def run(config: Config) -> Comparison:
    """Measure the base, tune, measure again on the same items, compare and report; return the comparison.

    Everything is written to the run folder. What an earlier call with the same config has completed is not done again.
    Raises InputError for wrong config or data before anything is computed or written.
    """
    began = time.monotonic()
    task = config.task or natural_task(config.model.name, config.model.revision)
    splits = load_splits(config.data, task=task)
    metrics = metrics_for(config.evaluate.metrics, task, splits.train)
    check_labels(splits.train, splits.test, config.data, metrics)
    labels = label_texts(task, [*splits.train, *splits.validation], config.data)
    plan = evaluation_plan(config.evaluate, metrics, task, labels, config.train.max_length)

    folder = RunFolder.open(config)
    if folder.complete:
        progress.note(f"{folder.path} holds this very run, complete; nothing to do.")
        if not (folder.path / "report.html").is_file():
            report(folder)
        return compare(Scores.read(folder.path / "base"), Scores.read(folder.path / "tuned"))
    say_data(splits)
    session = Session.open(config.model, task, head_labels(task, labels), config.train.seed)
    folder.took("load", time.monotonic() - began)

    base = measured(folder, "base", session, splits.test, plan)
    if folder.adapter.is_dir() and "proofs" in folder.manifest:
        session.load_adapter(folder.adapter)
    else:
        tune(folder, session, splits, config)
    tuned = measured(folder, "tuned", session, splits.test, plan)
    return concluded(folder, base, tuned)
