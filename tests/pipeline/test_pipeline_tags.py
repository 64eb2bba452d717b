"""Tags of words: read, aligned with tokens, learned, measured, saved and read back."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForTokenClassification
from transformers import AutoModelForTokenClassification

import tiny_models
import tunelift
from tiny_tokenizers import byte_level
from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Scores, Tags, Words
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows
from tunelift.data.splits import load_splits
from tunelift.evaluation.baselines import BASELINES, Given, suitable
from tunelift.evaluation.plan import Plan
from tunelift.metrics import METRICS, Answer, aggregate, resolve, score_answer
from tunelift.metrics.tags import entities
from tunelift.tasks import TASKS
from tunelift.tasks.base import Learned
from tunelift.tasks.token_classification import words_to_tokens

TASK = TASKS.get("token-classification")
LABELS = ["B-animal", "I-animal", "O"]
SHARED = Path(__file__).parents[3] / "shared" / "data"


def example(*pairs: str, name: str = "1") -> Example:
    words, tags = zip(*(pair.rsplit("/", 1) for pair in pairs), strict=True)
    return Example(name, " ".join(words), " ".join(tags), Words(words), Tags(tags))


def examples(rows: Any, **settings: Any) -> list[Example]:
    return make_examples(read_rows(rows), DataSection(**settings), TASK.reading)[0]


@pytest.mark.parametrize(
    "names", [("tokens", "ner_tags"), ("tokens", "tags"), ("words", "pos_tags"), ("tokens", "labels")]
)
def test_columns_are_known_by_their_usual_names(names: tuple[str, str]) -> None:
    (found,) = examples([{names[0]: ["the", "cat"], names[1]: ["O", "B-animal"]}])
    assert (found.prompt, found.completion) == ("the cat", "O B-animal")
    assert (found.given, found.wanted) == (Words(("the", "cat")), Tags(("O", "B-animal")))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "row 1: 2 words"),
        ({"tokens": ["a"], "tags": ["two words"]}, "row 1: 'two words' is no tag"),
        ({"tokens": "a b", "tags": ["O", "O"]}, 'row 1, column "tokens": a list is expected'),
        ({"text": "a b", "label": "O O"}, "data.text, data.label must name that of words or tags"),
    ],
)
def test_rows_that_do_not_say_a_tag_for_each_word_are_refused(row: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        examples([row])
    assert said in str(error.value)


def test_a_file_of_a_token_and_its_tag_on_each_line(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("-DOCSTART- O\n\nthe O\ncat B-animal\n\n\nsat O\n")
    table = read_rows(tmp_path / "a.conll")
    assert [table.where(i).rpartition(", ")[2] for i in range(2)] == ["line 3", "line 7"]
    assert [e.completion for e in examples(tmp_path / "a.conll")] == ["O B-animal", "O"]
    (tmp_path / "b.conll").write_text("the O\ncat\n")
    with pytest.raises(InputError, match="line 2: 1 columns, where 2 are expected"):
        examples(tmp_path / "b.conll")


@pytest.mark.parametrize("tokenizer", [tiny_models.tokenizer(), byte_level(bos=False)], ids=["tiny", "byte-level"])
def test_a_word_is_read_at_its_first_token(tokenizer: Any) -> None:
    given = example("naïve/O", "cat/B-animal", "☕/O", "mat/O")
    tokens, firsts = words_to_tokens(given, tokenizer, 1000)
    ends = [*firsts[1:], len(tokens.ids)]
    assert [i for i, kept in enumerate(tokens.in_loss) if kept] == firsts
    said = [
        tokenizer.decode(tokens.ids[a:b], skip_special_tokens=True).strip() for a, b in zip(firsts, ends, strict=True)
    ]
    assert said == ["naïve", "cat", "☕", "mat"]
    rows, report = TASK.rows([given], tokenizer, 1000, LABELS)
    row = Learned(given, TASK.collate(rows, 0, torch.device("cpu")), truncated=False)
    assert (report.tokens_in_loss, row.targets) == (4, 4)
    assert TASK.says_the_answer(row, tokenizer, LABELS)
    row.batch.labels[0, firsts[0]] = 0
    assert not TASK.says_the_answer(row, tokenizer, LABELS)
    for length in range(firsts[1] + 1, len(tokens.ids)):  # a row that was cut, its tags right and then moved
        (cut,), report = TASK.rows([given], tokenizer, length, LABELS)
        row = Learned(given, TASK.collate([cut], 0, torch.device("cpu")), truncated=report.truncated > 0)
        assert TASK.says_the_answer(row, tokenizer, LABELS)
        row.batch.labels.copy_(row.batch.labels.roll(1, dims=1))
        assert not TASK.says_the_answer(row, tokenizer, LABELS)
    with pytest.raises(InputError, match="tags that the model's head has not: B-animal"):
        TASK.rows([given], tokenizer, 1000, ["O"])


def test_entities_are_those_of_seqeval() -> None:
    """By seqeval 1.2.2: get_entities of the same tags."""
    assert entities(["B-a", "I-a", "O", "I-b", "I-b", "B-b"]) == [("a", 0, 1), ("b", 3, 4), ("b", 5, 5)]
    assert entities(["I-a", "I-b", "B-b", "E-b", "S-a", "O"]) == [("a", 0, 0), ("b", 1, 1), ("b", 2, 3), ("a", 4, 4)]
    assert entities(["O", "O"]) == []


def test_values_over_a_set_equal_the_counts_written_out() -> None:
    draw = random.Random(0)
    tags = ["O", "B-a", "I-a", "B-b"]
    rows, right, words, found, both = [], 0, 0, 0, 0
    metrics = [METRICS.get("seqeval_f1"), METRICS.get("token_accuracy")]
    for _ in range(50):
        said, wanted = ([draw.choice(tags) for _ in range(7)] for _ in range(2))
        rows.append(score_answer(Answer(" ".join(said), " ".join(wanted)), metrics))
        right, words = right + sum(a == b for a, b in zip(said, wanted, strict=True)), words + 7
        found += len(set(entities(said)) & set(entities(wanted)))
        both += len(entities(said)) + len(entities(wanted))
    assert aggregate(metrics[0], rows) == pytest.approx(2 * found / both)
    assert aggregate(metrics[1], rows) == pytest.approx(right / words)


@pytest.fixture
def tagged(tiny_encoder: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a small run on words, of which those that stand behind "the" are animals."""
    folder, draw = Path(tiny_encoder["output"]).parent, random.Random(1)
    vocabulary = (folder / "vocab.txt").read_text().split()[4:]
    for name, count in (("train", 40), ("test", 20)):
        lines = []
        for _ in range(count):
            words = draw.choices(vocabulary, k=draw.randint(3, 9))
            tags = ["B-animal" if word < "m" else "O" for word in words]
            lines.append(json.dumps({"tokens": words, "ner_tags": tags}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    data = {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")}
    return tiny_encoder | {"data": data, "task": "token-classification", "train": {"steps": 20, "learning_rate": 0.05}}


@pytest.mark.parametrize("method", ["head", "full"])
def test_both_ends_learn_tags(tagged: dict[str, Any], method: str) -> None:
    made, out = tunelift.run(**tagged, adapter={"method": method}).to_dict(), Path(tagged["output"])
    assert all(proof["passed"] for proof in json.loads((out / "manifest.json").read_text())["proofs"])
    made_in = out / ("model" if method == "full" else "adapter")
    model, tokenizer = tunelift.load(tagged["model"], adapter=made_in, dtype="float32")
    scores = tunelift.evaluate(model, tokenizer, data=tagged["data"]["test"])
    assert scores.metrics == pytest.approx({n: entry["tuned"] for n, entry in made["metrics"].items()}, rel=1e-4)


def test_a_whole_run(tagged: dict[str, Any]) -> None:
    made, out = tunelift.run(**tagged).to_dict(), Path(tagged["output"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert {proof["name"] for proof in manifest["proofs"]} > {"labels are the answers", "the loss is over the labels"}
    assert made["metrics"].keys() == {"seqeval_f1", "token_accuracy", "loss"}
    assert made["metrics"]["token_accuracy"]["tuned"] > made["metrics"]["token_accuracy"]["base"]
    card = (out / "adapter" / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "AutoModelForTokenClassification" in card
    assert "the base model with a head that was not trained" in (out / "report.md").read_text()
    assert made["baselines"].keys() == {"word-majority", "word-regression"}
    for side in ("base", "tuned"):
        for row in Scores.read(out / side).rows:
            likely = row["entity_probabilities"]
            assert len(likely) == len(entities(row["prediction"].split()))
            assert all(0 < p <= 1 for p in likely)
    assert made["calibration"]["of"] == "entities"
    assert (out / "tuned" / "calibration" / "scores.jsonl").is_file()

    stock = AutoPeftModelForTokenClassification.from_pretrained(out / "adapter", num_labels=2).eval()
    rows = [json.loads(line) for line in (out / "tuned" / "scores.jsonl").read_text().splitlines()]
    labels = json.loads((out / "adapter" / "tunelift.json").read_text())["labels"]
    _, tokenizer = tunelift.load(tagged["model"], task="token-classification", labels=labels, dtype="float32")
    for row in rows[:5]:
        said = stock(**tokenizer(row["input"], return_tensors="pt")).logits[0, 1:-1].argmax(dim=-1)
        assert row["prediction"].split() == [labels[int(best)] for best in said]  # each word is one token here
    again = tunelift.load(tagged["model"], adapter=out / "adapter", dtype="float32")
    with pytest.raises(InputError, match="was made for token-classification, and the task is sequence-classification"):
        tunelift.load(tagged["model"], adapter=out / "adapter", dtype="float32", task="sequence-classification")
    scores = tunelift.evaluate(*again, data=tagged["data"]["test"])
    assert scores.metrics["seqeval_f1"] == pytest.approx(made["metrics"]["seqeval_f1"]["tuned"])


def test_the_loss_is_that_of_stock_and_padding_changes_nothing(tagged: dict[str, Any]) -> None:
    model, tokenizer = tunelift.load(tagged["model"], task="token-classification", labels=LABELS, dtype="float32")
    assert type(model) is type(AutoModelForTokenClassification.from_config(model.config))
    some = [e for e in examples(tagged["data"]["train"]) if set(e.completion.split()) <= set(LABELS)][:6]
    rows, _ = TASK.rows(some, tokenizer, 100, LABELS)
    batch = TASK.collate(rows, 3, torch.device("cpu"))
    ours = float(TASK.loss(model)[0](batch))
    assert ours == pytest.approx(float(model(**batch.inputs, labels=batch.labels).loss) * batch.targets, rel=1e-5)
    alone = sum(float(TASK.loss(model)[0](TASK.collate([row], 3, torch.device("cpu")))) for row in rows)
    assert ours == pytest.approx(alone, rel=1e-5)


def test_items_that_cannot_be_scored_say_why(tagged: dict[str, Any]) -> None:
    model, tokenizer = tunelift.load(tagged["model"], task="token-classification", labels=LABELS, dtype="float32")
    word = (Path(tagged["output"]).parent / "vocab.txt").read_text().split()[5]
    rows = [([word], ["O"]), ([word], ["B-plant"]), ([word, "\u200b"], ["O", "O"]), ([word] * 600, ["O"] * 600)]
    data = [{"tokens": words, "tags": tags} for words, tags in rows]
    found = tunelift.evaluate(model, tokenizer, data=data, deduplicate=False).rows
    assert [row.get("unscored") for row in found] == [
        None, "the tag 'B-plant' is not among the labels", "a word of it has no token", "longer than the context",
    ]  # fmt: skip


@pytest.mark.skipif(not (SHARED / "wnut17_dev.conll").is_file(), reason="needs the shared data")
def test_real_tweets_are_read() -> None:
    found = examples(SHARED / "wnut17_dev.conll")
    assert len(found) == 1009
    assert "B-location" in TASK.labels_in(found)
    assert TASK.metrics(found) == ["seqeval_f1", "token_accuracy", "loss"]


def test_baselines_know_words_their_letters_and_their_neighbours() -> None:
    train = [
        example("in/O", f"{city}/B-place", "with/O", f"{who}/B-person", name=str(i))
        for i, (city, who) in enumerate([("Paris", "Ann"), ("Rome", "Bob"), ("Oslo", "Cy"), ("Bern", "Dee")] * 3)
    ]
    test = [
        example("in/O", "Lima/B-place", "with/O", "Ann/B-person"),
        example("with/O", "Eve/B-person", "Rome/B-place"),
    ]
    plan = Plan(resolve(TASK.metrics(train)), TASK, labels=["B-person", "B-place", "O"])
    assert suitable(plan, train, None) == ["word-majority", "word-regression"]
    given = Given(None, None, train, plan, 4, 0, {})
    known, read = (BASELINES.get(name).make(given).score(test, "test") for name in suitable(plan, train, None))
    assert [row["prediction"] for row in known.rows] == ["O O O B-person", "O O B-place"]
    assert read.rows[0]["prediction"] == "O B-place O B-person"
    assert read.rows[1]["prediction"].split()[1] == "B-person"
    assert known.metrics.keys() == read.metrics.keys() == {"seqeval_f1", "token_accuracy"}
    assert [row["input"] for row in known.rows] == [e.prompt for e in test]


def test_the_scheme_of_the_tags_is_named(tmp_path: Path) -> None:
    found = {}
    for name, tags in {
        "IOB2": "B-a I-a O B-b", "IOB1, or IOB2 with mistakes": "I-a B-a O", "IO": "I-a O", "IOBES": "B-a E-a S-b",
        "BILOU": "B-a L-a U-b", None: "N V",
    }.items():  # fmt: skip
        words = [f"w{i}" for i, _ in enumerate(tags.split())]
        rows = [{"tokens": words, "tags": tags.split()}]
        section = DataSection(train=rows, test=None, validation=None)
        notes = load_splits(section, reading=TASK.reading, roles=("train",)).report.notes
        found[name] = next((note for note in notes if "the tags mark entities" in note), None)
    assert found.pop(None) is None
    assert found.pop("BILOU") == (
        "the tags mark entities by BILOU: two of one type side by side are read as one, as seqeval does by default"
    )
    assert found == {name: f"the tags mark entities by {name}" for name in found}


def test_strict_entities_are_for_iob2_alone(tagged: dict[str, Any]) -> None:
    labels = ["O", "B-animal", "E-animal"]
    model, tokenizer = tunelift.load(tagged["model"], task="token-classification", labels=labels, dtype="float32")
    with pytest.raises(InputError, match="reads entities by IOB2, and the tags have the prefixes of another scheme"):
        tunelift.evaluate(model, tokenizer, data=tagged["data"]["test"], metrics=["seqeval_strict_f1"])
