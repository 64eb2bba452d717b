"""A run in small, by its own parts: a few items, a few steps, the longest rows among them, and nothing is kept.

Seconds are those of two pieces of work of different size, so that beginning and going on are told apart. Memory is the
largest resident set that the process had meanwhile.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tunelift.adapters.methods import trains_whole
from tunelift.comparison.comparing import compare
from tunelift.comparison.looks_at_test_sets import uncounted
from tunelift.core import machine, progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Scores
from tunelift.data.splits import Splits
from tunelift.evaluation.baselines import BASELINES, Given, suitable
from tunelift.evaluation.batching import TOKENS_AT_ONCE, by_length
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.verbatim import continues_verbatim
from tunelift.pipeline.baselines import SELECTION_ROWS
from tunelift.pipeline.calibrating import MOST_ROWS
from tunelift.pipeline.forgetting import plans_of_sets
from tunelift.pipeline.preparing import Prepared
from tunelift.pipeline.proofs import likelihoods, rows_to_prove_on
from tunelift.pipeline.session import Session
from tunelift.pipeline.shapes import regression_of
from tunelift.pipeline.tuning import put_on
from tunelift.planning.memory import BASELINES as OF_BASELINES
from tunelift.planning.memory import EVALUATION, TRAINING
from tunelift.planning.seconds import Rate, Stage
from tunelift.training.batches import steps_of
from tunelift.training.run import train

FEW_TOKENS = 1024
"""Of the items that are measured first; the second time there are those of a whole batch besides."""

STEPS, MOST_STEPS, SECONDS_OF_STEPS = 12, 60, 5.0
"""Steps that are trained: so many at least, and as many more as take about so long."""

DOUBLINGS = 3
"""How often the steps that were looked at may double until memory that was freed lies in pieces of every size: with
steps of many sizes the peak grows about as much each time."""

SHOWN = 100, 200
"""Training rows that baselines are made of, to see what more of them cost."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a rehearsal found: stages, and the peak of resident memory (bytes) in each stage of `planning.memory`.

    `tokens` are those of the largest step that it trained on, `growth` what more steps add to the peak (bytes), and
    `regression` the numbers that its baseline on words learned.
    """

    stages: list[Stage]
    peaks: dict[str, int]
    tokens: int
    growth: int
    regression: int


@contextmanager
def _peak(stage: str, peaks: dict[str, int]) -> Iterator[None]:
    """Note the peak of resident memory within, where the system says it."""
    machine.forget_peak()
    yield
    now = machine.resident()
    if now is not None:
        peaks[stage] = now.peak


class Enough(Exception):  # noqa: N818  nothing is wrong
    """Ends a training that was only looked at."""


class Work:
    """Examples with what each of them costs: its tokens, or an equal share where answers are written.

    Answers are written by groups of rows, and the longest of a group decides how many steps it takes.
    """

    def __init__(self, session: Session, examples: Sequence[Example], plan: Plan) -> None:
        with progress.silenced():
            measure = measure_for(plan)(session.model, session.tokenizer, examples, plan, "rehearsal")
        self.examples, self.plan, self.writes = examples, plan, measure.generates
        self.fitting = list(measure.fitting)
        self.tokens = [measure.length(i) for i in range(len(examples))]

    def of(self, some: Sequence[int]) -> float:
        """Return the work of some of the examples, by their numbers."""
        if self.writes:
            return float(-(-len(some) // self.plan.rows_at_once))
        return float(sum(self.tokens[i] for i in some))

    @property
    def all(self) -> float:
        """Return the work of all that fit the context."""
        return self.of(self.fitting)

    def few(self) -> list[int]:
        """Return some examples, spread evenly over the lengths."""
        if self.writes:
            return self._spread(self.plan.rows_at_once)
        mean = sum(self.tokens[i] for i in self.fitting) / max(1, len(self.fitting))
        return self._spread(max(4, round(FEW_TOKENS / max(mean, 1))))

    def many(self) -> list[int]:
        """Return those and others, among them the longest batch, which takes the most memory."""
        lengths = [self.tokens[i] for i in self.fitting]
        at_once = self.plan.rows_at_once if self.writes else 256
        longest = next(by_length(lengths, at_once, 2**16 if self.writes else TOKENS_AT_ONCE), [])
        batch = {self.fitting[i] for i in longest}
        return sorted(batch | set(self.few()) | set(() if self.writes else self._spread(len(batch))))

    def _spread(self, count: int) -> list[int]:
        order = sorted(self.fitting, key=lambda i: self.tokens[i])
        step = max(1.0, len(order) / max(count, 1))
        return sorted({order[min(len(order) - 1, int((i + 0.5) * step))] for i in range(min(count, len(order)))})


def seconds_of(work: Callable[[], Any]) -> float:
    """Return how long a call takes, without a word of progress."""
    began = time.monotonic()
    with progress.silenced():
        work()
    return time.monotonic() - began


class Rehearsal:
    """The stages of a run on a model that is in memory, tried out in the order of the run."""

    def __init__(self, session: Session, ready: Prepared) -> None:
        self.session, self.ready, self.config = session, ready, ready.config
        self.splits: Splits = ready.splits
        self.plan = replace(ready.plan, labels=session.labels or ready.plan.labels, cache=False)
        self.stages: list[Stage] = []
        self.items = len(self.splits.test)

    def run(self) -> Rehearsed:
        """Try every stage, and return what they took."""
        peaks = dict[str, int]()
        with _peak(EVALUATION, peaks):
            base = self.evaluation()
            self.forgetting()
        with _peak(OF_BASELINES, peaks):
            self.baselines(base)
        with _peak(TRAINING, peaks):
            watched, steps = self.training(base)
        self.conclusion()
        growth = watched.growth(steps)
        return Rehearsed(self.stages, peaks, watched.tokens, growth, regression_of(self.ready, SHOWN[-1]))

    def add(self, name: str, *, fixed: float = 0.0, epoch: float = 0.0, item: float = 0.0, how: str = "") -> None:
        self.stages.append(Stage(name, fixed, epoch, item, how))

    def score(self, examples: Sequence[Example], plan: Plan) -> float:
        """Return the seconds that scoring takes; tokens that were made for it are not kept."""
        known = list(self.session._measured)
        try:
            return seconds_of(lambda: self._scored(examples, plan))
        finally:
            self.session._measured[:] = known

    def _scored(self, examples: Sequence[Example], plan: Plan) -> None:
        scores = self.session.score(examples, plan, "rehearsal")
        if plan is self.plan:
            self.scored = scores

    def rate(self, work: Work, plan: Plan) -> Rate:
        """Return what scoring takes by work: of a few items and of more, after a warm-up."""
        few, many = work.few(), work.many()
        self.score([work.examples[i] for i in few[:2]], plan)
        short = self.score([work.examples[i] for i in few], plan)
        if len(many) <= len(few):
            return Rate(0.0, short / max(work.of(few), 1e-9))
        long = self.score([work.examples[i] for i in many], plan)
        return Rate.through((work.of(few), short), (work.of(many), long))

    def evaluation(self) -> tuple[Work, Rate]:
        work = Work(self.session, self.splits.test, self.plan)
        rate = self.rate(work, self.plan)
        how = f"measured on {len(work.many())} of {self.items} items"
        each = work.all / max(1, self.items)
        self.add("base evaluation", fixed=rate.fixed, item=rate.each * each, how=how)
        held_out = self.splits.validation
        if held_out and measure_for(self.plan).tells_probabilities(self.plan):
            share = min(len(held_out), MOST_ROWS)
            self.add("validation rows, both sides", fixed=2 * rate.of(each * share), how="as base evaluation")
        if self.session.task.next_token:
            some = self.splits.test[:20]
            self.add("verbatim", fixed=seconds_of(lambda: self._verbatim(some)), how="measured")
        return work, rate

    def _verbatim(self, some: Sequence[Example]) -> None:
        continues_verbatim(self.session.model, self.session.tokenizer, some)

    def baselines(self, base: tuple[Work, Rate]) -> None:
        """Try the baselines that a run would measure: made of few rows and of more, and asked a few items."""
        settings, train = self.config.evaluate, self.splits.train
        names = suitable(self.plan, train, settings.baselines)
        work, rate = base
        each = work.all / max(1, self.items)
        few = [work.examples[i] for i in work.few()]
        more = [work.examples[i] for i in work.many()]
        chosen = min(SELECTION_ROWS, len(self.splits.validation))
        if names and chosen:
            self.add("base on validation", fixed=rate.of(each * chosen), how="as base evaluation")
        drawn = random.Random(0).sample(range(len(train)), len(train))
        for name in names:
            try:
                making = [self._made(name, [train[i] for i in drawn[:count]]) for count in SHOWN]
            except InputError:  # a run leaves it out too
                continue
            work_of = partial(regression_of, self.ready) if name == "tf-idf" else partial(min, len(train))
            first, second = ((work_of(count), made[1]) for count, made in zip(SHOWN, making, strict=True))
            score = making[1][0].score
            short, long = (seconds_of(partial(score, some, "rehearsal")) for some in (few, more))
            asked = Rate.through((len(few), short), (len(more), long))
            fixed = Rate.through(first, second).of(work_of(len(train))) + asked.of(chosen) + asked.fixed
            self.add(f"baseline {name}", fixed=fixed, item=asked.each, how=f"measured on {len(more)} items")

    def _made(self, name: str, train: Sequence[Example]) -> tuple[Any, float]:
        session, settings = self.session, self.config.evaluate
        seed, known = self.config.data.seed, session.made_with()
        given = Given(session.model, session.tokenizer, train, self.plan, settings.shots, seed, known)
        began = time.monotonic()
        with progress.silenced():
            made = BASELINES.get(name).make(given)
        return made, time.monotonic() - began

    def forgetting(self) -> None:
        """Try the sets on which nothing should change, each of which both sides are measured on."""
        most, sets = self.config.train.max_length, self.ready.sets
        for name, (examples, kept) in plans_of_sets(self.session, sets, self.config.evaluate, most).items():
            plan = replace(kept, cache=False)
            work = Work(self.session, examples, plan)
            rate = self.rate(work, plan)
            how = f"measured on {len(work.many())} of {len(examples)} items"
            self.add(f"forgetting, {name}, both sides", fixed=2 * rate.of(work.all), how=how)

    def training(self, base: tuple[Work, Rate]) -> tuple[_Watched, int]:
        """Train the first steps of the run's own training, and look at validation once; the adapter stays on.

        Returns what was seen, and how many steps there will be.
        """
        session, settings, splits = self.session, self.config.train, self.splits
        some = rows_to_prove_on(session.task.to_prove(splits.train))
        proving = seconds_of(lambda: likelihoods(session, some, settings.max_length))
        session.will_train(splits.train, settings)
        began = time.monotonic()
        with progress.silenced():
            put_on(session, splits, settings, self.config.adapter.model_dump())
        putting = time.monotonic() - began
        rows = len(splits.train)
        steps = steps_of(rows, settings.batch_size, settings.epochs, settings.steps)
        watched = _Watched(min(steps, self._steps(base, rows, steps)), bool(splits.validation))
        with progress.silenced():
            self._train(watched)
        by_epoch = steps if settings.steps else -(-rows // settings.batch_size)  # of a plan by steps all are one
        every = settings.evaluate_every or max(1, -(-by_epoch // 2))
        looks = by_epoch / every * watched.look
        how = f"measured on {watched.steps} of {steps} steps"
        self.add("training", fixed=putting + watched.before, epoch=watched.each * by_epoch + looks, how=how)
        if trains_whole(self.config.adapter.method):
            proving *= 2
        self.add("proofs", fixed=5 * proving, how="as one of them")
        self._tuned(base)
        return watched, steps

    def _steps(self, base: tuple[Work, Rate], rows: int, steps: int) -> int:
        """Return how many steps to look at: as many as SECONDS_OF_STEPS hold, if one costs three times its scoring."""
        work, rate = base
        mean = work.all / max(1, len(work.fitting))
        step = 3 * rate.each * mean * min(rows, self.config.train.batch_size)
        return min(MOST_STEPS, steps, max(STEPS, int(SECONDS_OF_STEPS / max(step, 1e-3))))

    def _train(self, watched: _Watched) -> None:
        session, splits = self.session, self.splits
        settings = self.config.train.model_copy(update={"evaluate_every": watched.most, "patience": None})
        watched.begin()
        try:
            train(
                session.model, session.tokenizer, session.task,
                {"train": splits.train, "validation": splits.validation}, settings, labels=session.labels,
                listeners=[watched], render=session.rows,
            )  # fmt: skip
        except Enough:
            session.model.eval()

    def conclusion(self) -> None:
        """Try the comparison that ends a run: of items as many as there will be, for base and each baseline."""
        rows, sides = self.scored.rows, 1 + sum(stage.name.startswith("baseline ") for stage in self.stages)
        many = [{**rows[i % len(rows)], "id": str(i)} for i in range(self.items)]
        with uncounted():
            once = seconds_of(lambda: compare(Scores(many, self.scored.info), Scores(many, self.scored.info)))
        self.add("comparison and report", fixed=sides * once, how=f"measured on {self.items} made-up items")

    def _tuned(self, base: tuple[Work, Rate]) -> None:
        """Add what the tuned side takes: as much as the base, by as much slower as a few items are."""
        work, rate = base
        few = [work.examples[i] for i in work.few()]
        self.score([work.examples[i] for i in work.many()], self.plan)  # which takes the most memory beside the rest
        with_adapter = self.score(few, self.plan)
        with self.session.base():
            without = self.score(few, self.plan)
        times = with_adapter / max(without, 1e-9)
        each = rate.each * work.all / max(1, self.items)
        how = f"{times:.2f} times the base's, measured on {len(few)} items"
        self.add("tuned evaluation", fixed=times * rate.fixed, item=times * each, how=how)


class _Watched:
    """Listens to a training: when its steps and its look at validation ended, and ends it after `most` steps."""

    def __init__(self, most: int, looks: bool) -> None:
        self.most, self.looks = most, looks
        self.times: list[float] = []
        self.peaks: list[int] = []
        self.look, self.tokens = 0.0, 0

    def begin(self) -> None:
        self.began = time.monotonic()

    def __call__(self, event: str, **figures: Any) -> None:
        now = time.monotonic()
        if event == "train":
            self.times.append(now)
            held = machine.resident()
            self.peaks += [held.peak] if held else []
            self.tokens = max(self.tokens, int(figures.get("tokens", 0)))
            if len(self.times) >= self.most and not self.looks:
                raise Enough
        elif event == "validation":
            self.look = now - self.times[-1]
            raise Enough

    def growth(self, steps: int) -> int:
        """Return what the peak grows by until so many steps are done, as it did while their number last doubled."""
        if len(self.peaks) < 2:
            return 0
        doublings = min(DOUBLINGS, math.log2(max(1.0, steps / len(self.peaks))))
        return int(doublings * (self.peaks[-1] - self.peaks[len(self.peaks) // 2 - 1]))

    @property
    def steps(self) -> int:
        return len(self.times)

    @property
    def each(self) -> float:
        """Return the seconds of a step, the first one left out where there are others: it warms up."""
        if len(self.times) < 2:
            return self.times[0] - self.began if self.times else 0.0
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)

    @property
    def before(self) -> float:
        """Return the seconds before the first step: rows, fast paths and trials."""
        return max(0.0, self.times[0] - self.began - self.each) if self.times else 0.0
