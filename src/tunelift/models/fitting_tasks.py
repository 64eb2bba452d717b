"""Which tasks a model can be loaded for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunelift.core.errors import InputError
from tunelift.models import sources
from tunelift.models.sources import ModelIdentity
from tunelift.tasks import DEFAULT, TASKS, Task


def read_config(identity: ModelIdentity, folder: Path) -> Any:
    """Return the transformers config in the model's folder; raise InputError for one that transformers cannot use."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, **sources.LOCAL)
    except Exception as error:  # whatever a config's class makes of values that it did not expect
        raise InputError(f"The config.json of {identity.name} cannot be used: {error}") from error


def fitting_tasks(config: Any) -> list[Task]:
    """Return the tasks that a model with this transformers config fits, maybe none.

    The one that it was saved for comes first, then the most natural.
    """
    found = [task for task in map(TASKS.get, TASKS) if task.fits(config)]
    return sorted(found, key=lambda task: not was_saved_for(config, task))


def was_saved_for(config: Any, task: Task) -> bool:
    """Tell whether a checkpoint was saved from a class of this task: a decoder may have been a classifier."""
    return any(task.is_class(str(name)) for name in getattr(config, "architectures", None) or [])


def natural_task(name: str, revision: str | None = None) -> Task:
    """Return the task that suits a model best; raise InputError where the model does not exist or fits none."""
    config = read_config(*sources.resolve(name, revision))
    fitting = fitting_tasks(config)
    if not fitting:
        raise InputError(f"{name} (model type {config.model_type}) fits no task that is offered here.")
    return fitting[0]


def task_of(base: Any) -> Task:
    """Return the task that a model in memory was made for, by its class; raise InputError for one that fits none."""
    name = type(base).__name__
    known = next((task for task in map(TASKS.get, TASKS) if task.is_class(name)), None)
    if getattr(base.config, "is_encoder_decoder", False) and (known is None or not known.has_head):
        raise InputError(
            f"{name} has an encoder and a decoder; language models here have a decoder alone.",
            fix="Take a causal language model, or a classifier.",
        )
    return known or DEFAULT
