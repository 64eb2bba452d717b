"""Several settings trained, one chosen on validation, and that one alone measured on the test rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tunelift.comparison import Comparison
from tunelift.config import yaml_text
from tunelift.config.load import build, default_output
from tunelift.config.schema import Config
from tunelift.config.settings import SECTIONS, flatten
from tunelift.core import files, progress
from tunelift.core.errors import InputError, TuneliftError, did_you_mean, listed
from tunelift.pipeline.jobs import Job, run_jobs
from tunelift.pipeline.run import run
from tunelift.pipeline.tuning import Chosen
from tunelift.run_files.layout import RunPaths, SweepPaths

MOST = 200
"""Candidates of one sweep. With more the best on validation is the luckiest."""
SWEPT = ("adapter", "train")
"""Sections whose keys may be swept: what the base is measured with, and on, is the same for all."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One choice of values: its name, what it sets, its whole config and the folder of its training."""

    name: str
    values: Mapping[str, Any]
    config: Config
    paths: RunPaths
    asked: Path
    log: Path

    @property
    def trained(self) -> bool:
        """Tell whether its training is complete and proved."""
        return self.paths.manifest.is_file() and files.read_manifest(self.paths.manifest).get("status") == "complete"

    @property
    def loss(self) -> float:
        """Return its best mean loss on the validation rows, in nats; infinite where it has none."""
        if not self.trained:
            return math.inf
        best = files.read_manifest(self.paths.manifest)["train"].get("best_loss")
        return math.inf if best is None else float(best)

    def to_dict(self) -> dict[str, Any]:
        """Return the line of sweep.json."""
        loss = self.loss
        return {
            "name": self.name,
            "values": dict(self.values),
            "validation_loss": loss if math.isfinite(loss) else None,
        }


def candidates(config: Config) -> list[Candidate]:
    """Return every combination of the values in `sweep`, the last key changing first.

    Raises InputError for keys that are not of adapter or train, values that a key does not take, no or too many
    combinations, and the same one twice.
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
    if len({candidate.name for candidate in found}) < len(found):
        raise InputError("The sweep has a combination twice.", fix="Name each value once.")
    return found


def sweep(config: Config, *, on: str = "local", at_once: int = 1) -> tuple[Comparison, list[Candidate]]:
    """Train every candidate, choose by the loss on validation, and run the chosen one to a verdict.

    Returns the comparison and the candidates, the best first. What an earlier call has completed is not done again. A
    candidate whose training fails is left out and named; its log says why. Raises TuneliftError where all failed.
    """
    found = candidates(config)
    paths = SweepPaths(config.output or default_output(config))
    open_jobs = [_job(candidate) for candidate in found if not candidate.trained]
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
    section, _, key = name.partition(".")
    if section not in SWEPT or not key:
        yield f"sweep: {name} cannot be swept; keys of {listed(SWEPT)} can, such as train.learning_rate."
    elif section == "train" and key not in SECTIONS["train"].model_fields:
        yield f"sweep: there is no key {name}.{did_you_mean(key, SECTIONS['train'].model_fields)}"
    elif key in ("seed", "seeds"):
        yield f"sweep: {name} is no choice: a seed chosen on validation is luck. Use train.seeds."
    elif not isinstance(values, list) or not values:
        yield f"sweep: {name} needs a list of values."


def _combined(config: Config, sweep: SweepPaths) -> Iterator[Candidate]:
    names = list(config.sweep)
    first_seed = {"train.seed": config.train.seeds[0], "train.seeds": []} if config.train.seeds else {}
    for combination in product(*config.sweep.values()):
        values = dict(zip(names, combination, strict=True))
        name = ",".join(f"{key.rpartition('.')[2]}-{_short(value)}" for key, value in values.items())
        paths = sweep.candidate(name)
        changed = _with(config, {**values, **first_seed}).model_copy(update={"output": str(paths.folder)})
        yield Candidate(name, values, changed, paths, sweep.asked(name), sweep.log(name))


def _with(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the config with other values, checked; keys that were not given stay so, as methods have their own."""
    tree = config.model_dump(exclude_unset=True, exclude={"sweep"})
    for name, value in values.items():
        section, _, key = name.partition(".")
        tree.setdefault(section, {})[key] = value
    return build(flatten(tree))


def _short(value: Any) -> str:
    text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)[:60]


def _job(candidate: Candidate) -> Job:
    """Return the job that trains a candidate, its config written where the job reads it."""
    files.make_folder(candidate.asked.parent)
    files.write_text(candidate.asked, yaml_text.dump(candidate.config.model_dump(exclude_unset=True)))
    return Job(candidate.name, ["tune", str(candidate.asked)], candidate.log)
