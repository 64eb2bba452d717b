"""Training in one screen: rows, steps, loss, loop."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from tunelift.adapters.beginnings import held_in
from tunelift.adapters.build import is_adapted
from tunelift.adapters.methods import Method, method_of
from tunelift.config.schema import TrainSection
from tunelift.core import progress
from tunelift.core.errors import InputError, TuneliftError
from tunelift.core.randomness import seeded
from tunelift.core.records import Example
from tunelift.data.render import RenderReport
from tunelift.fast import int8_trial
from tunelift.fast.frozen import FEW_TOKENS, Ways, pack
from tunelift.fast.in_batch import With, in_turn
from tunelift.fast.unpad import sped_up
from tunelift.model_facts.anatomy import context_length, pad_id
from tunelift.model_facts.parameters import compute_dtype, dtype_name, sum_of_own_width, trained
from tunelift.tasks.base import Batch, Loss, Row, Task
from tunelift.training import ranks
from tunelift.training.again import computed_again
from tunelift.training.batches import Sizes, Step, micro_batches, plan_steps, sizes, steps_of
from tunelift.training.checkpoint import Checkpoints, check_space, choices_in
from tunelift.training.events import show
from tunelift.training.loop import Beside, Fit, Listener, fit
from tunelift.training.state import Footprint
from tunelift.training.step import is_out_of_memory


@dataclass(slots=True)
class Trained:
    """What a training did: the loop's account, what became of the rows, the fast paths taken, what was proved first."""

    fit: Fit
    rows: RenderReport
    fast_paths: dict[str, str]
    proofs: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of the manifest: steps, rows, tokens (non-padding), seconds, best step, why it ended."""
        figures = asdict(self.fit)
        losses = figures.pop("losses")
        return figures | {"first_loss": losses[0], "last_loss": losses[-1]}


Render = Callable[[Sequence[Example], int], tuple[Sequence[Row], RenderReport]]

SOME_TOKENS = 1024
"""Tokens of rows that tell what to expect."""

EXACT = "no: the loss is of differences between scores, in which rounding does not cancel"

PAYS_FROM = 10
"""A trial of products in int8 takes about as long as two or three of its batches, and saves a quarter or more of the
rest: a training of fewer of them is not worth it."""


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
    render: Render | None = None,
) -> Trained:
    """Train the adapter of a PEFT model in place on `examples["train"]`, selecting on `examples["validation"]` if any.

    `render` gives rows cut to so many tokens; the task's own otherwise. With `checkpoints`, a folder, the state is kept
    there, and a training that was cut off goes on from it. Raises InputError where nothing is trainable, no row is
    left, or the checkpoints are of another training; TuneliftError where a disk or memory does not suffice.
    """
    if not any(p.requires_grad for p in model.parameters()):
        fix = "Put an adapter on it with peft's get_peft_model."
        raise InputError("The model has no trainable parameter.", fix=fix)
    max_length = min(settings.max_length, context_length(model, tokenizer))
    render = render or (lambda some, length: task.rows(some, tokenizer, length, labels))
    rows, report = render(examples["train"], max_length)
    _say(report, "training", max_length)
    pad = pad_id(model, tokenizer)
    check_settings(model, task, settings)
    with computed_again(model, settings.gradient_checkpointing), sped_up(model) as layers:
        batch = task.collate(_some(rows, task, settings), pad, model.device)
        step, tokens = _tokens_of(rows, task, settings)
        long = step * _steps(rows, settings) >= PAYS_FROM * batch.tokens
        products = EXACT if task.exact else _products(model, settings, tokens, layers, checkpoints, long=long)
        loss, fast_paths = _loss(model, task, batch, layers | {"int8_products": products}, tokens)
        packs = "on" in (fast_paths.get("packing"), fast_paths.get("unpadded"))
        costs = _sizes(rows, task, packs)

        def plan(tokens: int) -> list[Step]:
            return plan_steps(costs, settings.batch_size, settings.epochs, settings.steps, settings.seed, tokens)

        def collate(some: Sequence[Row]) -> Batch:
            batch = task.collate(some, pad, model.device)
            return replace(batch, tokens=batch.tokens - costs.shared * (batch.rows - 1))  # shared tokens count once

        proofs, method = task.proofs_of_start(model, loss, batch), method_of(getattr(model, "active_peft_config", None))
        batches = _Batches(plan, settings.micro_batch_tokens, rows, collate)
        validate = None
        if examples.get("validation"):
            held_out, held_out_report = render(examples["validation"], max_length)
            _say(held_out_report, "validation", max_length)
            at_once = settings.batch_size if task.contrasts else len(held_out)
            validate = _validation(model, held_out, _sizes(held_out, task, packs), loss, batches, at_once)
        store = _store(checkpoints, model, settings, rows, fast_paths, task) if checkpoints else None
        _say_slow(fast_paths)
        loss = _with_further_loss(loss, method, model)  # none of which is in the loss of validation
        with progress.bar("train", len(batches)) as advance, _memory_of_several(settings), seeded(settings.seed):
            done = fit(
                model, batches, loss, _loop(settings, len(rows)), [partial(show, advance), *listeners], validate,
                store=store, budget=batches, beside=_beside(method, model),
            )  # fmt: skip
    return Trained(done, report, fast_paths, proofs)


def _loop(settings: TrainSection, rows: int) -> TrainSection:
    """Return the settings of the loop, which looks at validation twice an epoch where nothing else is asked for."""
    twice_an_epoch = max(1, -(-math.ceil(rows / settings.batch_size) // 2))
    return settings.model_copy(update={"evaluate_every": settings.evaluate_every or twice_an_epoch})


def check_settings(model: Any, task: Task, settings: TrainSection) -> None:
    """Raise InputError where frozen products cannot be computed as was asked, or a step has no rows to tell apart."""
    refuse_products(model, settings, task)
    if task.contrasts and settings.batch_size < 2:
        raise InputError(
            f"train.batch_size is {settings.batch_size}, and {task.name} tells the rows of a step apart.",
            fix="Take 16 or more: each row of a step is told apart from all others.",
        )


def refuse_products(model: Any, settings: TrainSection, task: Task) -> None:
    """Raise InputError where frozen products cannot be computed as was asked."""
    asked, dtype = settings.products, dtype_name(compute_dtype(model))
    reason = int8_trial.refused(model) if asked == "int8" else None
    reason = EXACT.removeprefix("no: ") if asked == "int8" and task.exact else reason
    if asked not in ("auto", "int8", dtype):
        reason = f"the model runs in {dtype}"
    if reason is not None:
        raise InputError(f"train.products is {asked}, and {reason}.", fix="Leave it out: auto takes what suits.")


def _products(
    model: Any,
    settings: TrainSection,
    tokens: float,
    layers: Mapping[str, str],
    checkpoints: Path | None,
    *,
    long: bool,
) -> str:
    """Return "on" where products in int8 are to be tried, over about so many tokens at once, else why not.

    A training that is not `long` does not try. What one that goes on had chosen is not measured again.
    """
    chosen = "on"
    if not layers["frozen_products"].startswith("on") or settings.products not in ("auto", "int8"):
        chosen = "no: there are none, or it was not asked for"
    elif settings.products == "auto":
        before = choices_in(checkpoints).get("int8_products")
        short = "" if long else "no: the training is too short for a trial of them to pay"
        chosen = before or short or int8_trial.worth(model, max(1, round(tokens)))
    return ranks.of_first("on" if chosen.startswith("on") else chosen)


def _loss(
    model: Any, task: Task, batch: Batch, layers: Mapping[str, str], tokens: float
) -> tuple[Loss, dict[str, str]]:
    """Return the loss, and all fast paths: `layers` with what became of frozen products, which are in int8 if that is
    to be tried ("on") and a trial on the batch agrees, else with packed weights."""
    products = layers["int8_products"]
    ways: Ways = "both" if tokens <= FEW_TOKENS else "none"
    packed = "" if products == "on" else pack(model, ways)
    loss, fast_paths = task.loss(model, batch)
    if products == "on":
        products = int8_trial.take(model, partial(loss, batch))
        packed = pack(model, ways) if products.startswith("off") else ""
    of_products = {"frozen_products": layers["frozen_products"] + packed, "int8_products": products}
    return loss, {**fast_paths, **layers, **of_products}


def _beside(method: Method, model: Any) -> Beside:
    """Return what the method does beside, on this model."""
    hooks: dict[str, Callable[..., Any] | None] = {
        **{"after_step": method.after_step, "kept": method.kept, "put_back": method.put_back},
        "ended": method.after_training,
    }
    known: dict[str, Any] = {name: partial(hook, model) for name, hook in hooks.items() if hook is not None}
    return Beside(**known)


def _with_further_loss(loss: Loss, method: Method, model: Any) -> Loss:
    """Return the loss with what the method adds to its mean, by each micro-batch's share of the targets."""
    further = method.further_loss
    return loss if further is None else With(loss, lambda batch: batch.targets * further(model))


