"""A leaderboard as text: who is first, the table, and what it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tunelift.core.errors import listed
from tunelift.wording.numbers import Entry, aligned, decimals, figure, interval_text, level_text, p_figure

Board = Mapping[str, Any]
"""A leaderboard, as its `to_dict` gives it."""


def describe(board: Board, left_out: Iterable[str]) -> str:
    """Return a leaderboard as plain text; `left_out` says of each item that is not compared why."""
    return "\n\n".join([_sentence(board), _table(board), _rests_on(board, left_out)])


def place(rank: int, tied: bool) -> str:
    """Return a rank in words: `1st`, or `tied 1st`."""
    return f"tied {_ordinal(rank)}" if tied else _ordinal(rank)


def further(board: Board) -> list[str]:
    """Return, of a leaderboard of a config, its blocks beside the ranks: costs, the front, recipes, what was tried."""
    return [_costs(board), *filter(None, [_front(board), _recipes(board)]), _tried(board)]


def _costs(board: Board) -> str:
    forgotten = next((cost["forgotten"] for cost in board["costs"].values() if cost["forgotten"]), None)
    head = ["model", "learning rate", "seconds", "memory", "size", "trained numbers", f"change on {forgotten or '-'}"]
    rows = [head]
    for one in board["candidates"]:
        cost, rate = board["costs"][one["name"]], board["settings"][one["name"]].get("train.learning_rate")
        interval = cost["forgetting_interval"]
        rows.append(
            [
                one["name"],
                "-" if rate is None else f"{rate:g}",
                "-" if cost["seconds"] is None else f"{cost['seconds']:.1f}",
                "-" if cost["peak_bytes"] is None else f"{cost['peak_bytes'] / 1e9:.2f} GB",
                f"{cost['size_bytes'] / 1e6:.2f} MB",
                "-" if cost["trainable"] is None else f"{cost['trainable']:,}",
                "-" if interval is None else interval_text(*interval),
            ]
        )
    return aligned(rows)


def _front(board: Board) -> str:
    front = list(board["front"])
    return (
        f"Not beaten in everything (Pareto front): {listed(front)}. One beats another in quality where that is shown, "
        "in time and memory by a tenth, in size by a byte, in forgetting where the intervals lie apart."
    )


def _recipes(board: Board) -> str:
    found = board["recipes"]
    if not found:
        return ""
    values = {name: [v for v in some if v is not None] for name, some in board["values_of_seeds"].items()}
    spread = ", ".join(f"{name} {min(some):.3f} to {max(some):.3f}" for name, some in values.items() if some)
    ranks = found["ranks"]
    ordered = sorted(ranks, key=lambda name: (ranks[name], name))
    counts = Counter(ranks.values())
    places = ", ".join(f"{name} {place(ranks[name], counts[ranks[name]] > 1)}" for name in ordered)
    return (
        f"As recipes, over {found['seeds']} seeds and the items: {places}. A rank is 1 plus the number of others "
        f"that are shown to be better with other seeds too. Values of the seeds: {spread}."
    )


def _tried(board: Board) -> str:
    said = (
        f"{len(board['entries'])} entries were tried in {board['tried']} trainings, and the finalists chosen by "
        "the loss on validation; they alone saw the test items."
    )
    if board["edge"]:
        said += f" The best learning rate of {listed(board['edge'])} was the least or greatest tried: name more rates."
    return said


def _sentence(board: Board) -> str:
    first = [one["name"] for one in board["candidates"] if one["rank"] == 1]
    where = f"on {board['metric']} ({board['items']} item{'s' * (board['items'] != 1)})"
    if len(board["candidates"]) == 1:
        return f"{first[0]} is the only candidate {where}."
    if len(first) == 1:
        return f"{first[0]} ranks first {where}: no other is shown to be better."
    return f"{listed(first)} are tied for first place {where}: none is shown to be better than another of them."


def _table(board: Board) -> str:
    metric, candidates = board["metric"], board["candidates"]
    name = metric if board["higher_is_better"] else f"{metric} (lower is better)"
    head = ["rank", "model", name, "difference", f"{level_text(board['level'])} interval", "p", "against the base"]
    widths = [high - low for low, high in (one["interval"] or (0.0, 0.0) for one in candidates)]
    places = max(3, *map(decimals, widths))
    rows = [head, *(_row(one, places) for one in candidates), ["-", "base", f"{board['base']:.{places}f}"]]
    return aligned([[*row, *[""] * (len(head) - len(row))] for row in rows])


def _row(candidate: Entry, places: int) -> list[str]:
    interval = candidate["interval"]
    return [
        place(candidate["rank"], candidate["tied"]),
        candidate["name"],
        figure(candidate["tuned"], places),
        figure(candidate["difference"], places, "+"),
        "-" if interval is None else interval_text(*interval),
        p_figure(candidate["p_adjusted"]),
        candidate["verdict"],
    ]


def _rests_on(board: Board, left_out: Iterable[str]) -> str:
    candidates = board["candidates"]
    tests = listed(dict.fromkeys(one["test"] for one in candidates))
    lines = [f"Test: {tests}."]
    if len(candidates) > 1:
        lines.append(
            f"p is corrected for {len(candidates)} candidates; ranks rest on all {len(board['pairs'])} pairs of them, "
            "corrected alike. A rank is 1 plus the number of others shown to be better."
        )
    if board["looks"] is not None:
        lines.append(f"Results compared on this test set so far: {board['looks']}.")
    lines += [f"Left out: {count} ({reason})." for reason, count in Counter(left_out).items()]
    return "\n".join([*lines, *(f"Note: {note}" for note in board["notes"])])


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
