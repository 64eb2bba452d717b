"""One setting that is tried among others: its config, its folder, and the job that trains it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelift.adapters.build import check_keys
from tunelift.config import yaml_text
from tunelift.config.load import build
from tunelift.config.schema import Config
from tunelift.config.settings import SECTIONS, flatten
from tunelift.core import files, progress
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.pipeline.many_plans import ManyPlans
from tunelift.pipeline.tracking import refuse_missing
from tunelift.pipeline.tuning import Chosen
from tunelift.run_files.layout import RunPaths
from tunelift.scale.jobs import Job

SETTABLE = ("adapter", "train")
"""Sections whose keys may differ: what the base is measured with, and on, is the same for all."""
BESIDE = (".yaml", ".log", ".json")
"""How files end that lie beside the folders of candidates: no folder's name does."""
LONGEST = 180
"""Bytes of a candidate's name: a file that is written beside its folder has a longer one, and a system takes 255."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One choice of values: its name, what it sets, its whole config and the folder of its training.

    `pruned` is the look at validation after which it was ended early, None where it was not.
    """

    name: str
    values: Mapping[str, Any]
    config: Config
    paths: RunPaths
    asked: Path
    log: Path
    pruned: int | None = None

    @property
    def trained(self) -> bool:
        """Tell whether its training is complete and proved, and what it made is there."""
        return is_complete(self.paths) and self.paths.made.is_dir()

    @property
    def loss(self) -> float:
        """Return its best mean loss on the validation rows, in nats; infinite where it has none, or was ended early."""
        if not self.trained or self.pruned is not None:
            return math.inf
        best = (files.read_manifest(self.paths.manifest).get("train") or {}).get("best_loss")
        if not isinstance(best, int | float | None):
            raise InputError(
                f"{self.paths.manifest}: best_loss is no number.", fix=f"Remove {self.paths.folder}; it is made again."
            )
        return math.inf if best is None or math.isnan(best) else float(best)

    @property
    def looks(self) -> list[float]:
        """Return its mean losses at looks at validation after which the training went on, in nats."""
        found, last = dict[int, float](), None
        text = self.paths.events.read_text(encoding="utf-8") if self.paths.events.is_file() else ""
        for line in text[: text.rfind("\n") + 1].splitlines():  # another process writes the next one
            event = json.loads(line)
            if event["event"] == "validation":
                last = event
            elif event["event"] == "train" and last and event["step"] > last["step"]:  # else it is done again
                found[last["step"]] = last["loss"]
        return list(found.values())

    def to_dict(self) -> dict[str, Any]:
        """Return its line in the summary."""
        loss = self.loss
        return {
            "name": self.name,
            "values": dict(self.values),
            "validation_loss": loss if math.isfinite(loss) else None,
            **({} if self.pruned is None else {"ended_after_look": self.pruned}),
        }

    def job(self, plans: ManyPlans, command: str = "tune", *more: str, chosen: Path | None = None) -> Job:
        """Return the job that runs a command on its config, which is written where the job reads it.

        `chosen` is the file that says which training it goes on from.
        """
        files.make_folder(self.asked.parent)
        files.write_text(self.asked, yaml_text.dump(self.config.model_dump(exclude_unset=True)))
        takes = plans.bytes_of(self.config, whole=command == "run")
        rows = ["--beside-test"] if command == "tune" else []  # what is chosen was not trained on rows of the test
        after, runs = ([], []) if chosen is None else (["--chosen", str(chosen)], [Chosen.read(chosen).paths.folder])
        read = [self.asked, *([chosen] if chosen else [])]
        arguments = [command, str(self.asked), *rows, *after, *more]
        return Job(self.name, arguments, self.log, takes, self.paths.folder, read, runs)


def plans_of(some: Sequence[Candidate], what: str, *, anyway: bool) -> ManyPlans:
    """Return the plans of all, once the largest of them is said; raise InputError where one cannot fit."""
    plans = ManyPlans(some[0].config)
    found = plans.largest({one.name: one.config for one in some}, anyway=anyway)
    if found:
        progress.note(f"plan: of {len(some)} {what} {found[0]} takes the most: {found[1].line()}")
    return plans


def is_complete(paths: RunPaths) -> bool:
    """Tell whether a run ended well."""
    return paths.manifest.is_file() and files.read_manifest(paths.manifest).get("status") == "complete"


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the config with other values, checked; keys that were not given stay so, as methods have their own."""
    tree = config.model_dump(exclude_unset=True, exclude={"sweep", "leaderboard"})
    for name, value in values.items():
        section, _, key = name.partition(".")
        tree.setdefault(section, {})[key] = value
    return build(flatten(tree))


def refuse_wrong_adapters(candidates: Sequence[Candidate]) -> None:
    """Raise InputError for methods, keys and trackers that there are not: before anything runs, not when it fails."""
    found: dict[str, list[str]] = {}
    for candidate in candidates:
        refuse_missing(candidate.config.track)
        for problem in check_keys(candidate.config.adapter.model_dump()):
            found.setdefault(problem, []).append(candidate.name)
    if found:
        raise InputError(*(f"{listed(names, 3)}: {problem}" for problem, names in found.items()))


def refuse_twice(names: Iterable[str], what: str) -> None:
    """Raise InputError where two have one name, and so one folder."""
    seen = list(names)
    if repeated := [name for name in dict.fromkeys(seen) if seen.count(name) > 1]:
        raise InputError(f"{what} twice: {listed(repeated)}.", fix="Name each once.")


def wrong_key(name: str, where: str) -> str | None:
    """Say why a key may not differ between candidates; None where it may."""
    section, _, key = name.partition(".")
    if section not in SETTABLE or not key:
        return f"{where}: {name} cannot be varied; keys of {listed(SETTABLE)} can, such as train.learning_rate."
    if section == "train" and key not in SECTIONS["train"].model_fields:
        return f"{where}: there is no key {name}.{did_you_mean(key, SECTIONS['train'].model_fields)}"
    if key in ("seed", "seeds"):
        return f"{where}: {name} is no choice: a seed chosen on validation is luck. Use train.seeds."
    return None


def short(value: Any) -> str:
    """Return a value as a part of a folder's name."""
    text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    text = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)
    for ending in BESIDE:
        text = text.removesuffix(ending) + ending.replace(".", "-") if text.endswith(ending) else text
    return no_longer(text, 60)


def no_longer(name: str, most: int) -> str:
    """Return a name of at most so many bytes: what is cut off of a longer one stands there as a hash."""
    whole = name.encode()
    if len(whole) <= most:
        return name
    return f"{whole[: most - 9].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:8]}"
