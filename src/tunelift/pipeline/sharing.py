"""What stages of a run depend on, so that runs which have them in common make them once (`core/stages.py`).

Shared are what is measured of the base alone (test, validation, sets for forgetting, baselines), the base's own answers
that are replayed, and rendered rows. Nothing is where code from outside of the known packages has a part: a metric, a
task, a baseline or a model of the user's own, or hooks on a module.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from datetime import date, time
from decimal import Decimal
from functools import partial, wraps
from inspect import unwrap
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

import numpy as np

from tunelift.config.load import default_output
from tunelift.config.schema import Config
from tunelift.core import files, progress, stages
from tunelift.core.records import Example, Scores
from tunelift.data.dates import dates_written, names_in, with_one_date
from tunelift.data.render import RenderReport
from tunelift.evaluation.cache import context_of, tokenizer_hash
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.fast.kernels import SWITCH
from tunelift.fast.tried import KNOWN_CODE
from tunelift.metrics import Metric
from tunelift.models.precision import CAPS
from tunelift.tasks import Task
from tunelift.tasks.base import Row

P = ParamSpec("P")
R = TypeVar("R")
Rendered = tuple[Sequence[Row], RenderReport]

ROWS = "rows.json"
ROWS_FROM = 1000
"""So many rows take longer to render than to look up."""
OF_METRIC = ("score", "counts", "from_counts", "from_items", "closeness")
"""The functions of a metric."""


def tells_its_stages(run: Callable[Concatenate[Config, P], R]) -> Callable[Concatenate[Config, P], R]:
    """Let a command note in its manifest which stages it took, and from where."""

    @wraps(run)
    def told(config: Config, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with stages.told_of(str(Path(config.output) if config.output else default_output(config))):
            return run(config, *args, **kwargs)

    return told


def shared_scores(
    name: str, session: Any, examples: Sequence[Example], plan: Plan, score: Callable[[], Scores], **beside: Any
) -> Scores:
    """Return what `score` gives; where no adapter is on, what it gave to an earlier run that measured the same.

    `beside` is what the scores depend on besides the session's model, the items and the plan, as JSON has it; where a
    part of it is None, nobody can tell.
    """
    depends_on = of_scores(session, examples, plan)
    if depends_on is None or None in beside.values():
        return score()
    scores, source = stages.shared(name, depends_on | beside, score, Scores.save, Scores.read)
    if source != stages.MADE_HERE:
        progress.note(f"{name}: taken from {source}, which measured the same")
        scores.info["from_cache"] = scores.info.get("items")
    return scores


def name_of(thing: Any) -> str | None:
    """Return the name of a class or a function of this package, by which its code is known; None for others'."""
    return f"{thing.__module__}.{thing.__qualname__}" if _is_own(thing) else None


