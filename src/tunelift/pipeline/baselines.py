"""The baselines, and the validation rows that choose the strongest of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache, partial

from tunelift.config.schema import EvaluateSection
from tunelift.core import progress, randomness
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Scores
from tunelift.data.splits import Splits
from tunelift.evaluation.baselines import BASELINES, Baseline, Given, suitable
from tunelift.evaluation.plan import Plan
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.measuring import say, scored
from tunelift.pipeline.session import Session
from tunelift.pipeline.sharing import digest, name_of, shared_scores
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
            score = partial(session.score, chosen, plan, "base on validation")
            scored(base, partial(shared_scores, "base/validation", session, chosen, plan, score))
        except InputError as error:  # of few texts none may belong to another
            progress.note(f"nothing is chosen on validation: {error}")
            chosen = []
    made_with = session.made_with()
    given = Given(session.model, session.tokenizer, splits.train, plan, settings.shots, seed, made_with)
    learned = digest(splits.train)
    for name in names:
        path = folder.paths.baseline(name)
        if is_scored(path) and (not chosen or is_scored(validation_of(path))):
            continue
        try:
            kind = BASELINES.get(name)
            made = cache(partial(kind.make, given))  # not where an earlier run has its scores
            beside = {"made_by": name_of(kind.make), "learned": learned, "shots": settings.shots, "seed": seed}
            asked = [(validation_of(path), chosen, f"{name} on validation")] if chosen else []
            for place, examples, title in (*asked, (path, splits.test, name)):
                score = partial(_answered, made, examples, title)
                share = partial(shared_scores, f"baselines/{title}", session, examples, plan, score, **beside)
                scores = scored(place, share)
            say(f"baseline {name} ({scores.info['made_with']['baseline']['description']})", scores)
        except InputError as error:  # one baseline that these rows do not suit is no reason to lose the run
            progress.note(f"baseline {name} is not measured: {error}")
    folder.took("baselines", time.monotonic() - began)


def _answered(made: Callable[[], Baseline], examples: Sequence[Example], title: str) -> Scores:
    return made().score(examples, title)
