"""Several settings trained, one chosen on validation, and that one alone measured on the test rows."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from tunelift.comparison import Comparison
from tunelift.config.load import default_output
from tunelift.config.schema import Config
from tunelift.core import files, progress
from tunelift.core.errors import InputError, TuneliftError, listed
from tunelift.pipeline.folder import locked
from tunelift.pipeline.many_plans import ManyPlans
from tunelift.pipeline.run import run
from tunelift.pipeline.tuning import Chosen
from tunelift.run_files.layout import RunPaths, SweepPaths
from tunelift.scale.candidates import (
    LONGEST,
    Candidate,
    is_complete,
    no_longer,
    plans_of,
    refuse_twice,
    refuse_wrong_adapters,
    short,
    with_values,
    wrong_key,
)
from tunelift.scale.jobs import Job, run_jobs
from tunelift.scale.remote import Remote
from tunelift.scale.spaces import TRIALS, Search, corners, is_range, is_search
from tunelift.scale.spaces import problems as wrong_ranges

SEEDS = "train.seeds"
"""In a sweep: every setting is trained with each, the mean loss chooses, and the verdict is of the chosen's seeds."""
MOST = 200
"""Candidates of one sweep. With more the best on validation is the luckiest."""


def candidates(config: Config) -> list[Candidate]:
    """Return every combination of the values in `sweep`, the last key changing first; of ranges the ends.

    Raises InputError for keys that are not of adapter or train, values that a key does not take, no or too many
    combinations, the same one twice, and methods that there are not.
    """
    if not config.sweep.keys() - {TRIALS}:
        raise InputError(
            "There is nothing to choose among: the config has no sweep.",
            fix="Name keys and values: sweep: {train.learning_rate: [1e-4, 3e-4], adapter.r: [4, 8]}",
        )
    draws = is_search(config.sweep)
    problems = [problem for name, values in config.sweep.items() for problem in _problems(name, values)]
    problems += wrong_ranges(config.sweep, MOST) if draws else []
    if not problems and SEEDS in config.sweep:
        problems += _wrong_seeds(config)
    if problems:
        raise InputError(*problems)
    count = 0 if draws else math.prod(len(values) for values in config.sweep.values())
    if count > MOST:
        raise InputError(f"The sweep has {count} combinations; at most {MOST} are tried.", fix="Name fewer values.")
    found = [one for setting in islice(corners(_without_seeds(config.sweep)), MOST) for one in _made(config, setting)]
    refuse_twice((candidate.name for candidate in found), "The sweep has a combination")
    refuse_wrong_adapters(found)
    return found


def sweep(
    config: Config, *, on: str = "local", at_once: int = 1, anyway: bool = False, storage: str | None = None
) -> tuple[Comparison, list[Candidate]]:
    """Train every candidate, choose by the loss on validation, and run the chosen one to a verdict.

    Returns the comparison and the candidates, the best first. What an earlier call has completed is not done again;
    with `storage`, an address, nor what lies there. A candidate whose training fails is left out and named; its log
    says why. Raises TuneliftError where all failed, and InputError before anything is computed: where the memory does
    not suffice for one of them, unless `anyway`; where the folder holds other files, or trainings of another config or
    of other rows; where another sweep is at work there.
    """
    found = candidates(config)
    paths = SweepPaths(config.output or default_output(config))
    _refuse_other_files(paths)
    if is_search(config.sweep):
        _search_of(config, paths)  # what is wrong is said now, before anything is planned
    remote = Remote.open(storage, paths.folder) if storage else None
    plans = plans_of(found, "settings", anyway=anyway)
    with locked(paths.folder):
        if remote:
            _bring(config, paths, remote)
        made = _swept(config, found, paths, plans, on=on, at_once=at_once, anyway=anyway, remote=remote)
        if remote:
            remote.sync([paths.chosen])
            remote.store.put(paths.summary)
        return made


def _bring(config: Config, paths: SweepPaths, remote: Remote) -> None:
    """Bring what was drawn and chosen from the address; raise InputError where that is of another sweep."""
    remote.sync([paths.chosen])
    there = remote.store.read(paths.trials) if is_search(config.sweep) else None
    if there is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        other = SweepPaths(folder)
        other.trials.write_bytes(there)
        known = len(_search_in(config, other).before)
    if known > len(_search_in(config, paths).before):
        remote.store.get(paths.trials)


def _swept(
    config: Config,
    found: list[Candidate],
    paths: SweepPaths,
    plans: ManyPlans,
    *,
    on: str,
    at_once: int,
    anyway: bool,
    remote: Remote | None,
) -> tuple[Comparison, list[Candidate]]:
    search = _search_of(config, paths) if is_search(config.sweep) else None
    known = search.known if search else found
    if remote:
        remote.sync(one.paths.folder for one in known)
    plans.refuse_others((one.paths, one.config) for one in known)
    more = ["--anyway"] if anyway else []
    train = partial(_trained, plans=plans, on=on, at_once=at_once, more=more, remote=remote)
    if search:
        progress.note(f"sweep: {search.count} settings are drawn, {len(search.before)} of them before.")
        train(search.candidates(), search.count, search)
        found = search.drawn
    else:
        open_now = [candidate for candidate in found if not candidate.trained]
        progress.note(f"sweep: {len(found)} settings, {len(found) - len(open_now)} of them trained before.")
        train(open_now, len(found))
    settings = _by_setting(found)
    ranked = [candidate for _, some in settings for candidate in some]
    best = ranked[0]
    files.write_json(paths.summary, {"candidates": [c.to_dict() for c in ranked], "chosen": best.name})
    if not math.isfinite(settings[0][0]):
        raise TuneliftError(f"No setting was trained to the end with a loss on validation; logs lie in {paths.folder}.")
    training = best.config.train.model_copy(update={"seeds": config.sweep.get(SEEDS) or config.train.seeds})
    chosen = best.config.model_copy(update={"output": str(paths.chosen), "train": training})
    among = {
        "candidates": len(settings),
        "trained": sum(candidate.trained for candidate in found),
        "values": best.values,
    }
    return run(chosen, chosen=Chosen(best.paths, among), anyway=anyway), ranked


