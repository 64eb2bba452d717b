"""The report as Markdown: the same figures without plots, short enough for a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.core import files
from tunelift.reporting import evidence, hygiene, wording
from tunelift.reporting.advice import advice_of, judged_lines
from tunelift.reporting.changes import Change, changes, readable
from tunelift.reporting.evidence import EntryRow
from tunelift.reporting.run_contents import RunContents, read_run
from tunelift.run_files.layout import RunPaths
from tunelift.wording.calibration_text import beside_error

MOST_FLIPS = 10
MOST_SLICES = 12
LONGEST_CODE = 160


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
        "Effect": [entry_table(evidence.metric_rows(run.comparison), "metric")],
        "Baselines": _baselines(run),
        "What holding the base in few bits changed": [quantising_table(run)],
        "Changed answers": _changes(run),
        "Judged answers": [plain(line) for line in judged_lines(run)],
        "Slices": _slices(run),
        "Over seeds": _recipe(run),
        "Forgetting": [forgetting_table(run)],
        "Probabilities": _calibration(run),
        "What so many items can show": _power(run),
        "Advice before the tuning": _advice(run),
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
    reason, claim, looks = wording.reason(comparison), wording.claim(comparison), comparison.get("looks")
    rest = [
        f"Why: {reason}." if reason else "",
        f"The claim: {claim}." if claim else "",
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
    return entry_table([EntryRow(f"{row.name} ({row.note})", row.at, row.entry) for row in rows], "set")


def quantising_table(run: RunContents) -> str:
    """Return the base in full precision against itself in few bits; empty for any other base."""
    return entry_table(evidence.quantising_rows(run.comparison), "metric", "full precision", "in few bits")


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
    # The worst of the lost and, in what room is left, of the gained; half the room each where both abound.
    worst = lost.shown[: max(MOST_FLIPS // 2, MOST_FLIPS - len(gained.shown))]
    flips = [_flip("lost", item) for item in worst]
    flips += [_flip("gained", item) for item in gained.shown[: MOST_FLIPS - len(worst)]]
    return [counts, "\n".join(flips)]


def _flip(kind: str, item: Change) -> str:
    answers = f"reference {code(item.reference)}"
    if item.base or item.tuned:
        answers += f", base {code(item.base)}, tuned {code(item.tuned)}"
    return f"* {kind}, item {code(item.id)}: {code(item.input)}; {answers}"


def _slices(run: RunContents) -> list[str]:
    parts = []
    for column, rows in evidence.slice_rows(run.comparison).items():
        named = [EntryRow(f"{row.name} ({row.note})", row.at, row.entry) for row in rows[:MOST_SLICES]]
        more = f"The first {MOST_SLICES} of {len(rows)}; the others are in report.html." if rows[MOST_SLICES:] else ""
        parts += [entry_table(named, plain(column)), more]
    return parts


def _recipe(run: RunContents) -> list[str]:
    reason = str((run.comparison.get("recipe") or {}).get("reason") or "").rstrip(".")
    return [recipe_line(run), f"Why: {plain(reason)}." if reason else ""]


def _calibration(run: RunContents) -> list[str]:
    calibration = run.comparison.get("calibration") or {}
    if not (calibration.get("base") and calibration.get("tuned")):
        return []
    base, tuned = (wording.number(calibration[side]["ece"]) for side in ("base", "tuned"))
    extent = f" ({wording.interval(calibration['interval'])})" if calibration.get("interval") else ""
    difference = f"{wording.signed(calibration.get('difference'))}{extent}"
    line = f"Calibration error of the probabilities (0 is best): base {base}, tuned {tuned}, difference {difference}."
    lines = beside_error(calibration, float(run.comparison.get("level") or 0.95))
    return [line, *map(plain, lines), _points(calibration), plain(calibration.get("note"))]


def _points(calibration: Mapping[str, Any]) -> str:
    """Return the confidences chosen on validation as a table; empty without any."""
    found = [(side, point) for side in ("base", "tuned") for point in calibration[side].get("points") or []]
    if not found:
        return ""
    found_or_answered = {"labels": "labels found", "entities": "entities found", "words": "words answered"}
    answered = found_or_answered.get(str(calibration.get("of")), "cases answered")
    lines = [
        f"| side | asked for | confidence | right on the test | {answered} |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for side, point in found:
        rates = " | ".join(_rate(point, key) for key in ("right", "answered"))
        lines.append(f"| {side} | {point['target']:.0%} | {point['confidence']:.3f} | {rates} |")
    return "\n".join(lines)


def _rate(point: Mapping[str, Any], key: str) -> str:
    interval = point.get(f"{key}_interval")
    return wording.DASH if not interval else f"{point[key]:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def _power(run: RunContents) -> list[str]:
    power = run.comparison.get("power") or {}
    if not power.get("curve"):
        return []
    chance = f"{power.get('power', 0.8):.0%}"
    line = f"The smallest true difference that {wording.count(power['items'])} items show with {chance} power:"
    shares = [f"{point['discordance']:.0%}" for point in power["curve"]]
    smallest = ["none" if point["smallest"] is None else wording.number(point["smallest"]) for point in power["curve"]]
    return [line, table(["answers that change (assumed)", *shares], [["smallest difference", *smallest]])]


def _advice(run: RunContents) -> list[str]:
    advice = advice_of(run)
    if not advice:
        return []
    found = [
        f"* {plain(finding['question'])} {plain(finding['text'])}"
        + (f" ({plain('; '.join(finding['shown']))})" if finding["shown"] else "")
        for finding in advice["findings"]
    ]
    return [plain(f"From what was measured before anything was trained: {advice['text']}"), "\n".join(found)]


def _data(run: RunContents) -> list[str]:
    data = run.noted("data")
    kept = {role: counts.get("kept") for role, counts in (data.get("splits") or {}).items()}
    splits = ", ".join(f"{wording.count(rows)} {role}" for role, rows in kept.items())
    without = evidence.without_duplicates(run.comparison)
    removed = (run.comparison.get("without_duplicates") or {}).get("removed")
    second = [f"Without the test items that repeat a training row ({wording.count(removed)}):"] if without else []
    return [
        f"Rows: {splits}." if splits else "",
        *(plain(note) for note in data.get("notes") or []),
        *(plain(f"{note}.") for note in (data.get("rendering") or {}).get("notes") or []),
        " ".join(hygiene.sentences(data, run.noted("verbatim"))),
        *second,
        entry_table(without, "metric"),
    ]


def _proofs(run: RunContents) -> list[str]:
    lines = []
    for proof in run.manifest.get("proofs") or []:
        detail = plain(proof.get("detail"))
        result = "passed" if proof["passed"] else "FAILED"
        lines.append(f"* {result}: {plain(proof['name'])}{f' ({detail})' if detail else ''}")
    return ["\n".join(lines)]


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return a table; the columns numbered in `right` hold figures and are set to the right."""
    rule = ["---:" if index in right else "---" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def entry_table(rows: Sequence[EntryRow], first: str, before: str = "base", after: str = "tuned") -> str:
    """Return before, after, difference, interval, p and verdict of each row; empty without any."""
    head = [first, before, after, "difference", "interval", "p", "verdict"]
    return table(head, [_cells(row) for row in rows], right=(1, 2, 3)) if rows else ""


def _cells(row: EntryRow) -> list[str]:
    entry = row.entry
    p, adjusted = wording.p_figure(entry.get("p")), entry.get("p_adjusted")
    differs = adjusted is not None and adjusted != entry.get("p")
    return [
        plain(row.name),
        wording.number(entry.get("base")),
        wording.number(entry.get("tuned")),
        wording.signed(entry.get("difference")),
        wording.interval(entry.get("interval")),
        f"{p}, adjusted {wording.p_figure(adjusted)}" if differs else p,
        str(entry.get("verdict", "")),
    ]


def plain(text: object) -> str:
    """Return a text in one line in which no character means anything to Markdown."""
    folded = " ".join(readable(text).split())
    return re.sub(r"([\\`*_\[\]<|~]|^[>#+-])", r"\\\1", folded)


def code(text: object, most: int = LONGEST_CODE) -> str:
    """Return a text in one line as a code span, cut after `most` characters; nothing in it is interpreted."""
    folded = hygiene.shortened(text, most)
    if not folded:
        return "(nothing)"
    fence = "`" * (max((len(run) for run in re.findall("`+", folded)), default=0) + 1)
    pad = " " if folded[0] == "`" or folded[-1] == "`" else ""
    return f"{fence}{pad}{folded}{pad}{fence}"


def fenced(text: str, language: str = "") -> str:
    """Return a block of code with a fence that the text itself does not hold."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
