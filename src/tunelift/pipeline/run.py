"""The whole run on one screen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from tunelift.comparison import Comparison
from tunelift.config.schema import Config
from tunelift.core.energy import EnergyMeter
from tunelift.data.splits import load_splits
from tunelift.pipeline.beside import (
    check_beside,
    forgetting_sets,
    look_for_verbatim,
    measure_baselines,
    measure_forgetting,
)
from tunelift.pipeline.choices import (
    check_labels,
    check_required,
    evaluation_plan,
    metrics_for,
    ranked_labels,
    settled,
    task_for,
)
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.seeds import first_seed, further_seeds
from tunelift.pipeline.stages import (
    check_room,
    check_training,
    concluded,
    concluded_before,
    measured,
    model_facts,
    opened,
    say_data,
    say_labels,
    say_power,
    tune,
)
from tunelift.training import ranks


def run(config: Config, required: Sequence[str] = ()) -> Comparison:
    """Measure the base and the baselines, tune, measure again on the same items, compare and report.

    Everything is written to the run folder; the comparison is returned. What an earlier call with the same config has
    completed is not done again. `required` are metrics that a gate will ask for. Raises InputError for wrong config or
    data before anything is computed or written.
    """
    ranks.refuse_several("tunelift run")
    began, meter = time.monotonic(), EnergyMeter()
    config = settled(first_seed(config))
    task = task_for(config)
    splits = load_splits(config.data, reading=task.reading)
    metrics = metrics_for(config.evaluate.metrics, task, splits.train)
    check_labels(splits.train, splits.test, config.data, metrics)
    check_required(required, metrics)
    labels = ranked_labels(task, splits, config.data)
    plan = evaluation_plan(config.evaluate, metrics, task, labels, config.train.max_length)
    check_beside(plan, splits, config)
    forgetting = forgetting_sets(config, task)

    sources = {name: sets.report.sources for name, sets in forgetting.items()}
    folder = RunFolder.open(config, "run", sources=splits.report.sources, forgetting=sources)
    if folder.complete:
        return concluded_before(folder)
    say_data(splits)
    say_power(metrics, splits.test)
    say_labels(plan, splits, config.data)
    with folder.dated():
        session = opened(folder, task, labels, plan.labels)
        check_training(session, splits, config)
        plan = replace(plan, labels=session.labels or plan.labels)
        check_room(folder, session, splits.test, plan.labels)
        with folder.begun(**model_facts(session)):
            folder.took("load", time.monotonic() - began)
            measured(folder, "base", session, splits, plan)
            look_for_verbatim(folder, session, splits.test)
            measure_baselines(folder, session, splits, plan, config)
            measure_forgetting(folder, session, forgetting, config, "base")
            if folder.proved:
                session.load_adapter(folder.adapter)
            else:
                tune(folder, session, splits, config)
            measured(folder, "tuned", session, splits, plan)
            measure_forgetting(folder, session, forgetting, config, "tuned")
            del session  # each further seed loads the model anew
            further_seeds(folder, task, splits, plan)
            folder.spent(meter)
            return concluded(folder)
