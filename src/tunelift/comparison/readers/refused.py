"""Files of known tools that hold no single items, or not their scores: each is called by its name, with what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.values import nested
from tunelift.core.errors import InputError

_AVERAGES = "averages, no single items"
_OF_HARNESS = "Give the samples_*.jsonl beside it, which --log_samples writes."
_OF_HELM = "Give the per_instance_stats.json beside it."

Known = Sequence[tuple[set[str], str, str]]
"""Keys that an object of a tool has, what it holds, and what to do."""

OBJECTS: Known = (
    (
        {"results", "config_general"},
        f"lighteval's {_AVERAGES}",
        "Give the details_*.parquet that --save-details writes, under details/MODEL/DATE.",
    ),
    ({"results", "higher_is_better"}, f"lm-evaluation-harness's {_AVERAGES}", _OF_HARNESS),
    ({"results", "versions", "config"}, f"lm-evaluation-harness's {_AVERAGES}", _OF_HARNESS),
    (
        {"mteb_version"},
        f"mteb's {_AVERAGES}",
        "mteb writes no scores of single items. Compute them yourself, for instance the reciprocal rank of each query, "
        "and give a csv with the columns id and score.",
    ),
    ({"adapter_spec", "request_states"}, "HELM's requests and answers, without scores", _OF_HELM),
    ({"adapter_spec", "scenario_spec"}, "HELM's description of a run", _OF_HELM),
    (
        {"testRunLink"},
        "deepeval's link to a run, without its results",
        "Give .deepeval/.latest_run_full.json, or a test_run_*.json of the folder DEEPEVAL_RESULTS_FOLDER.",
    ),
)
"""Objects that are a whole file. HELM's keys: benchmark/run_spec.py; mteb's: TaskResult."""

ROWS: Known = (
    (
        {"spec.eval_name"},
        "the events of OpenAI's evals",
        'Write a csv with the columns id and correct from its events of type "match": sample_id and data.correct.',
    ),
    ({"instance_id", "train_trial_index"}, "what HELM shows of a run's requests and answers", _OF_HELM),
    ({"name", "count", "sum", "sum_squared"}, f"HELM's {_AVERAGES}", _OF_HELM),
)
"""First rows of a list or of lines. HELM: benchmark/metrics/statistic.py; OpenAI's evals: record.py, LocalRecorder."""

_SUMMARY = "dataset,version,metric,mode,"
"""How OpenCompass's summary_*.csv begins (summarizers/default.py)."""


def refuse(path: Path, value: Mapping[str, Any]) -> None:
    """Raise InputError for an object that is a known tool's file without scores of single items."""
    numbers = bool(value) and all(isinstance(figure, int | float) for figure in value.values())
    if numbers and path.absolute().parent.parent.name == "results":
        raise _of_opencompass(path)
    _refuse_known(path, value.keys(), OBJECTS)


def refuse_rows(path: Path, first: Mapping[str, Any]) -> None:
    """Raise InputError where a file's first row is that of a known tool's file without scores of single items."""
    _refuse_known(path, first.keys() | {f"spec.{name}" for name in nested(first, "spec")}, ROWS)


def refuse_header(path: Path, line: str) -> None:
    """Raise InputError where a table's first line is that of a known tool's table of averages."""
    if line.startswith(_SUMMARY):
        raise _of_opencompass(path)


def _refuse_known(path: Path, names: Set[str], known: Known) -> None:
    for keys, what, fix in known:
        if keys <= names:
            raise InputError(f"{path} holds {what}.", fix=fix)


def _of_opencompass(path: Path) -> InputError:
    return InputError(
        f"{path} holds OpenCompass's {_AVERAGES}.",
        fix="Give results/MODEL/DATASET.json of a run with --dump-eval-details.",
    )
