"""The whole run on one screen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from tunelift.comparison import Comparison, power
from tunelift.config.schema import Config
from tunelift.core import progress
from tunelift.core.energy import EnergyMeter
from tunelift.pipeline import choices
from tunelift.pipeline.advising import say_advice
from tunelift.pipeline.baselines import measure_baselines
from tunelift.pipeline.calibrating import measure_validation
from tunelift.pipeline.concluding import concluded
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.forgetting import measure_forgetting
from tunelift.pipeline.measuring import look_for_verbatim, measured
from tunelift.pipeline.planning import before_loading, before_measuring
from tunelift.pipeline.preparing import prepare
from tunelift.pipeline.quantising import measure_full_precision
from tunelift.pipeline.seeds import further_seeds
from tunelift.pipeline.session import Session
from tunelift.pipeline.sharing import tells_its_stages
from tunelift.pipeline.tuning import Chosen, adopt, check_training, tune
from tunelift.training import ranks


@tells_its_stages
def run(
    config: Config, required: Sequence[str] = (), chosen: Chosen | None = None, *, anyway: bool = False
) -> Comparison:
    """Measure the base and the baselines, tune, measure again on the same items, compare and report.

    Everything is written to the run folder; the comparison is returned. What an earlier call with the same config has
    completed is not done again. `required` are metrics that a gate will ask for; `chosen` is a training of this very
    config that was chosen on validation, and is then not done again. `anyway` begins what memory does not suffice for.
    Raises InputError for wrong config or data before anything is computed or written.
    """
    ranks.refuse_several("tunelift run")
    began, meter = time.monotonic(), EnergyMeter()
    ready = prepare(config, required)
    config, task, splits, plan, sets = ready.config, ready.task, ready.splits, ready.plan, ready.sets
    data, adapter, training, evaluate = config.data, config.adapter, config.train, config.evaluate

    sources = {name: found.report.sources for name, found in sets.items()}
    defined = choices.definitions(plan.metrics)
    folder = RunFolder.open(config, "run", sources=splits.report.sources, forgetting=sources, **defined)
    if folder.complete:
        return concluded(folder)
    choices.say_data(splits)
    if plan.metrics[0].kind == "binary" and all(example.cluster is None for example in splits.test):
        progress.note(f"power: {power.describe(len(splits.test))}")
    choices.say_labels(plan, splits, data)
    if chosen:
        folder.manifest.update(chosen.dtype())
    before = before_loading(ready, anyway=anyway)
    with folder.dated():
        session = Session.of_run(folder, task, ready.labels, plan.labels)
        footprint = check_training(folder, session, splits, training, adapter, anyway=anyway)
        plan = replace(plan, labels=session.labels or plan.labels)
        before_measuring(session, replace(ready, plan=plan), footprint, before, anyway=anyway)
        with folder.begun(**session.facts()):
            folder.took("load", time.monotonic() - began)
            session.choose_threshold(splits.validation, plan, "base on validation")
            measured(folder, "base", session, splits, plan)
            measure_full_precision(folder, session, splits, plan)
            look_for_verbatim(folder, session, splits.test)
            measure_baselines(folder, session, splits, plan, evaluate, data.seed)
            measure_validation(folder, "base", session, splits, plan, data.seed)
            say_advice(folder, splits, plan, evaluate.margin)
            measure_forgetting(folder, "base", session, sets, evaluate, training.max_length)
            adopt(folder, chosen)
            tune(folder, session, splits, training, adapter)
            measured(folder, "tuned", session, splits, plan)
            measure_validation(folder, "tuned", session, splits, plan, data.seed)
            measure_forgetting(folder, "tuned", session, sets, evaluate, training.max_length)
            del session  # each further seed loads the model anew
            further_seeds(folder, task, splits, plan)
            folder.spent(meter)
            return concluded(folder)
