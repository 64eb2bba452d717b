"""How long each entry of a leaderboard may train: one budget for all, in passes, tokens or seconds.

Tokens of a step are those of the mean training row. What a step takes is measured in a few steps of each entry, on the
machine and beside as many other trainings as there will be; it is written down once, so that a leaderboard that goes on
trains as it began to.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunelift.config.schema import LeaderboardSection
from tunelift.core import files
from tunelift.core.errors import InputError, TuneliftError, listed
from tunelift.run_files.layout import LeaderboardPaths, RunPaths
from tunelift.scale.candidates import Candidate, with_values

PILOT = "pilot"
PILOT_STEPS, WARM_UP = 12, 4
"""Steps of a pilot, and how many of them come before what is measured: kernels are compiled and tried in the first."""

Lengths = Mapping[str, Mapping[str, float]]
"""By entry, what a whole training is: {"steps": 120} or {"epochs": 2.0}."""


def pilots(entries: Sequence[Candidate], board: LeaderboardSection) -> list[Candidate]:
    """Return what must be trained for a few steps before lengths are known: none, one entry, or each."""
    if board.tokens is None and board.seconds is None:
        return []
    return list(entries if board.seconds is not None else entries[:1])


def lengths(
    entries: Sequence[Candidate],
    needed: Sequence[Candidate],
    board: LeaderboardSection,
    paths: LeaderboardPaths,
    train: Callable[[list[Candidate]], None],
) -> Lengths:
    """Return how long a whole training of each entry is, from where it is written down, or measured now.

    `needed` are the pilots, which `train` trains.

    Raises TuneliftError where a pilot failed.
    """
    if paths.lengths.is_file():
        return files.read_object(paths.lengths)
    if needed:
        train(list(needed))
        if failed := [one for one in needed if not one.trained]:
            logs = listed([str(one.log) for one in failed], 3)
            raise TuneliftError(f"The first steps of {listed([one.name for one in failed])} failed; see {logs}.")
    by_name = {one.name: one for one in needed}
    found: dict[str, dict[str, float]] = {}
    for entry in entries:
        if board.seconds is not None:
            steps = board.seconds / seconds_of_step(by_name[entry.name].paths)
        elif board.tokens is not None:
            steps = board.tokens / tokens_of_step(needed[0].paths, entry.config.train.batch_size)
        else:
            own = entry.config.train
            found[entry.name] = {"steps": own.steps} if own.steps is not None else {"epochs": own.epochs}
            continue
        found[entry.name] = {"steps": max(1, round(steps))}
    files.write_json(paths.lengths, found)
    return found


def part_of(length: Mapping[str, float], share: float) -> dict[str, Any]:
    """Return the settings of a training of a share of this length; one step at least."""
    if "steps" in length:
        return {"train.steps": max(1, round(length["steps"] * share))}
    return {"train.epochs": length["epochs"] * share}


def pilot_of(entry: Candidate, paths: LeaderboardPaths) -> Candidate:
    """Return the few steps of an entry, in a folder of their own."""
    place = paths.run(PILOT, entry.name)
    config = with_values(entry.config, {"train.steps": PILOT_STEPS})
    config = config.model_copy(update={"output": str(place.folder)})
    return Candidate(entry.name, {}, config, place, paths.asked(PILOT, entry.name), paths.log(PILOT, entry.name))


def seconds_of_step(paths: RunPaths) -> float:
    """Return the median seconds of a step of a pilot, after the first few."""
    seconds = [event["seconds"] for _, event in files.read_jsonl(paths.events) if event.get("event") == "train"]
    took = [later - before for before, later in zip(seconds[WARM_UP:], seconds[WARM_UP + 1 :], strict=False)]
    if not took:
        raise InputError(f"{paths.events} has too few steps to tell what one takes.", fix="Give more training rows.")
    return max(float(statistics.median(took)), 1e-6)


def tokens_of_step(paths: RunPaths, batch_size: int) -> float:
    """Return the tokens of a step of rows of the mean length."""
    rendering = files.read_manifest(paths.manifest)["data"]["rendering"]
    return float(rendering["tokens"] / max(1, rendering["rows"] - rendering["dropped"]) * batch_size)
