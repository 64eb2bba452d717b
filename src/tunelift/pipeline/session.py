"""A model in memory, with what is known of it: base and adapter from one load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tunelift.adapters.build import (
    ParameterCount,
    attach,
    built,
    count_parameters,
    is_adapted,
    peft_config,
    refuse_changes_of_base,
    switched_off,
)
from tunelift.adapters.loading import check_fits, check_goes_on, load_adapter, on_a_copy
from tunelift.adapters.methods import method_of
from tunelift.adapters.store import adapter_hash, check_name, read_adapter_config, save_adapter
from tunelift.adapters.targets import linear_targets
from tunelift.config.schema import ModelSection, TrainSection
from tunelift.core import progress
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example, Scores
from tunelift.data.render import RenderReport
from tunelift.evaluation.measures import Measure
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.run import score
from tunelift.model_facts.anatomy import base_of
from tunelift.model_facts.parameters import compute_dtype, dtype_name, samples
from tunelift.models import ModelIdentity
from tunelift.models import load as load_model
from tunelift.models.asked_with import tokenizer_beside
from tunelift.models.loader import check_padding
from tunelift.pipeline.folder import RunFolder
from tunelift.run_files.layout import ADAPTER_WEIGHTS
from tunelift.tasks import Task
from tunelift.tasks.base import Row
from tunelift.training import ranks
from tunelift.training.batches import steps_of

_known: WeakKeyDictionary[Any, tuple[ModelIdentity, tuple[str, ...], dict[int, str]]] = WeakKeyDictionary()
"""What we loaded, by the model object: its identity, which an adapter made from it names, its fresh modules, and some
numbers of its weights, by which a model is told that was changed since, as by merging an adapter."""


SAVED_BY_PEFT = {"classifier", "score"}
"""Heads that peft trains and saves whole by itself."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A saved adapter that was looked at: its hash, the tokenizer to ask it with, and what a user should know."""

    sha256: str
    tokenizer: Any
    notes: Sequence[str]


