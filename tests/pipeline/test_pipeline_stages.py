"""Stages that runs share: made once, found again, and never where anything they depend on differs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from small_rows import write_rows
from tiny_tokenizers import CHAT, byte_level
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import EndpointSection, PreferencesSection
from tunelift.core import stages
from tunelift.core.records import Example, Pair, Scores
from tunelift.data.dates import dated
from tunelift.data.duplicates import near_duplicates
from tunelift.evaluation.plan import Plan
from tunelift.metrics import resolve
from tunelift.models import ModelIdentity
from tunelift.pipeline.measuring import say
from tunelift.pipeline.run import run
from tunelift.pipeline.session import Session
from tunelift.pipeline.sharing import of_scores, rendered, shared_scores
from tunelift.run_files.layout import RunPaths
from tunelift.tasks import TASKS

EXAMPLES = [Example(str(i), f"the cat sat {i}", " cat", row={"text": f"the cat sat {i}"}) for i in range(4)]
LABELS = [" cat", " cats"]
PLAN = Plan(resolve(["accuracy", "loss"]), labels=LABELS, cache=True)


def session(**changes: Any) -> Session:
    """Return a session on a tiny model with the hash of its file's weights."""
    given = {"model": tiny_models.causal("llama"), "tokenizer": deepcopy(tiny_models.tokenizer()), **changes}
    identity = ModelIdentity("tiny", "folder", "tiny", None, given.pop("weights", "ab" * 32))
    return Session(**{"identity": identity, "task": TASKS.get("causal-lm"), **given})


def key(one: Session | None = None, examples: list[Example] = EXAMPLES, plan: Plan = PLAN) -> str | None:
    """Return the hash by which the scores of a base are found; None where they are not shared."""
    depends_on = of_scores(one or session(), examples, plan)
    return None if depends_on is None else stages.hash_of("base", depends_on)


def with_tokenizer(change: Callable[[Any], Any]) -> Session:
    tokenizer = deepcopy(tiny_models.tokenizer())
    return session(tokenizer=change(tokenizer) or tokenizer)


def with_generation(**settings: Any) -> Session:
    made = session()
    made.model.generation_config.update(**settings)
    return made


DATED = "{{ strftime_now('%d %b %Y') }}" + CHAT

