"""`tunelift plan`, and the look at memory that every run begins with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunelift.config.load import default_output, load_config
from tunelift.config.schema import Config, ModelSection
from tunelift.core import machine, progress
from tunelift.core.errors import InputError
from tunelift.core.machine import MemoryLimit
from tunelift.model_facts.parameters import compute_dtype, device_of, dtype_name
from tunelift.models import precision
from tunelift.pipeline import shapes
from tunelift.pipeline.preparing import Prepared, prepare
from tunelift.pipeline.rehearsal import Rehearsal, Rehearsed
from tunelift.pipeline.session import Session
from tunelift.planning import fitting
from tunelift.planning.memory import TRAINING, Facts, Part, by_stage, changed, parts, peak, weights_of
from tunelift.planning.plan import OVER, SHORTENED, RunPlan
from tunelift.planning.seconds import Stage
from tunelift.run_files.layout import RunPaths
from tunelift.training import ranks
from tunelift.training.state import Footprint
from tunelift.wording.plan_text import duration, size

ROOM = 0.9
"""A rehearsal is left out where more than so much of the memory that others leave would be needed for it."""


ELSEWHERE = (
    "This run would be on a GPU. The bytes are counted as for a CPU, and nobody looked at what the GPU has: whether it "
    "fits is not said."
)


def plan(config: Config, *, memory: int | None = None, within: float | None = None, quick: bool = False) -> RunPlan:
    """Return what a run of this config will take, by its shapes, its rows and, unless `quick`, a rehearsal.

    `memory` (bytes) plans for another machine, whose time nobody can measure here; `within` (seconds) fits epochs and
    test items into a time. Raises InputError as a run does, before anything is computed.
    """
    ranks.refuse_several("tunelift plan")
    if within is not None and (quick or memory is not None):
        raise InputError("A time is planned by steps that are measured here.", fix="Leave out --quick and --machine.")
    ready = prepare(config)
    began = time.monotonic()
    session = shapes.session_of_shapes(ready.config.model, ready.task, ready.labels)
    itemsize, dtype = shapes.dtype_size(ready.config.model)
    usable = memory or machine.usable_bytes()
    footprint = shapes.footprint_of(session, ready)
    facts = shapes.facts_of(session, ready, footprint, 0, usable, itemsize)
    session.model = None  # what a run has not
    facts = replace(facts, process=shapes.process_bytes(), regression=shapes.regression_of(ready))
    here = on_cpu(ready.config.model)
    own = machine.memory_limits() if here else []
    asked = [MemoryLimit("asked for", memory, memory, kills=True)] if memory else own
    found = replace(planned(ready, facts, dtype, asked), notes=[] if here or memory else [ELSEWHERE])
    if quick or memory is not None:
        return found
    needed, free = peak(parts(facts, facts.planned)), machine.available_bytes()
    if here and (not found.fits or (free is not None and needed > ROOM * free)):
        why = "No steps were measured: they would need more memory than there is."
        return replace(found, notes=[*found.notes, why])
    return replace(_rehearsed(ready, facts, found, time.monotonic() - began), within=within)


def on_cpu(section: ModelSection) -> bool:
    """Tell whether a run of this model would be on the CPU, whose memory is what can be planned."""
    return precision.choose(section.device, section.dtype).device.type == "cpu"


def planned(ready: Prepared, facts: Facts, dtype: str, limits: Sequence[MemoryLimit], *, look: bool = True) -> RunPlan:
    """Return the plan of the memory; with `look` it says too what else would fit."""
    found, limit = parts(facts, facts.planned), limits[0].bytes if limits else None
    narrow = ready.task.next_token and not facts.adapter.whole
    room = None if limit is None or not look else int(limit / OVER)
    return RunPlan(
        model=ready.config.model.name,
        dtype=dtype,
        parts=found,
        bytes=int(OVER * peak(found)),
        limits=limits,
        available=machine.available_bytes() if limits and limits[0].name != "asked for" else None,
        largest={} if room is None else fitting.largest(facts, room),
        changes=[] if room is None else fitting.changes(facts, room, narrow=narrow),
        epochs=1.0 if ready.config.train.steps else ready.config.train.epochs,
        steps=ready.config.train.steps,
        items=len(ready.splits.test),
        seeds=max(1, len(ready.config.train.seeds)),
    )


def _rehearsed(ready: Prepared, facts: Facts, found: RunPlan, before: float) -> RunPlan:
    """Return the plan with seconds, and with the memory that a rehearsal took."""
    began = time.monotonic()
    config = ready.config
    with progress.silenced():
        session = Session.open(config.model, ready.task, ready.labels, config.train.seed)
    loading = time.monotonic() - began
    started = machine.seconds_since_start()
    start = loading if started is None else max(loading, started - before)
    rehearsal = Rehearsal(session, ready)
    rehearsal.add("start: Python, rows, model", fixed=start, how="measured")
    seen = rehearsal.run()
    here = on_cpu(config.model)  # else what this process has says nothing of a GPU's
    facts, extra = _scaled(facts, seen) if here else (facts, [])
    listed = [*parts(facts, facts.planned), *extra]
    stages = with_seeds(seen.stages, found.seeds, start)
    return replace(
        planned(ready, facts, found.dtype, found.limits),
        parts=listed, bytes=int(OVER * peak(listed)), rehearsed=here, stages=stages, notes=found.notes,
    )  # fmt: skip


def _scaled(facts: Facts, seen: Rehearsed) -> tuple[Facts, list[Part]]:
    """Return the facts with activations as large as they were seen to be, and what no part accounts for.

    A rehearsal trains on a few steps: what their largest micro-batch took is what a larger one takes, by its tokens.
    """
    if not seen.peaks or seen.tokens == 0:
        return facts, []
    small = changed(facts.planned, micro_batch_tokens=max(1, min(facts.planned.micro_batch_tokens, seen.tokens)))
    estimated = parts(facts, small)
    activations = sum(p.bytes for p in estimated if p.name.startswith("activations") and p.stage == TRAINING)
    without = peak([p for p in estimated if not (p.name.startswith("activations") and p.stage == TRAINING)])
    scale = max(0.2, min(5.0, (seen.peaks[TRAINING] - without) / max(1, activations)))
    facts = replace(facts, scale=scale)
    few = by_stage(parts(replace(facts, regression=seen.regression), small))  # baselines were made of some of the rows
    found = [Part("allocator, and what else there is", held - few[stage], stage) for stage, held in seen.peaks.items()]
    found.append(Part("more pieces with more steps", seen.growth, TRAINING))
    return facts, [part for part in found if part.bytes > 0]


def with_seeds(stages: Sequence[Stage], seeds: int, start: float) -> list[Stage]:
    """Return the stages of a run that trains with further seeds too, each with the model loaded anew."""
    if seeds <= 1:
        return list(stages)
    again = [s for s in stages if s.name in ("training", "proofs", "tuned evaluation")]
    more = seeds - 1
    return [
        *stages,
        Stage(
            "further seeds",
            more * (start + sum(s.fixed for s in again)),
            more * sum(s.each_epoch for s in again),
            more * sum(s.each_item for s in again),
            f"{more} times training and tuned evaluation",
        ),
    ]


def before_loading(ready: Prepared, *, anyway: bool) -> int:
    """Return the bytes that this process has before the base is loaded.

    Raises InputError, with the plan, where weights and the training's state alone are more than there may be; they are
    looked at where the files say that it might be so, or are not here yet. `anyway` goes on.
    """
    now, limits = machine.resident(), machine.memory_limits()
    before = now.all if now else 0
    section = ready.config.model
    if anyway or not limits or not on_cpu(section):
        return before
    on_disk = shapes.bytes_on_disk(section)
    if on_disk and OFTEN * on_disk + before < min(limit.bytes for limit in limits):
        return before
    session = shapes.session_of_shapes(section, ready.task, ready.labels)
    footprint = shapes.footprint_of(session, ready)
    itemsize, dtype = shapes.dtype_size(section)
    facts = shapes.facts_of(session, ready, footprint, before, machine.usable_bytes(), itemsize)
    _refuse(ready, facts, dtype, limits)
    return before


OFTEN = 16
"""A training of all weights takes 10 times a file of weights in half precision, and the base once more: files that are
so many times smaller than what there is need no look."""


def before_measuring(session: Session, ready: Prepared, footprint: Footprint, before: int, *, anyway: bool) -> None:
    """Say what the run takes, now that its rows are tokens; raise InputError where its certain parts do not fit.

    What is not certain is not counted: a run that fits is never refused. `before` are the bytes of the process without
    the model.
    """
    if device_of(session.model).type != "cpu":
        return
    kind = compute_dtype(session.model)
    facts = shapes.facts_of(session, ready, footprint, 0, machine.usable_bytes(), kind.itemsize)
    now, weights = machine.resident(), weights_of(facts, facts.planned)
    facts = replace(facts, process=max(before, now.all - weights if now else 0))
    limits, found = machine.memory_limits(), parts(facts, facts.planned)
    if limits and not anyway:
        _refuse(ready, facts, dtype_name(kind), limits)
    said, limit = OVER * peak(found), limits[0] if limits else None
    fits = limit is None or said <= limit.bytes
    shown = planned(ready, facts, dtype_name(kind), limits, look=not fits)
    progress.note(f"plan: {shown.line() if fits else shown}")


def _refuse(ready: Prepared, facts: Facts, dtype: str, limits: Sequence[MemoryLimit]) -> None:
    if said := does_not_fit(ready, facts, dtype, limits):
        raise InputError(
            f"This run does not fit into memory: {said}", fix="Change the settings, or go on anyway with --anyway."
        )


def does_not_fit(ready: Prepared, facts: Facts, dtype: str, limits: Sequence[MemoryLimit]) -> str | None:
    """Say of a run that cannot fit how much it takes for certain and what there is, with its plan; None of others."""
    limit = fitting.refused_by(facts, limits)
    if limit is None:
        return None
    certain = peak(parts(facts, facts.planned), certain=True)
    return (
        f"{size(certain)} of it are taken in any case, and there are {size(limit.hard or limit.bytes)} "
        f"({limit.name}).\n\n{planned(ready, facts, dtype, limits)}\n"
    )


def shortened(config: Config, within: float) -> Config:
    """Return the config with epochs and test items that fit into so many seconds, those of planning among them.

    A rehearsal of this very run says how many; a run that was begun goes on with those that it was begun with. Raises
    InputError where not even the least fits.
    """
    sections: dict[str, Any] = {"data": config.data, "train": config.train}
    keys = _begun_with(RunPaths(config.output or default_output(config)), sections)
    if keys is not None:
        said = " ".join(f"{key}={value}" for key, value in keys.items()) or "as it is"
        progress.note(f"plan: {said}, with which this run was begun")
    else:
        began = time.monotonic()
        found = plan(config, within=within)
        left = within - (time.monotonic() - began)
        again = found.fitted_into(left)
        if again is None:
            raise InputError(
                f"This run does not fit into {duration(within)}: the least takes {duration(found.least)}, and to find "
                f"that out took {duration(within - left)}.",
                fix="Take a smaller model, shorter rows, fewer baselines, or more time.",
            )
        keys = found.keys_of(again)
        said = " ".join(f"{key}={value}" for key, value in keys.items()) or "as it is"
        progress.note(f"plan: for {duration(within)}, {said} (about {duration(again.seconds)})")
    for key, value in keys.items():
        name, _, field = key.partition(".")
        sections[name] = sections[name].model_copy(update={field: value})
    return config.model_copy(update=sections)


def _begun_with(paths: RunPaths, sections: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what `shortened` gave the run in a folder; None where there is none of it, or a longer one."""
    if not paths.manifest.is_file() or not any(p.exists() for p in (paths.base, paths.made, paths.checkpoints)):
        return None
    before, found = load_config(paths.config, of_run=True), dict[str, Any]()
    for key in SHORTENED:
        section, _, name = key.partition(".")
        kept, asked = (getattr(one, name) for one in (getattr(before, section), sections[section]))
        if asked is not None and (kept is None or kept > asked):
            return None
        found |= {key: kept} if kept != asked else {}
    return found
