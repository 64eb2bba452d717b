"""Spaces that Optuna (extra) draws settings from, and trainings that it ends early by their looks at validation.

What was drawn, and what was ended early, stands in trials.json; how each training went is in its own folder. A search
that was killed is made of these again, and the training that was cut off goes on. With one training at a time the same
config draws the same settings, however often it was cut off: the numbers that a draw is made with follow from
train.seed and from how many were drawn before.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from tunelift.core import files
from tunelift.core.errors import InputError, listed
from tunelift.scale.candidates import Candidate

TRIALS = "trials"
"""In a sweep: how many settings are drawn."""

KEYS = ("low", "high", "log", "step")
DIGITS = 6
"""Significant digits of a number that is drawn."""

Make = Callable[[Mapping[str, Any]], Candidate]
"""Makes a candidate of values."""


def is_range(value: Any) -> bool:
    """Tell whether a value of a sweep is a range to draw from."""
    return isinstance(value, dict)


def is_search(sweep: Mapping[str, Any]) -> bool:
    """Tell whether a sweep draws settings, instead of taking every combination."""
    return TRIALS in sweep or any(map(is_range, sweep.values()))


def problems(sweep: Mapping[str, Any], most: int) -> Iterator[str]:
    """Say what is wrong with ranges, and with how many settings are drawn."""
    trials = sweep.get(TRIALS)
    if trials is None:
        yield f"sweep has ranges, and does not say how many settings are drawn of them: {TRIALS}: 20."
    elif type(trials) is not int or not 1 < trials <= most:
        yield f"sweep: {TRIALS} needs a whole number from 2 to {most}."
    for name, value in sweep.items():
        if is_range(value):
            yield from (f"sweep: {name}: {said}" for said in _wrong_range(value))


def _wrong_range(value: Mapping[str, Any]) -> Iterator[str]:
    low, high, step = (value.get(key) for key in ("low", "high", "step"))
    numbers = [one for one in (low, high, step) if one is not None]
    if unknown := [str(key) for key in value if key not in KEYS]:
        yield f"a range has {listed(KEYS)}, not {listed(unknown)}."
    elif not all(type(one) in (int, float) and math.isfinite(one) for one in numbers) or None in (low, high):
        yield "a range needs numbers, such as {low: 1e-5, high: 1e-3, log: true}."
    elif not isinstance(value.get("log", False), bool):
        yield "log is true or false."
    elif low >= high:  # type: ignore[operator]  # both are numbers by now
        yield "low must be less than high."
    elif value.get("log") and (low <= 0 or step is not None):  # type: ignore[operator]
        yield "log needs a low above 0, and goes without step."
    elif step is not None and step <= 0:
        yield "step must be above 0."


def corners(sweep: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the lists' values, the last key changing first; ranges at their lows, then highs."""
    ranges = [name for name, value in sweep.items() if is_range(value)]
    lists = {name: value for name, value in sweep.items() if name != TRIALS and name not in ranges}
    for chosen in product(*lists.values()):
        given = dict(zip(lists, chosen, strict=True))
        for end in ("low", "high") if ranges else ("",):
            yield {name: sweep[name][end] if name in ranges else given[name] for name in sweep if name != TRIALS}


@dataclass(slots=True)
class _Trial:
    """What was drawn: its candidate, Optuna's own trial, looks that it was told of, and after which it was ended.

    `judged` is whether all of its looks were: what is judged again, beside others than then, may come out otherwise.
    """

    candidate: Candidate
    own: Any
    looks: int = 0
    pruned: int | None = None
    judged: bool = False


