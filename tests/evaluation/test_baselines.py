"""Baselines that predict labels: which fit, what their rows hold, and that a test row never influences one."""

from __future__ import annotations

import csv
import inspect
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

import tiny_models
from tiny_tokenizers import byte_level
from tunelift.adapters.build import switched_off
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Pair, Scores
from tunelift.data.render import Renderer
from tunelift.data.shared_words import SharedWords
from tunelift.evaluation import predicted_labels
from tunelift.evaluation.baselines import BASELINES, Baseline, Given, suitable
from tunelift.evaluation.run import Plan
from tunelift.metrics import resolve
from tunelift.tasks import TASKS

DATA = Path(__file__).parents[2].parent / "shared" / "data"
WORDS = {" sports": "ball match goal team", " tech": "code chip data disk", " food": "rice soup salt bread"}
HEAD = TASKS.get("sequence-classification")


def rows(count: int, start: int = 0, *, bare: bool = False) -> list[Example]:
    """Return rows whose words tell their label; `bare` as for a head."""
    found = []
    for i in range(start, start + count):
        label = list(WORDS)[i % 3]
        text = " ".join(random.Random(i).choices(WORDS[label].split(), k=4)) + f" {i}"
        prompt, completion = (text, label.strip()) if bare else (f"Text: {text}\nTopic:", label)
        found.append(Example(str(i), prompt, completion, cluster=f"c{i // 2}", row={"part": str(i % 2), "text": text}))
    return found


def plan(metrics: Sequence[str] = ("accuracy", "exact_match", "loss"), **settings: Any) -> Plan:
    labels = settings.pop("labels", [label.strip() for label in WORDS] if settings.get("task") else list(WORDS))
    return Plan(resolve(list(metrics)), labels=labels, **settings)


def made(name: str, train: list[Example], how: Plan, **given: Any) -> Baseline:
    given = {"model": None, "tokenizer": None, "shots": 2, "seed": 0, "made_with": {"adapter": None}} | given
    return BASELINES.get(name).make(Given(train=train, plan=how, **given))


def probe(how: Plan, model: Any = None, train: int = 30) -> Baseline:
    model = tiny_models.classifier(["sports", "tech", "food"]) if model is None else model
    return made("linear-probe", rows(train, bare=True), how, model=model, tokenizer=tiny_models.tokenizer())


def test_those_that_fit_are_taken() -> None:
    train, bare = rows(9), rows(9, bare=True)
    assert suitable(plan(), train, None) == ["few-shot", "majority", "tf-idf"]
    assert suitable(plan(task=HEAD), bare, None) == ["majority", "tf-idf", "linear-probe"]
    assert suitable(plan(["loss"], task=HEAD), bare, None) == ["tf-idf", "linear-probe"]
    assert suitable(plan(["loss"]), train, None) == ["few-shot"]
    assert suitable(plan(["exact_match"]), train, None) == ["few-shot"]
    assert suitable(plan(["bits_per_byte"]), [Example("0", "", "plain text")], None) == []
    assert suitable(plan(), train[:1], None) == ["few-shot", "majority"]
    assert suitable(plan(), train, []) == []
    assert suitable(plan(), train, ["tf-idf", "majority", "tf-idf"]) == ["tf-idf", "majority"]