@dataclass(slots=True)
class Session:
    """One model: the base as it was loaded, or peft's own model around it once an adapter is on.

    `labels` are the classes of a head, `ranked` the labels that a causal model is trained to choose from.
    `conversations` says that the adapter is trained on them, and so is asked through the chat template. `training` are
    the rows and the steps, about, that a new adapter is made for.
    """

    model: Any
    tokenizer: Any
    identity: ModelIdentity
    task: Task
    labels: Sequence[str] = ()
    dtype_reason: str = ""
    fresh: Sequence[str] = ()
    conversations: bool = False
    adapter: dict[str, Any] | None = field(default=None)
    ranked: Sequence[str] = ()
    base_tokenizer: Any = None
    examined: Examined | None = None
    training: tuple[int, int] = (0, 0)
    _rendered: dict[Any, tuple[Sequence[Example], tuple[Sequence[Row], RenderReport]]] = field(default_factory=dict)
    _measured: list[Measure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.base_tokenizer = self.tokenizer

    @classmethod
    def open(
        cls, section: ModelSection, task: Task, labels: Sequence[str] = (), seed: int = 0, *, ordered: bool = False
    ) -> Session:
        """Load a model; `labels` give a classification head its classes, in the head's order where it is `ordered`.

        Raises InputError as `models.load` does.
        """
        head = list(labels) or None if task.has_head else None
        loaded = load_model(section, task=task, labels=head, ordered=ordered, seed=seed)
        _known[loaded.model] = (loaded.identity, loaded.fresh, samples(loaded.model))
        identity = loaded.identity
        about = f" ({identity.note})" if identity.note else ""
        dtype = dtype_name(loaded.dtype)
        progress.note(f"model: {identity.name}{about}, {dtype} on {loaded.device}: {loaded.dtype_reason}")
        labels = head_labels(loaded.model) if head else ()
        return cls(loaded.model, loaded.tokenizer, identity, task, labels, loaded.dtype_reason, loaded.fresh)

    @classmethod
    def of_run(cls, folder: RunFolder, task: Task, labels: Sequence[str], ranked: Sequence[str] = ()) -> Session:
        """Load a run's model: in the precision that the run was begun in, if it was; that is not measured again.

        `labels` are a head's classes; `ranked` those that a causal model chooses from, which its adapter's folder is to
        say. Of several processes the others take what the first one measured.
        """
        config, known = folder.config, folder.manifest
        dtype = known.get("dtype", config.model.dtype) if ranks.first() else ranks.of_first("")
        session = cls.open(config.model.model_copy(update={"dtype": dtype}), task, labels, config.train.seed)
        session.dtype_reason = known.get("dtype_reason", session.dtype_reason)
        session.ranked = () if task.has_head else ranked
        if ranks.first():
            ranks.of_first(dtype_name(compute_dtype(session.model)))
        return session

    @classmethod
    def of(cls, model: Any, tokenizer: Any, task: Task, labels: Sequence[str] = ()) -> Session:
        """Take a stock transformers or peft model that is in memory already."""
        base = base_of(model)
        if task.has_head:
            check_padding(base)
        identity, fresh = _identity(base)
        session = cls(model, tokenizer, identity, task, labels, fresh=fresh)
        session.adapter = {"source": "in memory"} if is_adapted(model) else None
        return session

    def rows(self, examples: Sequence[Example], max_length: int) -> tuple[Sequence[Row], RenderReport]:
        """Return examples as rows of at most so many tokens: made once, as long as the tokenizer is the same."""
        key = id(examples), id(self.tokenizer), str(getattr(self.tokenizer, "chat_template", "")), max_length
        if key not in self._rendered:
            made = self.task.rows(examples, self.tokenizer, max_length, self.labels)
            self._rendered[key] = examples, made  # held, so that no other list has its id
        return self._rendered[key][1]

    def will_train(self, rows: Sequence[Example], settings: TrainSection) -> None:
        """Know what a new adapter will be trained on: some methods make their settings of it."""
        self.training = len(rows), steps_of(len(rows), settings.batch_size, settings.epochs, settings.steps)

    def attach(self, keys: Mapping[str, Any] | Any, seed: int) -> None:
        """Put a new adapter on, from the adapter section's keys or a ready peft config, or go on from a saved one.

        One that is on already stays as it is.
        """
        if is_adapted(self.model):
            return
        if isinstance(keys, Mapping) and keys.get("start_from"):
            self.load_adapter(keys["start_from"], trainable=True)
        else:
            self.model = attach(self.model, self._peft_config(keys), seed)

    def check(self, keys: Mapping[str, Any] | Any) -> int:
        """Raise InputError for adapter settings that will not do, before anything is computed.

        What will do is put on a copy of the model whose weights have shapes only. Of an adapter that is on already its
        own settings are looked at. Returns the size in bytes of the parameters that are trained.
        """
        adapted = self.model
        if is_adapted(adapted):
            self._check_put_on()
        elif isinstance(keys, Mapping) and keys.get("start_from"):
            check_goes_on(keys["start_from"])
            self.examine(keys["start_from"])
            return (Path(keys["start_from"]) / ADAPTER_WEIGHTS).stat().st_size
        else:
            config = self._peft_config(keys)
            adapted = on_a_copy(adapted, lambda copy: attach(copy, deepcopy(config), seed=0))
        return sum(p.numel() * p.element_size() for p in adapted.parameters() if p.requires_grad)

    def count(self, keys: Mapping[str, Any]) -> ParameterCount:
        """Return how many numbers a new adapter would train; the model may have shapes only.

        Raises InputError as `check` does, NotImplementedError where the adapter is made of weights that are not there.
        """
        config = self._peft_config(keys)
        return count_parameters(on_a_copy(self.model, lambda copy: built(copy, deepcopy(config), seed=0)))

    def _check_put_on(self) -> None:
        """Refuse to train an adapter that cannot be saved whole; say where nobody can tell."""
        name = self.model.active_adapter
        check_name(name)
        kind = type(self.model.peft_config[name]).__name__
        refuse_changes_of_base(vars(self.model.peft_config[name]), "adapter")
        if not self.task.has_head:
            return
        moved = " ".join(name for name, parameter in self.model.named_parameters() if parameter.requires_grad)
        bare = [part for part in self._new() if f".{part}.modules_to_save." not in moved]
        bare = [part for part in bare if f".{part.partition('.')[0]}.modules_to_save." not in moved]
        if bare and base_of(self.model) in _known:
            raise InputError(
                f"The adapter does not train {listed(bare)}, which the model's files lack: it would be lost.",
                fix=f"{kind}(modules_to_save={bare!r}, ...), or give tune the model without an adapter.",
            )
        if bare:
            progress.note(f"adapter: {listed(bare)} are not saved with it, and must be in the base's files")

    def examine(self, folder: str | Path) -> Sequence[str]:
        """Look at a saved adapter before anything is computed, and say what a user should know of it.

        Raises InputError where it does not fit the model in every tensor. The tuned side is then asked as it was
        trained, with the tokenizer and the chat template beside the adapter. Returns what was said.
        """
        notes = check_fits(self.model, folder, self.identity.weights_sha256, self.identity.name, self.fresh)
        made_for = read_adapter_config(folder).get("task_type")
        if made_for is not None and made_for != self.task.peft_type:
            raise InputError(
                f"The adapter {folder} was made for {made_for}, and the task is {self.task.name}.",
                fix="Leave the task out: it is then the adapter's.",
            )
        asked_with, differs = tokenizer_beside(folder, self.model, self.base_tokenizer)
        self.examined = Examined(adapter_hash(folder), asked_with, (*notes, *differs))
        for note in self.examined.notes:
            progress.note(f"adapter: {note}")
        return self.examined.notes

    def load_adapter(self, folder: str | Path, *, trainable: bool = False) -> None:
        """Put a saved adapter on; raise InputError where it does not fit the model."""
        sha256 = adapter_hash(folder)
        if self.examined is None or self.examined.sha256 != sha256:
            self.examine(folder)
        self.model = load_adapter(self.model, folder, self.identity.weights_sha256, trainable=trainable)
        self.model.eval()
        if self.examined:
            self.tokenizer = self.examined.tokenizer
        self.adapter = {"source": str(folder), "sha256": sha256}

    @contextmanager
    def base(self) -> Iterator[None]:
        """Let the session be the base for a while: its adapter switched off, and asked as the base is."""
        tuned_with, self.tokenizer = self.tokenizer, self.base_tokenizer
        try:
            with switched_off(self.model):
                yield
        finally:
            self.tokenizer = tuned_with

    def save_adapter(self, folder: Path) -> Path:
        """Write the adapter, whole or not at all."""
        lineage = {
            "base": self.identity.to_dict(),
            "task": self.task.name,
            "labels": list(self.labels if self.task.has_head else self.ranked),
            **({"conversations": True} if self.conversations else {}),
        }
        save_adapter(self.model, self.tokenizer, folder, lineage)
        self.adapter = {"source": str(folder), "sha256": adapter_hash(folder)}
        return folder

    def score(self, examples: Sequence[Example], plan: Plan, title: str) -> Scores:
        """Measure the model as it is now; items that were measured before are not made into tokens again."""
        return score(self.model, self.tokenizer, examples, plan, self.made_with(), title, known=self._measured)

    def made_with(self) -> dict[str, Any]:
        """Return what rows scored now are made with: the model, and the adapter if one is on."""
        identity = self.identity.to_dict()
        model = {key: identity[key] for key in ("name", "revision", "weights_sha256")}
        return {"model": model, "adapter": self.adapter if is_adapted(self.model) else None}

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of the model."""
        dtype = dtype_name(compute_dtype(self.model))
        model, task = self.identity.to_dict(), self.task.name
        return {"model": model, "task": task, "dtype": dtype, "dtype_reason": self.dtype_reason}

    def _peft_config(self, keys: Mapping[str, Any] | Any) -> Any:
        """Return the peft config for this model: its task, and the fresh modules that peft would not save by itself."""
        peft_type = self.task.peft_type
        ready = not isinstance(keys, Mapping)
        config: Any = keys if ready else peft_config(keys, peft_type, self.model, *self.training)
        if config.task_type is None:
            config = replace(config, task_type=peft_type)
        if config.task_type != peft_type:
            raise InputError(
                f"The adapter's task_type is {config.task_type}, and the task is {self.task.name}.",
                fix=f'task_type="{peft_type}", or none: for another one peft would not save a new head.',
            )
        if self.task.has_head:
            _refuse_headless(config, self.task)
        beside = [name for name in self._new() if not SAVED_BY_PEFT & set(name.split("."))]
        if beside and self.task.has_head:
            saved = [*(config.modules_to_save or []), *beside]
            config = replace(config, modules_to_save=list(dict.fromkeys(saved)))
        every = getattr(config, "target_modules", None) == "all-linear"
        if every and (named := linear_targets(self.model, peft_type)):
            config = replace(config, target_modules=named[0])
            progress.note_once(f"adapter: {named[1]}")
        return config

    def _new(self) -> Sequence[str]:
        """Return the modules of a classifier that its files lack, or may lack where others loaded it."""
        base = base_of(self.model)
        return self.fresh if base in _known else _may_be_new(base)


def _refuse_headless(config: Any, task: Task) -> None:
    """Raise InputError for a method that cannot be used with a head."""
    method, reason = method_of(config), ""
    if "modules_to_save" not in vars(config):
        reason = "peft saves no head with it"
    elif method.virtual_tokens:
        reason = "peft cannot switch it off under a head"
    if reason:
        raise InputError(
            f"adapter: {method.title or method.peft_type} does not go with the task {task.name}: {reason}.",
            fix="Take another method.",
        )


def head_labels(model: Any) -> list[str]:
    """Return the class names of a classification head, in its order."""
    return [str(model.config.id2label[index]) for index in range(model.config.num_labels)]


def _identity(base: Any) -> tuple[ModelIdentity, Sequence[str]]:
    """Return what a model in memory is, and its fresh modules; one that was changed has no hash of a file any more."""
    if base not in _known:
        return _stock_identity(base), ()
    identity, fresh, some = _known[base]
    now = samples(base)
    if any(now.get(key) != numbers for key, numbers in some.items()):
        progress.note(f"{identity.name} was changed since it was loaded, as by merging an adapter: it has no hash")
        identity = replace(identity, name=f"{identity.name}, changed", weights_sha256=None)
    return identity, fresh


def _may_be_new(base: Any) -> tuple[str, ...]:
    """Return the modules of a classifier that its files may have lacked: those outside of the body, and its pooler.

    Nobody can tell of a model that others loaded; a part that was drawn at random is lost if it is not saved.
    """
    owners = {name.rpartition(".")[0] for name, _ in base.named_parameters()}
    body = f"{base.base_model_prefix}."
    return tuple(sorted(name for name in owners if not f"{name}.".startswith(body) or "pooler" in name.split(".")))


def _stock_identity(base: Any) -> ModelIdentity:
    path = getattr(base.config, "_name_or_path", "") or ""
    kind = "folder" if Path(path).is_dir() else "hub"
    return ModelIdentity(path or type(base).__name__, kind, path, getattr(base.config, "_commit_hash", None))  # type: ignore[arg-type]
