"""One self-contained HTML page about a run, made from the run folder's files alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelift.core import files
from tunelift.reporting import evidence, hygiene, wording
from tunelift.reporting.advice import advice_of, judged_lines
from tunelift.reporting.changes import changes, cut_answers, left_out
from tunelift.reporting.difference import excerpt
from tunelift.reporting.plots import coverage_curve, loss_curve, loss_points, power_curve, reliability_diagram, thinned
from tunelift.reporting.run_contents import RunContents, read_run
from tunelift.run_files.layout import RunPaths
from tunelift.wording.calibration_text import beside_error

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HERE = Path(__file__).parent
LONG_TEXT = 320
"""Characters of an input or answer that are shown before the rest is folded away."""

MOST_ROWS = 12
"""Rows of a table or drawing before the rest is folded away."""

WORDS = ("number", "signed", "interval", "p_figure", "measure", "count", "duration", "size", "energy", "grounds")

FORMS: dict[str, Callable[[float | None], str]] = {
    "number": wording.number,
    "signed": wording.signed,
    "p": wording.p_figure,
    "count": wording.count,
}


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder from the files that are there; return its path.

    The page loads nothing: style, script and drawings are inside, and its own policy forbids the rest. Model outputs
    are untrusted text and are escaped. Raises InputError where the folder holds no run or a file in it is broken.
    """
    run = read_run(Path(folder))
    page = _environment(run).get_template("report.html.j2").render(_context(run))
    path = RunPaths(run.folder).page
    files.write_text(path, page)
    return path


@cache
def _compiled() -> Any:
    """Return what keeps compiled templates for the pages to come: compiling takes longer than filling them."""
    from jinja2 import BytecodeCache

    class InMemory(BytecodeCache):
        def __init__(self) -> None:
            self.known: dict[str, bytes] = {}

        def load_bytecode(self, bucket: Any) -> None:
            if bucket.key in self.known:
                bucket.bytecode_from_string(self.known[bucket.key])

        def dump_bytecode(self, bucket: Any) -> None:
            self.known[bucket.key] = bucket.bytecode_to_string()

    return InMemory()


def _environment(run: RunContents) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        bytecode_cache=_compiled(),
    )  # fmt: skip
    environment.filters |= {name: getattr(wording, name) for name in WORDS}
    environment.filters |= {"excerpt": excerpt, "shortened": hygiene.shortened}
    figure = Figures(run.comparison)
    environment.globals |= {
        "figure": figure,
        "interval_of": figure.interval,
        "drawn": evidence.drawn,
        "long_text": LONG_TEXT,
        "most_rows": MOST_ROWS,
        "level": f"{run.comparison.get('level', 0.95):.0%}",
    }
    return environment


