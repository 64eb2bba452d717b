"""Training in one screen: rows, steps, loss, loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tunelift.config.schema import TrainSection
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.fast.lora import fused_lora
from tunelift.tasks.base import Batch, Loss, Row, RowReport, Task, context_length, pad_id
from tunelift.training.batches import Step, micro_batches, plan_steps
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


def train(
    model: Any,
    tokenizer: Any,
    task: Task,
    examples: Mapping[str, Sequence[Example]],
    settings: TrainSection,
    *,
    labels: Sequence[str] = (),
    listeners: Sequence[Listener] = (),
) -> Trained:
    """Train the adapter of a PEFT model in place on `examples["train"]`, selecting on `examples["validation"]` if any.

    Raises InputError where nothing is trainable or no row is left.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            "The model has no trainable parameter.", fix="Put an adapter on it with peft's get_peft_model."
        )
    max_length = min(settings.max_length, context_length(model, tokenizer))
    rows, report = task.rows(examples["train"], tokenizer, max_length, labels)
    _say(report, "training", max_length)
    lengths = [len(row.ids) for row in rows]
    plan = plan_steps(
        lengths, settings.batch_size, settings.epochs, settings.steps, settings.seed, settings.micro_batch_tokens
    )
    loss, fast_paths = task.loss(model)
    pad = pad_id(model, tokenizer)
    batches = _Batches(plan, rows, lambda some: task.collate(some, pad, model.device))
    validate = None
    if examples.get("validation"):
        held_out, held_out_report = task.rows(examples["validation"], tokenizer, max_length, labels)
        _say(held_out_report, "validation", max_length)
        validate = _validation(held_out, loss, batches.collate, settings.micro_batch_tokens)
    torch.manual_seed(settings.seed)
    per_epoch = -(-len(rows) // settings.batch_size)
    loop = _loop_settings(settings, per_epoch)
    with progress.bar("train", len(plan)) as advance, fused_lora(model) as fast_paths["fused_lora"]:
        done = fit(model, batches, loss, loop, [ProgressBar(advance), *listeners], validate)
    return Trained(done, report, fast_paths)


class _Batches(Sequence[Iterator[Batch]]):
    """The steps of a plan, made into tensors when their turn comes."""

    def __init__(self, plan: Sequence[Step], rows: Sequence[Row], collate: Callable[[list[Row]], Batch]) -> None:
        self.plan, self.rows, self.collate = plan, rows, collate

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: Any) -> Any:
        return (self.collate([self.rows[i] for i in group]) for group in self.plan[index])


def _validation(
    rows: Sequence[Row], loss: Loss, collate: Callable[[list[Row]], Batch], tokens: int
) -> Callable[[], float]:
    """Return the function that gives the mean loss per target over the validation rows, in nats."""
    groups = micro_batches(range(len(rows)), [len(row.ids) for row in rows], tokens)

    def validate() -> float:
        total, targets = 0.0, 0
        with torch.no_grad():
            for group in groups:
                batch = collate([rows[i] for i in group])
                total += float(loss(batch))
                targets += batch.targets
        return total / targets

    return validate


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


def _say(report: RowReport, role: str, max_length: int) -> None:
    if report.truncated:
        progress.note(f"{report.truncated} of {report.rows} {role} rows were cut to {max_length} tokens.")
    for reason, count in report.reasons.items():
        progress.note(f"{count} of {report.rows} {role} rows were dropped: {reason}.")
