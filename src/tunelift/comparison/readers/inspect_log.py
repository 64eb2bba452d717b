"""Logs of Inspect: the .eval container (one member per sample) and the .json file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.values import Item, identifier, nested, number, objects, scores_of, text
from tunelift.comparison.readers.zip_members import Container
from tunelift.core.errors import InputError
from tunelift.core.records import Scores, content_hash
from tunelift.core.text_files import json_object, json_value

GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's letters: correct, partially, incorrect, no answer; its own accuracy counts them so."""

_DECODING = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop_seqs",
    "frequency_penalty",
    "presence_penalty",
    "num_choices",
    "best_of",
    "system_message",
)
"""The settings of generation that change answers; others (retries, connections, caches, seeds) may differ."""

Sample = Mapping[str, Any]


def read_container(path: Path) -> Scores:
    """Read a .eval log; InputError where the zip file holds no such log, is damaged, or unpacks to too much."""
    with Container(path) as container:
        names = dict.fromkeys(container.namelist())
        head = next((name for name in ("header.json", "_journal/start.json") if name in names), None)
        if head is None:
            raise InputError(f"{path} is a zip file, but no log of Inspect.", fix="Give a .eval file.")
        header = _member(path, container, head).row
        members = [name for name in names if name.startswith("samples/") and name.endswith(".json")]
        return _scores(path, header, (_member(path, container, name) for name in members))


def is_log(value: Mapping[str, Any]) -> bool:
    """Return whether an object is a log of Inspect: its header stands under "eval"."""
    return isinstance(value.get("eval"), dict)


def read_log(path: Path, log: Mapping[str, Any]) -> Scores:
    """Turn a .json log into rows; InputError names the sample."""
    samples = log.get("samples")
    if not isinstance(samples, list | None):
        raise InputError(f'{path}: "samples" must be a list.')
    places = ((f"{path}, sample {count}", sample) for count, sample in enumerate(samples or [], start=1))
    return _scores(path, log, (Item(where, json_object(sample, where)) for where, sample in places))


def _member(path: Path, container: Container, name: str) -> Item:
    where = f"{path}, {name}"
    try:
        content = container.unpacked(name).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text.") from error
    return Item(where, json_object(json_value(content, where, mend=True), where))


def _scores(path: Path, header: Mapping[str, Any], samples: Iterator[Item]) -> Scores:
    """Turn samples into rows, each reduced as soon as it is read: a sample's events may take megabytes."""
    skipped: dict[str, None] = {}
    graded: dict[str, bool] = {}
    rows = [_row(item, skipped, graded) for item in samples]
    if not rows:
        raise InputError(f"{path} holds no samples.", fix="Give a log with its samples, not the header alone.")
    if any(epoch > 1 for epoch, _ in rows):  # several answers to a sample are one cluster
        for epoch, row in rows:
            row |= {"id": f"{row['id']}/epoch {epoch}", "cluster": row["id"]}
    notes = [f"the values of {name} are no numbers and are not compared." for name in skipped]
    if header.get("status") not in ("success", None):
        notes.append(f'the status of the log is "{header["status"]}", so samples may be missing.')
    return scores_of([row for _, row in rows], path, directions=graded, made_with=_made_with(header), notes=notes)


def _row(item: Item, skipped: dict[str, None], graded: dict[str, bool]) -> tuple[int, dict[str, Any]]:
    """Return a sample's epoch and row; note scorers without numbers, and those whose letters say what is better."""
    where, sample = item
    epoch = sample.get("epoch", 1)
    if not isinstance(epoch, int) or isinstance(epoch, bool):
        raise InputError(f'{where}: "epoch" must be a number, not {epoch!r:.60}.')
    row: dict[str, Any] = {
        "id": identifier(sample.get("id"), where),
        "input": _input(sample),
        "reference": text(sample.get("target")),
        "prediction": _prediction(sample),
        "metrics": _metrics(item, skipped, graded),
    }
    reason = _unscored(sample) or (None if row["metrics"] else "it has no score that is a number")
    return epoch, row | ({"unscored": reason} if reason else {})


