"""The same training with other seeds: each in a folder of its own, measured on the same items."""

from __future__ import annotations

import time

from tunelift.config.schema import Config
from tunelift.core import progress
from tunelift.data.splits import Splits
from tunelift.evaluation.run import Plan
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.session import Session
from tunelift.pipeline.stages import class_names, measured, tune


def first_seed(config: Config) -> Config:
    """Return the config with train.seed the first of train.seeds: the run's own adapter is made with it."""
    if not config.train.seeds:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": config.train.seeds[0]})})


def further_seeds(folder: RunFolder, task: str, splits: Splits, plan: Plan) -> None:
    """Train and measure once with each further seed of train.seeds, below `folder`/seeds.

    Each is a training folder of its own, with its adapter, proofs and events. The model is loaded anew for each, since
    a seed also draws the weights of a fresh head.
    """
    config = folder.config
    for seed in config.train.seeds[1:]:
        began = time.monotonic()
        train = config.train.model_copy(update={"seed": seed, "seeds": []})
        own = config.model_copy(update={"train": train, "output": str(folder.path / "seeds" / str(seed))})
        below = RunFolder.open(own, "seed", sources=splits.report.sources)
        if not below.complete:
            progress.note(f"seed {seed}:")
            _one_seed(below, task, splits, plan)
            folder.took("seeds", time.monotonic() - began)


def _one_seed(folder: RunFolder, task: str, splits: Splits, plan: Plan) -> None:
    config = folder.config
    folder.begin()
    session = Session.open(config.model, task, class_names(task, plan.labels), config.train.seed)
    if folder.proved:
        session.load_adapter(folder.adapter)
    else:
        tune(folder, session, splits, config)
    measured(folder, "tuned", session, splits, plan)
    folder.finish()
