"""Several settings trained, one chosen on validation, and that one alone measured on the test rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from tunelift.comparison import Comparison
from tunelift.config.load import default_output
from tunelift.config.schema import Config
from tunelift.core import files, progress
from tunelift.core.errors import InputError, TuneliftError
from tunelift.pipeline.run import run
from tunelift.pipeline.tuning import Chosen
from tunelift.run_files.layout import SweepPaths
from tunelift.scale.candidates import Candidate, refuse_twice, refuse_wrong_adapters, short, with_values, wrong_key
from tunelift.scale.jobs import Job, run_jobs

MOST = 200
"""Candidates of one sweep. With more the best on validation is the luckiest."""


def candidates(config: Config) -> list[Candidate]:
    """Return every combination of the values in `sweep`, the last key changing first.

    Raises InputError for keys that are not of adapter or train, values that a key does not take, no or too many
    combinations, the same one twice, and methods that there are not.
    """
    if not config.sweep:
        raise InputError(
            "There is nothing to choose among: the config has no sweep.",
            fix="Name keys and values: sweep: {train.learning_rate: [1e-4, 3e-4], adapter.r: [4, 8]}",
        )
    problems = [problem for name, values in config.sweep.items() for problem in _problems(name, values)]
    if problems:
        raise InputError(*problems)
    count = math.prod(len(values) for values in config.sweep.values())
    if count > MOST:
        raise InputError(f"The sweep has {count} combinations; at most {MOST} are tried.", fix="Name fewer values.")
    sweep = SweepPaths(config.output or default_output(config))
    found = list(_combined(config, sweep))
    refuse_twice((candidate.name for candidate in found), "The sweep has a combination")
    refuse_wrong_adapters(found)
    return found


def sweep(config: Config, *, on: str = "local", at_once: int = 1) -> tuple[Comparison, list[Candidate]]:
    """Train every candidate, choose by the loss on validation, and run the chosen one to a verdict.

    Returns the comparison and the candidates, the best first. What an earlier call has completed is not done again. A
    candidate whose training fails is left out and named; its log says why. Raises TuneliftError where all failed.
    """
    found = candidates(config)
    paths = SweepPaths(config.output or default_output(config))
    open_jobs = [candidate.job() for candidate in found if not candidate.trained]
    by_name = {candidate.name: candidate for candidate in found}
    progress.note(f"sweep: {len(found)} settings, {len(found) - len(open_jobs)} of them trained before.")

    def ended(job: Job, code: int) -> None:
        loss = by_name[job.name].loss
        done = sum(candidate.trained for candidate in found)
        said = f"validation loss {loss:.4g}" if code == 0 else f"failed with {code}, see {job.log}"
        progress.note(f"sweep: {done}/{len(found)} trained; {job.name}: {said}")

    run_jobs(open_jobs, on, at_once, ended)
    ranked = sorted(found, key=lambda candidate: candidate.loss)
    best = ranked[0]
    files.write_json(paths.summary, {"candidates": [c.to_dict() for c in ranked], "chosen": best.name})
    if not math.isfinite(best.loss):
        raise TuneliftError(f"No setting was trained to the end with a loss on validation; logs lie in {paths.folder}.")
    training = best.config.train.model_copy(update={"seeds": config.train.seeds})
    chosen = best.config.model_copy(update={"output": str(paths.chosen), "train": training})
    among = {"candidates": len(found), "trained": sum(candidate.trained for candidate in found), "values": best.values}
    return run(chosen, chosen=Chosen(best.paths, among)), ranked


def _problems(name: str, values: Sequence[Any]) -> Iterator[str]:
    if wrong := wrong_key(name, "sweep"):
        yield wrong
    elif not isinstance(values, list) or not values:
        yield f"sweep: {name} needs a list of values."


def _combined(config: Config, sweep: SweepPaths) -> Iterator[Candidate]:
    names = list(config.sweep)
    first_seed = {"train.seed": config.train.seeds[0], "train.seeds": []} if config.train.seeds else {}
    for combination in product(*config.sweep.values()):
        values = dict(zip(names, combination, strict=True))
        name = ",".join(f"{key.rpartition('.')[2]}-{short(value)}" for key, value in values.items())
        paths = sweep.candidate(name)
        changed = with_values(config, {**values, **first_seed}).model_copy(update={"output": str(paths.folder)})
        yield Candidate(name, values, changed, paths, sweep.asked(name), sweep.log(name))