def _tokens_of(rows: Sequence[Row], task: Task, settings: TrainSection) -> tuple[float, float]:
    """Return about how many tokens a step will have, what its rows begin with alike counted once, and a micro-batch."""
    costs = _sizes(rows, task, packs=True)
    step = costs.shared + settings.batch_size * sum(costs.own) / len(rows)
    return step, step / math.ceil(step / settings.micro_batch_tokens)


def _steps(rows: Sequence[Row], settings: TrainSection) -> int:
    return steps_of(len(rows), settings.batch_size, settings.epochs, settings.steps)


def _some(rows: Sequence[Row], task: Task, settings: TrainSection) -> Sequence[Row]:
    """Return the first rows, one at least, of about as many tokens as are computed at once.

    Of a head's rows these are the longest and the shortest, between which padding is tried.
    """
    if task.has_head:
        return [max(rows, key=lambda row: len(row.ids)), min(rows, key=lambda row: len(row.ids))]
    most = min(SOME_TOKENS, settings.micro_batch_tokens)
    count = sum(total < most for total in accumulate(len(row.ids) for row in rows))
    return rows[: max(count, 1)]


@contextmanager
def _memory_of_several(settings: TrainSection) -> Iterator[None]:
    """Say what it is and what to do when memory runs out in one of several processes, where nothing is halved."""
    try:
        yield
    except Exception as error:
        rank, count = ranks.position()
        if count == 1 or not is_out_of_memory(error):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise TuneliftError(
            f"Memory ran out in process {rank + 1} of {count}: {said}",
            fix=f"Lower train.micro_batch_tokens, which is {settings.micro_batch_tokens}: with several processes it is "
            "not halved by itself. The training goes on from its last checkpoint.",
        ) from error


