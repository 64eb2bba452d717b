"""What a PEFT method does on a model, seen by trying it: for `tunelift methods` and for the tests' battery."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunelift.adapters.methods import METHODS, Method
from tunelift.config.schema import TrainSection
from tunelift.fast.classifying import said_of
from tunelift.pipeline.session import Session
from tunelift.tasks import Task
from tunelift.training.run import train

IDS = ([5, 6, 7, 8, 9, 10, 11], [5, 7, 8])
"""Rows that a model is asked."""

MERGING = 1e-4
"""How far logits may be apart, relative to them or to one, once an adapter is added to the weights."""


@dataclass
class Trial(ABC):
    """A PEFT method on a small model that can be had anew: with a new adapter on, trained, and saved, each once.

    `name` is the method's in the table, `folder` is for what is saved.
    """

    name: str
    folder: Path

    @property
    def method(self) -> Method:
        """The method's row."""
        return METHODS.get(self.name)

    @property
    def keys(self) -> dict[str, Any]:
        """The adapter section: the method's own defaults, and what nobody but the user could set."""
        return {"method": self.name, **self.method.tried_with}

    @property
    def rounding(self) -> float:
        """How much more than others the model shows of what is rounded."""
        return 1.0

    @abstractmethod
    def session(self) -> Session:
        """Return the base, anew, which knows what it will be trained on."""

    @abstractmethod
    def train(self, session: Session) -> Session:
        """Return the session, its adapter trained for some steps."""

    @abstractmethod
    def stock_base(self) -> Any:
        """Return the base, anew, as stock transformers has it."""

    def begun(self) -> Session:
        """Return the base with a new adapter on."""
        session = self.session()
        session.attach(self.keys, 0)
        session.model.eval()
        return session

    @cached_property
    def tuned(self) -> Session:
        """The base with an adapter that was trained."""
        return self.train(self.begun())

    @cached_property
    def saved(self) -> Path:
        """The folder of that adapter."""
        return self.tuned.save_adapter(self.folder / "trained")

    def stock(self) -> Any:
        """Return the saved adapter as stock peft loads it."""
        from peft import PeftModel

        return PeftModel.from_pretrained(self.stock_base(), str(self.saved)).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """Return a model's logits of some rows, each by itself, those of virtual tokens left out.

    Of a model without a head they are its hidden states.
    """
    found = []
    for ids in IDS:
        own = said_of(model, {"input_ids": torch.tensor([ids])})[0]
        found.append(own[-len(ids) :].flatten())
    return torch.cat(found)


def alike(some: Tensor, others: Tensor, apart: float = 1e-5) -> bool:
    """Tell whether numbers are the same but for rounding: at most so far apart, or so far of the larger one."""
    return torch.allclose(some, others, atol=apart, rtol=apart)


def begins_as_base(trial: Trial) -> bool:
    """Tell whether a new adapter changes nothing yet."""
    return alike(logits(trial.begun().model), logits(trial.session().model), 1e-5 * trial.rounding)


def still(trial: Trial) -> list[str]:
    """Return the names of tensors that are trained and that the training did not move."""
    before = dict(trial.begun().model.named_parameters())
    after = {name: p for name, p in trial.tuned.model.named_parameters() if p.requires_grad}
    return [name for name, parameter in after.items() if torch.equal(parameter, before[name])]


def switches_off(trial: Trial) -> bool:
    """Tell whether the base is there, bit for bit, while the adapter is off, before the training and after."""
    base, off = logits(trial.session().model), []
    for session in (trial.begun(), trial.tuned):
        with session.base():
            off.append(torch.equal(logits(session.model), base))
    return all(off)


def loads_with_peft(trial: Trial) -> bool:
    """Tell whether stock peft gives with the saved adapter what the model in memory gives."""
    return alike(logits(trial.stock()), logits(trial.tuned.model))


def merges(trial: Trial) -> bool:
    """Tell whether stock peft adds the adapter to the weights without changing what the model gives.

    Deep states, as of Mamba, may show what is rounded as the weights change: then it is seen in float64.
    """
    try:
        if _merges(trial.stock(), MERGING * trial.rounding):
            return True
        return _merges(trial.stock().double(), MERGING * 1e-4)
    except Exception:  # whatever a method that cannot says
        return False


def _merges(model: Any, apart: float) -> bool:
    adapted = logits(model)
    return alike(logits(model.merge_and_unload()), adapted, apart)


def stands_beside(trial: Trial) -> bool:
    """Tell whether another adapter of its kind can be loaded beside it, each acting alone when it is chosen."""
    other = trial.begun()
    model, alone, wanted = trial.stock(), logits(trial.tuned.model), logits(other.model)
    try:
        model.load_adapter(str(other.save_adapter(trial.folder / "other")), adapter_name="other")
        first = logits(model)
        model.set_adapter("other")
        second = logits(model)
        model.set_adapter("default")
        return alike(first, alone) and alike(second, wanted) and alike(logits(model), alone)
    except Exception:  # whatever a method that cannot says
        return False


@dataclass
class OnTwin(Trial):
    """A method on a twin in memory: `base` is stock transformers' model, which is copied each time."""

    base: Any
    tokenizer: Any
    task: Task
    labels: Sequence[str]

    STEPS = TrainSection(steps=4, learning_rate=0.02, batch_size=8, products="float32")
    """In the first step of a LoRA only one of its matrices moves."""

    @property
    def rounding(self) -> float:
        return 10.0  # deep states, as of Mamba, show more of it than the battery's own models

    def session(self) -> Session:
        session = Session.of(deepcopy(self.base), self.tokenizer, self.task, self.labels)
        session.model.requires_grad_(False)  # with which torch's convolutions round otherwise
        session.will_train(self.task.made_up(), self.STEPS)
        return session

    def train(self, session: Session) -> Session:
        rows: Mapping[str, Any] = {"train": self.task.made_up()}
        train(session.model, session.tokenizer, self.task, rows, self.STEPS, labels=self.labels)
        return session

    def stock_base(self) -> Any:
        return deepcopy(self.base)
