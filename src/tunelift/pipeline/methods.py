"""What each PEFT method can do on a model, as it is seen on a tiny twin of its architecture."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunelift.adapters.abilities import Ability, of_row, refused_by_name, refused_everywhere
from tunelift.adapters.methods import METHODS
from tunelift.config.schema import ModelSection, TrainSection
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.models import sources, twin
from tunelift.models.loader import fitting_tasks, read_config, was_saved_for
from tunelift.pipeline.session import Session
from tunelift.pipeline.trying import (
    OnTwin,
    begins_as_base,
    loads_with_peft,
    merges,
    stands_beside,
    still,
    switches_off,
)
from tunelift.tasks import TASKS, Task

CHECKS: dict[str, Callable[[OnTwin], bool]] = {
    "begins_as_base": begins_as_base,
    "trains": lambda trial: not still(trial),
    "switches_off": switches_off,
    "loads_with_peft": loads_with_peft,
    "merges": merges,
    "stands_beside": stands_beside,
}
PROMISED = {"begins_as_base": "begins_as_noop", "switches_off": "switches_off"}
"""What a record says of a method whatever the model, by the check that looks."""


def tried(section: ModelSection, task_name: str | None = None, names: Sequence[str] = ()) -> list[Ability]:
    """Try every method, or those named, on a tiny twin of a model; of the model only its config is read.

    The task is the one that suits it best where none is given. Raises InputError where there is no such model, it does
    not fit the task, or no twin of it can be made.
    """
    config = read_config(*sources.resolve(section.name, section.revision))
    task = task_to_try(section, task_name)
    labels = sorted(task.labels_in(task.made_up())) if task.has_head else []
    base, tokenizer = twin.twin(config, task, labels)
    own = Session.of(twin.shapes(config, task, labels), tokenizer, task, labels)
    own.will_train(task.made_up(), TrainSection())
    found, chosen = [], list(names) or [name for name in METHODS if METHODS.get(name).peft_type]
    with progress.bar("methods", len(chosen)) as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft says of the twins
        for name in chosen:
            if (why := refused_by_name(name)) is not None:
                found.append(why)
                continue
            with tempfile.TemporaryDirectory() as scratch, progress.silenced():
                trial = OnTwin(name, Path(scratch), base, tokenizer, task, labels)
                found.append(_counted(own, trial, _tried(trial)))
            advance(1, note=name)
    return found + ([] if names else refused_everywhere())


def task_to_try(section: ModelSection, named: str | None = None) -> Task:
    """Return the task that is named, or else the one that suits a model best; raise InputError where none fits."""
    identity, folder = sources.resolve(section.name, section.revision)
    config = read_config(identity, folder)
    fitting = fitting_tasks(config)
    # As a run chooses.
    own = [task for task in fitting if task.natural or (task.has_head and was_saved_for(config, task))]
    task = TASKS.get(named) if named else next(iter([*own, *fitting]), None)
    if task is None or task not in fitting:
        wanted = f"the task {task.name}" if task else "any task that is offered here"
        raise InputError(f"{identity.name} (model type {config.model_type}) does not fit {wanted}.")
    return task


def _tried(trial: OnTwin) -> Ability:
    if trial.method.whole:
        return of_row(
            trial.name, "refused", "nothing is put on that could be tried: the model's own weights are trained"
        )
    try:
        trial.session().check(trial.keys)
    except InputError as error:
        return of_row(trial.name, "refused", _reason(error))
    said: dict[str, Any] = {}
    for name, check in CHECKS.items():
        try:
            said[name] = check(trial)
        except Exception as error:  # whatever peft or the model makes of it: the method is not right here
            return of_row(trial.name, "wrong", f"{name}: {str(error).partition(chr(10))[0]}", **said)
    wrong = [name for name, promise in PROMISED.items() if getattr(trial.method, promise) and not said[name]]
    wrong += [name for name in ("trains", "loads_with_peft") if not said[name]]
    reason = f"it does not hold that it {', '.join(name.replace('_', ' ') for name in wrong)}" if wrong else ""
    return of_row(trial.name, "wrong" if wrong else "right", reason, **said)


def _counted(own: Session, trial: OnTwin, ability: Ability) -> Ability:
    """Add how much is trained of the model itself, by its shapes; what these refuse is refused."""
    if ability.verdict == "refused":
        return ability
    try:
        count = own.count(trial.keys)
    except NotImplementedError:  # as torch says of what shapes alone cannot give
        return ability
    except InputError as error:
        return replace(ability, verdict="refused", reason=_reason(error))
    return replace(ability, trainable=count.trainable, total=count.total)


def _reason(error: InputError) -> str:
    """Return why a method is refused, without what is the same in all."""
    said = error.problems[0].rstrip(".")
    return said.removeprefix("adapter: ").removeprefix("peft refuses this model and these settings: ")
