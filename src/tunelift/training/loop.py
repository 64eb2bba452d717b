"""The training loop: batches, loss, listeners and the store of its state are arguments: a toy can stand in for each."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from tunelift.config.schema import TrainSection
from tunelift.core import stopping
from tunelift.core.errors import TuneliftError
from tunelift.tasks.base import Batch, Loss
from tunelift.training import ranks
from tunelift.training.optimisers import TIMES
from tunelift.training.state import Fit, State, below
from tunelift.training.step import StepResult, is_out_of_memory, train_step

__all__ = ["Beside", "Fit", "Listener", "Store", "fit", "learning_rate"]

BAD_IN_A_ROW = 10
"""So many steps without a finite loss and gradient, one after another, end the training."""

BESIDE = "beside/"
"""How the names of a method's own tensors begin in a checkpoint."""

T = TypeVar("T")


class Listener(Protocol):
    """Told of everything that happens, with its figures.

    `event` is "train", "validation", "fault" (`what` happened and what was `done`), "resumed" or "end".
    """

    def __call__(self, event: str, **figures: Any) -> None: ...


class Store(Protocol):
    """Where the state is kept after every `every` steps, and found again by the next call for the same training."""

    every: int
    faults: list[tuple[str, str]]

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None: ...
    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None: ...


class Budget(Protocol):
    """How many tokens the micro-batches of the steps to come, and of the looks at validation, may have."""

    tokens: int


@dataclass(frozen=True, slots=True)
class Beside:
    """What a method does beside moving its parameters.

    `after_step` is given the step's number, from 1, when the parameters are moved and their gradients still there.
    `kept` are tensors that a checkpoint is to hold too, which `put_back` is given when a training goes on from it.
    `ended` is called when the parameters are the last or the best ones.
    """

    after_step: Callable[[int], None] = lambda _step: None
    kept: Callable[[], Mapping[str, Tensor]] = dict
    put_back: Callable[[Mapping[str, Tensor]], None] = lambda _tensors: None
    ended: Callable[[], None] = lambda: None


def fit(
    model: nn.Module,
    steps: Sequence[Iterable[Batch]],
    loss: Loss,
    settings: TrainSection,
    listeners: Sequence[Listener] = (),
    validate: Callable[[], float] | None = None,
    *,
    store: Store | None = None,
    budget: Budget | None = None,
    beside: Beside | None = None,
) -> Fit:
    """Train the model's trainable parameters, one optimiser step per element of `steps`.

    With `validate` (mean loss on rows held out of training, in nats) the parameters of the best look are put back at
    the end, and `patience` looks without improvement end the training. With `store` it goes on from the state kept
    there, if there is one, exactly as if it had never ended; a signal to stop is obeyed once the step is done and
    saved (raises Stopped). Where memory runs out, `budget` is halved and the window computed again from the start.
    `beside` is what the method does beside.
    Of `settings` it reads the rate and what follows there up to `max_grad_norm`, `evaluate_every` and `patience`.
    Raises TuneliftError where no step had a finite loss, or where memory does not suffice for one row.
    """
    state = State(model, settings.learning_rate, settings.weight_decay, settings.optimizer)
    loop = _Loop(model, state, listeners, store, budget, beside or Beside())
    loop.resume()
    began = time.monotonic() - loop.state.fit.seconds
    model.train()
    with stopping.waiting(store is not None):
        while True:
            step, every = loop.state.fit.steps, settings.evaluate_every
            to_look = step > loop.state.looked and (step == len(steps) or (every is not None and step % every == 0))
            if validate is not None and to_look:
                loop.look(validate, settings.patience)
                loop.keep(bool(loop.state.fit.stopped))
            if loop.state.fit.stopped or loop.state.fit.steps == len(steps):
                break
            loop.step(steps, loss, settings, began)
            loop.keep(loop.state.fit.steps == len(steps) or loop.due())
    return loop.ended(began)


def learning_rate(step: int, steps: int, settings: TrainSection) -> float:
    """Return the rate of step 1..steps: a linear rise over the warm-up, then cosine or linear to zero, or constant."""
    rise = settings.warmup * steps
    if step <= rise:
        return settings.learning_rate * step / (rise + 1)
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - 1 - rise) / max(steps - rise, 1)
    left = 1 - max(done, 0.0)
    return settings.learning_rate * (left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))


