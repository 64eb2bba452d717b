"""The bridge to lm-evaluation-harness: its tasks on our scorer, and what it logs of each item as ordinary scores.

Texts become tokens as its own backend for transformers' models has it, so that scores are equal. Importing this module
needs lm-evaluation-harness. Its own tasks are its code; a task's file passes `task_files`, and only what that read is
given to it. Templates of both are rendered in jinja2's sandbox, within limits.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import datasets
import jinja2
import lm_eval
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, handle_non_serializable, make_disjoint_window

from tunelift.comparison.readers.lm_eval import read_samples
from tunelift.comparison.readers.values import Item
from tunelift.core import progress, randomness
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.evaluation import ranking
from tunelift.evaluation.answers import greedy
from tunelift.evaluation.cache import LAYERS, context_of, hash_of
from tunelift.evaluation.generation import Decoding, end_ids, texts_of
from tunelift.fast.target_model import target_model
from tunelift.fast.undo import in_evaluation
from tunelift.fast.unpad import sped_up
from tunelift.model_facts.anatomy import context_length
from tunelift.model_facts.parameters import compute_dtype, dtype_name
from tunelift.untrusted.task_files import read_tasks
from tunelift.untrusted.templates import bounded

AT_ONCE, ROWS_AT_ONCE = 128, 16
"""Prompts computed before they are written to the cache, and answers generated together."""

SEED, FEW_SHOT_SEED = 0, 1234
"""The harness's own: some tasks shuffle their choices, and draw their examples, by the global random states."""

MOST_NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names that tasks have for one setting, in the harness's order; its default is 256."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task of the harness: its name, and what loads it."""

    name: str
    load: Callable[[], dict[str, Any]]


@cache
def find_tasks(named: tuple[str, ...]) -> list[Task]:
    """Return the tasks, those of groups and tags each by itself, having loaded each with its data.

    `named` are names, YAML files, or folders of such files, of which every task is meant. Raises InputError where there
    is no such task, its data cannot be had, or its file must not be followed.
    """
    paths = [name for name in named if Path(name).suffix in (".yaml", ".yml") or Path(name).expanduser().exists()]
    specs: list[Any] = [task for path in dict.fromkeys(paths) for task in read_tasks(Path(path))]
    specs += dict.fromkeys(name for name in named if name not in paths)
    try:
        # The harness's own tasks are 14,000 files, which take 10 s to read.
        manager = TaskManager(include_defaults=len(paths) < len(named))
        with _contained():
            found = {name: spec for spec in specs for name in _load(manager, spec)["tasks"]}
    except Exception as error:  # whatever a task's own code raises
        raise InputError(
            f"evaluate.tasks: lm-evaluation-harness cannot load {', '.join(named)}: {type(error).__name__}: {error}",
            fix="lm-eval ls tasks shows every name; their data come from the Hugging Face Hub.",
        ) from error
    return [Task(name, partial(_load, manager, spec)) for name, spec in found.items()]


def _load(manager: TaskManager, spec: Any) -> dict[str, Any]:
    """Load a task by its name or settings, of which a copy is given, since the harness writes defaults into them."""
    return dict(manager.load([copy.deepcopy(spec)]))


def score_task(
    model: Any, tokenizer: Any, task: Task, made_with: Mapping[str, Any], *, cache: bool, title: str
) -> Scores:
    """Return a task's items as rows, with the metrics that the task computes for each."""
    with in_evaluation(model), sped_up(model, "forward") as layers, _contained():
        scorer = Scorer(model, tokenizer, made_with if cache else {}, title, layers)
        loaded = task.load()  # anew, since some shuffle their items as they are loaded; then as simple_evaluate does
        for one in loaded["tasks"].values():
            if one.get_config("num_fewshot") is None:
                one.set_config("num_fewshot", 0)
            one.set_fewshot_seed(FEW_SHOT_SEED)
        found = lm_eval.evaluate(scorer, loaded, bootstrap_iters=0)
    samples = json.loads(json.dumps(found["samples"][task.name], default=handle_non_serializable))
    items = (Item(f"{task.name}, item {number}", sample) for number, sample in enumerate(samples, start=1))
    scores = read_samples(Path(task.name), items)
    for metric, higher in found["higher_is_better"][task.name].items():
        if metric in scores.info["metrics"]:
            scores.info["metrics"][metric]["higher_is_better"] = higher
    version = {"task": task.name, "task_version": found["versions"].get(task.name), "lm_eval": lm_eval.__version__}
    scores.info["made_with"] |= version | {"dtype": dtype_name(compute_dtype(model)), **made_with}
    return scores


