"""A model in memory, with what is known of it: base and adapter from one load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from safetensors import safe_open

from tunelift.adapters.build import (
    ParameterCount,
    attach,
    built,
    count_parameters,
    is_adapted,
    switched_off,
)
from tunelift.adapters.from_rows import Given
from tunelift.adapters.loading import check_base, check_fits, check_goes_on, load_adapter, on_a_copy
from tunelift.adapters.new_tokens import NewTokens, grown_to
from tunelift.adapters.store import read_adapter_config, read_lineage, save_adapter, vocabulary_of
from tunelift.config.schema import ModelSection, TrainSection
from tunelift.core import progress
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example, Scores
from tunelift.data.render import RenderReport
from tunelift.data.splits import Splits
from tunelift.evaluation.measures import Measure
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.references import with_reference
from tunelift.evaluation.run import score
from tunelift.metrics import resolve
from tunelift.model_facts.anatomy import base_of, context_length
from tunelift.model_facts.parameters import compute_dtype, dtype_name
from tunelift.models import ModelIdentity, is_model
from tunelift.models import load as load_model
from tunelift.models.asked_with import tokenizer_beside
from tunelift.models.loader import check_padding
from tunelift.models.saving import save_model
from tunelift.pipeline.adapter_config import check_put_on, config_for, given_to, tokens_for
from tunelift.pipeline.causality import check_reads_forward
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.known import Examined, identity_of, is_known, new_modules, remember
from tunelift.pipeline.sharing import rendered
from tunelift.pipeline.whole import (
    asks_for_whole,
    check_same_kind,
    check_trainable,
    loaded_again,
    saved_model,
    tuned_hash,
)
from tunelift.run_files.layout import ADAPTER_WEIGHTS
from tunelift.tasks import TASKS, Task
from tunelift.tasks.base import Row
from tunelift.training import ranks
from tunelift.training.batches import steps_of
from tunelift.training.state import Footprint

_thresholds: WeakKeyDictionary[Any, float | None] = WeakKeyDictionary()
"""By the model, peft's or one tuned whole: the threshold that was chosen for it."""


