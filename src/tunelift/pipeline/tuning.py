"""An adapter put on, trained, saved and proved, with all that a run folder keeps of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunelift.adapters.build import count_parameters, is_adapted
from tunelift.config.schema import AdapterSection, EvaluateSection, TrainSection
from tunelift.core import files, progress, provenance
from tunelift.data.splits import Splits
from tunelift.model_facts.anatomy import context_length
from tunelift.pipeline.choices import check_preferences, evaluation_plan, method_name
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.proofs import ProofFailed, likelihoods, prove, rows_to_prove_on
from tunelift.pipeline.replaying import Replay, check_replay, mixed, replayed
from tunelift.pipeline.session import Session
from tunelift.pipeline.tracking import settings_of, tracked
from tunelift.run_files.layout import RunPaths
from tunelift.training import ranks
from tunelift.training.again import refuse_again
from tunelift.training.checkpoint import check_space
from tunelift.training.events import EventLog
from tunelift.training.loop import Listener
from tunelift.training.optimisers import refuse_optimiser
from tunelift.training.run import Trained, check_settings, train
from tunelift.training.state import Footprint, check_memory

ROW_BYTES, LABEL_BYTES = 700, 30
"""Of a row of scores.jsonl, beside its texts, and of one label's score: about, and rather too much."""
RENDERING = ("rows", "truncated", "dropped", "tokens", "tokens_in_loss", "notes")
"""What the manifest says of the rows' way into tokens."""


KEPT_OF_TRAINING = ("data", "adapter", "train", "fast_paths", "proofs", "happened")
"""What the manifest of a training says that stays true in the run that takes it over."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A training that is complete, chosen on validation among others: its folder, and how many there were."""

    paths: RunPaths
    among: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Chosen:
        """Read the file that `write` made."""
        found = files.read_object(path)
        return cls(RunPaths(os.path.normpath(path.parent / found["folder"])), found["among"])

    def write(self, path: Path) -> None:
        """Write it down for a process of its own; the folder as it is from there, so that both may be moved."""
        folder = os.path.relpath(self.paths.folder, path.parent)
        files.write_json(path, {"folder": folder, "among": dict(self.among)})

    def dtype(self) -> dict[str, Any]:
        """Return the base's precision and why, so that it is measured in that of the training."""
        manifest = files.read_manifest(self.paths.manifest)
        return {key: manifest[key] for key in ("dtype", "dtype_reason")}


def adopt(folder: RunFolder, chosen: Chosen | None) -> None:
    """Take over a training that was chosen: what it made, its events, and what its manifest says of it."""
    if chosen is None or folder.proved:
        return
    manifest = files.read_manifest(chosen.paths.manifest)
    made = folder.path / chosen.paths.made.name
    shutil.copytree(chosen.paths.made, made, dirs_exist_ok=True)
    shutil.copyfile(chosen.paths.events, folder.paths.events)
    folder.note(chosen_among=dict(chosen.among), **{k: manifest[k] for k in KEPT_OF_TRAINING if k in manifest})
    folder.took("train", manifest["seconds"].get("train", 0.0))


def check_training(
    folder: RunFolder,
    session: Session,
    splits: Splits,
    settings: TrainSection,
    adapter: AdapterSection,
    *,
    anyway: bool = False,
) -> Footprint:
    """Return what the training takes; raise InputError for settings and rows that none can begin with.

    With `anyway` memory is not looked at. Raises TuneliftError where the disk has no room for what is left of the run.
    Rows of scores are guessed: the item's texts, a number for each label, and what stands around them.
    """
    check_settings(session.model, session.task, settings)
    refuse_optimiser(settings.optimizer, None if adapter.start_from else adapter.method)
    refuse_again(session.model, settings.gradient_checkpointing)
    check_replay(session.task, settings)
    check_preferences(folder.config.preferences, session.task)
    session.will_train(splits.train, settings)
    footprint = session.check(adapter.model_dump())
    if not anyway:
        check_memory(session.model, footprint)
    max_length = min(settings.max_length, context_length(session.model, session.tokenizer))
    session.rows(splits.train, max_length)
    around = ROW_BYTES + sum(len(label) + LABEL_BYTES for label in session.labels or session.ranked)
    rows = sum(len(example.prompt) + 2 * len(example.completion) + around for example in splits.test)
    seeds = max(1, len(settings.seeds))
    to_save = 0 if folder.proved else seeds * footprint.saved
    checkpoint = 0 if folder.proved else footprint.checkpoint
    check_space(folder.paths.checkpoints, checkpoint, {"adapter": to_save, "scores": (1 + seeds) * rows})
    return footprint


