"""A leaderboard of a config: methods and settings under one budget, chosen on validation, ranked once on the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tunelift.comparison.leaderboard import Leaderboard, leaderboard
from tunelift.comparison.pairing import read_side
from tunelift.comparison.recipes import Recipes, recipes
from tunelift.config import yaml_text
from tunelift.config.load import default_output
from tunelift.config.schema import Config
from tunelift.core import files, progress
from tunelift.core.errors import InputError, TuneliftError, listed
from tunelift.pipeline.folder import locked
from tunelift.pipeline.many_plans import ManyPlans
from tunelift.pipeline.tuning import Chosen
from tunelift.reporting.leaderboard_page import write_leaderboard
from tunelift.run_files.layout import LeaderboardPaths, RunPaths
from tunelift.scale.candidates import (
    Candidate,
    is_complete,
    plans_of,
    refuse_twice,
    refuse_wrong_adapters,
    short,
    with_values,
    wrong_key,
)
from tunelift.scale.costs import Costs, not_beaten
from tunelift.scale.halving import Halved, Train, halved
from tunelift.scale.jobs import Job, run_jobs
from tunelift.scale.lengths import lengths, pilot_of, pilots
from tunelift.scale.remote import Remote

MOST = 60
"""Entries of one leaderboard."""
FINALISTS = "finalists"

RunAll = Callable[..., None]
"""Runs a command of each of some candidates: `_run` with the plans and the place."""


def entries(config: Config) -> list[Candidate]:
    """Return what is ranked, each with its config; nothing is written or run.

    Raises InputError, with every problem, for names and keys that there are not, and a config that cannot be ranked.
    """
    board = config.leaderboard
    problems = list(_problems(config))
    if problems:
        raise InputError(*problems)
    paths = LeaderboardPaths(config.output or default_output(config))
    first_seed = {"train.seed": config.train.seeds[0], "train.seeds": []} if config.train.seeds else {}
    found = []
    for one in board.methods:
        values = {"adapter.method": one} if isinstance(one, str) else {k: v for k, v in one.items() if k != "name"}
        name = short(one if isinstance(one, str) else one.get("name", values.get("adapter.method")))
        changed = with_values(config, values | first_seed)
        place = paths.run(FINALISTS, name)
        asked, log = paths.asked(FINALISTS, name), paths.log(FINALISTS, name)
        found.append(Candidate(name, values, changed, place, asked, log))
    refuse_twice((entry.name for entry in found), "leaderboard.methods names an entry")
    refuse_wrong_adapters(found)
    return found


def rank(
    config: Config, *, on: str = "local", at_once: int = 1, anyway: bool = False, storage: str | None = None
) -> tuple[Leaderboard, dict[str, Any]]:
    """Train, choose on validation, measure the finalists on the test, rank them, and write table and figure.

    Returns the ranks and all of leaderboard.json. What an earlier call has completed is not done again; with `storage`,
    an address, nor what lies there. Raises InputError before anything runs where the config cannot be right, or where
    the memory does not suffice for one of them, unless `anyway`, or where another is at work in the folder;
    TuneliftError where no finalist came through.
    """
    found = entries(config)
    paths = LeaderboardPaths(config.output or default_output(config))
    remote = Remote.open(storage, paths.folder) if storage else None
    plans = plans_of(found, "entries", anyway=anyway)
    _refuse_another(config, paths, remote)
    with locked(paths.folder):
        more = ["--anyway"] if anyway else []
        run_all = partial(_run, plans=plans, on=on, at_once=at_once, more=more, remote=remote)
        train = partial(_train, plans=plans, run_all=run_all, remote=remote)
        made = _ranked(config, found, paths, run_all, train, remote)
        if remote:
            remote.store.put(paths.summary, paths.markdown, paths.figure)
        return made


def _ranked(
    config: Config,
    found: Sequence[Candidate],
    paths: LeaderboardPaths,
    run_all: RunAll,
    train: Train,
    remote: Remote | None,
) -> tuple[Leaderboard, dict[str, Any]]:
    files.write_text(paths.config, _text_of(config))
    needed = [pilot_of(entry, paths) for entry in pilots(found, config.leaderboard)]
    if remote and not paths.lengths.is_file():
        remote.store.get(paths.lengths)
    long = lengths(found, needed, config.leaderboard, paths, train)
    if remote:
        remote.store.put(paths.config, paths.lengths)
    chosen = halved(found, config.leaderboard, long, paths, train)
    done = _finals(config, chosen, paths, run_all, remote)
    if not done:
        raise TuneliftError(f"No finalist came through; logs lie in {paths.folder / FINALISTS}.")
    runs = {name: RunPaths(paths.run(FINALISTS, name).folder) for name in done}
    first = next(iter(runs.values()))
    ranks = leaderboard(first.base, {name: one.tuned for name, one in runs.items()}, metric=_headline(first))
    over_seeds = _over_seeds(ranks, runs)
    costs = {name: Costs.of(one) for name, one in runs.items()}
    summary = {
        **ranks.to_dict(),
        "budget": {key: value for key, value in config.leaderboard.model_dump().items() if key != "methods"},
        "lengths": dict(long),
        "entries": [{"name": entry.name, "values": dict(entry.values)} for entry in found],
        "rounds": list(chosen.told),
        "tried": chosen.tried,
        "trained": chosen.trained,
        "edge": list(chosen.edge),
        "settings": {entry.name: dict(made.values) for entry, made in chosen.finalists},
        "costs": {name: cost.to_dict() for name, cost in costs.items()},
        "front": not_beaten(ranks, costs),
        "recipes": over_seeds.to_dict() if over_seeds else None,
        "values_of_seeds": {name: _values(one, ranks.metric) for name, one in runs.items()},
    }
    write_leaderboard(paths, summary, [reason for _, reason in ranks.left_out])
    return ranks, summary


def _problems(config: Config) -> Iterator[str]:
    board = config.leaderboard
    if config.sweep:
        yield "sweep and leaderboard stand in one config: a leaderboard tries learning rates by itself."
    if len(board.methods) < 2:
        yield "leaderboard.methods needs two entries or more, such as [lora, ia3, {name: big, adapter.r: 64}]."
    if len(board.methods) > MOST:
        yield f"leaderboard.methods has {len(board.methods)} entries; at most {MOST} are ranked."
    if board.tokens is not None and board.seconds is not None:
        yield "leaderboard.tokens and leaderboard.seconds exclude each other: there is one budget."
    if not board.rates or any(rate <= 0 for rate in board.rates) or len(set(board.rates)) < len(board.rates):
        yield "leaderboard.rates needs different numbers above 0, such as [0.3, 1, 3]."
    if config.data.validation is None:
        yield "data.validation is not set, and a leaderboard chooses on validation."
    for one in board.methods:
        if not isinstance(one, str | dict) or (isinstance(one, dict) and not one.keys() - {"name"}):
            yield f"leaderboard.methods: {one!r} is neither a method's name nor a mapping of keys and values."
        elif isinstance(one, dict):
            yield from filter(None, (wrong_key(str(key), "leaderboard.methods") for key in one.keys() - {"name"}))
            if not any(map(str.isalnum, str(one.get("name", one.get("adapter.method", ""))))):
                yield f"leaderboard.methods: {one!r} needs a name, with a letter or a digit in it."


def _refuse_another(config: Config, paths: LeaderboardPaths, remote: Remote | None) -> None:
    """Raise InputError where the folder holds the leaderboard of another config, or what is no leaderboard."""
    text = _text_of(config)
    if remote and (remote.store.read(paths.config) or text.encode()) != text.encode():
        raise InputError(
            f"{remote.store.address} holds the leaderboard of another config.",
            fix="Name another address, or remove what is there; nothing was written.",
        )
    if paths.config.is_file() and paths.config.read_text(encoding="utf-8") != text:
        raise InputError(
            f"{paths.folder} holds the leaderboard of another config: {paths.config} is not this one.",
            fix="Name another folder with output, or remove that one; nothing was written.",
        )
    if paths.folder.exists() and not paths.config.is_file() and not _is_empty(paths.folder):
        raise InputError(f"{paths.folder} exists and is no leaderboard of ours.", fix="Name another with output.")


def _text_of(config: Config) -> str:
    return yaml_text.dump(config.model_dump(exclude_unset=True, exclude={"output"}))


def _is_empty(folder: Path) -> bool:
    """Tell whether there is nothing in a folder but what one that was killed at once leaves: its lock, half a file."""
    lock = RunPaths(folder).lock
    return folder.is_dir() and all(path == lock or path.suffix == files.PART for path in folder.iterdir())


def _train(some: Sequence[Candidate], plans: ManyPlans, run_all: RunAll, remote: Remote | None) -> None:
    """Train what is not trained yet; raise InputError where something was trained by other rows than there are now."""
    if remote:
        remote.sync(one.paths.folder for one in some)
    plans.refuse_others((one.paths, one.config) for one in some)
    run_all([one for one in some if not one.trained], "tune")


def _run(
    some: Sequence[Candidate],
    command: str,
    chosen: Callable[[Candidate], Path | None] = lambda _: None,
    *,
    plans: ManyPlans,
    on: str,
    at_once: int,
    more: Sequence[str],
    remote: Remote | None,
) -> None:
    done = 0

    def ended(job: Job, code: int) -> None:
        nonlocal done
        done += 1
        said = "done" if code == 0 else f"failed with {code}, see {job.log}"
        progress.note(f"leaderboard: {done}/{len(some)}: {job.name}: {said}")

    if some:
        made = [one.job(plans, command, *more, chosen=chosen(one)) for one in some]
        run_jobs(made, on, at_once, ended, between=remote)


def _finals(
    config: Config, chosen: Halved, paths: LeaderboardPaths, run_all: RunAll, remote: Remote | None
) -> list[str]:
    """Run each finalist to a verdict of its own, with every seed; return the names of those that came through."""
    found = []
    for entry, made in chosen.finalists:
        training = made.config.train.model_copy(update={"seeds": config.train.seeds})
        final = made.config.model_copy(update={"output": str(entry.paths.folder), "train": training})
        among = {"candidates": chosen.tried, "trained": chosen.trained, "values": dict(made.values)}
        Chosen(made.paths, among).write(paths.chosen(entry.name))
        found.append(Candidate(entry.name, made.values, final, entry.paths, entry.asked, entry.log))
    if remote:
        remote.sync(one.paths.folder for one in found)
    still = [one for one in found if not is_complete(one.paths)]
    run_all(still, "run", lambda one: paths.chosen(one.name))
    if failed := [one.name for one in found if not is_complete(one.paths)]:
        progress.note(f"leaderboard: without a verdict, and left out: {listed(failed)}")
    return [one.name for one in found if is_complete(one.paths)]


def _headline(run: RunPaths) -> str | None:
    """Return the metric that the runs' own verdicts are about."""
    headline = files.read_object(run.comparison).get("headline")
    return headline.get("metric") if isinstance(headline, dict) else None


def _over_seeds(ranks: Leaderboard, runs: Mapping[str, RunPaths]) -> Recipes | None:
    sides = {
        name: [read_side(path, name) for path in (one.tuned, *(seed.tuned for seed in one.seeds()))]
        for name, one in runs.items()
    }
    gone = {item for item, _ in ranks.left_out}
    ids = {key for some in sides.values() for side in some for key in side.rows} - gone
    return recipes(ranks.metric, sides, ids, ranks.level, higher_is_better=ranks.higher_is_better)


def _values(run: RunPaths, metric: str) -> list[float | None]:
    """Return the metric's value of the run's own adapter and of each further seed's."""
    from tunelift.comparison.readers import read_info
    from tunelift.run_files.layout import METRICS

    sides: list[Path] = [run.tuned, *(seed.tuned for seed in run.seeds())]
    return [((read_info(side / METRICS).get("metrics") or {}).get(metric) or {}).get("value") for side in sides]
