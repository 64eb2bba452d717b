"""The same training with other seeds: each in a folder of its own, measured on the same items."""

from __future__ import annotations

import time

from tunelift.core import progress
from tunelift.data.splits import Splits
from tunelift.evaluation.plan import Plan
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.measuring import measured
from tunelift.pipeline.session import Session
from tunelift.pipeline.tuning import tune
from tunelift.tasks import Task


def further_seeds(folder: RunFolder, task: Task, splits: Splits, plan: Plan) -> None:
    """Train and measure once with each further seed of train.seeds, below `folder`/seeds.

    Each is a training folder of its own, with its adapter, proofs and events. The model is loaded anew for each, since
    a seed also draws the weights of a fresh head.
    """
    for seed in folder.config.train.seeds[1:]:
        began, output = time.monotonic(), str(folder.paths.seed(seed).folder)
        config = folder.config.trained_with(seed=seed, seeds=[]).model_copy(update={"output": output})
        below = RunFolder.open(config, "seed", sources=splits.report.sources)
        below.manifest.update({key: folder.manifest[key] for key in ("dtype", "dtype_reason")})  # as the base has it
        if below.complete:
            continue
        progress.note(f"seed {seed}:")
        session = Session.of_run(below, task, plan.labels, plan.labels)
        with below.begun(**session.facts()):
            tune(below, session, splits, config.train, config.adapter)
            measured(below, "tuned", session, splits, plan)
            below.finish()
        del session  # before the next seed loads another
        folder.took("seeds", time.monotonic() - began)
