"""Strangers' task files for lm-evaluation-harness: a sound one, and what is changed in it with what must be said."""

from __future__ import annotations

import json
from pathlib import Path

from hostile_corpus import INJECTIONS, Case, Corpus

SOUND = {
    "task": "sound",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "ROWS"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question | regex_replace('a+', 'b')}}",
    "doc_to_target": "answer",
    "doc_to_choice": ["one", "two"],
    "fewshot_config": {"sampler": "first_n", "samples": [{"question": "a", "function": "any", "metric": "word"}]},
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "filter_list": [{"name": "first", "filter": [{"function": "take_first"}]}],
    "metadata": {"version": 1.0, "class": "any word"},
}
CHANGES: dict[str, tuple[str, str]] = {
    "function": ("process_docs: !function evil.C", r"line \d+: the tag '!function' names Python code"),
    "function elsewhere": ("metadata: [!function evil.C]", "the tag '!function' names Python code"),
    "function by another tag": ("%TAG !e! !func\n---\ndescription: !e!tion evil.C", "the tag '!function' names"),
    "function of Python": ("description: !!python/name:os.system ''", "names Python code"),
    "class": ("class: evil.C", '"class" names Python code'),
    "data by code": ("custom_dataset: evil.C", '"custom_dataset" names Python code'),
    "code for few shots": ("fewshot_config: {process_docs: evil.C}", '"process_docs" names Python code'),
    "sampler": ("fewshot_config: {sampler: evil.C}", r'"sampler" is .*; allowed are default, first_n'),
    "metric of the Hub": ("metric_list: [{metric: evil/metric}]", r'"metric" is \'evil/metric\'; allowed are acc'),
    "known metric of the Hub": ("metric_list: [{metric: acc, hf_evaluate: true}]", "fetches a metric's code"),
    "metric as a path": ("metric_list: [{metric: ./evil.py}]", '"metric" is .*; allowed are acc'),
    "metric as a list": ("metric_list: [{metric: [evil, C]}]", '"metric" is .*; allowed are acc'),
    "filter": ("filter_list: [{name: a, filter: [{function: custom, filter_fn: evil.C}]}]", '"function" is .custom'),
    "prompts of a file": ("use_prompt: 'evil.yaml:a'", '"use_prompt" takes templates from another place'),
    "code of the data": ("dataset_kwargs: {trust_remote_code: true}", '"trust_remote_code" asks for code'),
    "data of the Hub": ("dataset_path: evil/data", '"dataset_path" is .*; allowed are json, csv, text'),
    "data by a script": ("dataset_path: ./evil.py", '"dataset_path" is .*; allowed are json, csv, text'),
    "pickled data": ("dataset_path: pandas", '"dataset_path" is .*; allowed are json, csv, text'),
    "data base": ("dataset_path: sql", '"dataset_path" is .*; allowed are json, csv, text'),
    "data at an address": ("dataset_kwargs: {data_files: 'https://evil.example/x'}", "allowed are single files in"),
    "data in an archive": ("dataset_kwargs: {data_files: ['zip://a::ROWS']}", "allowed are single files in"),
    "data by pattern": ("dataset_kwargs: {data_files: {test: '*/rows.jsonl'}}", "allowed are single files in"),
    "data elsewhere": ("dataset_kwargs: {data_files: /etc/passwd}", "passwd lies outside the folder"),
    "any data of the working folder": ("dataset_kwargs: {}", "needs a name and data"),
    "options of the reader": ("dataset_kwargs: {storage_options: {a: b}}", '"storage_options" is no key of'),
    "unknown key": ("evil: 1", r'"evil" is no key of task .*; allowed are task, task_alias'),
    "group": ("group: many", '"group" groups tasks; name them'),
    "no name": ("task: 5", "needs a name and data"),
    "include elsewhere": ("include: ../secret.txt", "lies outside the folder"),
    "include by a full path": ("include: /etc/passwd", "lies outside the folder"),
    "include of itself": ("include: task.yaml", "is included twice, or includes itself"),
    "include of code": ("include: base", "the tag '!function' names Python code"),
    "aliases": ("metadata: {a: &a [1,1,1,1,1,1,1,1], b: &b [*a,*a,*a,*a,*a,*a,*a,*a], c: &c [*b,*b,*b,*b,*b,*b,*b,*b], "
                "d: &d [*c,*c,*c,*c,*c,*c,*c,*c], e: [*d,*d,*d,*d,*d,*d,*d,*d]}", "values with aliases written out"),
    "deep": ("metadata: " + "[" * 999 + "]" * 999, "levels deep"),
    "date": ("metadata: 2001-99-99", "month must be in"),
}  # fmt: skip
"""The key and value that are there instead, or besides, and what is said."""


def build(corpus: Corpus) -> None:
    """Add the tasks to a corpus: a folder for each, with code that it could run and data that it may read."""
    _add(corpus, "sound", "", None)
    for name, (change, said) in CHANGES.items():
        _add(corpus, name, change, said)
    for name, template in INJECTIONS.items():
        text = json.dumps(template.replace("CANARY", str(corpus.canary)))
        said = ".*(reaches for|loads another|raises to powers|counts to|counts too far)"
        for change in (f"doc_to_text: {text}", f"description: {text}", f"fewshot_config: {{doc_to_target: {text}}}"):
            _add(corpus, f"{name} in {change[:15]}", change, f'"{change.split(":")[0]}" {said}|"doc_to_target" {said}')
    _add(corpus, "group in a folder", "group: many", None, whole=True)
    _add(corpus, "function in a folder", "process_results: !function evil.C", "names Python code", whole=True)


def _add(corpus: Corpus, name: str, change: str, said: str | None, *, whole: bool = False) -> None:
    folder = corpus.root / f"{len(corpus.cases):03d}" / "tasks"
    folder.mkdir(parents=True)
    corpus.code("evil.py")(folder)
    (folder / "rows.jsonl").write_text('{"question": "a", "answer": 0}\n')
    (folder / "base").write_text("doc_to_text: !function evil.C\n")
    changed = change.rpartition("---\n")[2].split(":")[0]
    head, _, body = change.rpartition("---\n")
    kept = "".join(f"{key}: {json.dumps(value)}\n" for key, value in SOUND.items() if key != changed)
    text = f"{head}---\n{body}\n{kept}".replace("ROWS", str(folder / "rows.jsonl"))
    (folder / "task.yaml").write_text(text)
    corpus.cases.append(Case(f"task: {name}", "task", str(folder if whole else Path(folder, "task.yaml")), said))
