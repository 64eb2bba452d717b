"""The report as Markdown: the same figures without plots, short enough for a pull request."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunelift.core import files
from tunelift.reporting import evidence, hygiene, wording
from tunelift.reporting.changes import Change, Changes, changes
from tunelift.reporting.markdown_text import code, entry_table, fenced, plain, table
from tunelift.reporting.run_contents import RunContents, read_run
from tunelift.run_files.layout import RunPaths

MOST_FLIPS = 10
MOST_SLICES = 12


def write_markdown(folder: Path) -> Path:
    """Write report.md into a run folder from the files that are there; return its path.

    It holds the figures of report.html as tables and at most ten changed answers. Raises InputError where the folder
    holds no run or a file in it is broken.
    """
    run = read_run(Path(folder))
    path = RunPaths(run.folder).markdown
    files.write_text(path, report_text(run))
    return path


def report_text(run: RunContents) -> str:
    """Return the report as Markdown; sections that have nothing are absent."""
    sections = {
        "": _verdict(run),
        "Effect": _effect(run),
        "Baselines": _baselines(run),
        "Changed answers": _changes(run),
        "Slices": _slices(run),
        "Over seeds": _recipe(run),
        "Forgetting": _forgetting(run),
        "Probabilities": _calibration(run),
        "What so many items can show": _power(run),
        "Data": _data(run),
        "Proofs": _proofs(run),
        "What happened": _happened(run),
        "What it cost": _cost(run),
        "Reproduce": _reproduce(run),
    }
    parts = [f"# {plain(run.title())}"]
    for title, paragraphs in sections.items():
        written = [paragraph for paragraph in paragraphs if paragraph]
        parts += [*([f"## {title}"] if title and written else []), *written]
    return "\n\n".join(parts) + "\n"


def verdict_lines(run: RunContents) -> list[str]:
    """Return the verdict, what it rests on, and what it claims: the first lines of the report and of the card."""
    comparison = run.comparison
    said = comparison.get("headline") or {}
    _, entry = wording.judged(comparison)
    reason = str(said.get("reason") or entry.get("reason") or "").rstrip(".")
    looks = comparison.get("looks")
    rest = [
        f"Why: {reason}." if reason else "",
        f"The claim: {wording.claim(comparison)}." if wording.claim(comparison) else "",
        f"Comparisons against these test items so far: {looks}; error rates hold for the first." if looks else "",
    ]
    lines = [f"**{plain(wording.verdict_sentence(comparison))}**", wording.evidence_sentence(comparison)]
    lines += [wording.base_sentence(comparison), wording.recipe_sentence(comparison)]
    lines += [plain(" ".join(part for part in rest if part))]
    return [line for line in [*lines, *(plain(note) for note in comparison.get("notes") or [])] if line]


def baseline_table(run: RunContents) -> str:
    """Return every baseline against tuned, the strongest on validation named; empty without baselines."""
    rows = evidence.baseline_rows(run.comparison, run.task().untuned)
    if not rows:
        return ""
    strongest = evidence.strongest(run.comparison)
    chosen = f"The strongest on validation: {plain(strongest)}." if strongest else ""
    notes = "; ".join(f"{plain(row.name)}: {plain(row.note)}" for row in rows if row.note)
    return f"{entry_table(rows, 'baseline', 'its value')}\n\n{f'{chosen} {notes}.'.strip()}"


def forgetting_table(run: RunContents) -> str:
    """Return base against tuned on the sets that the training was not about; empty without any."""
    rows = evidence.forgetting_rows(run.comparison)
    named = [evidence.EntryRow(f"{row.name} ({row.note})", row.at, row.entry) for row in rows]
    return entry_table(named, "set") if rows else ""


def recipe_line(run: RunContents) -> str:
    """Return what holds over seeds in a sentence; empty for a run of one seed."""
    recipe = run.comparison.get("recipe") or {}
    if not recipe:
        return ""
    differences = ", ".join(wording.signed(value) for value in recipe.get("differences") or [])
    p = f", p {wording.p_figure(recipe['p'])}" if recipe.get("p") is not None else ""
    mean, extent = wording.signed(recipe.get("difference")), wording.interval(recipe.get("interval"))
    word = str(recipe.get("verdict") or "inconclusive").capitalize()
    return f"{word}: mean difference {mean} ({extent}{p}); each seed: {differences}."


def _verdict(run: RunContents) -> list[str]:
    status = run.manifest.get("status", "complete")
    failed = [proof for proof in run.manifest.get("proofs") or [] if not proof.get("passed")]
    warnings = [f"This run is not complete (status: {plain(status)})."] if status != "complete" else []
    warnings += [f"A proof failed: {plain(proof['name'])}. {plain(proof.get('detail'))}" for proof in failed]
    return [*warnings, *verdict_lines(run)]


def _effect(run: RunContents) -> list[str]:
    rows = evidence.metric_rows(run.comparison)
    return [entry_table(rows, "metric")] if rows else []


def _baselines(run: RunContents) -> list[str]:
    selection = run.comparison.get("selection") or {}
    values = ", ".join(
        f"{plain(name)} {wording.number(value)}" for name, value in (selection.get("values") or {}).items()
    )
    chosen = f"On {wording.count(selection.get('rows'))} validation rows: {values}." if values else ""
    return [baseline_table(run), chosen]


def _changes(run: RunContents) -> list[str]:
    lost, gained = changes(run)
    if not (lost.total or gained.total):
        return []
    name, _ = wording.headline(run.comparison)
    counts = f"{wording.count(gained.total)} gained and {wording.count(lost.total)} lost ({wording.measure(name)})."
    return [counts, "\n".join(_flip(kind, item) for kind, item in _worst(lost, gained))]


def _worst(lost: Changes, gained: Changes) -> Iterable[tuple[str, Change]]:
    """Choose the worst of the lost and, in what room is left, of the gained; half the room each where both abound."""
    half = MOST_FLIPS // 2
    first = max(half, MOST_FLIPS - len(gained.shown))
    chosen = lost.shown[:first]
    yield from (("lost", item) for item in chosen)
    yield from (("gained", item) for item in gained.shown[: MOST_FLIPS - len(chosen)])


def _flip(kind: str, item: Change) -> str:
    answers = f"reference {code(item.reference)}"
    if item.base or item.tuned:
        answers += f", base {code(item.base)}, tuned {code(item.tuned)}"
    return f"* {kind}, item {code(item.id)}: {code(item.input)}; {answers}"


def _slices(run: RunContents) -> list[str]:
    parts = []
    for column, rows in evidence.slice_rows(run.comparison).items():
        named = [evidence.EntryRow(f"{row.name} ({row.note})", row.at, row.entry) for row in rows[:MOST_SLICES]]
        more = f"The first {MOST_SLICES} of {len(rows)}; the others are in report.html." if rows[MOST_SLICES:] else ""
        parts += [entry_table(named, plain(column)), more]
    return parts


def _recipe(run: RunContents) -> list[str]:
    reason = str((run.comparison.get("recipe") or {}).get("reason") or "").rstrip(".")
    return [recipe_line(run), f"Why: {plain(reason)}." if reason else ""]


def _forgetting(run: RunContents) -> list[str]:
    return [forgetting_table(run)]


def _calibration(run: RunContents) -> list[str]:
    calibration = run.comparison.get("calibration") or {}
    if not (calibration.get("base") and calibration.get("tuned")):
        return []
    base, tuned = (wording.number(calibration[side]["ece"]) for side in ("base", "tuned"))
    extent = f" ({wording.interval(calibration['interval'])})" if calibration.get("interval") else ""
    difference = f"{wording.signed(calibration.get('difference'))}{extent}"
    line = f"Calibration error of the probabilities (0 is best): base {base}, tuned {tuned}, difference {difference}."
    return [line, plain(calibration.get("note"))]


def _power(run: RunContents) -> list[str]:
    power = run.comparison.get("power") or {}
    if not power.get("curve"):
        return []
    chance = f"{power.get('power', 0.8):.0%}"
    line = f"The smallest true difference that {wording.count(power['items'])} items show with {chance} power:"
    shares = [f"{point['discordance']:.0%}" for point in power["curve"]]
    smallest = ["none" if point["smallest"] is None else wording.number(point["smallest"]) for point in power["curve"]]
    return [line, table(["answers that change (assumed)", *shares], [["smallest difference", *smallest]])]


def _data(run: RunContents) -> list[str]:
    data = run.noted("data")
    kept = {role: counts.get("kept") for role, counts in (data.get("splits") or {}).items()}
    splits = ", ".join(f"{wording.count(rows)} {role}" for role, rows in kept.items())
    without = evidence.without_duplicates(run.comparison)
    removed = (run.comparison.get("without_duplicates") or {}).get("removed")
    second = [f"Without the {wording.count(removed)} test items that repeat a training row:"] if without else []
    return [
        f"Rows: {splits}." if splits else "",
        *(plain(note) for note in data.get("notes") or []),
        " ".join(hygiene.sentences(data, run.noted("verbatim"))),
        *second,
        entry_table(without, "metric") if without else "",
    ]


def _proofs(run: RunContents) -> list[str]:
    proofs = run.manifest.get("proofs") or []
    return ["\n".join(f"* {'passed' if proof['passed'] else 'FAILED'}: {_proof(proof)}" for proof in proofs)]


def _proof(proof: dict[str, Any]) -> str:
    detail = plain(proof.get("detail"))
    return f"{plain(proof['name'])}{f' ({detail})' if detail else ''}"


def _happened(run: RunContents) -> list[str]:
    lines = run.manifest.get("happened") or []
    return ["\n".join(f"* {line['time'][:19]}: {plain(line['what'])}; {plain(line['done'])}" for line in lines)]


def _cost(run: RunContents) -> list[str]:
    seconds, trained = run.noted("seconds"), run.noted("train")
    parts = [f"{stage.name.lower()} {wording.duration(stage.bar.count)}" for stage in hygiene.stages(seconds)]
    parts += [f"in all {wording.duration(seconds['total'])}"] if seconds.get("total") else []
    if trained.get("tokens") and trained.get("seconds"):
        rate = wording.count(trained["tokens"] / trained["seconds"])
        parts.append(f"{wording.count(trained['tokens'])} tokens trained on, {rate} a second")
    parts += [f"peak memory {wording.size(trained['peak_bytes'])}"] if trained.get("peak_bytes") else []
    parts += [f"energy {wording.energy(run.manifest['energy_joules'])}"] if run.manifest.get("energy_joules") else []
    line = "; ".join(parts)
    return [f"{line[0].upper()}{line[1:]}."] if line else []


def _reproduce(run: RunContents) -> list[str]:
    command = run.manifest.get("command")
    versions = ", ".join(f"{name} {version}" for name, version in (run.manifest.get("versions") or {}).items())
    return [fenced(str(command)) if command else "", plain(f"Versions: {versions}.") if versions else ""]
