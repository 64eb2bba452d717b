"""The proof at a server's start: items of the run, scored through the server's own path, are what the run measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelift.config.load import load_config
from tunelift.core.errors import InputError, TuneliftError
from tunelift.core.records import Example, Scores
from tunelift.data.answers import answer_text
from tunelift.data.render import own_completion
from tunelift.evaluation.generation import before_stop
from tunelift.pipeline.choices import adapter_facts, splits_to_measure, task_for
from tunelift.pipeline.served import Ready, Source
from tunelift.run_files.layout import BASE, TUNED, RunPaths, is_scored
from tunelift.serving.requests import Request, Sampling, Stop
from tunelift.serving.service import Named
from tunelift.serving.worker import ask_all

ITEMS = 8
"""Items of a side that are scored again, spread over all of them."""

SLACK = 4
"""How many times the rounding of one token's score a mean may be off: other products round otherwise."""


@dataclass(frozen=True, slots=True)
class Proved:
    """One side of a run that gave its own scores: `items` of them, at most `off` nats a token apart."""

    name: str
    side: str
    items: int
    answers: int
    off: float

    def __str__(self) -> str:
        said = f", {self.answers} answers word for word" if self.answers else ""
        return (
            f"{self.name}: {self.items} items of the run score as they were measured (within {self.off:.2g} nats{said})"
        )


def prove(ready: Ready) -> list[Proved]:
    """Score some items of each run, base and tuned, through the worker; return what was found.

    Raises TuneliftError where a score or an answer is not what the run measured, and InputError where nothing of a run
    can be compared. What comes of no run was not measured, and is not looked at.
    """
    named = {model.name: model for model in ready.models}
    sources = ready.sources.values()
    return [one for source in sources for one in prove_one(ready, source, named[source.name])]


def prove_one(ready: Ready, source: Source, named: Named) -> list[Proved]:
    """Do the same for what one source is served as; of no run nothing is found."""
    if source.run is None:
        return []
    return [_proved(ready, source, BASE, ready.models[0]), _proved(ready, source, TUNED, named)]


def _proved(ready: Ready, source: Source, side: str, named: Named) -> Proved:
    assert source.run is not None
    folder = RunPaths(source.run).side(side)
    if not is_scored(folder):
        raise InputError(
            f"The run {source.run} has no scores of {side}, by which what is served could be proved.",
            fix=f"Serve the adapter alone, which proves nothing: {source.folder}",
        )
    scores = Scores.read(folder)
    rows = [row for row in scores.rows if row.get("log_likelihood") is not None and row.get("tokens")]
    step = max(1, len(rows) // ITEMS)
    examples = _examples(source, rows[::step][:ITEMS])
    off, compared = _likelihoods(ready, named, examples)
    decoding = (scores.info.get("made_with") or {}).get("decoding")
    answers = _answers(ready, named, examples, decoding) if isinstance(decoding, dict) else 0
    if not compared:
        raise InputError(
            f"No item of the run {source.run} can be scored through the server ({side}).",
            fix=f"Serve the adapter alone, which proves nothing: {source.folder}",
        )
    return Proved(named.name, side, compared, answers, off)


def _examples(source: Source, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Example, Mapping[str, Any]]]:
    """Return rows with their examples: of conversations as the data have them, else as the rows themselves say."""
    if not adapter_facts(source.folder)["conversations"]:
        return [(Example(str(row["id"]), row["input"], row["reference"]), row) for row in rows]
    config = load_config(RunPaths(Path(source.run or "")).config, of_run=True)
    by_id = {example.id: example for example in splits_to_measure(config.data, task_for(config)).test}
    return [(by_id[str(row["id"])], row) for row in rows if str(row["id"]) in by_id]


def _likelihoods(
    ready: Ready, named: Named, examples: Sequence[tuple[Example, Mapping[str, Any]]]
) -> tuple[float, int]:
    """Return how far scores are from those measured at most (nats a token), and of how many items."""
    requests, wanted = list[Request](), list[Mapping[str, Any]]()
    for example, row in examples:
        prompt, (completion,) = named.renderer.continued([example], [[own_completion(example)]])[0]
        ids, start = [*prompt, *completion], max(1, len(prompt))
        if len(ids) - start == row["tokens"] and len(ids) <= ready.worker.engine.context:
            stop = Stop(max_new_tokens=0)
            requests.append(Request(ids, Sampling(logprobs=0), named.adapter, stop, scored_from=start))
            wanted.append(row)
    off = 0.0
    for row, deltas in zip(wanted, ask_all(ready.worker, requests), strict=True):
        own = math.fsum(token.logprob or 0.0 for delta in deltas for token in delta.prompt)
        apart = abs(own - row["log_likelihood"]) / row["tokens"]
        failed = next((delta.reason for delta in deltas if delta.finish == "error"), None)
        if failed is not None or not apart <= SLACK * ready.nats:
            raise TuneliftError(
                f"{named.name} is not what the run measured: item {row['id']} has the log-likelihood {own:.4f} through "
                f"the server and {row['log_likelihood']:.4f} in the run{f' ({failed})' if failed else ''}.",
                fix="Nothing is served. Run it again here (tunelift evaluate), or serve the adapter alone.",
            )
        off = max(off, apart)
    return off, len(requests)


def _answers(
    ready: Ready, named: Named, examples: Sequence[tuple[Example, Mapping[str, Any]]], decoding: Mapping[str, Any]
) -> int:
    """Return how many answers are word for word those measured; others must have had two tokens that are as likely."""
    asked, requests = [], list[Request]()
    for example, row in examples:
        one = named.renderer.asked([example])[0]
        ends = frozenset(named.renderer.stop_ids(example)) | named.ends
        stops = [*decoding.get("stop", []), *named.renderer.stop_strings(example)]
        most = min(int(decoding["max_new_tokens"]), ready.worker.engine.context - len(one.ids))
        if most > 0 and "prediction" in row:
            asked.append((one, row, stops))
            stop = Stop(ends, stops, most)
            requests.append(Request(one.ids, Sampling(logprobs=2), named.adapter, stop))
    same = 0
    keep = decoding.get("thinking") == "keep"
    for (one, row, stops), deltas in zip(asked, ask_all(ready.worker, requests), strict=True):
        tokens = [token for delta in deltas for token in delta.tokens]
        text = answer_text(named.tokenizer, [token.id for token in tokens], one.marks, keep_thinking=keep)
        text = before_stop(text, stops)
        gaps = [token.top[0][1] - token.top[1][1] for token in tokens if len(token.top) > 1]
        if text != row["prediction"] and min(gaps, default=math.inf) > 2 * SLACK * ready.nats:
            raise TuneliftError(
                f"{named.name} is not what the run measured: to item {row['id']} it says {text!r:.200} through the "
                f"server, and said {row['prediction']!r:.200} in the run.",
                fix="Nothing is served. Run it again here (tunelift evaluate), or serve the adapter alone.",
            )
        same += text == row["prediction"]
    return same
