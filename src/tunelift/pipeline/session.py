"""A model in memory, with what is known of it: base and adapter from one load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from tunelift.adapters.build import attach, check_targets, count_parameters, is_adapted, peft_config
from tunelift.adapters.store import adapter_hash, load_adapter, read_adapter_config, read_lineage, save_adapter
from tunelift.config.schema import ModelSection
from tunelift.core import progress
from tunelift.core.records import Example, Scores
from tunelift.evaluation.run import Plan, score
from tunelift.models import ModelIdentity
from tunelift.models import load as load_model
from tunelift.tasks.base import TASKS

_known: WeakKeyDictionary[Any, tuple[ModelIdentity, tuple[str, ...]]] = WeakKeyDictionary()
"""What we loaded, by the model object: its identity, which an adapter made from it names, and its fresh modules."""


SAVED_BY_PEFT = {"classifier", "score"}
"""Heads that peft trains and saves whole by itself."""


@dataclass(slots=True)
class Session:
    """One model: the base as it was loaded, or peft's own model around it once an adapter is on.

    `labels` are the classes of a head, `ranked` the labels that a causal model is trained to choose from.
    `conversations` says that the adapter is trained on them, and so is asked through the chat template.
    """

    model: Any
    tokenizer: Any
    identity: ModelIdentity
    task: str
    labels: Sequence[str] = ()
    dtype_reason: str = ""
    fresh: Sequence[str] = ()
    conversations: bool = False
    adapter: dict[str, Any] | None = field(default=None)
    ranked: Sequence[str] = ()

    @classmethod
    def open(cls, section: ModelSection, task: str, labels: Sequence[str] = (), seed: int = 0) -> Session:
        """Load a model; `labels` give a classification head its classes. Raises InputError as `models.load` does."""
        head = list(labels) or None if task == "sequence-classification" else None
        loaded = load_model(section, task=task, labels=head, seed=seed)
        _known[loaded.model] = (loaded.identity, loaded.fresh)
        identity = loaded.identity
        about = f" ({identity.note})" if identity.note else ""
        dtype = str(loaded.dtype).removeprefix("torch.")
        progress.note(f"model: {identity.name}{about}, {dtype} on {loaded.device}: {loaded.dtype_reason}")
        labels = head_labels(loaded.model) if head else labels
        return cls(loaded.model, loaded.tokenizer, identity, task, labels, loaded.dtype_reason, loaded.fresh)

    @classmethod
    def of(cls, model: Any, tokenizer: Any, task: str, labels: Sequence[str] = ()) -> Session:
        """Take a stock transformers or peft model that is in memory already."""
        base = model.get_base_model() if is_adapted(model) else model
        identity, fresh = _known.get(base) or (_stock_identity(base), ())
        session = cls(model, tokenizer, identity, task, labels, fresh=fresh)
        session.adapter = {"source": "in memory"} if is_adapted(model) else None
        return session

    def attach(self, keys: Mapping[str, Any] | Any, seed: int) -> None:
        """Put a new adapter on, from the adapter section's keys or a ready peft config, or go on from a saved one."""
        if isinstance(keys, Mapping) and keys.get("start_from"):
            self.load_adapter(keys["start_from"], trainable=True)
        else:
            self.model = attach(self.model, self._peft_config(keys), seed)

    def check(self, keys: Mapping[str, Any]) -> None:
        """Raise InputError for adapter settings that will not do, before anything is computed."""
        if keys.get("start_from"):
            read_adapter_config(keys["start_from"])
        else:
            check_targets(self.model, self._peft_config(keys))

    def bytes_to_train(self, keys: Mapping[str, Any]) -> int:
        """Return the size of the parameters that an adapter of these settings would train, before it is put on.

        It is put on a copy of the model whose weights have shapes only.
        """
        if keys.get("start_from"):
            return (Path(keys["start_from"]) / "adapter_model.safetensors").stat().st_size
        shapes = {id(p): torch.nn.Parameter(torch.empty_like(p, device="meta")) for p in self.model.parameters()}
        adapted = attach(deepcopy(self.model, shapes), self._peft_config(keys), seed=0)
        return sum(p.numel() * p.element_size() for p in adapted.parameters() if p.requires_grad)

    def load_adapter(self, folder: str | Path, *, trainable: bool = False) -> None:
        """Put a saved adapter on; raise InputError where it was made for another base."""
        self.model = load_adapter(self.model, folder, self.identity.weights_sha256, trainable=trainable)
        self.model.eval()
        self.adapter = {"source": str(folder), "sha256": adapter_hash(folder)}

    def save_adapter(self, folder: Path) -> Path:
        """Write the adapter, whole or not at all."""
        identity = self.identity
        base = {"name": identity.name, "kind": identity.kind, "path": identity.path, "revision": identity.commit}
        lineage = {
            "base": base | {"weights_sha256": identity.weights_sha256, "note": identity.note},
            "task": self.task,
            "labels": list(self.labels if self.task == "sequence-classification" else self.ranked),
            **({"conversations": True} if self.conversations else {}),
        }
        save_adapter(self.model, self.tokenizer, folder, lineage)
        self.adapter = {"source": str(folder), "sha256": adapter_hash(folder)}
        return folder

    def score(self, examples: Sequence[Example], plan: Plan, title: str) -> Scores:
        """Measure the model as it is now."""
        return score(self.model, self.tokenizer, examples, plan, self.made_with(), title)

    def made_with(self) -> dict[str, Any]:
        """Return what rows scored now are made with: the model, and the adapter if one is on."""
        identity = self.identity
        model = {"name": identity.name, "revision": identity.commit, "weights_sha256": identity.weights_sha256}
        return {"model": model, "adapter": self.adapter if is_adapted(self.model) else None}

    def _peft_config(self, keys: Mapping[str, Any] | Any) -> Any:
        """Return the peft config for this model: its task, and the fresh modules that peft would not save by itself."""
        peft_type = TASKS.get(self.task).peft_type
        config = peft_config(keys, peft_type) if isinstance(keys, Mapping) else keys
        if config.task_type is None:
            config = replace(config, task_type=peft_type)
        beside = [name for name in self.fresh if not SAVED_BY_PEFT & set(name.split("."))]
        if beside and self.task == "sequence-classification":
            saved = [*(config.modules_to_save or []), *beside]
            config = replace(config, modules_to_save=list(dict.fromkeys(saved)))
        return config

    def parameters(self) -> dict[str, Any]:
        """Return trainable and total parameters and their ratio in per cent, as peft counts them."""
        count = count_parameters(self.model)
        return {"trainable": count.trainable, "total": count.total, "percent": count.percent}


def head_labels(model: Any) -> list[str]:
    """Return the class names of a classification head, in its order."""
    return [str(model.config.id2label[index]) for index in range(model.config.num_labels)]


def adapter_facts(folder: str | Path) -> dict[str, Any]:
    """Return what an adapter's folder says of itself: base (name or path), task and labels (both may be missing)."""
    config, lineage = read_adapter_config(folder), read_lineage(folder)
    tasks = {TASKS.get(name).peft_type: name for name in TASKS}
    base = lineage.get("base", {})
    return {
        "base": base.get("name") or config.get("base_model_name_or_path"),
        "revision": base.get("revision"),
        "task": lineage.get("task") or tasks.get(str(config.get("task_type"))),
        "labels": lineage.get("labels") or [],
        "conversations": lineage.get("conversations") is True,
    }


def _stock_identity(base: Any) -> ModelIdentity:
    path = getattr(base.config, "_name_or_path", "") or ""
    kind = "folder" if Path(path).is_dir() else "hub"
    return ModelIdentity(path or type(base).__name__, kind, path, getattr(base.config, "_commit_hash", None))  # type: ignore[arg-type]