MODELS: dict[str, Callable[[], Session]] = {
    "the file's weights": lambda: session(weights="cd" * 32),
    "the weights in memory": lambda: session(model=tiny_models.causal("llama", seed=1)),
    "the config": lambda: session(model=tiny_models.causal("llama", rope_theta=5000.0)),
    "the precision": lambda: session(model=tiny_models.causal("llama").double()),
    "what ends an answer": lambda: with_generation(eos_token_id=[1, 2]),
    "the vocabulary": lambda: session(tokenizer=byte_level(eos=False)),
    "a token added": lambda: with_tokenizer(lambda tokenizer: tokenizer.add_tokens(["<new>"]) and None),
    "a setting of the tokenizer": lambda: with_tokenizer(lambda tokenizer: tokenizer.init_kwargs.update(extra=1)),
    "the template": lambda: with_tokenizer(lambda tokenizer: setattr(tokenizer, "chat_template", CHAT)),
    "the name": lambda: session(identity=ModelIdentity("other", "folder", "other", None, "ab" * 32)),
    "the bits": lambda: session(identity=ModelIdentity("tiny", "folder", "tiny", None, "ab" * 32, quantization="int8")),
    "the task": lambda: session(task=TASKS.get("masked-lm")),
    "the task's settings": lambda: session(
        task=TASKS.get("preference").with_settings(PreferencesSection(beta=0.3))
    ),
    "the head's labels": lambda: session(labels=["a", "b"]),
    "the threshold": lambda: session(threshold=0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_another_model_is_another_stage(name: str) -> None:
    assert key() is not None
    assert key() == key()
    found = key(MODELS[name]())
    assert found is not None
    assert found != key()


def test_threads_and_the_date_that_a_template_writes_are_of_the_hash() -> None:
    before = key()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert key() != before
    finally:
        torch.set_num_threads(threads)
    asked = with_tokenizer(lambda tokenizer: setattr(tokenizer, "chat_template", DATED))
    found = set()
    for moment in (datetime(2026, 1, 1, 10), datetime(2026, 1, 1, 20), datetime(2026, 1, 2, 10)):
        with dated(moment):
            found.add(key(asked))
    assert len(found) == 2, "two days, of which one has two hours"


def test_what_a_user_turns_off_to_see_without_is_not_answered_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    for name, value in (("TUNELIFT_KERNELS", "0"), ("ATEN_CPU_CAPABILITY", "avx2")):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            assert key() != before, name


def test_a_tokenizer_that_is_changed_is_another_one_though_it_has_as_many_tokens() -> None:
    from tokenizers.processors import TemplateProcessing

    one = session()
    before = key(one)
    ends = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    one.tokenizer.backend_tokenizer.post_processor = ends
    assert key(one) != before


OTHER_PLANS: dict[str, Any] = {
    "labels": [" cat", " dogs"], "label_score": "mean", "max_new_tokens": 7, "max_answer_tokens": 7, "stop": ["\n"],
    "temperature": 0.5, "thinking": "keep", "rows_at_once": 3, "max_length": 77, "slices": ["text"], "threshold": 0.4,
    "metrics": resolve(["accuracy"]), "task": TASKS.get("sequence-classification"),
    "larger_model": EndpointSection(served_model="m"),
}  # fmt: skip


def test_every_part_of_the_plan_is_of_the_hash() -> None:
    assert OTHER_PLANS.keys() == {field.name for field in fields(Plan)} - {"cache"}
    keys = [key(plan=replace(PLAN, **{name: value})) for name, value in OTHER_PLANS.items()]
    assert len({key(), *keys}) == 1 + len(OTHER_PLANS)
    assert key(plan=replace(PLAN, cache=False)) is None


OTHER_ITEMS: dict[str, Any] = {
    "id": "new", "prompt": "the cats", "completion": " cats", "given": Pair("the cat", "sat"), "wanted": Pair("a", "b"),
    "cluster": "c", "row": {"text": "another"},
}  # fmt: skip


def test_everything_of_the_items_and_their_order_is_of_the_hash() -> None:
    assert OTHER_ITEMS.keys() == {field.name for field in fields(Example)}
    changed = [[replace(EXAMPLES[0], **{name: value}), *EXAMPLES[1:]] for name, value in OTHER_ITEMS.items()]
    keys = [key(examples=some) for some in (*changed, EXAMPLES[::-1], EXAMPLES[:3])]
    assert len({key(), *keys}) == len(keys) + 1
    long = [np.arange(5000) for _ in range(2)]
    long[1][2500] = -1  # which its text would not show
    both = [key(examples=[replace(EXAMPLES[0], row={"numbers": numbers})]) for numbers in long]
    assert None not in both
    assert both[0] != both[1]
    assert key(examples=[replace(EXAMPLES[0], row={"strange": object()})]) is None


def test_where_nobody_can_tell_nothing_is_shared() -> None:
    assert key(session(weights=None)) is None
    adapted = session(adapter={"source": "runs/x/adapter", "sha256": "ab" * 32}, whole=True)
    assert key(adapted) is None
    hooked = session()
    hooked.model.register_forward_hook(lambda module, inputs, output: output)
    assert key(hooked) is None
    own = replace(resolve(["loss"])[0], score=test_where_nobody_can_tell_nothing_is_shared)
    assert key(plan=replace(PLAN, metrics=[own])) is None

    def mine(prediction: str, reference: str) -> float:
        return 1.0

    assert key(plan=replace(PLAN, metrics=resolve([mine]))) is None, "whatever another function of this name does"

    class Strange(torch.nn.Linear):
        pass

    strange = session()
    strange.model.lm_head.__class__ = Strange
    assert key(strange) is None


def test_what_scores_depend_on_beside_is_of_the_hash() -> None:
    made: list[Any] = []

    def score() -> Scores:
        made.append(1)
        return Scores([{"id": "0", "metrics": {"loss": 1.0}}], {"items": 1})

    one = session()
    for beside in ({"shots": 4}, {"shots": 4}, {"shots": 5}, {"shots": None}, {"shots": None}):
        shared_scores("baselines/few-shot", one, EXAMPLES, PLAN, score, **beside)
    assert len(made) == 4, "taken once; and never where a part is not known"
    assert shared_scores("baselines/few-shot", one, EXAMPLES, PLAN, score, shots=4).info["from_cache"] == 1


def test_a_value_that_is_not_finite_comes_back_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Scores([{"id": "0", "metrics": {}}], {"metrics": {"perplexity": {"value": math.inf}}})
    made.save(tmp_path)
    say("base", Scores.read(tmp_path))
    assert "perplexity not finite" in capsys.readouterr().err


def test_rows_that_were_rendered_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [Example(str(i), f"the cat {i}", " cat" * (1 + i % 3)) for i in range(1000)]
    task, tokenizer = TASKS.get("causal-lm"), deepcopy(tiny_models.tokenizer())
    first = rendered(task, examples, tokenizer, 32, [])
    with stages.told_of("second") as told:
        again = rendered(task, examples, tokenizer, 32, [])
        assert again == (list(first[0]), first[1])
        assert len(told.stages) == 1
        assert stages.MADE_HERE not in str(told.stages)
    for changed in (
        (task, examples, tokenizer, 31, []),
        (task, examples, tokenizer, 32, ["a"]),
        (task, [*examples[:-1], replace(examples[-1], completion=" cats")], tokenizer, 32, []),
        (task, examples, byte_level(eos=False), 32, []),
    ):
        with stages.told_of("third") as told:
            rendered(*changed)
            assert [stage["from"] for stage in told.stages.values()] == [stages.MADE_HERE]


def test_near_duplicates_are_looked_for_once_and_again_for_other_texts() -> None:
    texts = [f"how do I get my card number {i} replaced in town {i % 7}" for i in range(1200)]
    first = near_duplicates(texts)
    with stages.told_of("second") as told:
        assert near_duplicates(texts) == first
        assert stages.MADE_HERE not in str(told.stages)
    with stages.told_of("third") as told:
        near_duplicates([*texts[:-1], "another text"])
        near_duplicates(texts[:700], texts[700:])
        near_duplicates(texts, threshold=0.6)
        assert {stage["from"] for stage in told.stages.values()} == {stages.MADE_HERE}


def ran(tiny: dict[str, Any], name: str, **changes: Any) -> dict[str, str]:
    """Run with another output and further changes; return from where the manifest says that each stage came."""
    output = Path(tiny["output"]).with_name(name)
    run(from_keywords("train", **{**tiny, **changes, "output": str(output)}))
    manifest = json.loads(RunPaths(output).manifest.read_text())
    return {stage: Path(found["from"]).name for stage, found in manifest["stages"].items()}


def test_runs_take_what_another_measured_and_measure_what_is_new(tiny: dict[str, Any]) -> None:
    first = ran(tiny, "first")
    assert set(first.values()) == {stages.MADE_HERE}
    second = ran(tiny, "second", train={**tiny["train"], "learning_rate": 0.02})
    assert second == dict.fromkeys(first, "first")
    sides = [
        (Path(tiny["output"]).with_name(name) / "base" / "scores.jsonl").read_bytes() for name in ("first", "second")
    ]
    assert sides[0] == sides[1]
    write_rows(Path(tiny["data"]["test"]), 21, start=100)  # another row
    third = ran(tiny, "third")
    assert third["base"] == third["baselines/tf-idf"] == stages.MADE_HERE
    assert third["base/validation"] == "first", "whose rows are the same"