class _Batches(Sequence[Iterator[Batch]]):
    """The steps of a plan, made into tensors when their turn comes.

    Micro-batches have at most `tokens` tokens, which can be set to no more than they were at first: a training that
    goes on takes the number it had come down to, or what was asked for since, if that is less.
    """

    def __init__(
        self,
        plan: Callable[[int], list[Step]],
        tokens: int,
        rows: Sequence[Row],
        collate: Callable[[Sequence[Row]], Batch],
    ) -> None:
        self.plan, self.rows, self.collate = plan, rows, collate
        self.most = self.tokens = tokens

    @property
    def tokens(self) -> int:
        return self._tokens

    @tokens.setter
    def tokens(self, tokens: int) -> None:
        self._tokens = min(tokens, self.most)
        self.steps = self.plan(self._tokens)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: Any) -> Any:
        return (self.collate([self.rows[i] for i in group]) for group in self.steps[index])


def _sizes(rows: Sequence[Row], task: Task, packs: bool) -> Sizes:
    """Return what each row costs; what all rows begin with is counted once where they may share it."""
    firsts = [first for row in rows if (first := task.begins_alike(row)) is not None]
    if len(firsts) < len(rows):
        return Sizes([task.size(row) for row in rows], packs=packs)
    return sizes([row.ids for row in rows], firsts, packs)


