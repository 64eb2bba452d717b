"""Training in one screen: rows, steps, loss, loop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from tunelift.config.schema import TrainSection
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.fast.targets import IGNORED
from tunelift.fast.unpad import sped_up
from tunelift.tasks.base import Batch, Loss, Row, RowReport, Task, context_length, pad_id
from tunelift.training.batches import Sizes, Step, micro_batches, plan_steps, sizes
from tunelift.training.checkpoint import Checkpoints
from tunelift.training.events import ProgressBar
from tunelift.training.loop import Fit, Listener, Settings, fit


@dataclass(slots=True)
class Trained:
    """What a training did: the loop's account, what became of the rows, and the fast paths taken."""

    fit: Fit
    rows: RowReport
    fast_paths: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of the manifest: steps, rows, tokens (non-padding), seconds, best step, why it ended."""
        figures = asdict(self.fit)
        losses = figures.pop("losses")
        return figures | {"first_loss": losses[0], "last_loss": losses[-1]}


SOME_TOKENS = 1024
"""Tokens of rows that tell what to expect."""


def train(
    model: Any,
    tokenizer: Any,
    task: Task,
    examples: Mapping[str, Sequence[Example]],
    settings: TrainSection,
    *,
    labels: Sequence[str] = (),
    listeners: Sequence[Listener] = (),
    checkpoints: Path | None = None,
) -> Trained:
    """Train the adapter of a PEFT model in place on `examples["train"]`, selecting on `examples["validation"]` if any.

    With `checkpoints`, a folder, the state is kept there, and a training that was cut off goes on from it. Raises
    InputError where nothing is trainable, no row is left, or the checkpoints are of another training.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            "The model has no trainable parameter.", fix="Put an adapter on it with peft's get_peft_model."
        )
    max_length = min(settings.max_length, context_length(model, tokenizer))
    rows, report = task.rows(examples["train"], tokenizer, max_length, labels)
    _say(report, "training", max_length)
    pad = pad_id(model, tokenizer)
    loss, fast_paths = task.loss(model, task.collate(_some(rows), pad, model.device))
    packs = fast_paths.get("packing") == "on"
    costs = _sizes(rows, packs)

    def plan(tokens: int) -> list[Step]:
        return plan_steps(costs, settings.batch_size, settings.epochs, settings.steps, settings.seed, tokens)

    def collate(some: Sequence[Row]) -> Batch:
        batch = task.collate(some, pad, model.device)
        return replace(batch, tokens=batch.tokens - costs.shared * (batch.rows - 1))  # shared tokens count once

    batches = _Batches(plan, settings.micro_batch_tokens, rows, collate)
    validate = None
    if examples.get("validation"):
        held_out, held_out_report = task.rows(examples["validation"], tokenizer, max_length, labels)
        _say(held_out_report, "validation", max_length)
        validate = _validation(held_out, _sizes(held_out, packs), loss, batches)
    torch.manual_seed(settings.seed)
    per_epoch = -(-len(rows) // settings.batch_size)
    loop = _loop_settings(settings, per_epoch)
    store = _store(checkpoints, model, settings, rows, fast_paths) if checkpoints else None
    with progress.bar("train", len(batches)) as advance, sped_up(model) as layers:
        fast_paths |= layers
        _say_slow(fast_paths)
        told = [ProgressBar(advance), *listeners]
        done = fit(model, batches, loss, loop, told, validate, store=store, budget=batches)
    return Trained(done, report, fast_paths)


def _some(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the first rows, one at least, of about as many tokens as are computed at once."""
    count = sum(total < SOME_TOKENS for total in accumulate(len(row.ids) for row in rows))
    return rows[: max(count, 1)]


class _Batches(Sequence[Iterator[Batch]]):
    """The steps of a plan, made into tensors when their turn comes; micro-batches have at most `tokens` tokens."""

    def __init__(
        self,
        plan: Callable[[int], list[Step]],
        tokens: int,
        rows: Sequence[Row],
        collate: Callable[[Sequence[Row]], Batch],
    ) -> None:
        self.plan, self.rows, self.collate = plan, rows, collate
        self.tokens = tokens

    @property
    def tokens(self) -> int:
        return self._tokens

    @tokens.setter
    def tokens(self, tokens: int) -> None:
        self._tokens, self.steps = tokens, self.plan(tokens)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: Any) -> Any:
        return (self.collate([self.rows[i] for i in group]) for group in self.steps[index])


def _sizes(rows: Sequence[Row], packs: bool) -> Sizes:
    """Return what each row costs; only rows with a label for each token pack."""
    labels = [row.labels for row in rows if not isinstance(row.labels, int)] if packs else []
    firsts = [next((at for at, label in enumerate(own) if label != IGNORED), len(own)) for own in labels]
    return sizes([row.ids for row in rows], firsts, packs)


def _validation(rows: Sequence[Row], costs: Sizes, loss: Loss, batches: _Batches) -> Callable[[], float]:
    """Return the function that gives the mean loss per target over the validation rows, in nats."""

    def validate() -> float:
        total, targets = 0.0, 0
        with torch.no_grad():
            for group in micro_batches(range(len(rows)), costs, batches.tokens):
                batch = batches.collate([rows[i] for i in group])
                total += float(loss(batch))
                targets += batch.targets
        return total / targets

    return validate


def _store(
    folder: Path, model: Any, settings: TrainSection, rows: Sequence[Row], fast_paths: Mapping[str, str]
) -> Checkpoints:
    """Return the checkpoints of this very training; raise TuneliftError where the disk has no room for them."""
    trained = [(name, list(p.shape), str(p.dtype)) for name, p in model.named_parameters() if p.requires_grad]
    facts = [settings.model_dump(exclude={"save_every"}), trained, [(list(row.ids), row.labels) for row in rows]]
    made_for = hashlib.sha256(json.dumps(facts, default=list).encode()).hexdigest()
    store = Checkpoints(folder, settings.save_every, made_for, fast_paths)
    store.check_space(sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad))
    return store


def _loop_settings(settings: TrainSection, steps_per_epoch: int) -> Settings:
    return Settings(
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        evaluate_every=settings.evaluate_every or max(1, -(-steps_per_epoch // 2)),
        patience=settings.patience,
    )


def _say_slow(fast_paths: Mapping[str, str]) -> None:
    for name, state in fast_paths.items():
        if state.startswith("off"):
            progress.note(f"fast: {name.replace('_', ' ')} is {state}")


def _say(report: RowReport, role: str, max_length: int) -> None:
    if report.truncated:
        progress.note(f"{report.truncated} of {report.rows} {role} rows were cut to {max_length} tokens.")
    for reason, count in report.reasons.items():
        progress.note(f"{count} of {report.rows} {role} rows were dropped: {reason}.")
