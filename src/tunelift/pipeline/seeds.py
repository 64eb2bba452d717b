"""The same training with other seeds: each in a folder of its own, measured on the same items."""

from __future__ import annotations

from dataclasses import replace

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


def further_seeds(folder: RunFolder, session: Session, splits: Splits, plan: Plan) -> None:
    """Train and measure once with each further seed of train.seeds, below `folder`/seeds.

    Each is a training folder of its own, with its adapter, proofs and events. The model is loaded anew for each, since
    a seed also draws the weights of a fresh head.
    """
    config = folder.config
    for seed in config.train.seeds[1:]:
        train = config.train.model_copy(update={"seed": seed, "seeds": []})
        path = folder.path / "seeds" / str(seed)
        own = config.model_copy(update={"train": train, "output": str(path)})
        below = RunFolder.open(own, "seed", sources=splits.report.sources)
        if below.complete:
            continue
        progress.note(f"seed {seed}:")
        below.begin()
        again = Session.open(config.model, session.task, class_names(session.task, session.labels), seed)
        if below.proved:
            again.load_adapter(below.adapter)
        else:
            tune(below, again, splits, own)
        measured(below, "tuned", again, splits, replace(plan, labels=again.labels or plan.labels))
        below.finish()
