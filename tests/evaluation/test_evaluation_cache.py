"""The cache of scores: what was computed comes back exactly, and never where anything it depends on differs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from tiny_tokenizers import byte_level
from tunelift.adapters.build import switched_off
from tunelift.core.records import Example, Scores
from tunelift.evaluation import cache
from tunelift.evaluation.measures import Measure, answer, likelihood, ranked_labels
from tunelift.evaluation.run import Plan, score
from tunelift.metrics import resolve
from tunelift.tasks import TASKS

LABELS = [" cat", " cats", " the mat"]
EXAMPLES = [Example(str(i), "the cat sat on " * (1 + i % 4) + "a" * i, LABELS[i % 3]) for i in range(9)]
MADE_WITH = {"model": {"name": "tiny", "weights_sha256": "ab" * 32}, "adapter": None}
ADAPTER = {"source": "runs/x/adapter", "sha256": "cd" * 32}
RANKING = Plan(resolve(["accuracy", "loss"]), labels=LABELS, cache=True)
PLANS = {
    "ranking": RANKING,
    "mean": replace(RANKING, label_score="mean"),
    "likelihood": Plan(resolve(["loss"]), cache=True),
    "answers": Plan(resolve(["exact_match", "loss"]), max_new_tokens=4, cache=True),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path))
    return tmp_path


def measure(plan: Plan = RANKING, net: Any = None, examples: list[Example] = EXAMPLES, **made_with: Any) -> Scores:
    net = tiny_models.causal("llama") if net is None else net
    return score(net, tiny_models.tokenizer(), examples, plan, MADE_WITH | made_with)


@pytest.mark.parametrize("name", PLANS)
def test_what_was_computed_comes_back_exactly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure(PLANS[name])
    for module, part in ((likelihood, "log_likelihoods"), (answer, "greedy")):
        monkeypatch.setattr(module, part, refused)
    again = measure(PLANS[name])
    assert again.rows == first.rows
    assert (first.info["from_cache"], again.info["from_cache"]) == (0, 9)
    assert again.info["made_with"] == first.info["made_with"]
    uncached = {"cache": False, "rows_at_once": 9}
    monkeypatch.undo()
    plain = measure(replace(PLANS[name], **uncached)).rows
    for a, b in zip(first.rows, plain, strict=True):
        assert a["log_likelihood"] == pytest.approx(b["log_likelihood"], rel=1e-5)


def test_no_fast_path_is_tried_where_every_item_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure()
    monkeypatch.setattr(likelihood, "target_model", refused)
    again = measure(examples=EXAMPLES[2:7])
    assert again.info["from_cache"] == 5
    assert again.info["made_with"]["fast_paths"] == first.info["made_with"]["fast_paths"]
    with pytest.raises(KeyboardInterrupt):
        measure(examples=[*EXAMPLES, replace(EXAMPLES[0], id="new", prompt="another cat")])


def test_items_of_other_fast_paths_do_not_stand_beside_those_computed_now(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, measured = ranked_labels.ranker, measure()
    monkeypatch.setattr(ranked_labels, "ranker", lambda *given: (plain(*given)[0], "off: this time"))
    other = measure(examples=[*EXAMPLES, replace(EXAMPLES[0], id="new", prompt="another cat")])
    assert other.info["from_cache"] == 0
    assert measure().info["made_with"]["fast_paths"]["label_tree"] == "off: this time"  # what knew them last
    assert measured.info["made_with"]["fast_paths"]["label_tree"] == "on"


def test_heads_are_kept_and_another_head_on_the_same_weights_is_not_taken_for_it() -> None:
    plan = Plan(resolve(["accuracy"]), task=TASKS.get("sequence-classification"), labels=["bad", "good"], cache=True)
    examples = [Example(str(i), "the cat " * (i + 1), ["bad", "good"][i % 2]) for i in range(5)]
    model = tiny_models.classifier(["bad", "good"])
    first, again = measure(plan, model, examples), measure(plan, model, examples)
    assert again.rows == first.rows
    assert again.info["from_cache"] == 5
    with torch.no_grad():
        model.classifier.weight.neg_()
    other = measure(plan, model, examples)
    assert other.info["from_cache"] == 0
    assert other.rows != first.rows


def test_only_new_items_are_computed() -> None:
    measure(examples=EXAMPLES[:6])
    grown = measure(examples=[*EXAMPLES[3:], replace(EXAMPLES[0], completion=LABELS[1])])
    assert grown.info["from_cache"] == 3  # the reference may be left unfinished where it is another


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "tiny", "weights_sha256": "ff" * 32}},
        {"adapter": ADAPTER},
        {"plan": replace(RANKING, label_score="mean")},
        {"plan": replace(RANKING, labels=LABELS[::-1])},
        {"plan": PLANS["likelihood"]},
        {"net": tiny_models.causal("llama", seed=1)},
        {"net": tiny_models.causal("llama").double()},
        {"net": tiny_models.causal("llama", rope_theta=5000.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_a_score_depends_on_makes_another_context(change: dict[str, Any]) -> None:
    measure()
    assert measure(**change).info["from_cache"] == 0
    assert measure().info["from_cache"] == 9


@pytest.mark.parametrize("change", [{"max_new_tokens": 5}, {"stop": ["\n"]}])
def test_decoding_makes_another_context(change: dict[str, Any]) -> None:
    measure(PLANS["answers"])
    assert measure(replace(PLANS["answers"], **change)).info["from_cache"] == 0


def test_another_tokenizer_or_version_of_the_scorer_is_another_context(monkeypatch: pytest.MonkeyPatch) -> None:
    measure()
    other = score(tiny_models.causal("llama"), byte_level(eos=False), EXAMPLES, RANKING, MADE_WITH)
    assert other.info["from_cache"] == 0
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert measure().info["from_cache"] == 0


@pytest.mark.parametrize("made_with", [{"model": {}}, {"adapter": {"source": "in memory"}}])
def test_without_a_hash_nothing_is_kept(made_with: dict[str, Any], own_cache: Path) -> None:
    measure(**made_with)
    measure(replace(RANKING, cache=False))
    assert list(own_cache.iterdir()) == []


def test_a_model_changed_in_memory_is_another_model() -> None:
    """Its file, and so the hash of its weights, is the same still."""
    model = tiny_models.causal("llama")
    first = measure(net=model)
    model.lm_head.weight.data.add_(0.01)
    changed = measure(net=model)
    assert changed.info["from_cache"] == 0
    assert changed.rows != first.rows


def test_of_a_model_with_hooks_nothing_is_kept(own_cache: Path) -> None:
    model = tiny_models.causal("llama")
    plain = measure(net=model)
    hook = model.model.layers[0].register_forward_hook(lambda module, inputs, output: output * 2)
    hooked = measure(net=model)
    assert hooked.info["from_cache"] == 0
    assert hooked.rows != plain.rows
    hook.remove()
    assert measure(net=model).rows == plain.rows


def test_an_adapter_that_is_switched_off_is_not_taken_for_one_that_is_on() -> None:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    on = measure(net=model, adapter=ADAPTER)
    with switched_off(model):
        off = measure(net=model, adapter=ADAPTER)
    assert off.info["from_cache"] == 0
    assert off.rows != on.rows
    assert measure(net=model, adapter=ADAPTER).rows == on.rows


def refused(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_an_evaluation_that_was_cut_off_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(Measure, "at_once", 4)
    plain, calls = likelihood.log_likelihoods, []

    def cut_off(view: Any, pairs: Any, *rest: Any) -> Any:
        calls.append(len(pairs))
        return plain(view, pairs, *rest) if len(calls) < 3 else refused()

    monkeypatch.setattr(likelihood, "log_likelihoods", cut_off)
    with pytest.raises(KeyboardInterrupt):
        measure(PLANS["likelihood"])
    monkeypatch.setattr(likelihood, "log_likelihoods", plain)
    assert calls == [4, 4, 1]
    assert measure(PLANS["likelihood"]).info["from_cache"] == 8
    assert "score: 8 of 9 items were scored before." in capsys.readouterr().err


def test_a_torn_line_and_a_damaged_one_are_not_there(own_cache: Path) -> None:
    first = measure()
    (file,) = (own_cache / "scores").iterdir()
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = lines[5].replace(b'"tokens": ', b'"tokens": 1')
    file.write_bytes(b"".join([*lines[:5], damaged, *lines[6:]])[:-20])
    again = measure()
    assert again.info["from_cache"] == 7
    assert sum(a == b for a, b in zip(first.rows, again.rows, strict=True)) >= 7
    once_more = measure()
    assert once_more.info["from_cache"] == 9  # what was appended behind the torn line is whole
    assert once_more.rows == again.rows


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(own_cache: Path) -> None:
    (own_cache / "scores").write_text("a file where the folder should be")
    assert measure().rows == measure().rows


def test_two_writers_of_one_context_lose_nothing() -> None:
    context = cache.Context({"version": 1}, {"model": "tiny"})
    one, other = (context.kept({"packing": "on"}) for _ in range(2))
    one.add({"a": [-0.1 - 0.2, True]})
    other.add({"b": {"log_likelihood": float("nan")}})
    found = context.kept({"packing": "on"}).found
    assert found["a"] == [-0.30000000000000004, True]
    assert str(found["b"]["log_likelihood"]) == "nan"
    ((_, about, items),) = cache.files_kept()
    assert (about, items) == ({"model": "tiny"}, 2)


WRITER = """
import sys
from tunelift.evaluation.cache import Context
kept = Context({"version": 1}, {"model": "tiny"}).kept({})
for number in range(200):
    kept.add({f"{sys.argv[1]} {number} {part}": "x" * 500 for part in range(20)})
"""


def test_two_processes_write_at_once() -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name]) for name in ("one", "other")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(cache.Context({"version": 1}, {}).kept({}).found) == 2 * 200 * 20


def test_the_oldest_contexts_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        kept = cache.Context({"number": number}, {"model": str(number)}).kept({})
        kept.add({"a": "x" * 1000})
        os.utime(kept.path, (number + 1, number + 1))
    cache.Context({"number": 0}, {}).kept({})  # used again: no longer the oldest
    monkeypatch.setattr(cache, "LIMIT_BYTES", 4000)
    cache.Context({"number": 4}, {"model": "4"}).kept({}).add({"a": "x" * 1000})
    assert {about["model"] for _, about, _ in cache.files_kept()} == {"0", "3", "4"}