def _validation(
    model: Any, rows: Sequence[Row], costs: Sizes, loss: Loss, batches: _Batches, at_once: int
) -> Callable[[], float]:
    """Return the function that gives the mean loss per target over the validation rows, in nats.

    Rows that are told apart from each other are so among `at_once` of them, as in a step.
    """

    def validate() -> float:
        total, targets = 0.0, 0.0
        with torch.no_grad(), int8_trial.wide(model):
            for start in range(0, len(rows), at_once):
                some = range(start, min(start + at_once, len(rows)))
                groups = micro_batches(some, costs, batches.tokens)
                made = (batches.collate([rows[i] for i in group]) for group in groups)
                for batch, value in in_turn(loss, made):
                    total += float(value)
                    targets += batch.targets
        return total / targets

    return validate


def _store(
    folder: Path, model: Any, settings: TrainSection, rows: Sequence[Row], fast_paths: Mapping[str, str], task: Task
) -> Checkpoints:
    """Return the checkpoints of this very training; raise TuneliftError where the disk has no room for them."""
    # An adapter's parameters begin as the seed draws them, a model's own as its file has them.
    own = not is_adapted(model)
    begun_with = [sum_of_own_width(p) for p in model.parameters() if own or not p.requires_grad]
    begun_with += [sum_of_own_width(one.values) for one in held_in(model)]
    facts = [
        settings.model_dump(exclude={"save_every", "micro_batch_tokens", "products"}),  # the store says what was chosen
        [trained(model), begun_with, _adapter_settings(model)],
        [_hashed(row) for row in rows],
        *([task.about] if task.about else []),
    ]
    made_for = hashlib.sha256(json.dumps(facts, default=_plain).encode()).hexdigest()
    moved = (p for p in model.parameters() if p.requires_grad)
    check_space(folder, Footprint.of(moved, optimiser=settings.optimizer).checkpoint)
    return Checkpoints(folder, settings.save_every, made_for, fast_paths)


def _hashed(row: Row) -> list[Any]:
    """Return what makes a row another one."""
    more = [list(row.segments)] if row.segments else []
    return [list(row.ids), row.labels, *more, *([row.weight] if row.weight != 1 else [])]


def _adapter_settings(model: Any) -> list[dict[str, Any]]:
    """Return what is set in peft's configs other than its defaults, without where the base lies or which peft it is."""
    beside, found = ("base_model_name_or_path", "revision", "inference_mode", "peft_version"), []
    for config in getattr(model, "peft_config", {}).values():
        defaults: dict[str, Any] = {}
        with suppress(TypeError, ValueError):  # where some key must be set there is none without it
            defaults = type(config)().to_dict()
        own = config.to_dict().items()
        found.append({key: value for key, value in own if key not in beside and value != defaults.get(key)})
    return found


def _plain(value: Any) -> Any:
    """Return for JSON what it has no word for: names in a set have another order in each process."""
    return sorted(value) if isinstance(value, (set, frozenset)) else list(value)


def _say_slow(fast_paths: Mapping[str, str]) -> None:
    for name, state in fast_paths.items():
        if state.startswith("off"):
            progress.note(f"fast: {name.replace('_', ' ')} is {state}")


def _say(report: RenderReport, role: str, max_length: int) -> None:
    if report.truncated:
        progress.note(f"{report.truncated} of {report.rows} {role} rows were cut to {max_length} tokens.")
    for reason, count in report.dropped_reasons.items():
        progress.note(f"{count} of {report.rows} {role} rows were dropped: {reason}.")
    for line in report.notes:
        progress.note(f"{role} rows: {line}.")
