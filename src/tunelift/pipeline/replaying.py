"""Replay against forgetting: rows beside those of the task, by which a model goes on saying what it said before.

They are the base's own answers to general prompts, drawn as it gives them before it is tuned, or rows of the user's.
Learning one's own answers moves a model nowhere by itself (the gradient is zero in the mean), and holds it where it is
when the task's rows move it: the rehearsal of Huang et al., arXiv 2403.01244. A row counts as much as one of the
task's, however many tokens it has.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tunelift.config.schema import DataSection, EvaluateSection, TrainSection
from tunelift.core import files, progress
from tunelift.core.errors import InputError
from tunelift.core.records import Conversation, Example
from tunelift.data.examples import make_examples
from tunelift.data.overlap import Held, folded
from tunelift.data.render import Renderer, RenderReport
from tunelift.data.sources import read_rows, source_name
from tunelift.data.splits import Splits
from tunelift.evaluation.answers import greedy
from tunelift.evaluation.generation import Decoding, Sampling, end_ids
from tunelift.fast.target_model import target_model
from tunelift.fast.targets import IGNORED
from tunelift.model_facts.anatomy import context_length
from tunelift.pipeline.forgetting import forgetting_sets
from tunelift.pipeline.general_prompts import general_prompts
from tunelift.pipeline.session import Session
from tunelift.pipeline.sharing import replay_of_base
from tunelift.tasks import DEFAULT, Task
from tunelift.tasks.base import Row
from tunelift.training import ranks

ANSWER_TOKENS = 96
"""Longest answer of the base's own."""

MOST_ANSWERS = 512
"""Answers of the base's own at most: more rows than these are the same again."""

OWN = "the base's own answers to general prompts"


@dataclass(slots=True)
class Replay:
    """Rows to be replayed, and what the manifest says of them."""

    rows: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def noted(self) -> dict[str, Any]:
        """Return them as the manifest has them, if there are any."""
        return {"replay": self.facts} if self.rows else {}

    def note(self) -> str:
        """Return what is to be said of them."""
        facts = self.facts
        gone = f", without {facts['left_out']} that are measured" if facts.get("left_out") else ""
        return f"{facts['rows']} rows against forgetting are mixed in ({facts['from']}{gone}), {facts['tokens']} tokens"


def check_replay(task: Task, settings: TrainSection) -> None:
    """Raise InputError where nothing can be replayed, before anything is computed."""
    if settings.replay and task.name != DEFAULT.name:
        raise InputError(
            f"train.replay mixes texts and answers into the training, and the task {task.name} learns none.",
            fix=f"Leave it out, or take the task {DEFAULT.name}.",
        )
    if settings.replay_from is not None and not settings.replay:
        raise InputError("train.replay_from names rows, and train.replay is 0.", fix="Set train.replay, such as 0.1.")
    if settings.replay_from is not None:
        _given(settings.replay_from)


def replayed(
    session: Session, splits: Splits, settings: TrainSection, evaluate: EvaluateSection, path: Path | None
) -> Replay:
    """Return the rows to be replayed, by the model as it is now, which is the base; `path` keeps the base's answers.

    Of several processes the first one's are taken.
    """
    if not settings.replay:
        return Replay()
    count = settings.rows_to_replay(len(splits.train))
    max_length = min(settings.max_length, context_length(session.model, session.tokenizer))
    facts: dict[str, Any] = {"share": settings.replay}
    if settings.replay_from is None:
        asked = any(example.conversation for example in splits.train)
        draw = partial(_drawn, session, min(count, MOST_ANSWERS), settings.seed, asked)
        how = {"count": min(count, MOST_ANSWERS), "seed": settings.seed, "asked": asked}
        own = ranks.of_first(_answers(partial(replay_of_base, session, draw, how) if evaluate.cache else draw, path))
        rows, facts["from"] = _rows_of(own, max_length), OWN
    else:
        measured = [*splits.test, *splits.validation]
        measured += [e for found in forgetting_sets(evaluate, DEFAULT).values() for e in found.test]
        given, held = _given(settings.replay_from), Held(measured)
        texts = {_own_text(example) for example in measured}
        kept = [row for row in given if not held.given_away(row) and _own_text(row) not in texts]
        facts |= {"from": source_name(settings.replay_from), "left_out": len(given) - len(kept)}
        if not kept:
            raise InputError(
                f"Every row of {facts['from']} stands in what is measured: it would say nothing of forgetting then.",
                fix="Name other rows with train.replay_from.",
            )
        rows, _ = DEFAULT.rows(kept, session.tokenizer, max_length, [])
        random.Random(f"replay {settings.seed}").shuffle(rows)  # a file may hold one kind of rows after the other
    rows = [rows[i % len(rows)] for i in range(count)] if rows else []
    learned, _ = session.rows(splits.train, max_length)
    weight = _targets(learned) / _targets(rows) if rows else 1.0
    facts |= {"rows": len(rows), "tokens": sum(len(row.ids) for row in rows), "weight_of_a_token": weight}
    return Replay([replace(row, weight=weight) for row in rows], facts)


