"""What is measured beside base and tuned: baselines, the rows that choose among them, and what should not change."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tunelift.config.schema import Config, DataSection
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Scores
from tunelift.data.splits import Splits, load_splits
from tunelift.evaluation.baselines import BASELINES, Baseline, Given, suitable
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import slices_of
from tunelift.evaluation.verbatim import continues_verbatim
from tunelift.model_facts.anatomy import context_length
from tunelift.pipeline.choices import evaluation_plan, label_texts, metrics_for
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.session import Session
from tunelift.run_files.layout import is_scored, validation_of
from tunelift.tasks import Task

if TYPE_CHECKING:
    from tunelift.evaluation.harness import Task as HarnessTask

SELECTION_ROWS = 80
"""Validation rows on which the strongest baseline is chosen: each costs as much as a test item, several times over."""

GENERAL = "general-text"


def check_beside(plan: Plan, splits: Splits, config: Config) -> None:
    """Raise InputError for baselines that do not exist or fit, and for slices the rows do not have."""
    suitable(plan, splits.train, config.evaluate.baselines)
    slices_of(splits.test, plan.slices)


def measure_baselines(folder: RunFolder, session: Session, splits: Splits, plan: Plan, config: Config) -> None:
    """Score the baselines that fit on test and on some validation rows, and the base on those; the adapter is not on.

    What an earlier call has scored is not scored again. Without validation rows nothing is chosen.
    """
    names = suitable(plan, splits.train, config.evaluate.baselines)
    if not names:
        return
    began, seed = time.monotonic(), config.data.seed
    chosen = _drawn(splits.validation, SELECTION_ROWS, seed)
    if chosen:
        _scored(validation_of(folder.paths.base), partial(session.score, chosen, plan, "base on validation"))
    shots, made_with = config.evaluate.shots, session.made_with()
    given = Given(session.model, session.tokenizer, splits.train, plan, shots, seed, made_with)
    for name in names:
        make = partial(BASELINES.get(name).make, given)
        try:
            _measure_baseline(folder.paths.baseline(name), make, chosen, splits.test)
        except InputError as error:  # one baseline that these rows do not suit is no reason to lose the run
            progress.note(f"baseline {name} is not measured: {error}")
    folder.took("baselines", time.monotonic() - began)


def _measure_baseline(
    path: Path, make: Callable[[], Baseline], chosen: Sequence[Example], test: Sequence[Example]
) -> None:
    if is_scored(path) and (not chosen or is_scored(validation_of(path))):
        return
    made = make()
    if chosen:
        _scored(validation_of(path), partial(made.score, chosen, f"{path.name} on validation"))
    scores = _scored(path, partial(made.score, test, path.name))
    values = ", ".join(f"{metric} {value:.4g}" for metric, value in scores.metrics.items())
    progress.note(f"baseline {path.name} ({made.description}): {values}")


def forgetting_sets(config: Config, task: Task) -> dict[str, Splits]:
    """Read general text and the sets named by evaluate.forgetting; raise InputError as load_splits does.

    Tasks of evaluate.tasks are looked up, for what is wrong with them to be found as early.
    """
    _tasks(config, task)
    named, found = config.evaluate.forgetting, dict[str, Splits]()
    for source in dict.fromkeys([GENERAL, *named] if named else []):
        if source == GENERAL and not task.next_token:
            progress.note("forgetting: a classification head continues no text, so general-text is not measured")
            continue
        name = re.sub(r"[^\w.-]+", "-", Path(source).stem)
        if name in found:
            raise InputError(f"evaluate.forgetting names two sets called {name}.", fix="Rename one of the files.")
        section = DataSection(test=source, group="cluster" if source == GENERAL else None)
        found[name] = load_splits(section, reading=task.reading, roles=("test",))
    return found


def measure_forgetting(
    folder: RunFolder, session: Session, sets: Mapping[str, Splits], config: Config, side: str
) -> None:
    """Score one side, "base" or "tuned", on each set and task; what an earlier call has scored is not scored again."""
    began = time.monotonic()
    for name, splits in sets.items():
        examples = splits.test
        if name == GENERAL and not _some_fit(session, examples):
            progress.note("forgetting: general-text is longer than the model's context and is not measured")
            continue
        metrics = metrics_for(None, session.task, examples)[:1]
        labels = session.labels or label_texts(session.task, examples, DataSection())
        plan = evaluation_plan(config.evaluate, metrics, session.task, labels, config.train.max_length)
        plan = replace(plan, slices=())  # these are columns of the test set
        _measure_set(folder, name, side, partial(session.score, examples, plan))
    tasks = _tasks(config, session.task)
    for task in tasks:
        from tunelift.evaluation.harness import score_task

        scored = partial(score_task, session.model, session.tokenizer, task, session.made_with())
        _measure_set(folder, task.name, side, partial(scored, cache=config.evaluate.cache))
    if sets or tasks:
        folder.took("forgetting", time.monotonic() - began)


def _measure_set(folder: RunFolder, name: str, side: str, score: Callable[..., Scores]) -> None:
    title = f"{side} on {name}"
    scores = _scored(folder.paths.forgetting(name).side(side), partial(score, title=title))
    progress.note(f"{title}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in scores.metrics.items()))


def _tasks(config: Config, task: Task) -> list[HarnessTask]:
    """Return the tasks of lm-evaluation-harness that evaluate.tasks names."""
    if not (named := config.evaluate.tasks):
        return []
    if not task.next_token:
        raise InputError("evaluate.tasks measures language models, and this is a classification head.")
    if find_spec("lm_eval") is None:
        raise InputError("evaluate.tasks needs lm-evaluation-harness.", fix='pip install "tunelift[harness]"')
    from tunelift.evaluation.harness import find_tasks

    return find_tasks(tuple(named))


def look_for_verbatim(folder: RunFolder, session: Session, examples: Sequence[Example]) -> None:
    """Note the test items that the base continues word for word: a sign that it has seen them."""
    if not session.task.next_token or "verbatim" in folder.manifest:
        return
    seen = continues_verbatim(session.model, session.tokenizer, examples)
    folder.note(
        verbatim={"items": seen.items, "found": list(seen.found), "tokens": seen.tokens, "too_short": seen.too_short}
    )
    if seen.found:
        progress.note(
            f"The base continues {len(seen.found)} of {seen.items} test items word for word: "
            "it may have seen them in pre-training."
        )


def _some_fit(session: Session, examples: Sequence[Example]) -> bool:
    """Tell whether the model's context holds any of these texts, with the tokens that begin and end it."""
    shortest = min(examples, key=lambda example: len(example.completion))
    tokens = len(session.tokenizer(shortest.completion)["input_ids"])
    return tokens + 2 <= context_length(session.model, session.tokenizer)


def _drawn(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """Return at most so many examples, drawn by seed, in their order."""
    if len(examples) <= most:
        return list(examples)
    return [examples[i] for i in sorted(random.Random(f"{seed} selection").sample(range(len(examples)), most))]


def _scored(path: Path, score: Callable[[], Scores]) -> Scores:
    """Return the scores in a folder, made now where they are not there yet."""
    if is_scored(path):
        return Scores.read(path)
    scores = score()
    scores.save(path)
    return scores
