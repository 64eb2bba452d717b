"""A comparison as text: the verdict in a sentence, a small table, what it rests on, a few flips; and as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunelift.wording.calibration_text import calibration_lines
from tunelift.wording.numbers import Entry, aligned, cells, interval_text, level_text, p_text, values

Found = Mapping[str, Any]
"""A comparison, as comparison.json has it."""

SHOWN_FLIPS = 3
_LONGEST = 60


def describe(found: Found, flips: Sequence[Mapping[str, Any]], left_out: Iterable[str]) -> str:
    """Return a comparison as plain text of several lines.

    `flips` are the items that changed, worst first, and `left_out` says of each item that is not compared why.
    """
    parts = [
        found["headline"]["sentence"],
        _table(found),
        _baselines(found),
        _quantising(found),
        _rests_on(found, left_out),
        _slices(found),
        _flips(found, flips),
    ]
    return "\n\n".join(part for part in parts if part)


def markdown(found: Found, gates: Sequence[object] = ()) -> str:
    """Return the headline's sentence, a table of the metrics and baselines, and the gates, for a CI job's log."""
    lines = [f"**{found['headline']['sentence']}**", "", *_markdown_table(found)]
    if gates:
        lines += ["", *(f"- {_markdown_cell(gate)}" for gate in gates)]
    lines += ["", f"It speaks of {found['claim']}."]
    if (found["looks"] or 1) > 1:
        lines[-1] += f" This is look {found['looks']} at these test items; the error rates hold for the first."
    return "\n".join(lines)


def sentence(found: Found) -> str:
    """Return the verdict in one sentence: the word, the metric, both values, the difference and its interval.

    Where a baseline is stronger than the base, the sentence is about that; beating the base alone is said as such.
    """
    result = _judged(found)
    base, tuned, difference = values(result)
    interval = result["interval"]
    extent = "" if interval is None else f", {level_text(found['level'])} interval {interval_text(*interval)}"
    metric = found["headline"]["metric"]
    return f"{_opening(found)} on {metric}: {base} -> {tuned} ({difference}{extent}; {_items(result)})."


def _judged(found: Found) -> Entry:
    metric, against = found["headline"]["metric"], found["headline"]["against"]
    result: Entry = found["metrics"][metric] if against == "base" else found["baselines"][against]
    return result


def _opening(found: Found) -> str:
    metric, against, word = (found["headline"][key] for key in ("metric", "against", "verdict"))
    if against == "base":
        return {
            "better": "The tuned model is better than the base model",
            "worse": "The tuned model is worse than the base model",
            "equivalent": "The tuned and the base model are equivalent",
            "different": "The tuned and the base model differ, and which is better is not known,",
            "inconclusive": "It is not clear which is better, the tuned or the base model,",
        }[word]
    if word != "better" and found["metrics"][metric]["verdict"] == "better":
        judged = {
            "worse": "is worse than",
            "equivalent": "is equivalent to",
            "different": "differs from",
            "inconclusive": "is not shown to be better than",
        }[word]
        return f"The tuned model beats zero-shot only: it {judged} {against}, the strongest baseline,"
    return {
        "better": f"The tuned model is better than {against}, the strongest baseline,",
        "worse": f"The tuned model is worse than {against}, the strongest baseline,",
        "equivalent": f"The tuned model and {against}, the strongest baseline, are equivalent",
        "different": f"The tuned model and {against}, the strongest baseline, differ, either way,",
        "inconclusive": f"It is not clear which is better, the tuned model or {against}, the strongest baseline,",
    }[word]


def _table(found: Found) -> str:
    head = ["metric", "base", "tuned", "difference", f"{level_text(found['level'])} interval", "p", "verdict"]
    rows = [cells(name, entry) for name, entry in found["metrics"].items()]
    rows += [
        cells(f"{entry['metric']} on {name}, for forgetting", entry) for name, entry in found["forgetting"].items()
    ]
    return aligned([head, *rows])


def _baselines(found: Found) -> str:
    """The tuned model against each baseline on the same items, with the validation value that chose the strongest."""
    if not found["baselines"]:
        return ""
    chosen = found["selection"]
    validation = chosen["values"] if chosen else {}
    first = f"baseline ({found['headline']['metric']})"
    rows = [[first, "validation", "test", "tuned", "difference", "interval", "tuned is"]]
    about = []
    for name, entry in found["baselines"].items():
        _, *figures = cells(name, entry)
        known = f"{validation[name]:.3f}" if name in validation else "-"
        rows.append([name, known, *figures[:4], figures[-1]])
        about.append(f"{name}: {_short(entry['description'], 110)}.")
    if chosen:
        base = f"base, zero-shot: {validation['base']:.3f}"
        about.append(f"Strongest on {chosen['rows']} validation rows: {chosen['strongest']} ({base}).")
    return "\n".join([aligned(rows), *about])


def quantising_lines(found: Mapping[str, Entry]) -> list[str]:
    """Return what holding a base in few bits changed, a line for each metric."""
    lines = []
    for name, entry in found.items():
        wide, narrow, difference = values(entry)
        extent = "" if entry["interval"] is None else f", interval {interval_text(*entry['interval'])}"
        lines.append(f"{name} {wide} in full precision, {narrow} in few bits ({difference}{extent}; {_items(entry)})")
    return lines


def _quantising(found: Found) -> str:
    lines = quantising_lines(found.get("quantising") or {})
    return "\n".join(["What holding the base in few bits changed, before the tuning:", *lines]) if lines else ""


def _slices(found: Found) -> str:
    tables = []
    for column, slices in found["slices"].items():
        head = [column, "items", "base", "tuned", "difference", "interval", "verdict"]
        rows = [head]
        for value, entry in slices.items():
            name, *figures = cells(_short(value), entry)
            rows.append([name, _counted(entry), *figures[:4], figures[-1]])
        tables.append(aligned(rows))
    return "\n\n".join(tables)


def _counted(entry: Entry) -> str:
    items, one_sided = entry["items"], entry.get("one_sided")
    return f"{items} of {items + one_sided}" if one_sided else str(items)


def _items(entry: Entry) -> str:
    """Return how many items a result rests on, as a clause."""
    if entry.get("one_sided"):
        return f"{_counted(entry)} items scored on both sides"
    return f"{entry['items']} item{'s' * (entry['items'] != 1)}"


def _rests_on(found: Found, left_out: Iterable[str]) -> str:
    result = _judged(found)
    lines = [f"Why: {result['reason']}", f"Test: {_test(result)}.", f"It speaks of {found['claim']}."]
    if "no_worse" in result:
        lines.append(f"No worse by {found['margin']:g} or more: {'shown' if result['no_worse'] else 'not shown'}.")
    if len(found["metrics"]) > 2:
        lines.append("The p of the further metrics are corrected for their number (Holm).")
    if recipe := found["recipe"]:
        over = f"Over {len(recipe['seeds'])} seeds ({recipe['claim']})"
        lines.append(f"{over}: {recipe['verdict']}; {recipe['reason']}")
    if alone := found["without_duplicates"]:
        lines.append(
            f"Without the test items that training rows repeat ({alone['removed']}): {values(alone)[2]} "
            f"against the base, {alone['verdict']} ({_items(alone)})."
        )
    lines += calibration_lines(found["calibration"] or {}, found["level"])
    if (found["looks"] or 1) > 1:
        lines.append(f"This is look {found['looks']} at these test items; the error rates hold for the first.")
    lines += [f"Left out of the values: {count} ({reason})." for reason, count in Counter(left_out).items()]
    return "\n".join([*lines, *(f"Note: {note}" for note in found["notes"])])


def _test(entry: Entry) -> str:
    parts = [entry["test"]]
    if "clusters" in entry:
        parts.append(f"{entry['clusters']} clusters")
    if entry["p"] is not None:
        parts.append(p_text(entry["p"]))
    if "p_exact" in entry:
        parts.append(f"exact {p_text(entry['p_exact'])}")
    if counts := entry.get("discordant"):
        parts.append(f"{counts['gained']} items gained and {counts['lost']} lost")
    return ", ".join(parts)


def _flips(found: Found, flips: Sequence[Mapping[str, Any]]) -> str:
    if not flips:
        return ""
    metric = found["headline"]["metric"]
    known = found["metrics"][metric]["higher_is_better"] is not None
    moved = {"gained": "gained", "lost": "lost"} if known else {"gained": "rose", "lost": "fell"}
    lines = [f"Items that changed on {metric}, {'worst' if known else 'those that fell'} first:"]
    for flip in flips[:SHOWN_FLIPS]:
        lines.append(f"  {moved.get(flip['direction'])}  {_short(flip['id'])}: {_short(flip['input'])}")
        answered = any(flip[side] is not None for side in ("base", "tuned"))
        sides = {side: flip[side] for side in ("reference", *["base", "tuned"] * answered)}
        if any(sides.values()):
            lines.append("    " + ", ".join(f"{side} {_quoted(value)}" for side, value in sides.items()))
    more = len(flips) - SHOWN_FLIPS
    return "\n".join([*lines, f"  ... and {more} more"] if more > 0 else lines)


def _quoted(value: Any) -> str:
    return "none" if value is None else f'"{_short(value)}"'


def _short(value: Any, longest: int = _LONGEST) -> str:
    """One line of printable text: a model's output must not move the terminal's cursor or colour it."""
    folded = " ".join(str(value).split())
    printable = "".join(letter for letter in folded if letter.isprintable())
    return printable if len(printable) <= longest else printable[: longest - 3] + "..."


def _markdown_table(found: Found) -> list[str]:
    head = [
        "metric",
        "against",
        "value",
        "tuned",
        "difference",
        f"{level_text(found['level'])} interval",
        "p",
        "verdict",
    ]
    metric = found["headline"]["metric"]
    entries = [(name, "base", entry) for name, entry in found["metrics"].items()]
    entries += [(metric, name, entry) for name, entry in found["baselines"].items()]
    entries += [(entry["metric"], f"base, on {name}", entry) for name, entry in found["forgetting"].items()]
    rows = [head, ["---", "---", "---:", "---:", "---:", "---", "---:", "---"]]
    for name, against, entry in entries:
        shown, *figures = cells(name, entry)
        rows.append([_markdown_cell(shown), _markdown_cell(against), *figures])
    return [f"| {' | '.join(row)} |" for row in rows]


def _markdown_cell(value: Any) -> str:
    """One line of text that ends no cell of the table: names come from files of others."""
    return " ".join(str(value).split()).replace("|", "\\|")