def tune(folder: RunFolder, session: Session, splits: Splits, settings: TrainSection, adapter: AdapterSection) -> None:
    """Put an adapter on, train it, save it, and prove that what was saved is what was trained.

    One that was proved before it was cut off is put on as it is. Of several processes the first alone does what comes
    after the training.
    """
    if folder.proved:
        session.load_adapter(folder.paths.made)
        return
    keys, some = adapter.model_dump(), rows_to_prove_on(session.task.to_prove(splits.train))
    before = likelihoods(session, some, settings.max_length)
    replay = replayed(session, splits, settings, folder.config.evaluate, folder.paths.replay)
    session.will_train(splits.train, settings)
    put_on(session, splits, settings, keys)
    count = count_parameters(session.model)
    progress.note(str(count))
    config = folder.config
    with tracked(folder.path, config.track if ranks.first() else [], settings_of(config)) as told:
        trained = train_in(
            folder.paths, session, splits, settings, config.evaluate, partial(_noted, folder), told, replay=replay
        )
    if not ranks.first():
        return
    folder.took("train", trained.fit.seconds)
    folder.note(
        data=splits.report.to_dict() | {"rendering": {name: getattr(trained.rows, name) for name in RENDERING}},
        adapter={
            "method": method_name(adapter), "trainable": count.trainable, "total": count.total,
            "percent": count.percent, "config": {k: v for k, v in keys.items() if k != "method"},
            **(session.adapter or {}),
        },
        train=trained.to_dict() | {"peak_bytes": provenance.peak_bytes()} | replay.noted(),
        fast_paths=trained.fast_paths,
    )  # fmt: skip
    try:
        folder.note(proofs=[*trained.proofs, *prove(session, folder.paths.made, some, before, settings.max_length)])
    except ProofFailed as failure:
        folder.note(proofs=[*trained.proofs, *failure.proofs])
        folder.remove_checkpoints()
        raise


def put_on(session: Session, splits: Splits, settings: TrainSection, keys: Any) -> None:
    """Put the adapter on, after the model has said of the rows what the task compares with, where it does so.

    That is what the training starts from: the base as it is, or with the adapter that is gone on from.
    """
    goes_on = is_adapted(session.model) or (isinstance(keys, Mapping) and bool(keys.get("start_from")))
    is_base = not goes_on or session.task.from_base
    if not goes_on:
        session.refer(splits, settings, is_base=True)
    session.attach(keys, settings.seed)
    with session.base() if is_base else nullcontext():
        session.refer(splits, settings, is_base=is_base)  # of rows that are cut otherwise with the adapter on


def train_in(
    paths: RunPaths,
    session: Session,
    splits: Splits,
    settings: TrainSection,
    evaluate: EvaluateSection,
    *listeners: Listener,
    replay: Replay,
) -> Trained:
    """Train the adapter that is on, with what is replayed, with events and checkpoints in a folder; save it there.

    A training that was cut off goes on.
    """
    session.conversations = any(example.conversation for example in splits.train)
    with closing(EventLog(paths.events)) if ranks.first() else nullcontext() as events:
        trained = train(
            session.model, session.tokenizer, session.task,
            {"train": splits.train, "validation": splits.validation}, settings, labels=session.labels,
            listeners=[events, *listeners] if events else listeners, checkpoints=paths.checkpoints,
            render=partial(mixed, session, splits, replay),
        )  # fmt: skip
    if ranks.first():
        plan = evaluation_plan(evaluate, [], session.task, session.labels, settings.max_length)
        session.choose_threshold(splits.validation, plan, "tuned on validation")
        session.save_adapter(paths.model if session.whole else paths.adapter)
    return trained


def _noted(folder: RunFolder, event: str, **figures: Any) -> None:
    """Write into the manifest what went wrong in a training, and what was done about it."""
    if event == "fault":
        folder.happened(f"step {figures['step']}: {figures['what']}", figures["done"])
    elif event == "resumed":
        folder.happened("training began again", f"it went on after step {figures['step']}")
