"""Scores of tiny models: rows, invariance, generation, heads, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from tunelift.comparison import compare
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Scores
from tunelift.data.render import Renderer
from tunelift.evaluation.generation import Decoding, continue_greedily, texts_of
from tunelift.evaluation.run import Plan, score
from tunelift.metrics import resolve
from tunelift.tasks import TASKS

LABELS = [" cat", " cats", " the mat"]
EXAMPLES = [
    Example(str(i), "the cat sat on " * (1 + i % 4) + "a" * i, LABELS[i % 3], cluster=f"c{i % 2}", row={"n": i})
    for i in range(7)
]


def silent(amount: int = 1, note: str = "") -> None:
    """No progress is shown."""


def measure(model: Any, examples: list[Example] = EXAMPLES, **plan: Any) -> Scores:
    metrics = resolve(plan.pop("metrics", ["accuracy", "loss"]))
    return score(model, tiny_models.tokenizer(), examples, Plan(metrics, **plan), {"model": {}, "adapter": None})


def generated(model: Any, prompts: list[list[int]], decoding: Decoding, rows_at_once: int) -> list[str]:
    found = continue_greedily(model, tiny_models.tokenizer(), prompts, decoding, rows_at_once, silent)
    return texts_of(tiny_models.tokenizer(), found, decoding.stop_strings)


def test_rows_follow_the_contract() -> None:
    scores = measure(tiny_models.causal("llama"), labels=LABELS)
    row = scores.rows[4]
    assert (row["id"], row["input"], row["reference"], row["cluster"]) == (
        "4", EXAMPLES[4].prompt, EXAMPLES[4].completion, "c0",
    )  # fmt: skip
    assert row["prediction"] == max(row["label_scores"], key=row["label_scores"].get)
    assert row["log_likelihood"] == row["label_scores"][row["reference"]]
    assert row["metrics"]["loss"] == pytest.approx(-row["log_likelihood"] / row["tokens"])
    assert scores.metrics["accuracy"] == sum(r["metrics"]["accuracy"] for r in scores.rows) / 7
    assert (
        dict.fromkeys(("target_only_head", "packing", "shared_prefix", "label_tree"), "on").items()
        <= scores.info["made_with"]["fast_paths"].items()
    )


@pytest.mark.parametrize("plan", [{"labels": LABELS}, {"metrics": ["loss"]}, {"metrics": ["exact_match", "loss"]}])
def test_batch_size_changes_no_score(plan: dict[str, Any]) -> None:
    model = tiny_models.causal("gemma3_text").double()
    one, many = (measure(model, **plan, rows_at_once=size, max_new_tokens=6) for size in (1, 7))
    for a, b in zip(one.rows, many.rows, strict=True):
        assert a["log_likelihood"] == pytest.approx(b["log_likelihood"], rel=1e-9)
        assert a.get("prediction") == b.get("prediction")


def test_padding_side_changes_no_score() -> None:
    model = tiny_models.causal("llama").double()
    left, right = tiny_models.byte_level.__wrapped__(), tiny_models.byte_level.__wrapped__()
    left.padding_side = "left"
    found = [score(model, t, EXAMPLES, Plan(resolve(["accuracy"]), labels=LABELS), {}).rows for t in (left, right)]
    assert found[0] == found[1]


def test_generation_equals_transformers_own() -> None:
    model, tokenizer = tiny_models.causal("gemma3_text"), tiny_models.tokenizer()
    renderer = Renderer(tokenizer, 128)
    prompts = [renderer.prompt_ids(example) for example in EXAMPLES]
    ours = generated(model, prompts, Decoding({1}, 12), 3)
    for prompt, answer in zip(prompts, ours, strict=True):
        stock = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=1, pad_token_id=1
        )
        assert answer == tokenizer.decode(stock[0, len(prompt) :], skip_special_tokens=True)


def test_answers_end_where_the_context_does() -> None:
    model, tokenizer = tiny_models.causal("gpt2"), tiny_models.tokenizer()
    prompts = [[0, *range(260, 260 + length)] for length in (119, 20)]
    found = generated(model, prompts, Decoding(set(), 30, context=128), 2)
    for prompt, answer, new in zip(prompts, found, (8, 30), strict=True):
        stock = model.generate(
            torch.tensor([prompt]), max_new_tokens=new, do_sample=False, eos_token_id=[], pad_token_id=1
        )
        assert answer == tokenizer.decode(stock[0, len(prompt) :], skip_special_tokens=True)


def test_answers_end_before_a_stop_string() -> None:
    model = tiny_models.causal("gpt2")
    prompts = [[0, token] for token in range(260, 300)]
    wholes = generated(model, prompts, Decoding(set(), 12), 4)
    prompt, whole = next((p, w) for p, w in zip(prompts, wholes, strict=True) if len(w) > 6 and "\ufffd" not in w)
    stop = whole[4:6]
    (cut,) = generated(model, [prompt], Decoding(set(), 12, stop_strings=[stop]), 4)
    assert cut == whole[: whole.index(stop)] != whole


def test_items_beyond_the_context_are_unscored_with_the_reason() -> None:
    long = Example("long", "the cat " * 200, " cat")
    scores = measure(tiny_models.causal("llama"), [*EXAMPLES, long], metrics=["loss"])
    assert scores.rows[-1]["unscored"] == "longer than the context"
    assert scores.rows[-1]["metrics"] == {}
    assert scores.info["unscored"] == 1
    with pytest.raises(InputError, match="Every item is longer than the model's context of 128 tokens"):
        measure(tiny_models.causal("llama"), [long], metrics=["loss"])


def test_a_reference_that_is_no_label_is_unscored() -> None:
    scores = measure(tiny_models.causal("llama"), labels=LABELS[:2])
    assert scores.rows[2]["unscored"] == "the reference ' the mat' is not among the labels"
    assert scores.info["unscored"] == 2


def test_ranking_needs_labels() -> None:
    with pytest.raises(InputError, match="ranks the labels, and there are 1"):
        measure(tiny_models.causal("llama"), labels=LABELS[:1])


def test_mean_score_ranks_by_token() -> None:
    model = tiny_models.causal("llama")
    by_sum, by_mean = (measure(model, labels=LABELS, label_score=how).rows for how in ("sum", "mean"))
    renderer = Renderer(tiny_models.tokenizer(), 128)
    for example, summed, mean in zip(EXAMPLES, by_sum, by_mean, strict=True):
        lengths = dict(zip(LABELS, map(len, renderer.candidate_ids(example, LABELS)), strict=True))
        per_token = {label: total / lengths[label] for label, total in summed["label_scores"].items()}
        assert mean["prediction"] == max(per_token, key=per_token.get)


def test_a_users_function_is_a_metric() -> None:
    def shorter(prediction: str, reference: str, row: dict[str, Any]) -> float:
        return float(row["n"])

    scores = measure(tiny_models.causal("llama"), metrics=[shorter], max_new_tokens=3)
    assert scores.metrics == {"shorter": 3.0}
    assert scores.info["made_with"]["decoding"] == {"method": "greedy", "max_new_tokens": 3, "stop": []}


@pytest.mark.parametrize(("kind", "pad"), [("bert", 1), ("llama", 1), ("llama", 7)])
def test_heads_give_log_probabilities(kind: str, pad: int) -> None:
    """A head on a decoder finds the last token of a row by the model's padding id, whatever the tokenizer's is."""
    model = tiny_models.classifier(["bad", "good"], kind, pad_token_id=pad)
    examples = [Example(str(i), "the cat " * (i + 1), ["bad", "good"][i % 2]) for i in range(5)]
    one, many = (
        measure(model, examples, task=TASKS.get("sequence-classification"), labels=["bad", "good"], rows_at_once=n)
        for n in (1, 5)
    )
    for a, b in zip(one.rows, many.rows, strict=True):
        assert math.fsum(math.exp(v) for v in a["label_scores"].values()) == pytest.approx(1)
        assert a["log_likelihood"] == pytest.approx(b["log_likelihood"], rel=1e-5)


def test_plain_text_without_bos_counts_all_but_the_first_token() -> None:
    tokenizer = tiny_models.byte_level(bos=False)
    examples = [Example("0", "", "the cat sat")]
    scores = score(tiny_models.causal("llama"), tokenizer, examples, Plan(resolve(["bits_per_byte"])), {})
    ids = tokenizer("the cat sat")["input_ids"]
    assert scores.rows[0]["tokens"] == len(ids)  # all but the first, and EOS
    assert scores.metrics["bits_per_byte"] == pytest.approx(-scores.rows[0]["log_likelihood"] / math.log(2) / 11)


def test_a_corpus_metric_goes_from_the_model_to_the_comparison(tmp_path: Path) -> None:
    examples = [Example(str(i), "the cat sat on " * (1 + i % 4) + "a" * i, LABELS[i % 3]) for i in range(24)]
    plan = {"metrics": ["macro_f1", "loss"], "labels": LABELS, "label_score": "mean"}
    base, tuned = (measure(tiny_models.causal("llama", seed=seed), examples, **plan) for seed in (0, 5))
    row = base.rows[1]
    predicted, wanted = row["prediction"].strip(), row["reference"].strip()
    right = {f"tp {wanted}": 1}
    assert row["counts"] == {"macro_f1": right if predicted == wanted else {f"fp {predicted}": 1, f"fn {wanted}": 1}}
    assert list(row["metrics"]) == ["loss"]
    assert base.info["metrics"]["macro_f1"] == {
        "value": pytest.approx(macro_f1_of(base)), "higher_is_better": True, "items": 24,
    }  # fmt: skip
    comparison = compare(base.save(tmp_path / "base"), tuned.save(tmp_path / "tuned"))
    assert comparison.headline == "macro_f1"
    result = comparison.metrics["macro_f1"]
    assert (result.base, result.tuned) == pytest.approx((macro_f1_of(base), macro_f1_of(tuned)))
    right = [[row["prediction"] == row["reference"] for row in side.rows] for side in (base, tuned)]
    changed = sum(before != after for before, after in zip(*right, strict=True))
    assert len(comparison.flips) == changed > 0
    assert comparison.calibration is not None
    assert "not the likeliest label as a whole" in comparison.calibration["note"]


def macro_f1_of(scores: Scores) -> float:
    from sklearn.metrics import f1_score

    wanted, predicted = ([row[key] for row in scores.rows] for key in ("reference", "prediction"))
    return float(f1_score(wanted, predicted, average="macro", zero_division=0.0))


def test_a_row_with_counts_only_is_scored() -> None:
    scores = measure(tiny_models.causal("llama"), metrics=["chrf"], max_new_tokens=4)
    assert scores.info["unscored"] == 0
    assert scores.rows[0]["metrics"] == {}
    assert set(scores.rows[0]["counts"]) == {"chrf"}
    assert scores.info["metrics"]["chrf"]["items"] == 7


def test_slices_are_in_the_rows_as_text() -> None:
    cells = [{"topic": "sports", "n": 1, "hard": True}, {"topic": None, "n": 2.5, "hard": False}, {"n": math.nan}]
    examples = [Example(str(i), "the cat", " mat", row=row) for i, row in enumerate(cells)]
    examples.append(Example("long", "the cat " * 200, " cat", row={"topic": "long"}))
    rows = measure(tiny_models.causal("llama"), examples, metrics=["loss"], slices=["topic", "n", "hard"]).rows
    assert [row.get("slices") for row in rows] == [
        {"topic": "sports", "n": "1", "hard": "true"}, {"n": "2.5", "hard": "false"}, None, {"topic": "long"},
    ]  # fmt: skip
    assert "unscored" in rows[3]


def test_a_slice_that_the_data_lack_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        measure(tiny_models.causal("llama"), metrics=["loss"], slices=["N", "topic"])
    assert caught.value.problems[0] == 'evaluate.slices names the column "N", which the rows to evaluate do not have.'
    assert len(caught.value.problems) == 2
    assert caught.value.fix == "Their columns: n."
    topical = [Example("0", "the cat", " mat", row={"topic": "x"})]
    with pytest.raises(InputError, match='Did you mean "topic"'):
        measure(tiny_models.causal("llama"), topical, metrics=["loss"], slices=["topics"])


def test_each_module_is_afterwards_in_the_mode_it_was_in() -> None:
    model = tiny_models.causal("llama").train()
    model.model.layers[1].eval()
    before = [module.training for module in model.modules()]
    measure(model, labels=LABELS)
    assert [module.training for module in model.modules()] == before
