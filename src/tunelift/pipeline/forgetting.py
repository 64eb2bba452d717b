"""What tuning should not change: general text, sets of the user's, and tasks of lm-evaluation-harness."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tunelift.config.schema import DataSection, EvaluateSection
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.splits import Splits, load_splits
from tunelift.evaluation.plan import Plan
from tunelift.model_facts.anatomy import context_length
from tunelift.pipeline.choices import evaluation_plan, label_texts, metrics_for
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.measuring import say, scored
from tunelift.pipeline.session import Session
from tunelift.pipeline.sharing import shared_scores
from tunelift.tasks import DEFAULT, Task

if TYPE_CHECKING:
    from tunelift.evaluation.harness import Task as HarnessTask

GENERAL = "general-text"


def forgetting_sets(settings: EvaluateSection, task: Task) -> dict[str, Splits]:
    """Read general text and the sets named by evaluate.forgetting; raise InputError as load_splits does.

    Tasks of evaluate.tasks are looked up, for what is wrong with them to be found as early.
    """
    _tasks(settings.tasks, task)
    found = dict[str, Splits]()
    for source in dict.fromkeys([GENERAL, *settings.forgetting] if settings.forgetting else []):
        if source == GENERAL and not task.next_token:
            progress.note(f"forgetting: the task {task.name} continues no text, so general-text is not measured")
            continue
        name = re.sub(r"[^\w.-]+", "-", Path(source).stem)
        if name in found:
            raise InputError(f"evaluate.forgetting names two sets called {name}.", fix="Rename one of the files.")
        section = DataSection(test=source, group="cluster" if source == GENERAL else None)
        found[name] = load_splits(section, reading=_read_by(task).reading, roles=("test",))
    return found


def measure_forgetting(
    folder: RunFolder,
    side: str,
    session: Session,
    sets: Mapping[str, Splits],
    settings: EvaluateSection,
    max_length: int,
) -> None:
    """Score one side, "base" or "tuned", on each set and task; what an earlier call has scored is not scored again."""
    began, scorers = time.monotonic(), []
    for name, (examples, plan) in plans_of_sets(session, sets, settings, max_length).items():
        score = partial(session.score, examples, plan, f"{side} on {name}")
        scorers.append((name, partial(shared_scores, f"forgetting/{name}", session, examples, plan, score)))
    for task in _tasks(settings.tasks, session.task):
        from tunelift.evaluation.harness import score_task

        score = partial(score_task, session.model, session.tokenizer, task, session.made_with(), cache=settings.cache)
        scorers.append((task.name, partial(score, title=f"{side} on {task.name}")))
    for name, score in scorers:
        say(f"{side} on {name}", scored(folder.paths.forgetting(name).side(side), score))
    if sets or scorers:
        folder.took("forgetting", time.monotonic() - began)


def plans_of_sets(
    session: Session, sets: Mapping[str, Splits], settings: EvaluateSection, max_length: int
) -> dict[str, tuple[Sequence[Example], Plan]]:
    """Return the items of each set that the model can be measured on, and what is measured on them."""
    found = dict[str, tuple[Sequence[Example], Plan]]()
    for name, splits in sets.items():
        examples = splits.test
        if name == GENERAL and not _some_fit(session, examples):
            progress.note("forgetting: general-text is longer than the model's context and is not measured")
            continue
        kind = _read_by(session.task)
        metrics = metrics_for(None, kind, examples)[:1]
        labels = session.labels or label_texts(kind, examples, DataSection())
        plan = evaluation_plan(settings, metrics, kind, labels, max_length)
        found[name] = examples, replace(plan, slices=())  # these are columns of the test set
    return found


def _read_by(task: Task) -> Task:
    """Return the task that such sets are of: whatever a model of text was tuned by, they are texts and answers."""
    return DEFAULT if task.next_token else task


def _tasks(named: Sequence[str], task: Task) -> list[HarnessTask]:
    """Return the tasks of lm-evaluation-harness that are named."""
    if not named:
        return []
    if not task.next_token:
        raise InputError("evaluate.tasks measures language models, and this is a classification head.")
    if find_spec("lm_eval") is None:
        raise InputError("evaluate.tasks needs lm-evaluation-harness.", fix="pip install 'tunelift[harness]'")
    from tunelift.evaluation.harness import find_tasks

    return find_tasks(tuple(named))


def _some_fit(session: Session, examples: Sequence[Example]) -> bool:
    """Tell whether the model's context holds any of these texts, with the tokens that begin and end it."""
    shortest = min(examples, key=lambda example: len(example.completion))
    tokens = len(session.tokenizer(shortest.completion)["input_ids"])
    return tokens + 2 <= context_length(session.model, session.tokenizer)