def replay_of_base(
    session: Any, make: Callable[[], list[dict[str, Any]]], beside: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the base's own answers, each a JSON object, made now or by an earlier run."""
    depends_on = of_model(session, {"task": "replay"})
    depends_on = None if depends_on is None else depends_on | dict(beside)
    answers, _ = stages.shared("replay", depends_on, make, _save_answers, _read_answers)
    return answers


def rendered(
    task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
) -> Rendered:
    """Return `task.rows` of these; of many examples those that an earlier run rendered in the same way."""
    make = partial(task.rows, examples, tokenizer, max_length, labels)
    if len(examples) < ROWS_FROM or not _known(task) or not hasattr(tokenizer, "get_vocab"):
        return make()
    items, asked = digest(examples), of_tokenizer(tokenizer)
    if items is None or asked is None:
        return make()
    how = {"tokenizer": asked, "task": _of_task(task), "max_length": max_length, "labels": list(labels)}
    found, _ = stages.shared(f"rows/{items[:8]}", {"examples": items, **how}, make, _save_rows, _read_rows)
    return found


def of_model(session: Any, how: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the answers of a session's base depend on; None where nobody can tell, or an adapter is on."""
    import torch

    model, made_with, asked = session.model, session.made_with(), of_tokenizer(session.tokenizer)
    strange = any(type(module).__module__.partition(".")[0] not in KNOWN_CODE for module in model.modules())
    if made_with["adapter"] is not None or strange or asked is None or not _known(session.task):
        return None
    context = context_of(model, session.tokenizer, made_with, how)
    if context is None:
        return None
    generation = getattr(model, "generation_config", None)
    return {
        "context": _told(dict(context.depends_on)), "made_with": made_with, "tokenizer": asked,
        "generation": _told(generation.to_dict()) if generation is not None else None,
        "threads": torch.get_num_threads(), "told": {name: os.environ.get(name) for name in (SWITCH, *CAPS)},
        "task": _of_task(session.task), "labels": list(session.labels),
    }  # fmt: skip


def of_tokenizer(tokenizer: Any) -> Any:
    """Return what rows are made with besides the vocabulary, the date that a template writes too; None for no one date.

    A processor of pictures is all that it says of itself.
    """
    if not hasattr(tokenizer, "get_vocab"):
        return tokenizer_hash(tokenizer)
    templates = tokenizer.chat_template or ""
    texts = list(templates.values()) if isinstance(templates, dict) else [templates]
    dates = []
    for text in texts:
        written, forms = with_one_date(text)
        if "strftime_now" in names_in(written):  # a date that is put together as it goes
            return None
        dates.append(dates_written(forms))
    kept = {k: v for k, v in tokenizer.init_kwargs.items() if k not in ("name_or_path", "tokenizer_file", "vocab_file")}
    settings = _told([type(tokenizer).__name__, kept, tokenizer.special_tokens_map])
    return {"vocabulary": tokenizer_hash(tokenizer), "settings": settings, "templates": texts, "dates": dates}


def digest(examples: Sequence[Example]) -> str | None:
    """Return the SHA-256 of everything that examples hold, in their order; None where a column holds strange values."""
    sha = hashlib.sha256()
    for one in examples:
        given, wanted = (asdict(part) if is_dataclass(part) else part for part in (one.given, one.wanted))
        kinds = type(one.given).__name__, type(one.wanted).__name__
        whole = [one.id, one.prompt, one.completion, kinds, given, wanted, one.cluster, dict(one.row)]
        try:
            sha.update(json.dumps(whole, default=_plain).encode())
        except TypeError:
            return None
    return sha.hexdigest()


def of_scores(session: Any, examples: Sequence[Example], plan: Plan) -> dict[str, Any] | None:
    """Return what the scores of a session's base on these items depend on; None where nobody can tell."""
    if not plan.cache or not all(map(_is_ours, plan.metrics)) or not _is_own(measure_for(plan)):
        return None
    found, items = of_model(session, {"task": plan.task.name}), digest(examples)
    if found is None or items is None or not _known(plan.task):
        return None
    kept = {field.name: getattr(plan, field.name) for field in fields(plan) if field.name not in ("metrics", "task")}
    kept = json.loads(json.dumps(kept, default=_section))
    metrics = [[metric.name, metric.defined_by, metric.samples] for metric in plan.metrics]
    asked = {"plan": kept, "metrics": metrics, "plan_task": _of_task(plan.task), "threshold": session.threshold}
    return found | asked | {"examples": items}


def _told(value: Any) -> str:
    """Return settings as text: what is no JSON among them by its name."""
    return json.dumps(value, sort_keys=True, default=str)


def _section(value: Any) -> Any:
    """Return a section of the config as plain values; raise TypeError for what is none."""
    return value.model_dump()


def _plain(value: Any) -> Any:
    """Return a value of a table's as JSON has it, whole; raise TypeError for one that only its maker knows."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, date | time | Decimal | UUID | Path):
        return [type(value).__name__, str(value)]
    raise TypeError(type(value).__name__)


def _of_task(task: Task) -> list[Any]:
    return [task.name, type(task).__module__, task.about]


def _known(task: Task) -> bool:
    return _is_own(type(task))


def _is_ours(metric: Metric) -> bool:
    functions = [getattr(metric, name) for name in OF_METRIC]
    return all(_is_own(getattr(unwrap(function), "func", function)) for function in functions if function is not None)


def _is_own(thing: Any) -> bool:
    """Tell whether a class or a function is of this package, whose code is a part of every hash."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "tunelift"


def _save_rows(made: Rendered, folder: Path) -> None:
    """Write rows as JSON; raise NotKeptError for those that do not come back as they were."""
    rows, report = made
    lines = [[list(row.ids), row.labels, row.segments, row.weight] for row in rows]
    text = json.dumps({"rows": lines, "report": asdict(report)})
    plain = all(type(row) is Row and row.beside is None for row in rows)
    if not plain or [_row(line) for line in json.loads(text)["rows"]] != list(rows):
        raise stages.NotKeptError
    files.write_text(folder / ROWS, text)


def _read_rows(folder: Path) -> Rendered:
    found = files.read_json(folder / ROWS)
    return [_row(line) for line in found["rows"]], RenderReport(**found["report"])


def _row(line: Sequence[Any]) -> Row:
    ids, labels, segments, weight = line
    return Row(ids, labels, segments, None, weight)


def _save_answers(made: list[dict[str, Any]], folder: Path) -> None:
    files.write_json(folder / ROWS, made)


def _read_answers(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = files.read_json(folder / ROWS)
    return found
