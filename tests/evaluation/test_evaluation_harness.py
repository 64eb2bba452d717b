"""lm-evaluation-harness on our scorer: the scores and answers of its own backend, on tasks of its own making."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from small_rows import write_rows
from tiny_tokenizers import byte_level
from tunelift.comparison.run_folder import compare_run as run_again
from tunelift.config.keywords import from_keywords
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.evaluation import ranking
from tunelift.pipeline.run import run

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra harness)")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from tunelift.evaluation import harness  # noqa: E402

MADE_WITH = {"model": {"name": "tiny", "weights_sha256": "ab" * 32}, "adapter": None}
QUESTIONS = [
    {"question": f"the cat {'sat ' * (i % 5)}on", "choices": ["the mat", "a cat sat", "it"], "answer": i % 3}
    for i in range(12)
]
CHOICE = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: choices
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ANSWER = """
task: tiny_answer
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: generate_until
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    harness.find_tasks.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two tasks and their data."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows = tasks / "rows.jsonl"
    rows.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    for name, task in (("choice", CHOICE), ("answer", ANSWER)):
        (tasks / f"{name}.yaml").write_text(task.replace("FILE", str(rows)))
    return tasks


def requests(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, some, i) for i, some in enumerate(arguments)]


def scorer(model: Any, tokenizer: Any = None) -> harness.Scorer:
    return harness.Scorer(model, tokenizer or tiny_models.tokenizer(), {})


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_log_likelihoods_equal_those_of_its_own_backend(kind: str, bos: bool) -> None:
    model, tokenizer = tiny_models.causal(kind, pad_token_id=None), byte_level.__wrapped__(bos=bos)
    texts = ["the cat sat", "the cat sat on ", "it is a cat. " * 3, "", "<s>the mat", "the cat " * 60]
    pairs = [(text, end) for text in texts for end in (" on the mat", " cat", "s", "?\n")]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)
    for (ours, greedy), (own, own_greedy) in zip(
        scorer(model, tokenizer).loglikelihood(requests("loglikelihood", pairs)),
        theirs.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True),
        strict=True,
    ):
        assert ours == pytest.approx(own, abs=1e-4)
        assert greedy == own_greedy


def test_greedy_continuations_are_told_apart() -> None:
    model, tokenizer = tiny_models.causal("llama"), tiny_models.tokenizer()
    pairs = [(word, tokenizer.decode([token])) for word in ("the cat", "it is") for token in range(260, 312)]
    ours = scorer(model).loglikelihood(requests("loglikelihood", pairs))
    own = HFLM(pretrained=model, tokenizer=tokenizer).loglikelihood(requests("loglikelihood", pairs))
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in own]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_whole_texts_longer_than_the_context_equal_its_own_backend(kind: str) -> None:
    model, tokenizer = tiny_models.causal(kind), tiny_models.tokenizer()
    texts = [("the cat sat on the mat. " * n,) for n in (1, 30)]
    ours = scorer(model).loglikelihood_rolling(requests("loglikelihood_rolling", texts))
    own = HFLM(pretrained=model, tokenizer=tokenizer).loglikelihood_rolling(requests("loglikelihood_rolling", texts))
    assert ours == pytest.approx(own, abs=1e-3)


def test_what_else_is_asked_changes_no_score() -> None:
    model = tiny_models.causal("llama").double()
    pairs = [(f"the cat {'sat ' * (i % 7)}", f" on {i}") for i in range(20)]
    together = scorer(model).loglikelihood(requests("loglikelihood", pairs))
    shuffled = random.Random(0).sample(range(20), 20)
    for i in shuffled:
        (alone,) = scorer(model).loglikelihood(requests("loglikelihood", [pairs[i]]))
        assert alone[0] == pytest.approx(together[i][0], rel=1e-9)
        assert alone[1] == together[i][1]


