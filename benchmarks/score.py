"""Scoring side by side: lm-evaluation-harness's Hugging Face backend and tunelift on the same items.

    python benchmarks/score.py [--quick] [--out FILE.json]

Gemma 3 270M. Four options of several tokens, four of one token, the first behind five solved examples, and all 77
intents of banking77: with the scores of all, and (as `tunelift evaluate` asks) of those alone that may be the best, and
of the right one. lm-eval is first tried in fp32 and bf16 and with batches of 1, 8 and 16; the better of these is
then measured in turns with tunelift. In the same run the log-likelihoods of both are compared, and what they choose.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import side_by_side
from side_by_side import Result, Setting

sys.path.append(str(side_by_side.SCRIPTS))
from prepare import KINDS

from tunelift.models.sources import resolve

MODEL = "gemma3-270m"
OURS, THEIRS = "tunelift", "lm-eval"
ITEMS = {"several tokens": 64, "one token": 64, "behind 5 shots": 32, "77 labels": 8, "77 labels, the best": 8}
BATCH_SIZES = (1, 8, 16)
SENTIMENTS = [" positive", " negative", " neutral", " mixed"]
"""One token each for Gemma."""


def main() -> None:
    options = side_by_side.arguments(__doc__)
    peers = side_by_side.peers_python(options.peers_env)
    figures: Result = side_by_side.facts(peers)
    side_by_side.print_facts(figures)
    items = all_items(options.data, 64 if options.quick else 1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = resolve(MODEL)[0].path
        best, figures["trials"] = tried(items, (8,) if options.quick else BATCH_SIZES, peers, model, folder)
        settings = [
            Setting(OURS, "our_scores.py", sys.executable, {"name": MODEL, "dtype": "auto", "kinds": items}),
            *their_settings(items, peers, model, best),
        ]
        rounds = options.rounds or (1 if options.quick else 3)
        figures["runs"] = side_by_side.in_turns(settings, rounds, folder, lambda *_: True)
        job = {"name": MODEL, "dtype": "float32", "kinds": few(items)}
        check = side_by_side.measure(Setting("equality in fp32", "our_scores.py", sys.executable, job), folder)
    figures["best"], figures["items"] = best, {kind: len(some) for kind, some in items.items()}
    figures["kinds"] = {kind: compared(kind, figures, check) for kind in items}
    show(figures)
    side_by_side.finish(options.out, figures)


def all_items(data: Path, divided_by: int) -> dict[str, list[dict[str, Any]]]:
    """Return the items of each kind: {"context", "choices"}, the right choice first or, of 77, in its place.

    Where the best choice is all that is asked for, "right" is the number of the right one.
    """
    train, test = (KINDS["banking77"](data, split) for split in ("train", "test"))
    intents = sorted({spoken(intent) for _, intent in train})
    own = random.Random(0)
    several = [
        {"context": prompt, "choices": [right, *own.sample([i for i in intents if i != right], 3)]}
        for prompt, right in ((prompt, spoken(intent)) for prompt, intent in own.sample(test, ITEMS["several tokens"]))
    ]
    shots = "".join(f"{prompt}{spoken(intent)}\n\n" for prompt, intent in own.sample(train, 5))
    reviews = own.sample(KINDS["sst2"](data, "test"), ITEMS["one token"])
    kinds = {
        "several tokens": several,
        "one token": [{"context": prompt, "choices": SENTIMENTS} for prompt, _ in reviews],
        "behind 5 shots": [item | {"context": shots + item["context"]} for item in several],
        "77 labels": [{"context": item["context"], "choices": intents} for item in several],
        "77 labels, the best": [
            {"context": item["context"], "choices": intents, "right": intents.index(item["choices"][0])}
            for item in several
        ],
    }
    return {kind: some[: max(1, ITEMS[kind] // divided_by)] for kind, some in kinds.items()}


def spoken(intent: str) -> str:
    return intent.replace("_", " ")


def few(items: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return a quarter of each kind's items, for trials."""
    return {kind: some[: max(1, len(some) // 4)] for kind, some in items.items()}


def tried(
    items: Mapping[str, list[Any]], batch_sizes: Sequence[int], peers: str, model: str, folder: Path
) -> tuple[dict[str, Any], Result]:
    """Return for each kind lm-eval's best (dtype, batch size), and what was measured to find it.

    bfloat16 is tried with the batches that are the best in float32, and stopped once float32 would long be done: on a
    CPU without such instructions it takes hours.
    """
    job = {"model": model, "dtype": "float32", "kinds": few(items), "batch_sizes": dict.fromkeys(items, batch_sizes)}
    trials = {"float32": side_by_side.measure(Setting("lm-eval fp32", "lm_eval_scores.py", peers, job), folder)}
    tried = trials["float32"]["kinds"]
    sizes = {kind: min(tried[kind], key=lambda size, runs=tried[kind]: runs[size]["seconds"]) for kind in items}
    taken = sum(tried[kind][size]["seconds"] for kind, size in sizes.items())
    job |= {"dtype": "bfloat16", "batch_sizes": {kind: [int(size)] for kind, size in sizes.items()}}
    setting = Setting("lm-eval bf16", "lm_eval_scores.py", peers, job)
    trials["bfloat16"] = side_by_side.measure(setting, folder, 60 + 1.5 * taken)
    best = {}
    for kind in items:
        found = [
            (run["seconds"], dtype, int(size))
            for dtype, trial in trials.items()
            for size, run in trial.get("kinds", {}).get(kind, {}).items()
        ]
        best[kind] = list(min(found)[1:])
    return best, trials


def their_settings(items: Mapping[str, Any], peers: str, model: str, best: Mapping[str, Any]) -> list[Setting]:
    """Return lm-eval in each dtype that is the best for some kind, on those kinds alone."""
    settings = []
    for dtype in sorted({dtype for dtype, _ in best.values()}):
        kinds = {kind: some for kind, some in items.items() if best[kind][0] == dtype}
        sizes = {kind: [best[kind][1]] for kind in kinds}
        job = {"model": model, "dtype": dtype, "kinds": kinds, "batch_sizes": sizes}
        settings.append(Setting(f"{THEIRS} {dtype}", "lm_eval_scores.py", peers, job))
    return settings


def compared(kind: str, figures: Result, check: Result) -> Result:
    """Return seconds and ratio of a kind, and how far log-likelihoods (fp32) and choices of both agree."""
    dtype, size = figures["best"][kind]
    runs, trial = figures["runs"], figures["trials"]["float32"]["kinds"][kind]
    ours = [{"seconds": run["kinds"][kind]["ours"]["seconds"]} for run in runs[OURS]]
    theirs = [{"seconds": run["kinds"][kind][str(size)]["seconds"]} for run in runs[f"{THEIRS} {dtype}"]]
    result = {"ours": side_by_side.median(ours, "seconds"), "theirs": side_by_side.median(theirs, "seconds")}
    result |= {"ratio": result["theirs"] / result["ours"], "batch_size": size, "dtype": dtype}
    result["spread"] = [side_by_side.spread(ours, "seconds"), side_by_side.spread(theirs, "seconds")]
    pairs = zip(check["kinds"][kind]["ours"]["found"], next(iter(trial.values()))["found"], strict=True)
    result["largest_difference"] = max(
        difference(a, b) for mine, other in pairs for a, b in zip(mine, other, strict=True) if a is not None
    )
    both = runs[OURS][0]["kinds"][kind]["ours"], runs[f"{THEIRS} {dtype}"][0]["kinds"][kind][str(size)]
    chosen = [[best_of(row) for row in run["found"]] for run in both]
    result["same_choice"] = sum(a == b for a, b in zip(*chosen, strict=True)) / len(chosen[0])
    return result


def best_of(row: Sequence[float | None]) -> int:
    """Return the number of the likeliest choice; None stands for one that was not finished since it cannot be that."""
    return max((i for i, score in enumerate(row) if score is not None), key=lambda i: row[i])


def difference(ours: float, theirs: float) -> float:
    """Return how far two log-likelihoods are apart, absolute below one nat and relative above."""
    return abs(ours - theirs) / max(1.0, abs(theirs))


def show(figures: Result) -> None:
    table = [
        {
            "items": f"{kind}, {figures['items'][kind]}",
            "lm-eval": f"{found['theirs']:.2f} s ({found['dtype']}, batches of {found['batch_size']})",
            "tunelift": f"{found['ours']:.2f} s ({figures['runs'][OURS][0]['dtype'].removeprefix('torch.')})",
            "we are": f"{found['ratio']:.1f}x",
            "runs apart": f"{found['spread'][0]:.0%} / {found['spread'][1]:.0%}",
            "differ by (fp32)": f"{found['largest_difference']:.1e}",
            "same choice": f"{found['same_choice']:.0%}",
        }
        for kind, found in figures["kinds"].items()
    ]
    side_by_side.print_table("Scoring", table)


if __name__ == "__main__":
    main()
