"""Task files of lm-evaluation-harness, checked here, so that nothing of a stranger's file runs or is fetched there.

The harness imports the functions that a file names, and gets data, metrics and prompts from wherever it says. So it is
never given the file but what was read here: keys and values that are data alone. They are those of its 0.4.13.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from glob import has_magic
from pathlib import Path
from typing import Any

import yaml

from tunelift.config import yaml_text
from tunelift.core import text_files
from tunelift.core.errors import InputError, listed
from tunelift.untrusted import templates
from tunelift.untrusted.files import inside, read_text

TEXTS = ("doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter", "fewshot_delimiter", "gen_prefix")
PATTERNS = ("regexes_to_ignore", "ignore_case", "ignore_punctuation")
KEYS = {
    "task": (
        *("task", "task_alias", "tag", "metadata", "description", "include", "output_type", "repeats", *TEXTS),
        *("dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "test_split"),
        *("fewshot_split", "fewshot_config", "num_fewshot", "metric_list", "filter_list", "generation_kwargs"),
        *("should_decontaminate", "doc_to_decontamination_query"),
    ),
    "dataset_kwargs": ("data_files", "field", "delimiter", "sep", "column_names", "encoding", "sample_by"),
    "fewshot_config": ("sampler", "split", "fewshot_indices", "samples", *TEXTS),
    "metric_list": ("metric", "aggregation", "higher_is_better", "ignore_numbers", *PATTERNS),
    "filter_list": ("name", "filter"),
    "filter": (
        *("function", "regex_pattern", "group_select", "fallback", "k", "mapping_dict", "default_value", *PATTERNS),
    ),
}
"""The keys of a task and of the mappings inside it that the harness follows; metadata and samples are free."""

WHY = {
    **dict.fromkeys(
        ("class", "custom_dataset", "process_docs", "process_results"), "names Python code, never run here"
    ),
    "group": "groups tasks; name them, or their folder, in evaluate.tasks",
    "hf_evaluate": "fetches a metric's code, never run here",
    "trust_remote_code": "asks for code that comes with the data, never run here",
    "use_prompt": "takes templates from another place",
}

CHOICES = {
    "dataset_path": ("json", "csv", "text"),
    "metric": (
        *("acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "bits_per_byte", "bleu", "brier_score"),
        *("bypass", "byte_perplexity", "chrf", "chrf++", "exact_match", "f1", "likelihood", "mcc", "perplexity", "ter"),
        "word_perplexity",
    ),
    "function": (
        *("format_span", "lowercase", "majority_vote", "map", "multi_choice_regex", "regex", "regex_pos"),
        *("remove_whitespace", "take_first", "take_first_k", "uppercase"),
    ),
    "sampler": ("default", "first_n"),
}
"""Values that choose code or a place. Parquet is not among them: its features can name addresses to fetch."""

FIX = (
    "Nothing of it was run. If you trust the task, run it with lm-eval itself and --log_samples, on the base and with "
    "the adapter; tunelift compare reads what it writes."
)
DATA = "Download the data into the task's folder; data_files of dataset_kwargs names the files."
UNREAD = {"__pycache__", ".ipynb_checkpoints"}
"""Folders that the harness passes over too."""


def read_tasks(path: Path) -> list[dict[str, Any]]:
    """Return the task of a YAML file, or every one of a folder's, as the harness takes it, what it includes merged in.

    A folder's groups are passed over. Raises InputError for a file that names code, addresses, or files elsewhere.
    """
    path = path.expanduser().absolute()
    if not path.is_dir():
        return [_complete(_read(path, path.parent, set()), path)]
    files = [file for file in sorted(path.rglob("*.yaml")) if not UNREAD & set(file.relative_to(path).parts)]
    single = [file for file in files if "group" not in _parsed(inside(path, str(file)))]
    found = [(_read(file, path, set()), file) for file in single]
    return [_complete(task, file) for task, file in found if "task" in task]


def _complete(task: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a task that has a name and data; without data_files the harness takes what lies in the working folder."""
    named, data = task.get("task"), task.get("dataset_kwargs")
    if not isinstance(named, str) or not (isinstance(data, dict) and data.get("data_files")):
        raise InputError(
            f"{path}: a task needs a name and data.",
            fix="Such as task: my-task, dataset_path: json and dataset_kwargs: {data_files: {test: rows.jsonl}}.",
        )
    return task


def _read(path: Path, folder: Path, seen: set[Path]) -> dict[str, Any]:
    """Return a file's task as the harness puts it together: its own keys over those of what it includes."""
    path = inside(folder, str(path))
    if path.resolve() in seen:
        raise InputError(f"{path} is included twice, or includes itself.", fix="Include each file once.")
    seen.add(path.resolve())
    task, merged = _parsed(path), dict[str, Any]()
    try:
        _check(task, folder)
    except InputError as error:
        raise InputError(*(f"{path}: {problem}" for problem in error.problems), fix=error.fix or FIX) from error
    include = task.pop("include", [])
    for name in include if isinstance(include, list) else [include]:
        merged |= _read(path.parent / str(name), folder, seen)
    return merged | task


def _parsed(path: Path) -> dict[str, Any]:
    """Return the mapping of a YAML file within our limits, its values those of YAML 1.1, which the harness follows."""
    text = read_text(path, yaml_text.LARGEST)
    try:
        yaml_text.parse(text)
        task = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or error)
        if "constructor for the tag" in problem:
            problem = f"the tag {problem.rsplit(maxsplit=1)[-1]} names Python code, never run here"
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise InputError(f"{where}: {problem}.", fix=FIX) from error
    if not isinstance(task, dict):
        raise InputError(f"{path} holds {yaml_text.kind(task)}, not a mapping.", fix="A task's file begins with task:.")
    return task


def _check(task: Mapping[str, Any], folder: Path) -> None:
    """Raise InputError for the first thing that a task's file must not have."""
    for part, mapping in _parts(task):
        if not isinstance(mapping, dict):
            raise InputError(f'"{part}" holds {yaml_text.kind(mapping)} where a mapping is expected.')
        for key, value in mapping.items():
            if key not in KEYS[part]:
                why = WHY.get(key, f"is no key of {part} that is followed here; allowed are {listed(KEYS[part], 99)}")
                raise InputError(f'"{key}" {why}.')
            if key in CHOICES and value not in CHOICES[key]:
                allowed, fix = listed(CHOICES[key], 99), DATA if key == "dataset_path" else None
                raise InputError(f'"{key}" is {str(value)[:80]!r}; allowed are {allowed}.', fix=fix)
            if key == "data_files":
                _check_files(value, folder)
    for key, text in _texts(task, "task"):
        templates.check(text, f'"{key}"')


def _parts(task: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (name, mapping) of a task and of the mappings inside it whose keys the harness follows."""
    yield "task", task
    for part in ("dataset_kwargs", "fewshot_config", "metric_list", "filter_list"):
        for mapping in _listed(task.get(part)):
            yield part, mapping
            if part == "filter_list" and isinstance(mapping, dict):
                yield from (("filter", function) for function in _listed(mapping.get("filter")))


def _check_files(value: Any, folder: Path) -> None:
    """Raise InputError unless each file of the data is one inside the folder; a name is relative to where we are."""
    for _, name in _texts(value, "data_files"):
        if "://" in name or "::" in name or has_magic(name):
            raise InputError(f'"data_files" names {name[:80]!r}; allowed are single files in {folder}.')
        text_files.check_size(inside(folder, str(Path(name).absolute())), text_files.LARGEST)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every text at any depth, with the key that it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from _texts(inner, str(inner_key))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