class Search:
    """Draws settings for as many trainings as are asked for, and tells which of them are not worth going on with.

    Raises InputError where Optuna is missing, and for a file of another sweep.
    """

    def __init__(self, sweep: Mapping[str, Any], seed: int, file: Path, make: Make) -> None:
        try:
            import optuna
        except ImportError as error:
            raise InputError(
                "Optuna is not installed, which draws settings from ranges.",
                fix="pip install 'tunelift[optuna]', or name lists of values and no trials.",
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.seed, self.file, self.make = optuna, seed, file, make
        self.count, self.spaces = sweep[TRIALS], {name: value for name, value in sweep.items() if name != TRIALS}
        self.study = optuna.create_study(direction="minimize", pruner=optuna.pruners.MedianPruner())
        self.trials: list[_Trial] = []
        before: Any = files.read_object(file) if file.is_file() else {"spaces": self.spaces, "trials": []}
        if not _is_known(before):
            raise InputError(
                f"{file} is not what tunelift writes there.", fix="Remove it; what was trained is drawn again and kept."
            )
        if before["spaces"] != self.spaces:
            raise InputError(
                f"{file} is of another sweep.", fix="Name another folder with output; nothing was written."
            )
        self.before: Sequence[Mapping[str, Any]] = before["trials"]

    def candidates(self) -> Iterator[Candidate]:
        """Yield what is to be trained: what was drawn before and did not end, then what is drawn now.

        `ended` is to be told of each. What is drawn twice is trained once.
        """
        for known in self.before:
            trial = self._draw(known["params"])
            trial.pruned, judged = known["pruned"], known.get("judged", True)
            if self._of(trial.candidate) is not trial:
                self._tell(trial)
            elif trial.pruned is None and not trial.candidate.trained:
                yield trial.candidate
            elif trial.pruned is None and not judged:  # it ended, and nobody lived to look whether too late
                self.ended(trial.candidate)
            else:
                self._report(trial)
                self._tell(trial)
                trial.judged = True
        while len(self.trials) < self.count:
            trial = self._draw(None)
            self._write()
            if self._of(trial.candidate) is trial:
                yield trial.candidate
            else:
                self._tell(trial)

    def to_end(self, candidate: Candidate) -> bool:
        """Tell whether a training is not worth going on with, by its looks at validation so far."""
        trial = self._of(candidate)
        while trial.pruned is None and self._report(trial, 1):
            if trial.own.should_prune():
                trial.pruned = trial.looks
                self._write()
        return trial.pruned is not None

    def ended(self, candidate: Candidate) -> bool:
        """Learn from a training that ended, of one that failed nothing; return whether it was ended early."""
        early, trial = self.to_end(candidate), self._of(candidate)
        self._tell(trial)
        trial.judged = True
        self._write()
        return early

    @property
    def known(self) -> list[Candidate]:
        """Return what was drawn before, as trials.json has it."""
        return [self.make(self._values(known["params"])) for known in self.before]

    @property
    def drawn(self) -> list[Candidate]:
        """Return what was drawn, each once."""
        first = [trial for trial in self.trials if self._of(trial.candidate) is trial]
        return [replace(trial.candidate, pruned=trial.pruned) for trial in first]

    def _draw(self, params: Mapping[str, Any] | None) -> _Trial:
        """Draw the next settings, or have those that were drawn before."""
        number = len(self.trials)
        self.study.sampler = self.optuna.samplers.TPESampler(seed=self.seed + number)
        if params is not None:
            self.study.enqueue_trial(dict(params))
        own = self.study.ask({name: self._distribution(value) for name, value in self.spaces.items()})
        self.trials.append(_Trial(self.make(self._values(own.params)), own))
        return self.trials[-1]

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _value(space, params[name]) for name, space in self.spaces.items()}

    def _distribution(self, space: Any) -> Any:
        kinds = self.optuna.distributions
        if not is_range(space):
            return kinds.CategoricalDistribution(range(len(space)))  # values may be lists, which Optuna has not
        low, high, log, step = (space.get(key) for key in KEYS)
        if all(isinstance(one, int) for one in (low, high, step or 1)):
            return kinds.IntDistribution(low, high, log=bool(log), step=step or 1)
        return kinds.FloatDistribution(low, high, log=bool(log), step=step)

    def _of(self, candidate: Candidate) -> _Trial:
        """Return the first trial that drew these settings."""
        return next(trial for trial in self.trials if trial.candidate.name == candidate.name)

    def _report(self, trial: _Trial, most: int | None = None) -> bool:
        """Tell Optuna of looks that it does not know; return whether there was one."""
        upto = trial.pruned if most is None else trial.looks + most
        new = trial.candidate.looks[trial.looks : upto]
        for loss in new:
            trial.looks += 1
            trial.own.report(loss, trial.looks)
        return bool(new)

    def _tell(self, trial: _Trial) -> None:
        states, first = self.optuna.trial.TrialState, self._of(trial.candidate)
        if first.pruned is not None:
            shutil.rmtree(trial.candidate.paths.checkpoints, ignore_errors=True)  # nobody goes on with it
            self.study.tell(trial.own, state=states.PRUNED)
        elif math.isfinite(trial.candidate.loss):
            self.study.tell(trial.own, trial.candidate.loss)
        else:
            self.study.tell(trial.own, state=states.FAIL)

    def _write(self) -> None:
        told: list[Mapping[str, Any]] = [
            {
                "params": trial.own.params,
                "name": trial.candidate.name,
                "pruned": trial.pruned,
                "judged": trial.judged or trial.pruned is not None,
            }
            for trial in self.trials
        ]
        told += self.before[len(told) :]
        files.make_folder(self.file.parent)
        files.write_json(self.file, {"spaces": self.spaces, "trials": told})


def _is_known(before: Mapping[str, Any]) -> bool:
    """Tell whether trials.json has the parts that are looked into."""
    spaces, trials = before.get("spaces"), before.get("trials")
    if not isinstance(spaces, dict) or not isinstance(trials, list):
        return False
    return all(
        isinstance(one, dict)
        and isinstance(one.get("params"), dict)
        and one["params"].keys() == spaces.keys()
        and type(one.get("pruned", "")) in (int, type(None))
        for one in trials
    )


def _value(space: Any, drawn: Any) -> Any:
    """Return what the config is to say for what was drawn: an entry of a list, or a number with few digits."""
    if not is_range(space):
        return space[drawn]
    if isinstance(drawn, int):
        return drawn
    return min(max(float(f"{drawn:.{DIGITS}g}"), space["low"]), space["high"])