def _context(run: RunContents) -> dict[str, Any]:
    lost, gained = changes(run)
    name, entry = wording.headline(run.comparison)
    reason, seconds = wording.reason(run.comparison), run.noted("seconds")
    script = (HERE / "report.js").read_text(encoding="utf-8")
    return {
        "run": run,
        "comparison": run.comparison,
        "manifest": run.manifest,
        "title": run.title(),
        "headline": name,
        "headline_entry": entry,
        "lost": lost,
        "gained": gained,
        "left_out": left_out(run),
        "cut_answers": cut_answers(run),
        "sentence": wording.verdict_sentence(run.comparison),
        "verdict": wording.verdict_word(run.comparison),
        "against_base": wording.base_sentence(run.comparison),
        "evidence": wording.evidence_sentence(run.comparison),
        "over_seeds": wording.recipe_sentence(run.comparison),
        "claim": wording.claim(run.comparison),
        "reason": f"{reason}." if reason else "",
        **_evidence(run),
        **_data(run),
        "advice": advice_of(run),
        "judged": judged_lines(run),
        "curve": _curve(run),
        "model": run.noted("model"),
        "adapter": run.noted("adapter"),
        "trained": run.noted("train"),
        "stages": hygiene.stages(seconds),
        "total_seconds": seconds.get("total"),
        "style": (HERE / "report.css").read_text(encoding="utf-8"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _evidence(run: RunContents) -> dict[str, Any]:
    comparison = run.comparison
    baselines = evidence.baseline_rows(comparison, run.task().untuned)
    recipe = comparison.get("recipe") or {}
    calibration, level = comparison.get("calibration") or {}, float(comparison.get("level") or 0.95)
    return {
        "metrics": evidence.metric_rows(comparison),
        "baselines": baselines,
        "baseline_values": evidence.baseline_values(comparison, baselines) if baselines else None,
        "strongest": evidence.strongest(comparison),
        "slices": evidence.slice_rows(comparison),
        "recipe": recipe,
        "seeds_drawing": evidence.seeds_drawing(recipe) if recipe.get("differences") else None,
        "forgetting": evidence.forgetting_rows(comparison),
        "quantising": evidence.quantising_rows(comparison),
        "calibration": calibration,
        "diagrams": {
            side: reliability_diagram(calibration[side]["bins"], side)
            for side in ("base", "tuned")
            if (calibration.get(side) or {}).get("bins")
        },
        "calibration_sentences": beside_error(calibration, level),
        "coverage_drawing": coverage_curve(calibration),
        "targets": ", ".join(
            f"{point['target']:.0%}" for point in (calibration.get("tuned") or {}).get("points") or []
        ),
        "power": comparison.get("power") or {},
        "power_drawing": power_curve(comparison.get("power") or {}),
    }


def _data(run: RunContents) -> dict[str, Any]:
    data = run.noted("data")
    found = data.get("hygiene") or {}
    splits = data.get("splits") or {}
    return {
        "data": data,
        "splits": splits,
        "split_columns": hygiene.used_columns(list(splits.values()), SPLIT_COLUMNS),
        "hygiene": found,
        "roles": hygiene.roles_of(found.get("labels") or {}),
        "label_bars": hygiene.label_bars(found.get("labels") or {}),
        "duplicate_pairs": hygiene.duplicate_pairs(found.get("near_duplicates") or {}),
        "without_duplicates": evidence.without_duplicates(run.comparison),
        "verbatim": run.noted("verbatim"),
    }


SPLIT_COLUMNS = {
    "read": "Read",
    "empty": "Empty",
    "duplicates": "Duplicates",
    "overlap": "Repeats",
    "near_overlap": "Near repeats",
    "split_off": "Split off",
    "capped": "Over the limit",
    "kept": "Kept",
}


def _curve(run: RunContents) -> dict[str, Any]:
    """Return the drawing and how many steps each of its points averages; empty where nothing was trained."""
    train, validation = loss_points(run.events, "train"), loss_points(run.events, "validation")
    if not train and not validation:
        return {}
    points, width = thinned(train)
    best = [point for point in validation if point[0] == run.noted("train").get("best_step")]
    return {"svg": loss_curve(points, validation, best), "width": width, "ringed": bool(best)}


@dataclass(frozen=True, slots=True)
class Figures:
    """Looks figures up in comparison.json, so that what a page shows cannot be another one."""

    comparison: Mapping[str, Any]

    def __call__(self, at: Sequence[str | int], form: str = "number") -> Markup:
        """Return the figure at a place as a `<data>` element; a dash where it is not known."""
        from markupsafe import Markup

        value = looked_up(self.comparison, at)
        if value is None:
            return Markup(wording.DASH)
        element = '<data value="{}" data-at="{}">{}</data>'
        return Markup(element).format(value, pointer(at), FORMS[form](value))

    def interval(self, at: Sequence[str | int]) -> Markup:
        """Return both ends of the interval at a place; a dash where there is none."""
        from markupsafe import Markup

        if not looked_up(self.comparison, at):
            return Markup(wording.DASH)
        return Markup("{} to {}").format(self([*at, 0], "signed"), self([*at, 1], "signed"))


def looked_up(comparison: Any, at: Sequence[str | int]) -> Any:
    """Return what stands at a place; None where there is no such place."""
    value = comparison
    for step in at:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def pointer(at: Sequence[str | int]) -> str:
    """Return a place as a JSON Pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in at)
