"""The baselines, and the validation rows that choose the strongest of them."""

from __future__ import annotations

import time
from functools import partial

from tunelift.config.schema import EvaluateSection
from tunelift.core import progress, randomness
from tunelift.core.errors import InputError
from tunelift.data.splits import Splits
from tunelift.evaluation.baselines import BASELINES, Given, suitable
from tunelift.evaluation.plan import Plan
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.measuring import say, scored
from tunelift.pipeline.session import Session
from tunelift.run_files.layout import is_scored, validation_of

SELECTION_ROWS = 80
"""Validation rows on which the strongest baseline is chosen: each costs as much as a test item, several times over."""


def measure_baselines(
    folder: RunFolder, session: Session, splits: Splits, plan: Plan, settings: EvaluateSection, seed: int
) -> None:
    """Score the baselines that fit on test and on some validation rows, and the base on those; the adapter is not on.

    What an earlier call has scored is not scored again. Without validation rows nothing is chosen.
    """
    names = suitable(plan, splits.train, settings.baselines)
    if not names:
        return
    began = time.monotonic()
    few = len(splits.validation) if plan.task.contrasts else SELECTION_ROWS  # whose items are found among each other
    chosen = randomness.sample(splits.validation, few, f"{seed} selection")
    if chosen:
        base = validation_of(folder.paths.base)
        try:
            scored(base, partial(session.score, chosen, plan, "base on validation"))
        except InputError as error:  # of few texts none may belong to another
            progress.note(f"nothing is chosen on validation: {error}")
            chosen = []
    made_with = session.made_with()
    given = Given(session.model, session.tokenizer, splits.train, plan, settings.shots, seed, made_with)
    for name in names:
        path = folder.paths.baseline(name)
        if is_scored(path) and (not chosen or is_scored(validation_of(path))):
            continue
        try:
            made = BASELINES.get(name).make(given)
            if chosen:
                scored(validation_of(path), partial(made.score, chosen, f"{name} on validation"))
            say(f"baseline {name} ({made.description})", scored(path, partial(made.score, splits.test, name)))
        except InputError as error:  # one baseline that these rows do not suit is no reason to lose the run
            progress.note(f"baseline {name} is not measured: {error}")
    folder.took("baselines", time.monotonic() - began)
