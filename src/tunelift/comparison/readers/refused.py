"""Files of known tools that hold no single items, or not their scores: each is called by its name, with what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tunelift.comparison.readers.values import nested
from tunelift.core.errors import InputError


class _Known(NamedTuple):
    """Keys that an object of the tool has, what it holds, and what to do."""

    keys: frozenset[str]
    what: str
    fix: str


_AVERAGES = "averages, no single items"

OBJECTS = (
    _Known(
        frozenset({"results", "config_general"}),
        f"lighteval's {_AVERAGES}",
        "Give the details_*.parquet that --save-details writes, under details/MODEL/DATE.",
    ),
    _Known(
        frozenset({"results", "higher_is_better"}),
        f"lm-evaluation-harness's {_AVERAGES}",
        "Give the samples_*.jsonl beside it, which --log_samples writes.",
    ),
    _Known(
        frozenset({"results", "versions", "config"}),
        f"lm-evaluation-harness's {_AVERAGES}",
        "Give the samples_*.jsonl beside it, which --log_samples writes.",
    ),
    _Known(
        frozenset({"mteb_version"}),
        f"mteb's {_AVERAGES}",
        "mteb writes no scores of single items. Compute them yourself, for instance the reciprocal rank of each query, "
        "and give a csv with the columns id and score.",
    ),
    _Known(
        frozenset({"adapter_spec", "request_states"}),
        "HELM's requests and answers, without scores",
        "Give the per_instance_stats.json beside it.",
    ),
    _Known(
        frozenset({"adapter_spec", "scenario_spec"}),
        "HELM's description of a run",
        "Give the per_instance_stats.json beside it.",
    ),
    _Known(
        frozenset({"testRunLink"}),
        "deepeval's link to a run, without its results",
        "Give .deepeval/.latest_run_full.json, or a test_run_*.json of the folder DEEPEVAL_RESULTS_FOLDER.",
    ),
)
"""Objects that are a whole file. HELM's keys: benchmark/run_spec.py; mteb's: TaskResult."""

ROWS = (
    _Known(
        frozenset({"spec"}),
        "the events of OpenAI's evals",
        'Write a csv with the columns id and correct from its events of type "match": sample_id and data.correct.',
    ),
    _Known(
        frozenset({"instance_id", "train_trial_index"}),
        "what HELM shows of a run's requests and answers",
        "Give the per_instance_stats.json beside it.",
    ),
    _Known(
        frozenset({"name", "count", "sum", "sum_squared"}),
        f"HELM's {_AVERAGES}",
        "Give the per_instance_stats.json beside it.",
    ),
)
"""First rows of a list or of lines. HELM: benchmark/metrics/statistic.py; OpenAI's evals: record.py, LocalRecorder."""


_SUMMARY = "dataset,version,metric,mode,"
"""How OpenCompass's summary_*.csv begins (summarizers/default.py)."""

_OPENCOMPASS = _Known(
    frozenset(),
    f"OpenCompass's {_AVERAGES}",
    "Give results/MODEL/DATASET.json of a run with --dump-eval-details.",
)


def refuse(path: Path, value: Mapping[str, Any]) -> None:
    """Raise InputError for an object that is a known tool's file without scores of single items."""
    numbers = bool(value) and all(isinstance(figure, int | float) for figure in value.values())
    if numbers and path.absolute().parent.parent.name == "results":
        raise _refusal(path, _OPENCOMPASS)
    for known in OBJECTS:
        if known.keys <= value.keys():
            raise _refusal(path, known)


def refuse_rows(path: Path, first: Mapping[str, Any]) -> None:
    """Raise InputError where a file's first row is that of a known tool's file without scores of single items."""
    for known in ROWS:
        if known.keys <= first.keys() and (known.keys != {"spec"} or "eval_name" in nested(first, "spec")):
            raise _refusal(path, known)


def refuse_header(path: Path, line: str) -> None:
    """Raise InputError where a table's first line is that of a known tool's table of averages."""
    if line.startswith(_SUMMARY):
        raise _refusal(path, _OPENCOMPASS)


def _refusal(path: Path, known: _Known) -> InputError:
    return InputError(f"{path} holds {known.what}.", fix=known.fix)