def mixed(
    session: Session, splits: Splits, replay: Replay, examples: Sequence[Example], max_length: int
) -> tuple[Sequence[Row], RenderReport]:
    """Return the rows of these examples; of those that are trained on with what is replayed."""
    rows, report = session.rows(examples, max_length)
    if examples is not splits.train or not replay.rows:
        return rows, report
    return [*rows, *replay.rows], replace(report, notes=[*report.notes, replay.note()])


def _own_text(example: Example) -> str:
    """Return what an item asks without what a template puts around it: rows to replay may be written in another way.

    That is the longest cell, or message of the user's, that its prompt holds; the prompt itself where it holds none.
    """
    whole = example.prompt if example.prompt.strip() else example.completion
    said = [m["content"] for m in example.conversation.messages if m["role"] == "user"] if example.conversation else []
    parts = [text for text in (*example.row.values(), *said) if isinstance(text, str) and text.strip() in whole]
    return folded(max(parts, key=len, default="")) or folded(whole)


def _given(source: str) -> list[Example]:
    examples, _ = make_examples(read_rows(source), DataSection(), DEFAULT.reading)
    if not examples:
        raise InputError(f"{source_name(source)} has no row to replay.", fix="Give rows of prompts and answers.")
    return examples


def _answers(draw: Callable[[], list[dict[str, Any]]], path: Path | None) -> list[dict[str, Any]]:
    """Return the base's answers, from where they are kept, or drawn now and kept there."""
    if path is not None and path.is_file():
        return [row for _, row in files.read_jsonl(path)]
    rows = draw() if ranks.first() else []
    if path is not None and ranks.first():
        files.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return rows


def _drawn(session: Session, count: int, seed: int, asked: bool) -> list[dict[str, Any]]:
    """Return the base's answers to general prompts, each {"prompt", "answer", "prompt_ids", "answer_ids"}."""
    tokenizer, context = session.tokenizer, context_length(session.model, session.tokenizer)
    renderer, prompts = Renderer(tokenizer, context), general_prompts(count, seed, asked=asked)
    examples = [Example(str(i), p, "", _asks(p) if asked else None) for i, p in enumerate(prompts)]
    ids = [one.ids for one in renderer.asked(examples)]
    ends = renderer.stop_ids(examples[0])
    drawn = Sampling(1.0, seed, [str(number) for number in range(count)])
    decoding = Decoding({*ends, *end_ids(session.model)}, ANSWER_TOKENS, context, sampling=drawn)
    answer, _ = greedy(session.model, tokenizer, target_model(session.model)[0].nats, ids)
    with progress.bar("replay", count) as advance:
        found = answer(ids, decoding, 16, advance)
    rows = []
    for prompt, before, said in zip(prompts, ids, found, strict=True):
        whole = said.ids if said.cut else [*said.ids, *ends[-1:]]
        text = tokenizer.decode(said.ids, skip_special_tokens=True)
        rows.append({"prompt": prompt, "answer": text, "prompt_ids": list(before), "answer_ids": whole})
    return rows


def _asks(prompt: str) -> Conversation:
    return Conversation(({"role": "user", "content": prompt},))


def _rows_of(answers: Sequence[dict[str, Any]], max_length: int) -> list[Row]:
    """Return answers as rows to learn, token by token as they were drawn; one that was cut short has no end."""
    rows = []
    for row in answers:
        prompt, answer = row["prompt_ids"], row["answer_ids"]
        if len(prompt) < max_length and answer:
            rows.append(Row([*prompt, *answer][:max_length], ([IGNORED] * len(prompt) + answer)[:max_length]))
    return rows


def _targets(rows: Sequence[Row]) -> float:
    """Return how many tokens a row learns, in the mean."""
    return sum(len(row.labels) - list(row.labels).count(IGNORED) for row in rows) / len(rows)