@dataclass(slots=True)
class _Loop:
    """What `fit` does, part by part."""

    model: nn.Module
    state: State
    listeners: Sequence[Listener]
    store: Store | None
    budget: Budget | None
    beside: Beside

    def resume(self) -> None:
        saved = self.store.load() if self.store is not None else None
        for what, done in self.store.faults if self.store is not None else ():
            self.fault(what, done, 0)
        if saved is not None:
            self.state.put_back(*saved)
            self.beside.put_back(below(BESIDE, saved[0]))
            if self.budget is not None:
                self.budget.tokens = saved[1]["micro_batch_tokens"]
            self.tell("resumed", time=_now(), step=self.state.fit.steps)

    def step(self, steps: Sequence[Iterable[Batch]], loss: Loss, settings: TrainSection, began: float) -> None:
        """Do the next step: move the parameters, or leave them where loss or gradient is no finite number."""
        state, fit, start = self.state, self.state.fit, time.monotonic()
        rate = learning_rate(fit.steps + 1, len(steps), settings)
        for group in state.optimiser.param_groups:
            group["lr"] = rate * group.get(TIMES, 1.0)
        how = list(state.parameters.values()), settings.max_grad_norm
        done = self.scaled(
            lambda scale: train_step([*steps[fit.steps]], loss, *how, scale, state.gather), fit.steps + 1
        )
        fit.steps, fit.rows, fit.tokens = fit.steps + 1, fit.rows + done.rows, fit.tokens + done.tokens
        if done.finite:
            state.move()
            self.beside.after_step(fit.steps)
        state.clear()
        fit.seconds = time.monotonic() - began
        if not done.finite:
            self.skip(done)
            return
        fit.losses.append(done.loss)
        state.scale.fitted()
        state.bad_in_a_row = 0
        figures = asdict(done) | {"learning_rate": rate, "tokens_per_second": done.tokens / (time.monotonic() - start)}
        self.tell("train", step=fit.steps, **figures, seconds=fit.seconds)

    def scaled(self, compute: Callable[[float], StepResult], step: int) -> StepResult:
        """Return what `compute` gives, in float16 with a scale of the loss for which its gradient is not too large."""
        scale = self.state.scale
        while True:
            done = self.within_memory(partial(compute, scale.value), step)
            if done.finite or not math.isfinite(done.loss) or not scale.lowered():
                return done
            self.state.clear()
            what = f"at {2 * scale.value:g} times the loss a gradient is too large for float16"
            self.fault(what, f"{scale.value:g} times from here on, and the window computed again", step)

    def skip(self, done: StepResult) -> None:
        """Count a step that moved nothing; the tenth in a row ends the training."""
        state, fit = self.state, self.state.fit
        fit.skipped, state.bad_in_a_row = fit.skipped + 1, state.bad_in_a_row + 1
        what = f"loss {done.loss}, norm of its gradient {done.gradient_norm}"
        self.fault(what, "the step was skipped", fit.steps)
        if state.bad_in_a_row == BAD_IN_A_ROW:
            fit.stopped = f"{BAD_IN_A_ROW} steps in a row without a finite loss"

    def look(self, validate: Callable[[], float], patience: int | None) -> None:
        state, fit = self.state, self.state.fit
        self.model.eval()
        loss = self.within_memory(validate, fit.steps)
        self.model.train()
        improved = math.isfinite(loss) and (fit.best_loss is None or loss < fit.best_loss)
        state.looked = fit.steps
        if improved:
            fit.best_loss, fit.best_step, state.looks_since = loss, fit.steps, 0
            state.keep_best()
        else:
            state.looks_since += 1
        self.tell("validation", step=fit.steps, loss=loss, best=improved)
        if patience is not None and state.looks_since >= patience:
            fit.stopped = f"no improvement in {patience} looks at validation"

    def within_memory(self, compute: Callable[[], T], step: int) -> T:
        """Return what `compute` gives, with smaller micro-batches where memory does not suffice for those there are."""
        while True:
            try:
                return compute()
            except Exception as error:
                # Other ranks would wait for ever for one that begins its window again.
                if not is_out_of_memory(error) or self.budget is None or ranks.position()[1] > 1:
                    raise
                said = (str(error) or type(error).__name__).splitlines()[0][:200]
            self.state.clear()
            gc.collect()  # the error is gone by now, and with it what its frames held
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.budget.tokens == 1:
                raise TuneliftError(
                    f"Memory does not suffice for a single row: {said}", fix="Lower train.max_length, or free memory."
                )
            self.budget.tokens //= 2
            self.fault(f"out of memory: {said}", f"micro-batches of {self.budget.tokens} tokens from here on", step)

    def due(self) -> bool:
        """Tell whether the state is to be saved after this step."""
        fit = self.state.fit
        return self.store is not None and (bool(fit.stopped) or fit.steps % self.store.every == 0)

    def keep(self, due: bool) -> None:
        """Save the state where that is due or a signal asks to stop, and obey the signal."""
        if self.store is None:
            return
        state, fit = self.state, self.state.fit
        asked = ranks.any_of(stopping.asked(), next(iter(state.parameters.values())).device)
        if fit.losses and (due or asked):
            tensors = state.tensors() | {f"{BESIDE}{name}": tensor for name, tensor in self.beside.kept().items()}
            facts = state.facts()
            facts["micro_batch_tokens"] = self.budget.tokens if self.budget is not None else None
            if ranks.position()[0] == 0:
                self.store.save(fit.steps, tensors, facts)
        if asked:
            self.tell("interrupted", time=_now(), step=fit.steps)
            raise stopping.Stopped(asked)

    def ended(self, began: float) -> Fit:
        fit = self.state.fit
        if not fit.losses:
            raise TuneliftError(
                f"Not one of {fit.steps} steps had a loss and a gradient that are finite numbers.",
                fix="Lower train.learning_rate, or set model.dtype to float32.",
            )
        self.state.put_back_best()
        self.beside.ended()
        self.model.eval()
        fit.seconds = time.monotonic() - began
        fit.stopped = fit.stopped or "all steps done"
        self.tell("end", steps=fit.steps, best_step=fit.best_step, stopped=fit.stopped)
        return fit

    def fault(self, what: str, done: str, step: int) -> None:
        self.tell("fault", time=_now(), step=step, what=what, done=done)

    def tell(self, event: str, **figures: Any) -> None:
        for listener in self.listeners:
            listener(event, **figures)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