class Scorer(TemplateLM):  # type: ignore[misc]  # of a package that is not always there
    """A causal language model behind the harness's own interface, `made_with` as for the cache of scores."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        made_with: Mapping[str, Any],
        title: str = "task",
        layers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.title = model, tokenizer, title
        self.view: Any = target_model(model)[0]
        self.max_length = context_length(model, tokenizer)
        self.ends = end_ids(model) | {self.eot_token_id}
        how = {"task": "lm-eval", "max_length": self.max_length, "ends": sorted(self.ends)}
        context = context_of(model, tokenizer, made_with, how)
        fast_paths = self.view.fast_paths | {name: layers[name] for name in LAYERS if name in layers}
        self.kept = context.kept(fast_paths) if context else None
        self.found: dict[str, Any] = self.kept.found if self.kept else {}

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the tokens, with those that the tokenizer adds by itself unless the text begins with them."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Return log-likelihood (nats) and whether it is the greedy answer; too long contexts are cut on the left.

        The last token of a row is never read, so that a row may have one more than the context.
        """
        choices: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
        cut = [(tuple((p + c)[-self.max_length - 1 :][: -len(c)]), tuple(c)) for _, p, c in requests]
        for prompt, choice in cut:
            choices.setdefault(prompt, {})[choice] = None
        rows = self._each([(prompt, list(some)) for prompt, some in choices.items()], self._continued)
        found = {
            (prompt, choice): (float(total), bool(greedy))
            for (prompt, some), values in zip(choices.items(), rows, strict=True)
            for choice, (total, greedy) in zip(some, values, strict=True)
        }
        return [found[both] for both in cut]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood (nats) of whole texts, in windows as long as the context."""
        windows = [
            (number, *make_disjoint_window(window))
            for number, request in enumerate(requests)
            for window in get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
            )
        ]
        totals = [0.0] * len(requests)
        for (number, *_), (total, _) in zip(windows, self._loglikelihood_tokens(windows), strict=True):
            totals[number] += total
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return greedy answers; raises InputError for a task that samples."""
        items, answers = [self._asked(*request.args) for request in requests], dict[Any, str]()
        for settings in dict.fromkeys(item[1:] for item in items):
            some = [item for item in items if item[1:] == settings]
            answers |= dict(zip(some, self._each(some, self._answered), strict=True))
        return [answers[item] for item in items]

    def _asked(self, text: str, settings: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...], int]:
        """Return the prompt, cut on the left, the strings that end an answer, and its most tokens."""
        if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
            raise InputError(f"{self.title}: the task samples its answers; only greedy ones are made here.")
        until = settings.get("until") or []
        most = next((int(settings[key]) for key in MOST_NEW_TOKENS if settings.get(key)), 256)
        stops = (*([until] if isinstance(until, str) else until), self.tokenizer.decode(self.eot_token_id))
        return tuple(self.tok_encode(text)[-max(1, self.max_length - most) :]), stops, most

    def _each(self, items: Sequence[Any], compute: Callable[[Sequence[Any], Any], list[Any]]) -> list[Any]:
        """Return the value of each item (its prompt comes first): known before, or computed and kept now."""
        keys = [hash_of(item) for item in items]
        left = {key: item for key, item in zip(keys, items, strict=True) if key not in self.found}
        longest_first = sorted(left, key=lambda key: -len(left[key][0]))
        with progress.bar(self.title, len(left)) as advance:
            for start in range(0, len(left), AT_ONCE):
                some = longest_first[start : start + AT_ONCE]
                values = dict(zip(some, compute([left[key] for key in some], advance), strict=True))
                self.found |= values
                if self.kept:
                    self.kept.add(values)
        return [self.found[key] for key in keys]

    def _continued(self, items: Sequence[Any], advance: progress.Advance) -> list[Any]:
        prompts, choices = zip(*items, strict=True)
        return ranking.continuations(self.view, prompts, choices, self.model.device, advance)

    def _answered(self, items: Sequence[Any], advance: progress.Advance) -> list[str]:
        _, stops, most = items[0]
        decoding, prompts = Decoding(self.ends, most, self.max_length, stops), [prompt for prompt, *_ in items]
        found = greedy(self.model, self.tokenizer, self.view.nats, prompts)[0](prompts, decoding, ROWS_AT_ONCE, advance)
        return texts_of(self.tokenizer, found, stops)


class _Template(jinja2.Template):
    """A template that is stopped where it needs too much, and whose errors are ours."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        try:
            with bounded("A template of the task"):
                return super().render(*args, **kwargs)
        except jinja2.TemplateError as error:
            raise InputError(f"A template of the task cannot be rendered: {error}") from error


@contextmanager
def _contained() -> Iterator[None]:
    """Let the harness load and evaluate with seeds, in jinja2's sandbox, and without counting a load on a server."""
    plain, counted = lm_eval.utils.env, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    sandbox = ImmutableSandboxedEnvironment(undefined=plain.undefined, keep_trailing_newline=True)
    sandbox.filters, sandbox.template_class = plain.filters, _Template
    lm_eval.utils.env, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = sandbox, False
    try:
        # The global random states as the harness sets them; they are given back: training must not depend on tasks.
        with randomness.seeded(FEW_SHOT_SEED):
            random.seed(SEED)
            np.random.seed(FEW_SHOT_SEED)
            yield
    finally:
        lm_eval.utils.env, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = plain, counted