@pytest.mark.parametrize(
    ("how", "named", "message"),
    [
        (plan(), "tfidf", 'no baseline "tfidf". Did you mean "tf-idf"'),
        (plan(), "linear-probe", "linear-probe does not fit: it takes the place of a classification head"),
        (plan(["loss"]), "majority", "majority does not fit: it predicts labels, and no metric here ranks any"),
        (plan(["loss"], task=HEAD), "majority", "a label without a probability gives none of the metrics"),
        (plan(task=HEAD), "few-shot", "few-shot does not fit: it needs a language model"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(how: Plan, named: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        suitable(how, rows(9), ["nothing", named])
    assert len(error.value.problems) == 2


def test_rows_hold_the_item_and_what_the_label_gives() -> None:
    how = plan(["accuracy", "macro_f1", "loss"], slices=["part"])
    scores = made("tf-idf", rows(30), how).score(rows(12, 100), "tf-idf")
    row, item = scores.rows[4], rows(1, 104)[0]
    assert (row["id"], row["input"], row["reference"]) == (item.id, item.prompt, item.completion)
    assert (row["cluster"], row["slices"]) == (item.cluster, {"part": item.row["part"]})
    assert set(row["metrics"]) == {"accuracy"}, "a label's probability is no loss of a language model's tokens"
    assert set(row["counts"]) == {"macro_f1"}
    assert row["prediction"] == max(row["label_scores"], key=row["label_scores"].get)
    assert row["log_likelihood"] == row["label_scores"][item.completion]
    assert math.fsum(map(math.exp, row["label_scores"].values())) == pytest.approx(1)
    assert set(scores.info["metrics"]) == {"accuracy", "macro_f1"}
    made_by = scores.info["made_with"]
    assert (made_by["adapter"], made_by["task"]) == (None, "causal-lm")
    assert made_by["baseline"]["name"] == "tf-idf"
    assert made_by["baseline"]["description"].startswith("TF-IDF (words and character n-grams) with logistic")


def test_scores_can_be_saved_and_read(tmp_path: Path) -> None:
    scores = made("majority", rows(9), plan()).score(rows(6, 100), "majority")
    again = Scores.read(scores.save(tmp_path))
    assert (again.rows, again.metrics) == (scores.rows, scores.metrics)


def test_majority_is_the_most_frequent_label_and_of_equal_ones_the_first() -> None:
    train = rows(4)
    assert made("majority", train, plan()).description == 'the most frequent training label ("sports")'
    scores = made("majority", train[1:], plan()).score(rows(6, 100), "majority")
    assert {row["prediction"] for row in scores.rows} == {" food"}
    assert scores.metrics == {"accuracy": 1 / 3, "exact_match": 1 / 3}
    assert "log_likelihood" not in scores.rows[0]


def test_tf_idf_reads_the_text_and_not_the_other_columns() -> None:
    train = rows(60)
    scores = made("tf-idf", train, plan()).score(rows(30, 100), "tf-idf")
    assert scores.metrics["accuracy"] == 1.0
    blind = [Example(e.id, f"Text: {i % 7}\nTopic:", e.completion, row=e.row) for i, e in enumerate(train)]
    item = Example("x", "Text: 100\nTopic:", " sports", row={"text": "ball"})
    guess = made("tf-idf", blind, plan()).score([item], "tf-idf").rows[0]["label_scores"]
    assert max(guess.values()) < math.log(0.5)


def test_tf_idf_is_the_same_every_time() -> None:
    found = [made("tf-idf", rows(30), plan()).score(rows(6, 100), "t").rows for _ in range(2)]
    assert found[0] == found[1]


def test_c_is_chosen_by_cross_validation_in_train() -> None:
    """Where half of the training labels are wrong at random, a stronger penalty is better than fitting them."""
    noisy = random.Random(0)
    train = [Example(e.id, e.prompt, noisy.choice([e.completion, *WORDS])) for e in rows(200)]
    assert made("tf-idf", train, plan()).description.endswith("C = 1 chosen by cross-validation in train")


@pytest.mark.parametrize("kept", [[0, 1], [0, 1, 2], [0, 1, 2, 3, 4, 6, 9], [0, 3, 6, 9, 12, 15, 1]])
def test_labels_in_few_rows_are_no_obstacle_to_choosing(kept: list[int]) -> None:
    train = [rows(1, i)[0] for i in kept]
    found: Any = made("tf-idf", train, plan())
    assert set(found.regression.model.classes_) == {row.completion for row in train}
    assert found.description.endswith("to choose on" if len(kept) == 2 else "chosen by cross-validation in train")


def test_of_many_rows_some_are_taken_to_choose_and_all_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression

    fitted, fit = list[int](), LogisticRegression.fit
    monkeypatch.setattr(predicted_labels, "MOST_ROWS_TO_CHOOSE", 50)
    monkeypatch.setattr(LogisticRegression, "fit", lambda self, x, y: [fitted.append(len(y)), fit(self, x, y)][1])
    made("tf-idf", rows(90), plan())
    assert (len(fitted), fitted[-1], set(fitted[:-1])) == (10, 90, {33, 34})


def test_a_label_without_training_rows_is_unlikely_but_not_impossible() -> None:
    how = plan(["accuracy", "loss"], task=HEAD, labels=["sports", "tech", "food", "art", "law"])
    items = [*rows(3, 100, bare=True), Example("a", "ball", "art"), Example("b", "ball", "war")]
    scores = made("tf-idf", rows(30, bare=True), how).score(items, "tf-idf")
    assert scores.rows[3]["log_likelihood"] == pytest.approx(-math.log(31 * 2))
    assert scores.rows[3]["metrics"]["loss"] == pytest.approx(math.log(31 * 2))
    assert math.fsum(map(math.exp, scores.rows[0]["label_scores"].values())) == pytest.approx(1)
    assert scores.rows[4]["unscored"] == "the reference 'war' is not among the labels"


def test_two_labels_give_the_probabilities_of_scikit_learn() -> None:
    train = [row for row in rows(60, bare=True) if row.completion != "food"]
    made_baseline: Any = made("tf-idf", train, plan(["loss"], task=HEAD, labels=["sports", "tech"]))
    items = [row for row in rows(12, 100, bare=True) if row.completion != "food"]
    features = made_baseline.features(items)
    stock = made_baseline.regression.model.predict_proba(features)
    for row, expected in zip(made_baseline.score(items, "tf-idf").rows, stock, strict=True):
        assert [math.exp(s) for s in row["label_scores"].values()] == pytest.approx(list(expected), rel=1e-4)


def test_of_pairs_the_baselines_see_how_the_texts_go_together() -> None:
    """Whether two texts are the same is nothing that either of them tells alone."""
    words = ["ball", "chip", "soup", "goal", "code", "bread", "team", "disk"]

    def pairs(count: int, start: int) -> list[Example]:
        drawn, found = random.Random(start), []
        for i in range(count):
            first = " ".join(drawn.sample(words, 3))
            second = first if i % 2 else " ".join(drawn.sample([w for w in words if w not in first.split()], 3))
            found.append(Example(str(i), f"{first}\n{second}", "same" if i % 2 else "other", Pair(first, second)))
        return found

    how, items = plan(task=HEAD, labels=["other", "same"]), pairs(40, 1)
    assert made("tf-idf", pairs(60, 0), how).score(items, "tf-idf").metrics["accuracy"] == 1
    model = tiny_models.classifier(["other", "same"])
    given = Given(model, byte_level(bos=False), pairs(60, 0), how, 0, 0, {})
    assert BASELINES.get("linear-probe").make(given).score(items, "probe").metrics["accuracy"] == 1


def test_probe_reads_the_mean_of_the_last_hidden_states() -> None:
    model, tokenizer = tiny_models.classifier(["sports", "tech", "food"]), tiny_models.tokenizer()
    found: Any = probe(plan(task=HEAD), model)
    items = rows(7, 100, bare=True)
    features = found.features(items, "features")
    for item, row in zip(items, features, strict=True):
        ids = Renderer(tokenizer, 128).head_tokens(item).ids
        states = model.bert(input_ids=model.dummy_inputs["input_ids"].new_tensor([ids])).last_hidden_state
        assert row == pytest.approx(states[0].mean(dim=0).tolist(), abs=1e-5)


def test_probe_gives_ordinary_scores_and_never_reads_the_head() -> None:
    how, items = plan(task=HEAD, rows_at_once=4), rows(9, 100, bare=True)
    model = tiny_models.classifier(["sports", "tech", "food"]).train()
    scores = probe(how, model).score(items, "probe")
    assert model.training
    assert scores.rows[0]["metrics"]["loss"] == pytest.approx(-scores.rows[0]["log_likelihood"])
    assert scores.metrics["accuracy"] > 0.5
    assert "chosen by cross-validation in train" in scores.info["made_with"]["baseline"]["description"]
    model.classifier.weight.data.zero_()
    assert probe(how, model).score(items, "probe").rows == scores.rows


def test_probe_of_an_adapted_model_with_its_adapter_off_is_that_of_the_base() -> None:
    how, items = plan(task=HEAD), rows(9, 100, bare=True)
    base = probe(how, tiny_models.classifier(["sports", "tech", "food"], "llama")).score(items, "probe")
    lora = LoraConfig(target_modules="all-linear", init_lora_weights=False, r=4, task_type="SEQ_CLS")
    adapted = get_peft_model(tiny_models.classifier(["sports", "tech", "food"], "llama"), lora).eval()
    assert probe(how, adapted).score(items, "probe").rows != base.rows
    with switched_off(adapted):
        assert probe(how, adapted).score(items, "probe").rows == base.rows


def test_a_baseline_is_made_from_no_other_rows_than_train() -> None:
    given = set(inspect.signature(Given).parameters)
    assert given == {"model", "tokenizer", "train", "plan", "shots", "seed", "made_with"}


@pytest.mark.parametrize("name", ["majority", "tf-idf", "linear-probe"])
def test_other_test_rows_change_no_answer(name: str) -> None:
    how, train = plan(task=HEAD), rows(30, bare=True)
    model = tiny_models.classifier(["sports", "tech", "food"]).double()
    found = made(name, train, how, model=model, tokenizer=tiny_models.tokenizer())
    items = rows(12, 100, bare=True)
    alone, among = found.score(items[:1], "alone").rows[0], found.score(items, "among").rows[0]
    assert alone["prediction"] == among["prediction"]
    assert alone.get("label_scores", {}) == pytest.approx(among.get("label_scores", {}), rel=1e-5)


def test_the_frame_of_prompts_is_their_template() -> None:
    frame = SharedWords.of([row.prompt for row in rows(9)])
    assert (frame.prefix, frame.suffix, frame.first_line) == ("Text: ", "\nTopic:", "Text:")
    assert frame.inside("Text: a new one\nTopic:") == "a new one"
    assert SharedWords.of(["rowing is fun", "rowdy crowds"]) == SharedWords("", ""), "a frame holds whole words"
    assert SharedWords.of(["same", "same"]) == SharedWords("", "")
    assert SharedWords.of(["ab ab", "ab ab ab"]).inside("ab ab ab") == "ab ab", "beginning and end do not overlap"


def from_file(name: str, read: Any) -> list[Example]:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with path.open(encoding="utf-8", newline="") as file:
        return [Example(f"{name} {i}", *parts) for i, parts in enumerate(read(file))]


def test_tf_idf_on_ten_intents_of_banking77() -> None:
    """It has 0.9975; the most frequent label 0.1."""

    def read(file: Any) -> Any:
        return ((f"Message: {r['text']}\nIntent:", f" {r['category']}") for r in csv.DictReader(file))

    everything, test = from_file("banking77_train.csv", read), from_file("banking77_test.csv", read)
    labels = sorted({row.completion for row in everything})[:10]
    train, test = ([row for row in some if row.completion in labels] for some in (everything, test))
    train = [row for i, row in enumerate(train) if i % 10]
    scores = made("tf-idf", train, plan(["accuracy"], labels=labels)).score(test, "tf-idf")
    assert scores.info["items"] == 400
    assert scores.metrics["accuracy"] > 0.985


def test_tf_idf_on_sst2() -> None:
    """It has accuracy 0.757 and loss 0.491; counts of words 0.739 and 0.543, TF-IDF of words alone 0.750 and 0.512."""

    def read(file: Any) -> Any:
        return (line.rstrip("\n").split("\t")[::-1] for line in file)

    everything, test = from_file("sst2_train.tsv", read), from_file("sst2_test.tsv", read)
    some = random.Random(0).sample(everything, 2000)
    how = plan(["accuracy", "loss"], task=HEAD, labels=["0", "1"])
    scores = made("tf-idf", some[:1800], how).score(test, "tf-idf")
    assert scores.metrics["accuracy"] > 0.752
    assert scores.metrics["loss"] < 0.505
