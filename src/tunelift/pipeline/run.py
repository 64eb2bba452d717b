"""The whole run on one screen."""

from __future__ import annotations

import time

from tunelift.comparison import Comparison
from tunelift.config.schema import Config
from tunelift.data.splits import load_splits
from tunelift.models import natural_task
from tunelift.pipeline.choices import check_labels, evaluation_plan, label_texts, metrics_for
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.session import Session
from tunelift.pipeline.stages import (
    check_training,
    class_names,
    concluded,
    concluded_before,
    measured,
    say_data,
    tune,
)


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

    folder = RunFolder.open(config, "run", sources=splits.report.sources)
    if folder.complete:
        return concluded_before(folder)
    say_data(splits)
    session = Session.open(config.model, task, class_names(task, labels), config.train.seed)
    check_training(session, splits, config)
    folder.begin()
    folder.took("load", time.monotonic() - began)

    plan = evaluation_plan(config.evaluate, metrics, task, session.labels or labels, config.train.max_length)
    base = measured(folder, "base", session, splits.test, plan)
    if "proofs" in folder.manifest:
        session.load_adapter(folder.adapter)
    else:
        tune(folder, session, splits, config)
    tuned = measured(folder, "tuned", session, splits.test, plan)
    return concluded(folder, base, tuned)
