"""One self-contained HTML page about a run, made from the run folder's files alone."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelift.core import files
from tunelift.reporting import wording
from tunelift.reporting.changes import changes, left_out
from tunelift.reporting.curves import loss_curve, loss_points, thinned
from tunelift.reporting.effect import Effect, effect
from tunelift.reporting.run_files import RunFiles, read_run

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
LONG_TEXT = 320
"""Characters of an input or answer that are shown before the rest is folded away."""


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder from the files that are there; return its path.

    The page loads nothing: style, script and drawings are inside, and its own policy forbids the rest. Model outputs
    are untrusted text and are escaped. Raises InputError where the folder holds no run or a file in it is broken.
    """
    run = read_run(Path(folder))
    page = _environment().get_template("report.html.j2").render(_context(run))
    path = run.folder / "report.html"
    files.write_text(path, page)
    return path


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = ("number", "signed", "interval", "p_figure", "measure", "count", "duration", "size")
    environment.filters |= {name: getattr(wording, name) for name in names}
    return environment


def _context(run: RunFiles) -> dict[str, Any]:
    script = (HERE / "report.js").read_text(encoding="utf-8")
    lost, gained = changes(run)
    name, entry = wording.headline(run.comparison)
    return {
        "run": run,
        "manifest": run.manifest,
        "title": _title(run),
        "sentence": wording.verdict_sentence(run.comparison),
        "evidence": wording.evidence_sentence(run.comparison),
        "headline": name,
        "verdict": entry,
        "metrics": _metrics(run),
        "effects": _effects(run),
        "lost": lost,
        "gained": gained,
        "left_out": left_out(run),
        "curve": _curve(run),
        "long_text": LONG_TEXT,
        "style": (HERE / "report.css").read_text(encoding="utf-8"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _title(run: RunFiles) -> str:
    model = run.noted("model").get("name") or run.folder.resolve().name
    method = run.noted("adapter").get("method")
    return f"{model}, tuned with {wording.method(method)}" if method else str(model)


def _metrics(run: RunFiles) -> dict[str, Any]:
    """Return the metrics of comparison.json, the headline first."""
    name, entry = wording.headline(run.comparison)
    return ({name: entry} if entry else {}) | (run.comparison.get("metrics") or {})


def _effects(run: RunFiles) -> list[Effect]:
    drawable = {name: entry for name, entry in _metrics(run).items() if entry.get("difference") is not None}
    return [effect(name, entry, run.lower_is_better(name)) for name, entry in drawable.items()]


def _curve(run: RunFiles) -> dict[str, Any]:
    """Return the drawing and how many steps each of its points averages; empty where nothing was trained."""
    train, validation = loss_points(run.events, "train"), loss_points(run.events, "validation")
    if not train and not validation:
        return {}
    points, width = thinned(train)
    best = [point for point in validation if point[0] == run.noted("train").get("best_step")]
    return {"svg": loss_curve(points, validation, best), "width": width, "ringed": bool(best)}
