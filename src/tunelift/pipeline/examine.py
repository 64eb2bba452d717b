"""What is known of a stranger's adapter on a model before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence

from tunelift.config.schema import Config
from tunelift.pipeline.choices import task_for
from tunelift.pipeline.session import Session
from tunelift.pipeline.stages import class_names, with_adapter_facts


def examined_adapter(folder: str, name: str, dtype: str = "auto") -> Sequence[str]:
    """Return what a user should know of an adapter on a model, without measuring; raise InputError if it is refused."""
    config = Config.model_validate({"model": {"name": name, "dtype": dtype}})
    config, facts = with_adapter_facts(config, folder)
    task = task_for(config)
    labels = class_names(task, facts["labels"])
    return Session.open(config.model, task, labels, ordered=bool(labels)).examine(folder)