@dataclass(slots=True)
class Session:
    """One model: the base as it was loaded, or peft's own model around it once an adapter is on.

    `labels` are the classes of a head, `ranked` the labels that a causal model is trained to choose from.
    `conversations` says that the adapter is trained on them, and so is asked through the chat template. `training` are
    the rows and the steps, about, that a new adapter is made for, and `learned` those rows, cut where they are
    `longest`. Where the task has a `threshold`, it is that of the model as it is; the base has its own. Of a `whole`
    session it is the model's own weights that are tuned: `again` gives the base once more, from its files where it was
    loaded from some. `adapter` says where lies what was tuned, whichever it is.
    """

    model: Any
    tokenizer: Any
    identity: ModelIdentity
    task: Task
    labels: Sequence[str] = ()
    dtype_reason: str = ""
    fresh: Sequence[str] = ()
    conversations: bool = False
    whole: bool = False
    again: Callable[[], Any] | None = None
    adapter: dict[str, Any] | None = field(default=None)
    ranked: Sequence[str] = ()
    base_tokenizer: Any = None
    examined: Examined | None = None
    training: tuple[int, int] = (0, 0)
    learned: Sequence[Example] = ()
    longest: int = 0
    optimiser: str = "adamw"
    threshold: float | None = None
    base_threshold: float | None = None
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
        remember(loaded.model, loaded.identity, loaded.fresh)
        identity = loaded.identity
        about = f" ({identity.note})" if identity.note else ""
        about += f", linear layers in {identity.quantization}" if identity.quantization else ""
        dtype = dtype_name(loaded.dtype)
        progress.note(f"model: {identity.name}{about}, {dtype} on {loaded.device}: {loaded.dtype_reason}")
        labels = head_labels(loaded.model) if head else ()
        if task.next_token:
            check_reads_forward(loaded.model)
        session = cls(loaded.model, loaded.tokenizer, identity, task, labels, loaded.dtype_reason, loaded.fresh)
        same = section.model_copy(update={"dtype": dtype, "device": str(loaded.device)})
        if task.threshold and is_model(Path(section.name)):  # one that was tuned whole says its own
            session.threshold = session.base_threshold = read_lineage(section.name).get("threshold")
            _thresholds[loaded.model] = session.threshold
        session.again = partial(loaded_again, same, task=task, labels=head, ordered=ordered, seed=seed)
        return session

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
        if task.has_head and task.reader == "AutoTokenizer":
            check_padding(base)
        if task.next_token:
            check_reads_forward(base)
        identity, fresh = identity_of(base)
        session = cls(model, tokenizer, identity, task, labels, fresh=fresh)
        session.adapter = {"source": "in memory"} if is_adapted(model) else None
        session.threshold = _thresholds.get(model)
        return session

    def rows(self, examples: Sequence[Example], max_length: int) -> tuple[Sequence[Row], RenderReport]:
        """Return examples as rows of at most so many tokens: made once, as long as the tokenizer is the same."""
        key = self._key(examples, max_length)
        if key not in self._rendered:
            made = rendered(self.task, examples, self.tokenizer, max_length, self.labels)
            self._rendered[key] = examples, made  # held, so that no other list has its id
        return self._rendered[key][1]

    def _key(self, examples: Sequence[Example], max_length: int) -> Any:
        return id(examples), id(self.tokenizer), str(getattr(self.tokenizer, "chat_template", "")), max_length

    def refer(self, splits: Splits, settings: TrainSection, *, is_base: bool) -> None:
        """Let rows of training and validation, cut as now, know what the model says of them, if the task asks that."""
        if not self.task.exact:
            return
        max_length = min(settings.max_length, context_length(self.model, self.tokenizer))
        for examples in filter(None, (splits.train, splits.validation)):
            rows, report = self.rows(examples, max_length)
            plan = Plan([], task=self.task, max_length=max_length, cache=True)
            rows = with_reference(self.model, rows, plan, self.made_with(), self.tokenizer, is_base=is_base)
            self._rendered[self._key(examples, max_length)] = examples, (rows, report)

    def will_train(self, rows: Sequence[Example], settings: TrainSection) -> None:
        """Know what a new adapter will be trained on: some methods make settings of it, and some heads begin by it."""
        self.learned = rows
        self.task.check(self.model, rows, self.labels)
        count = len(rows) + settings.rows_to_replay(len(rows))
        self.training = count, steps_of(count, settings.batch_size, settings.epochs, settings.steps)
        self.longest, self.optimiser = settings.max_length, settings.optimizer

    def attach(self, keys: Mapping[str, Any] | Any, seed: int) -> None:
        """Put a new adapter on, from the adapter section's keys or a ready peft config, or go on from a saved one.

        One that is on already stays as it is.
        """
        if is_adapted(self.model):
            return
        fresh = self.fresh if is_known(self.model) else ()
        if asks_for_whole(keys):
            self._begin_whole()
            self.task.begin(self.model, self.learned, self.labels, fresh)
        elif isinstance(keys, Mapping) and keys.get("start_from"):
            self.load_adapter(keys["start_from"], trainable=True)
        else:
            tokens = self._tokens(keys)
            config = self._peft_config(keys, tokens)
            if tokens:
                self.tokenizer, self.model = tokens.tokenizer, tokens.grow(self.model)
            self.model = attach(self.model, config, seed, self._given(), tokens.begin if tokens else None)
            self.task.begin(self.model, self.learned, self.labels, fresh)

    def _begin_whole(self) -> None:
        """Let the model's own weights be those that are tuned; the base of a model in memory is kept as a copy."""
        if self.again is None:
            kept = deepcopy(self.model)
            self.again = lambda: kept
        self.whole, self.adapter = True, {"source": "in memory"}

    def check(self, keys: Mapping[str, Any] | Any) -> Footprint:
        """Raise InputError for adapter settings that will not do, before anything is computed.

        What will do is put on a copy of the model whose weights have shapes only. Of an adapter that is on already its
        own settings are looked at. Returns what the training takes.
        """
        adapted = self.model
        if is_adapted(adapted):
            check_put_on(adapted, self.task, self._new())
        elif asks_for_whole(keys):
            return check_trainable(self.model, keys, self.optimiser)
        elif isinstance(keys, Mapping) and keys.get("start_from"):
            check_goes_on(keys["start_from"])
            self.examine(keys["start_from"])
            with safe_open(Path(keys["start_from"]) / ADAPTER_WEIGHTS, "pt") as weights:
                tensors = (weights.get_tensor(key) for key in weights.keys())  # noqa: SIM118  it is no mapping
                return Footprint.of(tensors, optimiser=self.optimiser)
        else:
            tokens = self._tokens(keys)
            config = self._peft_config(keys, tokens)
            adapted = on_a_copy(adapted, lambda c: attach(tokens.grow(c) if tokens else c, deepcopy(config), seed=0))
        return Footprint.of((p for p in adapted.parameters() if p.requires_grad), optimiser=self.optimiser)

    def count(self, keys: Mapping[str, Any]) -> ParameterCount:
        """Return how many numbers a new adapter would train; the model may have shapes only.

        Raises InputError as `check` does, NotImplementedError where the adapter is made of weights that are not there.
        """
        config = self._peft_config(keys)
        return count_parameters(on_a_copy(self.model, lambda copy: built(copy, deepcopy(config), seed=0)))

    def examine(self, folder: str | Path) -> Sequence[str]:
        """Look at a saved adapter before anything is computed, and say what a user should know of it.

        Raises InputError where it does not fit the model in every tensor. The tuned side is then asked as it was
        trained, with the tokenizer and the chat template beside the adapter. Returns what was said.
        """
        lineage = read_lineage(folder)
        told = str(lineage.get("task"))
        another = told in TASKS and TASKS.get(told).learns != self.task.learns
        whole, made_for = is_model(Path(folder)), self.task.peft_type
        if not whole:
            made_for = read_adapter_config(folder).get("task_type") or made_for
        if another or made_for != self.task.peft_type:
            raise InputError(
                f"The adapter {folder} was made for {told if another else made_for}, and the task is {self.task.name}.",
                fix="Leave the task out: it is then the adapter's.",
            )
        notes = list[str]()
        if whole:
            check_base(folder, self.identity.weights_sha256)
            check_same_kind(folder, self.model, self.task)
        else:
            notes += check_fits(self.model, folder, self.identity.weights_sha256, self.identity.name, self.fresh)
        own, theirs = list(self.labels), lineage.get("labels") or []
        if self.task.has_head and own != theirs and sorted(own) == sorted(map(str, theirs)):
            raise InputError(
                f"The outputs of {folder} are {listed(theirs)}, in this order, and are given as {listed(own)}.",
                fix="Leave the labels out: the folder says what they are.",
            )
        grows_to = 0 if whole else vocabulary_of(folder)
        asked_with, differs = tokenizer_beside(folder, self.model, self.base_tokenizer, grows_to)
        held = lineage.get("base", {}).get("quantization"), self.identity.quantization
        if held[0] != held[1]:
            first, second = (f"in {kind}" if kind else "as its file has it" for kind in held)
            notes.append(f"it was trained on a base held {first}, which is held {second} here")
        self.examined = Examined(tuned_hash(folder), asked_with, (*notes, *differs))
        for note in self.examined.notes:
            progress.note(f"adapter: {note}")
        return self.examined.notes

    def load_adapter(self, folder: str | Path, *, trainable: bool = False) -> None:
        """Put a saved adapter on, or take the model in `folder` in the base's place, whose weights were tuned whole.

        Raises InputError where it does not fit the model.
        """
        sha256 = tuned_hash(folder)
        if self.examined is None or self.examined.sha256 != sha256:
            self.examine(folder)
        if is_model(Path(folder)):
            self._begin_whole()
            self.model = saved_model(folder, self.model, self.task)
            self._measured = [known.on(self.model, known.title) for known in self._measured]  # which hold the base
        else:
            self.model = load_adapter(self.model, folder, self.identity.weights_sha256, trainable=trainable)
        self.model.eval()
        self.threshold = _thresholds[self.model] = read_lineage(folder).get("threshold")
        if self.examined:
            self.tokenizer = self.examined.tokenizer
        self.adapter = {"source": str(folder), "sha256": sha256}

    @contextmanager
    def base(self) -> Iterator[None]:
        """Let the session be the base for a while: its adapter switched off, and asked as the base is."""
        tuned = self.tokenizer, self.threshold
        self.tokenizer, self.threshold = self.base_tokenizer, self.base_threshold
        try:
            with self.instead(self.again()) if self.whole and self.again else switched_off(self.model):
                yield
        finally:
            self.tokenizer, self.threshold = tuned

    @contextmanager
    def instead(self, model: Any) -> Iterator[None]:
        """Let another model stand in the place of the session's for a while: the base, or one read back from disk."""
        own = self.model, self.whole, self.adapter
        self.model, self.whole, self.adapter = model, False, None
        try:
            yield
        finally:
            self.model, self.whole, self.adapter = own

    def save_adapter(self, folder: Path) -> Path:
        """Write the adapter, or the model whose own weights were tuned, whole or not at all."""
        lineage = {
            "base": self.identity.to_dict(),
            "task": self.task.name,
            "labels": list(self.labels if self.task.has_head else self.ranked),
            **({"conversations": True} if self.conversations else {}),
            **({"vocabulary": rows} if (rows := grown_to(self.model)) else {}),
            **({} if self.threshold is None else {"threshold": self.threshold}),
        }
        save = save_model if self.whole else save_adapter
        save(self.model, self.tokenizer, folder, lineage)
        self.adapter = {"source": str(folder), "sha256": tuned_hash(folder)}
        return folder

    def score(self, examples: Sequence[Example], plan: Plan, title: str) -> Scores:
        """Measure the model as it is now; items that were measured before are not made into tokens again."""
        plan = replace(plan, threshold=self.threshold)
        found = score(self.model, self.tokenizer, examples, plan, self.made_with(), title, known=self._measured)
        if self.tokenizer is not self.base_tokenizer:  # the items' texts are the base's, and the tokens need not be
            found.info["made_with"]["prompt"] = None
        return found

    def choose_threshold(self, validation: Sequence[Example], plan: Plan, title: str) -> None:
        """Choose the threshold of the model as it is now, on validation rows, if any, measured as in `plan`."""
        how = self.task.threshold
        if how is None or not validation or not how.arises(validation):
            return
        plan = replace(plan, metrics=resolve(how.metrics), task=self.task, labels=self.labels, slices=(), cache=True)
        self.threshold = how.best(self.score(validation, plan, title).rows)
        if self.whole or is_adapted(self.model):
            _thresholds[self.model] = self.threshold
        else:
            self.base_threshold = self.threshold
        if self.threshold is not None:
            progress.note(f"{title}: {how.said.format(f'{self.threshold:.3g}')}, chosen on validation")

    def made_with(self) -> dict[str, Any]:
        """Return what rows scored now are made with: the model, and the adapter if one is on."""
        identity = self.identity.to_dict()
        model = {key: identity[key] for key in ("name", "revision", "weights_sha256")}
        model |= {"quantization": identity["quantization"]} if identity["quantization"] else {}
        return {"model": model, "adapter": self.adapter if self.whole or is_adapted(self.model) else None}

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of the model."""
        dtype = dtype_name(compute_dtype(self.model))
        model, task = self.identity.to_dict(), self.task.name
        return {"model": model, "task": task, "dtype": dtype, "dtype_reason": self.dtype_reason}

    def _peft_config(self, keys: Mapping[str, Any] | Any, tokens: NewTokens | None = None) -> Any:
        return config_for(keys, self.model, self.task, self.training, self._new(), tokens)

    def _tokens(self, keys: Mapping[str, Any] | Any) -> NewTokens | None:
        return tokens_for(keys, self.model, self.tokenizer, self.task)

    def _given(self) -> Given | None:
        return given_to(self.model, self.tokenizer, self.task, self.rows, self.learned, self.longest)

    def _new(self) -> Sequence[str]:
        return new_modules(base_of(self.model), self.fresh)


def head_labels(model: Any) -> list[str]:
    """Return the class names of a classification head, in its order."""
    return [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
