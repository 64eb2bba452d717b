"""The files of a run folder, read once for the page and the card; whatever is missing is left empty."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunelift.adapters.methods import title_of, trains_whole
from tunelift.config import yaml_text
from tunelift.core import files, text_files
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.run_files.layout import SCORES, RunPaths
from tunelift.tasks import DEFAULT, TASKS, Task


@dataclass(frozen=True, slots=True)
class RunContents:
    """What stands in a run folder: the files' contents as they are, empty where a file is not there."""

    folder: Path
    config: str = ""
    manifest: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    base: Scores = field(default_factory=lambda: Scores([]))
    tuned: Scores = field(default_factory=lambda: Scores([]))
    comparison: dict[str, Any] = field(default_factory=dict)
    judged: dict[str, Any] = field(default_factory=dict)

    def noted(self, name: str) -> dict[str, Any]:
        """Return a section of manifest.json; empty where the run has not come that far."""
        return self.manifest.get(name) or {}

    def settings(self) -> dict[str, Any]:
        """Return config.yaml as nested mappings; empty where it is no mapping."""
        return yaml_text.read_mapping(RunPaths(self.folder).config)[0] if self.config else {}

    def title(self) -> str:
        """Return what was tuned and how: the model and the method, the folder's name where no model is noted."""
        model = self.noted("model").get("name") or self.folder.resolve().name
        method = self.noted("adapter").get("method")
        return f"{model}, tuned with {title_of(method)}" if method else str(model)

    def tuned_whole(self) -> bool:
        """Tell whether the model's own weights were trained, and no adapter."""
        return trains_whole(str(self.noted("adapter").get("method")))

    def task(self) -> Task:
        """Return the kind of work that the manifest or the config names, the first of all where neither does.

        Raises InputError for one that is not registered here.
        """
        return TASKS.get(str(self.manifest.get("task") or self.settings().get("task") or DEFAULT.name))


def read_run(folder: Path) -> RunContents:
    """Read a run folder; raise InputError where it holds nothing to report, or a file that is broken."""
    paths = RunPaths(folder)
    run = RunContents(
        folder,
        text_files.text_of(paths.config) if paths.config.is_file() else "",
        files.read_manifest(paths.manifest),
        _events(paths.events),
        _scores(paths.base),
        _scores(paths.tuned),
        files.read_object(paths.comparison),
        files.read_object(paths.judged),
    )
    if not (run.manifest or run.events or run.base.rows or run.tuned.rows or run.comparison):
        raise InputError(
            f"{folder} holds no run.",
            fix="Give the output folder of `tunelift run`: it has manifest.json, base/, tuned/ and comparison.json.",
        )
    return run


def _scores(folder: Path) -> Scores:
    return Scores.read(folder) if (folder / SCORES).is_file() else Scores([])


def _events(path: Path) -> list[dict[str, Any]]:
    """Read events.jsonl up to the first line that was cut off: a run that was killed may leave one at the end."""
    events: list[dict[str, Any]] = []
    for number, line in text_files.rows_of(path) if path.is_file() else ():
        try:
            event = text_files.json_value(line, f"{path}, line {number}", mend=True)
        except InputError:
            break
        if isinstance(event, dict):
            events.append(event)
    return events
