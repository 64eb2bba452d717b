"""What each of many runs takes that share a model and rows, before any of them begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from tunelift.config.schema import Config
from tunelift.core import machine
from tunelift.core.errors import InputError, listed
from tunelift.pipeline import choices, shapes
from tunelift.pipeline.folder import refuse_another_run
from tunelift.pipeline.planning import does_not_fit, on_cpu, planned
from tunelift.pipeline.preparing import prepare
from tunelift.planning.memory import Facts, of_training, parts, peak
from tunelift.planning.plan import OVER, RunPlan
from tunelift.run_files.layout import RunPaths

SAME = ("learning_rate", "weight_decay", "warmup", "schedule", "patience", "seed", "seeds")
"""Keys of the training by which no run takes more memory than another."""


class ManyPlans:
    """Plans of runs that differ in adapter and training alone: the rows are read and the shapes of the model made once.

    Raises InputError as a run does, before anything is computed. On a GPU nothing is planned, and `known` is False.
    """

    def __init__(self, config: Config) -> None:
        self.ready = prepare(config)
        section = self.ready.config.model
        self.known = on_cpu(section)
        if self.known:
            self.session = shapes.session_of_shapes(section, self.ready.task, self.ready.labels)
            self.itemsize, self.dtype = shapes.dtype_size(section)
            self.process, self.regression = shapes.process_bytes(), shapes.regression_of(self.ready)
        self._facts: dict[str, Facts | None] = {}

    def bytes_of(self, config: Config, *, whole: bool) -> int | None:
        """Return the planned peak of a run, or of its training alone (bytes); None where nothing is planned."""
        facts = self._facts_of(config)
        if facts is None:
            return None
        facts = facts if whole else of_training(facts)
        return int(OVER * peak(parts(facts, facts.planned)))

    def largest(self, configs: Mapping[str, Config], *, anyway: bool) -> tuple[str, RunPlan] | None:
        """Return the run that takes the most, and its plan; None where nothing is planned.

        Raises InputError for those that cannot fit, with the plan of the first of them, unless `anyway`.
        """
        facts = {name: found for name, config in configs.items() if (found := self._facts_of(config))}
        if not facts:
            return None
        limits, wrong, first = machine.memory_limits(), list[str](), ""
        for name, found in facts.items():
            if said := does_not_fit(self.ready, found, self.dtype, limits):
                wrong.append(name)
                first = first or said
        if wrong and not anyway:
            raise InputError(
                f"{len(wrong)} of {len(configs)} do not fit into memory: {listed(wrong, 5)}. {wrong[0]}: {first}",
                fix="Leave them out, change the settings, or go on anyway with --anyway.",
            )
        name = max(facts, key=lambda one: peak(parts(facts[one], facts[one].planned)))
        return name, planned(self.ready, facts[name], self.dtype, limits, look=False)

    def refuse_others(self, trainings: Iterable[tuple[RunPaths, Config]]) -> None:
        """Raise InputError where a folder holds the training of another config, or of other rows, than is asked for."""
        for paths, config in trainings:
            if paths.manifest.is_file():
                inputs = {"command": "tune", "sources": self.ready.splits.report.sources}
                refuse_another_run(paths, choices.settled(config, self.ready.task), inputs)

    def _facts_of(self, config: Config) -> Facts | None:
        """Return what a plan is made from; None on a GPU, and for settings that will not do, as their own run says."""
        if not self.known:
            return None
        key = str((config.adapter, config.train.model_dump(exclude={*SAME})))
        if key not in self._facts:
            try:
                self._facts[key] = self._made(config)
            except (InputError, NotImplementedError):  # the latter of adapters that are made of the weights' values
                self._facts[key] = None
        return self._facts[key]

    def _made(self, config: Config) -> Facts:
        ready = replace(
            self.ready, config=choices.settled(config, self.ready.task),
            plan=replace(self.ready.plan, max_length=config.train.max_length),
        )  # fmt: skip
        footprint = shapes.footprint_of(self.session, ready)
        facts = shapes.facts_of(self.session, ready, footprint, 0, machine.usable_bytes(), self.itemsize)
        return replace(facts, process=self.process, regression=self.regression)
