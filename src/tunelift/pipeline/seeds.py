"""The same training with other seeds: each in a folder of its own, measured on the same items."""

from __future__ import annotations

import time

from tunelift.config.schema import Config
from tunelift.core import progress
from tunelift.data.splits import Splits
from tunelift.evaluation.plan import Plan
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.stages import measured, model_facts, opened, tune
from tunelift.tasks import Task


def first_seed(config: Config) -> Config:
    """Return the config with train.seed the first of train.seeds: the run's own adapter is made with it."""
    if not config.train.seeds:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": config.train.seeds[0]})})


def further_seeds(folder: RunFolder, task: Task, splits: Splits, plan: Plan) -> None:
    """Train and measure once with each further seed of train.seeds, below `folder`/seeds.

    Each is a training folder of its own, with its adapter, proofs and events. The model is loaded anew for each, since
    a seed also draws the weights of a fresh head.
    """
    config = folder.config
    for seed in config.train.seeds[1:]:
        began = time.monotonic()
        train = config.train.model_copy(update={"seed": seed, "seeds": []})
        own = config.model_copy(update={"train": train, "output": str(folder.paths.seed(seed).folder)})
        below = RunFolder.open(own, "seed", sources=splits.report.sources)
        below.manifest.update({key: folder.manifest[key] for key in ("dtype", "dtype_reason")})  # as the base has it
        if not below.complete:
            progress.note(f"seed {seed}:")
            _one_seed(below, task, splits, plan)
            folder.took("seeds", time.monotonic() - began)


def _one_seed(folder: RunFolder, task: Task, splits: Splits, plan: Plan) -> None:
    session = opened(folder, task, plan.labels, plan.labels)
    with folder.begun(**model_facts(session)):
        if folder.proved:
            session.load_adapter(folder.adapter)
        else:
            tune(folder, session, splits, folder.config)
        measured(folder, "tuned", session, splits, plan)
        folder.finish()
