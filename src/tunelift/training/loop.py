"""The training loop: batches, loss and listeners are arguments, so that a toy can stand in for each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tunelift.tasks.base import Batch, Loss
from tunelift.training.step import train_step


class Listener(Protocol):
    """Told of everything that happens: `event` is "train", "validation" or "end", with its figures."""

    def __call__(self, event: str, **figures: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """Flat settings of the loop; `evaluate_every` in steps, `patience` in looks at validation."""

    learning_rate: float
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    evaluate_every: int = 0
    patience: int | None = None


@dataclass(slots=True)
class Fit:
    """How a training went. `seconds` are those of the steps and the looks at validation."""

    steps: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    best_step: int | None = None
    best_loss: float | None = None
    stopped: str = "all steps done"


def fit(
    model: nn.Module,
    steps: Sequence[Iterable[Batch]],
    loss: Loss,
    settings: Settings,
    listeners: Sequence[Listener] = (),
    validate: Callable[[], float] | None = None,
) -> Fit:
    """Train the model's trainable parameters, one optimiser step per element of `steps`.

    With `validate` (mean loss on rows held out of training, in nats) the parameters of the best look are put back at
    the end, and `patience` looks without improvement end the training.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    result, best, start = Fit(), _Best(parameters), time.monotonic()
    model.train()
    for number, micro_batches in enumerate(steps, start=1):
        rate = learning_rate(number, len(steps), settings)
        for group in optimiser.param_groups:
            group["lr"] = rate
        began = time.monotonic()
        done = train_step(list(micro_batches), loss, parameters, settings.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        result.steps, result.rows, result.tokens = number, result.rows + done.rows, result.tokens + done.tokens
        result.losses.append(done.loss)
        figures = asdict(done) | {"learning_rate": rate, "tokens_per_second": done.tokens / (time.monotonic() - began)}
        _tell(listeners, "train", step=number, **figures, seconds=time.monotonic() - start)
        if validate is not None and _is_look(number, len(steps), settings.evaluate_every):
            _look(validate, model, result, best, listeners)
            if settings.patience is not None and best.looks_since > settings.patience - 1:
                result.stopped = f"no improvement in {settings.patience} looks at validation"
                break
    best.restore()
    model.eval()
    result.seconds = time.monotonic() - start
    _tell(listeners, "end", steps=result.steps, best_step=result.best_step, stopped=result.stopped)
    return result


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """Return the rate of step 1..steps: a linear rise over the warm-up, then cosine or linear to zero, or constant."""
    rise = settings.warmup * steps
    if step <= rise:
        return settings.learning_rate * step / (rise + 1)
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - 1 - rise) / max(steps - rise, 1)
    left = 1 - max(done, 0.0)
    return settings.learning_rate * (left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))


class _Best:
    """The parameters at the best look at validation."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.kept: list[Tensor] | None = None
        self.looks_since = 0

    def keep(self) -> None:
        self.kept = [p.detach().clone() for p in self.parameters]
        self.looks_since = 0

    def restore(self) -> None:
        if self.kept is not None:
            with torch.no_grad():
                for parameter, kept in zip(self.parameters, self.kept, strict=True):
                    parameter.copy_(kept)


def _is_look(step: int, steps: int, every: int) -> bool:
    return step == steps or (every > 0 and step % every == 0)


def _look(
    validate: Callable[[], float], model: nn.Module, result: Fit, best: _Best, listeners: Sequence[Listener]
) -> None:
    model.eval()
    loss = validate()
    model.train()
    improved = math.isfinite(loss) and (result.best_loss is None or loss < result.best_loss)
    if improved:
        result.best_loss, result.best_step = loss, result.steps
        best.keep()
    else:
        best.looks_since += 1
    _tell(listeners, "validation", step=result.steps, loss=loss, best=improved)


def _tell(listeners: Sequence[Listener], event: str, **figures: Any) -> None:
    for listener in listeners:
        listener(event, **figures)