def _input(sample: Sample) -> str:
    """Return the input as text, messages as `role: text`, and the choices, which belong to the question."""
    parts = [_messages(sample.get("input"), sample)]
    choices = sample.get("choices")
    for index, choice in enumerate(choices if isinstance(choices, list) else []):
        parts.append(f"{chr(ord('A') + index % 26)}) {text(choice)}")
    return "\n".join(parts)


def _messages(value: Any, sample: Sample) -> str:
    if not isinstance(value, list):
        return _attached(text(value), sample)
    messages = [message if isinstance(message, dict) else {"content": message} for message in value]
    return "\n".join(f"{text(each.get('role'))}: {_content(each.get('content'), sample)}" for each in messages)


def _content(value: Any, sample: Sample) -> str:
    """Return a message's text; of an image or a sound its kind and hash."""
    if not isinstance(value, list):
        return _attached(text(value), sample)
    parts = []
    for part in value:
        kind = text(part.get("type")) if isinstance(part, dict) else "part"
        if kind == "text":
            parts.append(_attached(text(part.get("text")), sample))
        else:
            parts.append(f"[{kind} {content_hash(text(part), '')}]")
    return "\n".join(parts)


def _attached(value: str, sample: Sample) -> str:
    """Return the text that a long value was replaced by a reference to."""
    found = nested(sample, "attachments").get(value.removeprefix("attachment://"))
    return found if value.startswith("attachment://") and isinstance(found, str) else value


def _prediction(sample: Sample) -> str:
    """Return what the model answered last: "completion" of newer logs, the first choice's message of all."""
    output = nested(sample, "output")
    if isinstance(output.get("completion"), str):
        return _attached(output["completion"], sample)
    first = next(iter(objects(output.get("choices"))), {})
    return _content(nested(first, "message").get("content"), sample)


def _metrics(item: Item, skipped: dict[str, None], graded: dict[str, bool]) -> dict[str, float]:
    """Return each scorer's value as a number; of a dictionary of values each by itself, as `scorer/name`."""
    scores = item.row.get("scores")
    if not isinstance(scores, dict | None):
        raise InputError(f'{item.where}: "scores" must be an object of scorers.')
    found = {}
    for name, value in _values(scores or {}):
        if value is None:
            continue
        grade = GRADES.get(value) if isinstance(value, str) else None
        parsed = number(value) if grade is None else grade
        if parsed is None:
            skipped[name] = None
        else:
            found[name] = parsed
        if grade is not None or isinstance(value, bool):
            graded[name] = True
    return found


def _values(scores: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for scorer, score in scores.items():
        value = score.get("value") if isinstance(score, dict) else score
        if isinstance(value, dict):
            yield from ((f"{scorer}/{name}", inner) for name, inner in value.items())
        else:
            yield scorer, value


def _unscored(sample: Sample) -> str | None:
    """Return why a sample does not count: it failed, or a limit cut it off before it was scored.

    One that was cut off and scored counts: leaving it out would hide what a model fails at.
    """
    error, limit = sample.get("error"), sample.get("limit")
    if error:
        message = error.get("message") if isinstance(error, dict) else error
        return f"error: {text(message):.200}"
    if limit and not sample.get("scores"):
        kind = limit.get("type") if isinstance(limit, dict) else limit
        return f"limit: {text(kind)}"
    return None


def _made_with(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model, and what must agree: the task, its arguments and solvers, and the settings of generation."""
    told, plan = (nested(header, name) for name in ("eval", "plan"))
    solvers = [{key: step.get(key) for key in ("solver", "params")} for step in objects(plan.get("steps"))]
    settings = nested(told, "model_generate_config") | nested(plan, "config")
    return {
        "task": told.get("task"),
        "model": told.get("model"),
        "prompt": json.dumps({"task_args": nested(told, "task_args"), "solvers": solvers}, sort_keys=True),
        "decoding": {name: settings[name] for name in _DECODING if settings.get(name) is not None},
    }