def _trained(
    some: Iterable[Candidate],
    count: int,
    search: Search | None = None,
    *,
    plans: ManyPlans,
    on: str,
    at_once: int,
    more: Sequence[str],
    remote: Remote | None,
) -> None:
    """Train candidates, of which there are `count` in all; with a search each is told of, and may be ended early."""
    by_name, done = dict[str, Candidate](), 0

    def job(one: Candidate) -> Job:
        by_name[one.name] = one
        if remote and search:
            remote.store.put(search.file)
        return one.job(plans, "tune", *more)

    def ended(job: Job, code: int) -> None:
        nonlocal done
        done, one = done + 1, by_name[job.name]
        if search and search.ended(one):
            said = "ended early, by its looks at validation"
            if remote:
                remote.store.drop_checkpoints(one.paths.folder)
        else:
            said = f"validation loss {one.loss:.4g}" if code == 0 else f"failed with {code}, see {job.log}"
        if remote and search:
            remote.store.put(search.file)
        progress.note(f"sweep: {done} of {count} trained now; {job.name}: {said}")

    jobs = map(job, some) if search else [job(one) for one in some]
    to_end = (lambda job: search.to_end(by_name[job.name])) if search else None
    run_jobs(jobs, on, at_once, ended, to_end, between=remote)


def _refuse_other_files(paths: SweepPaths) -> None:
    """Raise InputError where the folder holds what no sweep of ours has there."""
    try:
        others = [path.name for path in paths.folder.iterdir() if not paths.is_ours(path) and path.suffix != files.PART]
    except FileNotFoundError:
        return
    except NotADirectoryError:
        others = [paths.folder.name]
    if others:
        raise InputError(
            f"{paths.folder} exists and is no sweep of ours: {listed(sorted(others), 3)}.",
            fix="Name another folder with output; nothing was written.",
        )


def _search_of(config: Config, paths: SweepPaths) -> Search:
    """Return the search for settings; raise InputError for more of them once the test items were looked at."""
    search = _search_in(config, paths)
    if search.count > len(search.before) and is_complete(RunPaths(paths.chosen)):
        raise InputError(
            f"{paths.chosen} has a verdict already, of the best among {len(search.before)}.",
            fix="Name another folder with output: more settings would be a choice by what the test items said.",
        )
    return search


def _search_in(config: Config, paths: SweepPaths) -> Search:
    return Search(config.sweep, config.train.seed, paths.trials, lambda values: next(_made(config, values)))


def _wrong_seeds(config: Config) -> list[str]:
    """Say why seeds cannot be swept: there are others, nothing to choose among, or one twice."""
    seeds = config.sweep[SEEDS]
    if is_search(config.sweep):
        return [f"sweep names {SEEDS}, and draws settings. Name them in train.seeds: the chosen is trained with each."]
    if config.train.seeds:
        return [f"{SEEDS} is given, and sweep names {SEEDS} too."]
    if len(config.sweep) == 1:
        return [f"sweep names {SEEDS} alone: a seed is no choice. Use train.seeds, or name a setting beside it."]
    if len(set(seeds)) < len(seeds) or not all(type(seed) is int for seed in seeds):
        return [f"sweep: {SEEDS} needs different whole numbers."]
    return []


def _problems(name: str, values: Sequence[Any]) -> Iterator[str]:
    if name == TRIALS or is_range(values):
        values = ["looked at elsewhere"]
    if name not in (SEEDS, TRIALS) and (wrong := wrong_key(name, "sweep")):
        yield wrong
    elif not isinstance(values, list) or not values:
        yield f"sweep: {name} needs a list of values."


def _without_seeds(sweep: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in sweep.items() if name != SEEDS}


def _made(config: Config, setting: Mapping[str, Any]) -> Iterator[Candidate]:
    """Yield a setting once with each seed where the sweep names seeds, else with the first of train.seeds."""
    sweep, swept = SweepPaths(config.output or default_output(config)), config.sweep.get(SEEDS)
    for seed in swept or config.train.seeds[:1] or [None]:
        values = dict(setting) | ({"train.seed": seed} if swept else {})
        parts = [f"{key.rpartition('.')[2]}-{short(value)}" for key, value in values.items()]
        name = no_longer(",".join(parts), LONGEST)
        paths = sweep.candidate(name)
        own: dict[str, Any] = {} if seed is None else {"train.seed": seed, "train.seeds": []}
        changed = with_values(config, dict(setting) | own).model_copy(update={"output": str(paths.folder)})
        yield Candidate(name, values, changed, paths, sweep.asked(name), sweep.log(name))


def _by_setting(found: Sequence[Candidate]) -> list[tuple[float, list[Candidate]]]:
    """Return the settings, the best first, each with its mean loss over its seeds and their trainings.

    A setting of which one seed failed has no mean.
    """
    grouped: dict[str, list[Candidate]] = {}
    for candidate in found:
        setting = {key: value for key, value in candidate.values.items() if key != "train.seed"}
        grouped.setdefault(str(setting), []).append(candidate)
    means = [(statistics.fmean(one.loss for one in some), some) for some in grouped.values()]
    return sorted(means, key=lambda one: one[0])