def test_answers_equal_those_of_its_own_backend() -> None:
    model, tokenizer = tiny_models.causal("gemma3_text"), byte_level.__wrapped__()
    tokenizer.pad_token = "</s>"
    settings = {"until": ["cat", "\n"], "max_gen_toks": 8}
    asked = [("the cat sat on " * n, settings) for n in (1, 2, 4)] + [("it is", {"until": ["a"], "max_gen_toks": 5})]
    ours = scorer(model, tokenizer).generate_until(requests("generate_until", asked))
    own = HFLM(pretrained=model, tokenizer=tokenizer).generate_until(requests("generate_until", asked))
    assert ours == own
    with pytest.raises(InputError, match="samples its answers"):
        scorer(model).generate_until(requests("generate_until", [("a", {"do_sample": True, "temperature": 0.7})]))


@pytest.mark.parametrize("name", ["tiny_choice", "tiny_answer"])
def test_a_local_task_gives_rows_and_its_own_metrics(name: str, folder: Path) -> None:
    model, tokenizer = tiny_models.causal("llama"), byte_level.__wrapped__()
    tokenizer.pad_token = "</s>"
    tasks = {task.name: task for task in harness.find_tasks((str(folder),))}
    assert sorted(tasks) == ["tiny_answer", "tiny_choice"]
    before = random.getstate(), torch.random.get_rng_state()
    scores = harness.score_task(model, tokenizer, tasks[name], MADE_WITH, cache=True, title="base")
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    stock = HFLM(pretrained=model, tokenizer=tokenizer)
    own = lm_eval.simple_evaluate(model=stock, tasks=[name], bootstrap_iters=0, task_manager=manager)
    metric = "acc" if name == "tiny_choice" else "exact_match"
    assert len(scores.rows) == 12
    assert scores.info["metrics"][metric]["higher_is_better"] is True
    assert scores.metrics[metric] == pytest.approx(own["results"][name][f"{metric},none"])
    for row, sample in zip(scores.rows, own["samples"][name], strict=True):
        assert row["metrics"][metric] == sample[metric]
        if name == "tiny_choice":
            likely = dict(
                zip([" the mat", " a cat sat", " it"], [ll for ll, _ in sample["filtered_resps"]], strict=True)
            )
            assert row["label_scores"] == pytest.approx(likely, abs=1e-4)
            assert row["prediction"] == max(likely, key=likely.get)


def test_a_task_is_not_computed_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_models.causal("llama"), tiny_models.tokenizer()
    (task,) = harness.find_tasks((str(folder / "choice.yaml"),))
    first = harness.score_task(model, tokenizer, task, MADE_WITH, cache=True, title="base")
    monkeypatch.setattr(ranking, "continuations", None)
    again = harness.score_task(model, tokenizer, task, MADE_WITH, cache=True, title="base")
    assert again.rows == first.rows


def test_a_run_measures_its_tasks_before_and_after(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_models.causal("llama").save_pretrained(tmp_path / "model")
    tiny_models.tokenizer().save_pretrained(tmp_path / "model")
    write_rows(tmp_path / "train.csv", 40)
    settings = {"tasks": [str(folder)], "baselines": [], "forgetting": []}
    comparison = run(
        from_keywords(
            "train", model="model", data={"train": "train.csv", "test": 0.2}, evaluate=settings, dtype="float32",
            train={"steps": 2, "learning_rate": 0.01}, output="out",
        )
    )  # fmt: skip
    assert sorted(comparison.forgetting) == ["tiny_answer", "tiny_choice"]
    for side in ("base", "tuned"):
        scores = Scores.read(tmp_path / "out" / "forgetting" / "tiny_choice" / side)
        assert len(scores.rows) == 12
        assert (scores.info["made_with"]["adapter"] is None) == (side == "base")
    assert run_again(tmp_path / "out").to_dict()["forgetting"] == comparison.to_dict()["forgetting"]


def test_a_task_that_does_not_exist(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no_such\.yaml cannot be read"):
        harness.find_tasks((str(folder / "no_such.yaml"),))
    with pytest.raises(InputError, match="cannot load no-such-task"):
        harness.find_tasks(("no-such-task",))
