"""Questions about passages: read, cut into windows, learned, answered, saved and read back."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForQuestionAnswering, BertTokenizerFast

import tiny_models
import tunelift
from tiny_tokenizers import byte_level, knows_pairs
from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Pair, Scores, Span, Spans
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows
from tunelift.data.splits import load_splits
from tunelift.evaluation.baselines import suitable
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.baselines.span_regression import SpanRegression
from tunelift.evaluation.measures.spans import BestSpan
from tunelift.evaluation.plan import Plan
from tunelift.fast.targets import IGNORED
from tunelift.fast.undo import stock
from tunelift.fast.unpad import sped_up
from tunelift.metrics import resolve
from tunelift.tasks import TASKS
from tunelift.tasks.base import Learned
from tunelift.tasks.question_answering import asked_windows, positions

TASK = TASKS.get("question-answering")
SHARED = Path(__file__).parents[3] / "shared" / "data"
CPU = torch.device("cpu")
PASSAGE = "The cat sat. A dog barked at 3.5 cats."


def row(question: str, *answers: str, passage: str = PASSAGE, **more: Any) -> dict[str, Any]:
    starts = [passage.index(answer) for answer in answers]
    return {"context": passage, "question": question, "answers": {"text": [*answers], "answer_start": starts}, **more}


def examples(rows: Any, **settings: Any) -> list[Example]:
    section = TASK.reading.grouped(DataSection(**settings))
    return make_examples(read_rows(rows), section, TASK.reading)[0]


def nested(*passages: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {"data": [{"title": "t", "paragraphs": [{"context": c, "qas": qas} for c, qas in passages]}]}


def test_squads_own_files_and_flat_rows_say_the_same(tmp_path: Path) -> None:
    wanted = [{"text": "cat", "answer_start": 4}, {"text": "The cat", "answer_start": 0}]
    asked = [
        {"id": "a", "question": "Who sat?", "answers": wanted},
        {"id": "b", "question": "Who flew?", "answers": [], "is_impossible": True,
         "plausible_answers": [{"text": "dog", "answer_start": 15}]},
    ]  # fmt: skip
    (tmp_path / "squad.json").write_text(json.dumps(nested((PASSAGE, asked))))
    flat = [row("Who sat?", "cat", "The cat", id="a"), row("Who flew?", id="b")]
    lists = [{**one, "answers": two["answers"]} for one, two in zip(flat, asked, strict=True)]
    texts = [{**one, "answers": json.dumps(one["answers"])} for one in flat]  # as a csv file keeps them
    found = [examples(some) for some in (tmp_path / "squad.json", flat, lists, texts)]
    for some in found:
        assert [e.id for e in some] == ["a", "b"]
        assert [e.given for e in some] == [Pair("Who sat?", PASSAGE), Pair("Who flew?", PASSAGE)]
        assert [e.wanted for e in some] == [Spans((Span("cat", 4), Span("The cat", 0))), Spans(())]
        assert [e.references for e in some] == [("cat", "The cat"), ()]
        assert [e.completion for e in some] == ["cat", ""]
        assert len({e.cluster for e in some}) == 1
    other = [{"p": e["context"], "q": e["question"], "a": e["answers"]} for e in flat]
    assert [e.wanted for e in examples(other, text="p", prompt="q", label="a")] == [e.wanted for e in found[0]]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            {"text": ["dog"], "answer_start": [14]},
            "item 2, column \"answers\": the answer 'dog' is said to begin at 14",
        ),
        ({"text": ["dog"], "answer_start": [400]}, "begin at 400 of 38 characters, where '' stands"),
        ({"text": ["dog"], "answer_start": [-3]}, "begin at -3"),
        ({"text": ["bird"], "answer_start": [3]}, "It stands nowhere in the passage"),
        ({"text": ["dog"], "answer_start": [15, 2]}, "where each begins in the passage, are expected"),
        ({"text": ["dog"], "answer_start": [15.0]}, "are expected"),
        ({"text": [" "], "answer_start": [3]}, "an answer is empty"),
        ({"text": "dog"}, "are expected"),
        (["dog"], 'an answer without "text"'),
        (None, "are expected"),
    ],
)
def test_an_answer_that_is_no_part_of_its_passage_is_refused(tmp_path: Path, answers: Any, said: str) -> None:
    rows = [row("Who sat?", "cat"), {**row("Who barked?"), "answers": answers}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(InputError) as error:
        examples(tmp_path / "rows.json")
    assert said in str(error.value)
    assert "item 2" in str(error.value)


def test_other_rows_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(InputError, match="marked as impossible, and has an answer: 'cat'"):
        examples([row("Who sat?", "cat", is_impossible=True)])
    with pytest.raises(InputError, match=r"data\.text, data\.prompt must name that of"):
        examples([{"text": "a", "answers": []}])
    with pytest.raises(InputError, match=r"data\.completion makes a text"):
        examples([row("Who sat?", "cat")], completion="{answers}")


def test_questions_of_one_passage_stay_together(tmp_path: Path) -> None:
    rows = [row(f"Who is {i}?", "cat", passage=f"Here {i % 10} sat a cat.") for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    section = DataSection(train=str(tmp_path / "rows.jsonl"), test=0.3)
    found = load_splits(section, reading=TASK.reading)
    clusters = [{e.cluster for e in some} for some in (found.train, found.validation, found.test)]
    assert sum(map(len, clusters)) == len(set.union(*clusters)) == 10
    several = load_splits(DataSection(train=[row("a?", "cat", "The cat"), row("b?")], test=None, validation=None),
                          reading=TASK.reading, roles=("train",))  # fmt: skip
    assert "1 of 2 questions have no answer in their passage" in several.report.notes
    assert any("the best match counts" in note for note in several.report.notes)


@pytest.fixture
def asked(tiny_encoder: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a small run on passages in which the first word of the vocabulary is asked for."""
    folder, draw = Path(tiny_encoder["output"]).parent, random.Random(1)
    answer, *words = (folder / "vocab.txt").read_text().split()[4:]
    for name, count in (("train", 48), ("test", 24)):
        lines = []
        for _ in range(count):
            passage = draw.choices(words, k=draw.randint(3, 9))
            passage.insert(draw.randint(0, len(passage)), answer)
            lines.append(json.dumps(row(draw.choice(words), answer, passage=" ".join(passage))))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    data = {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "deduplicate": False}
    train = {"steps": 80, "learning_rate": 0.01}
    return tiny_encoder | {"data": data, "task": "question-answering", "train": train}


BY_STOCK = """
import json, sys, torch
from peft import AutoPeftModelForQuestionAnswering
from transformers import AutoTokenizer
torch.manual_seed(99)
model = AutoPeftModelForQuestionAnswering.from_pretrained(sys.argv[1]).eval().get_base_model()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
for question, passage in json.load(sys.stdin):
    with torch.no_grad():
        said = model(**tokenizer(question, passage, return_tensors="pt"))
    print(json.dumps([said.start_logits[0].tolist(), said.end_logits[0].tolist()]))
"""


def test_a_whole_run_that_stock_peft_reads_in_another_process(asked: dict[str, Any]) -> None:
    made, out = tunelift.run(**asked).to_dict(), Path(asked["output"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert {proof["name"] for proof in manifest["proofs"]} > {"labels are the answers", "the loss is over the labels"}
    assert made["metrics"].keys() == {"squad_f1", "squad_exact_match", "loss"}
    assert made["metrics"]["squad_exact_match"]["tuned"] > 0.9 > made["metrics"]["squad_exact_match"]["base"]
    assert (out / "baselines" / "span-regression" / "scores.jsonl").is_file()
    card = (out / "README.md").read_text()
    assert "pipeline_tag: question-answering" in card
    assert "AutoModelForQuestionAnswering" in card
    assert "num_labels" not in card
    assert "model.get_base_model()" in card

    rows = [json.loads(line) for line in (out / "tuned" / "scores.jsonl").read_text().splitlines()]
    pairs = [(e.given.first, e.given.second) for e in examples(asked["data"]["test"]) if isinstance(e.given, Pair)]
    told = subprocess.run(
        [sys.executable, "-c", BY_STOCK, str(out / "adapter")], input=json.dumps(pairs), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    tokenizer = BertTokenizerFast.from_pretrained(asked["model"])
    for line, (question, passage), scored in zip(told.stdout.splitlines(), pairs, rows, strict=True):
        starts, ends = (torch.tensor(side) for side in json.loads(line))
        begins = len(tokenizer(question)["input_ids"])  # the passage stands from here to the last token, which ends it
        words = passage.split()
        spans = [
            (float(starts[begins + i] + ends[begins + j]), i, j)
            for i in range(len(words))
            for j in range(i, len(words))
        ]
        _, first, last = max(spans)
        assert scored["prediction"] == " ".join(words[first : last + 1])

    again = tunelift.load(asked["model"], adapter=out / "adapter", dtype="float32")
    scores = tunelift.evaluate(*again, data=asked["data"]["test"], deduplicate=False)
    assert scores.metrics["squad_f1"] == pytest.approx(made["metrics"]["squad_f1"]["tuned"])
    assert scores.metrics["loss"] == pytest.approx(made["metrics"]["loss"]["tuned"], rel=1e-4)


@pytest.mark.parametrize(("method", "rate"), [("lora", 0.01), ("ia3", 0.05)])
def test_a_whole_run_on_questions_of_which_some_have_no_answer(asked: dict[str, Any], method: str, rate: float) -> None:
    folder, draw = Path(asked["output"]).parent, random.Random(2)
    answer, *words = (folder / "vocab.txt").read_text().split()[4:]
    for name, count in (("train", 96), ("test", 40)):
        lines = []
        for number in range(count):
            passage = draw.choices(words, k=draw.randint(5, 9))
            passage[1:2] = [answer] if number % 2 else []
            found = [answer] if number % 2 else []
            lines.append(json.dumps(row(draw.choice(words), *found, passage=" ".join(passage), kind=str(number % 2))))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    more = {"train": {"steps": 120, "learning_rate": rate}, "adapter": {"method": method}}
    made = tunelift.run(**asked | more | {"evaluate": {"slices": ["kind"]}}).to_dict()
    assert made["metrics"]["squad_exact_match"]["tuned"] > 0.9
    rows = [json.loads(line) for line in (Path(asked["output"]) / "tuned" / "scores.jsonl").read_text().splitlines()]
    assert sum(r["prediction"] == "" for r in rows) == pytest.approx(20, abs=3)
    assert all((r["none_over_span"] > 0) == (r["prediction"] == "") for r in rows)
    assert {r["reference"] for r in rows} == {"", answer}
    manifest = json.loads((Path(asked["output"]) / "manifest.json").read_text())
    assert all(proof["passed"] for proof in manifest["proofs"])
    adapter = Path(asked["output"]) / "adapter"
    compared = tunelift.evaluate(
        *tunelift.load(asked["model"], adapter=adapter, dtype="float32"), rows_of(folder / "test.jsonl")
    )
    assert compared.metrics["squad_f1"] == pytest.approx(made["metrics"]["squad_f1"]["tuned"])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def loaded(asked: dict[str, Any]) -> tuple[Any, Any]:
    model, tokenizer = tunelift.load(asked["model"], task="question-answering", dtype="float32")
    return model, tokenizer


def some_rows(
    asked: dict[str, Any], tokenizer: Any, count: int = 8, length: int = 100
) -> tuple[list[Example], list[Any]]:
    some = examples(asked["data"]["train"])[:count]
    return some, TASK.rows(some, tokenizer, length, [])[0]


def test_the_loss_is_that_of_stock_and_padding_is_no_place(asked: dict[str, Any], loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    assert type(model) is type(AutoModelForQuestionAnswering.from_config(model.config))
    _, rows = some_rows(asked, tokenizer)
    alone = [TASK.collate([one], 3, CPU) for one in rows]
    stocks = [
        float(model(**b.inputs, start_positions=b.labels[:, 0], end_positions=b.labels[:, 1]).loss) for b in alone
    ]
    batch, loss = TASK.collate(rows, 3, CPU), TASK.loss(model)[0]
    assert batch.inputs["token_type_ids"].any()
    assert batch.targets == 2 * len(rows)
    assert float(loss(batch)) / batch.targets == pytest.approx(sum(stocks) / len(stocks), rel=1e-5)
    for one, own in zip(alone, stocks, strict=True):
        assert float(loss(one)) / 2 == pytest.approx(own, rel=1e-5)
    # Stock's own loss counts padding among the places where an answer may begin.
    padded = float(model(**batch.inputs, start_positions=batch.labels[:, 0], end_positions=batch.labels[:, 1]).loss)
    assert padded > sum(stocks) / len(stocks) * 1.01


def test_an_ignored_position_trains_no_token(asked: dict[str, Any], loaded: tuple[Any, Any]) -> None:
    """In transformers it trains the first token."""
    model, tokenizer = loaded
    some, rows = some_rows(asked, tokenizer, 1)
    batch = TASK.collate(rows, 3, CPU)
    batch.labels[0, 1] = IGNORED
    as_first = torch.tensor([0])
    stock_loss = model(**batch.inputs, start_positions=batch.labels[:, 0], end_positions=batch.labels[:, 1]).loss
    assert stock_loss == model(**batch.inputs, start_positions=batch.labels[:, 0], end_positions=as_first).loss
    starts = -model(**batch.inputs).start_logits[0].log_softmax(dim=0)[batch.labels[0, 0]]
    assert float(TASK.loss(model)[0](batch)) == pytest.approx(float(starts), rel=1e-5)
    assert TASK.plain_loss(Learned(some[0], batch, False), model) == pytest.approx(float(starts), rel=1e-5)
    batch.labels[:] = IGNORED
    assert float(TASK.loss(model)[0](batch)) == TASK.plain_loss(Learned(some[0], batch, False), model) == 0


def test_positions_that_are_moved_are_not_the_answer(asked: dict[str, Any], loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    some = [*examples(asked["data"]["train"])[:4], *examples([row("which?", passage="ball match goal " * 20)])]
    for example in some:
        rows, _ = TASK.rows([example], tokenizer, 30, [])
        learned = Learned(example, TASK.collate(rows, 3, CPU), truncated=False)
        assert TASK.says_the_answer(learned, tokenizer, [])
        right = learned.batch.labels.clone()
        for wrong in (right + 1, right + torch.tensor([0, 1]), right - torch.tensor([1, 0]), torch.zeros_like(right)):
            if not torch.equal(wrong, right):
                learned.batch.labels.copy_(wrong)
                assert not TASK.says_the_answer(learned, tokenizer, [])
        learned.batch.labels.copy_(right)


def test_a_long_passage_is_learned_window_by_window(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    passage = "ball match goal " * 20 + "code"
    rows, report = TASK.rows(examples([row("chip", "code", passage=passage)]), tokenizer, 30, [])
    assert len(rows) > 3
    assert [r.labels[0] > 0 for r in rows] == [False] * (len(rows) - 1) + [True]
    assert all(r.labels == (0, 0) for r in rows[:-1])
    assert (report.dropped, report.tokens_in_loss) == (0, 2 * len(rows))
    assert report.notes == [f"1 passages are longer than 30 tokens, and make {len(rows)} windows"]
    wide = row("chip", " ".join(["match goal ball"] * 19), passage=passage)
    found = tunelift.evaluate(model, tokenizer, data=[wide, row("chip", "code", passage=passage)], max_length=30)
    assert [r.get("unscored") for r in found.rows] == ["no window holds its answer whole", None]
    with pytest.raises(InputError, match="No row is left to train on: no window holds its answer whole"):
        TASK.rows(examples([wide]), tokenizer, 30, [])
    with pytest.raises(InputError, match="the question leaves no room for its passage"):
        TASK.rows(examples([row("chip " * 40, "code", passage=passage)]), tokenizer, 30, [])


def test_another_answer_stands_in_for_a_first_one_that_no_window_holds(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    passage = "ball match goal " * 20 + "code"
    several = row("chip", "match goal ball " * 18 + "match", "code", passage=passage)
    (example,) = examples([several])
    rows, report = TASK.rows([example], tokenizer, 30, [])
    assert (report.dropped, [r.labels[0] > 0 for r in rows]) == (0, [False] * (len(rows) - 1) + [True])
    assert TASK.says_the_answer(Learned(example, TASK.collate(rows, 3, CPU), truncated=False), tokenizer, [])
    found = tunelift.evaluate(model, tokenizer, data=[several], max_length=30)
    assert "unscored" not in found.rows[0]


def brute(model: Any, measure: BestSpan, i: int) -> tuple[str, float]:
    """Return the best span of an item's windows, asked one by one, and its score over that of none."""
    best, none = (float("-inf"), ""), float("inf")
    given = measure.examples[i].given
    assert isinstance(given, Pair)
    for window in measure.windows[i]:
        types = {} if window.segments is None else {"token_type_ids": torch.tensor([window.segments])}
        said = model(input_ids=torch.tensor([window.ids]), **types)
        none = min(none, float(said.start_logits[0, 0] + said.end_logits[0, 0]))
        for first, begin in enumerate(window.places):
            for last, end in enumerate(window.places):
                if begin and end and first <= last < first + measure.plan.max_answer_tokens:
                    text = given.second[begin[0] : end[1]]
                    best = max(best, (float(said.start_logits[0, first] + said.end_logits[0, last]), text))
    return best[1], none - best[0]


@torch.no_grad()
@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_of_all_windows_is_the_answer_packed_or_not(
    asked: dict[str, Any], loaded: tuple[Any, Any], longest: int
) -> None:
    model, tokenizer = loaded
    with_none = [*examples(asked["data"]["test"])[:6], *examples([row("code", passage="ball match goal " * 20)])]
    plan = Plan(resolve(TASK.metrics([])), TASK, max_length=30, max_answer_tokens=longest)

    def answered() -> tuple[BestSpan, Any]:
        measure = BestSpan(model, tokenizer, with_none, plan, "test")
        return measure, measure.prepared()(range(len(with_none)), lambda _: None)

    with stock():
        measure, plain = answered()
        wanted = [brute(model, measure, i) for i in range(len(with_none))]
    for i, (text, over) in enumerate(wanted):
        assert plain[i].beside["none_over_span"] == pytest.approx(over, abs=1e-4)
        assert plain[i].prediction == text
        assert measure.row(i, plain[i])["prediction"] == ("" if over > 0 else text)
    with sped_up(model, "forward") as states:
        assert states["unpadded"] == "on"
        _, packed = answered()
    for i, found in plain.items():
        assert packed[i].prediction == found.prediction
        assert packed[i].log_likelihood == pytest.approx(found.log_likelihood, rel=1e-4)
    with_answer = BestSpan(model, tokenizer, with_none[:-1], plan, "test")
    found = with_answer.prepared()(range(6), lambda _: None)
    assert all(with_answer.row(i, one)["prediction"] == one.prediction != "" for i, one in found.items())
    assert not any("none_over_span" in with_answer.row(i, one) for i, one in found.items())
    with_answer.plan = replace(plan, threshold=-1e9)  # it was chosen where some questions have no answer
    del with_answer.none_from
    assert {with_answer.row(i, one)["prediction"] for i, one in found.items()} == {""}


@torch.no_grad()
def test_packed_windows_of_a_decoder_are_what_they_are_alone() -> None:
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(AutoConfig.for_model("llama", **tiny_models.SIZES)).eval()
    tokenizer = knows_pairs()
    some = examples([row("Who sat?", "cat"), row("Who barked?", "A dog"), row("What?", passage="a " * 40)])
    rows, _ = TASK.rows(some, tokenizer, 60, [])
    alone = sum(float(TASK.loss(model)[0](TASK.collate([one], 1, CPU))) for one in rows)
    with sped_up(model) as states:
        packed = float(TASK.loss(model)[0](TASK.collate(rows, 1, CPU)))
    assert states["unpadded"] == "on"
    assert packed == pytest.approx(alone, rel=1e-5)


def test_where_no_token_stands_for_none() -> None:
    tokenizer = byte_level(bos=False)
    some = examples([row("Who sat?", "cat", passage=PASSAGE * 5), row("Who flew?", passage=PASSAGE)])
    rows, report = TASK.rows(some, tokenizer, 60, [])
    assert report.dropped_reasons == {"it has no answer, and no token of the model stands for none": 1}
    assert all(IGNORED not in one.labels for one in rows)  # windows without the answer teach nothing
    windows = list(asked_windows(some, tokenizer, 60))
    wanted = [e.wanted for e in some if isinstance(e.wanted, Spans)]
    assert isinstance(found := positions(windows[0], wanted[0]), list)
    assert found.count((IGNORED, IGNORED)) == len(windows[0]) - len(rows) > 0
    assert positions(windows[1], wanted[1]) == "it has no answer, and no token of the model stands for none"


def test_the_baseline_finds_what_stands_beside_the_questions_words() -> None:
    names = ["Anna", "Bert", "Carl", "Dora", "Emil", "Fritz"]
    rows = []
    for i in range(60):
        one, two = names[i % 6], names[(i * 5 + 1) % 6]
        passage = f"In {1900 + i} the ship was built by {one}. The old house {i} was sold by {two} for money."
        rows += [
            row(f"Who built the ship of {i}?", one, passage=passage),
            row("When was it?", str(1900 + i), passage=passage),
        ]
    rows += [row(f"Which tiger swam to island {i}?", passage=r["context"]) for i, r in enumerate(rows[:40])]
    some = examples(rows)
    plan = Plan(resolve(TASK.metrics([])), TASK)
    assert suitable(plan, some, None) == ["span-regression"]
    made = SpanRegression(Given(None, None, some, plan, 4, 0, {}))
    scores = made.score(some, "test")
    assert scores.metrics["squad_f1"] > 0.8
    assert sum(r["prediction"] == "" for r in scores.rows[-40:]) > 25
    assert "loss" not in scores.metrics
    assert all("log_likelihood" not in r for r in scores.rows)


@pytest.mark.skipif(not (SHARED / "xquad_en.json").is_file(), reason="needs the shared data")
def test_real_questions_are_read_and_none_is_lost() -> None:
    found = examples(SHARED / "xquad_en.json")
    assert (len(found), len({e.cluster for e in found})) == (1190, 240)
    assert all(isinstance(e.given, Pair) and e.completion in e.given.second for e in found)


NO_BODY = {"num_decoder_layers": 2, "num_heads": 2, "d_model": 32, "d_kv": 16, "d_ff": 32, "decoder_start_token_id": 0}


@pytest.mark.parametrize(
    ("kind", "sizes", "whole"),
    [
        ("modernbert", {"cls_token_id": 0, "sep_token_id": 1}, {"classifier", "head.dense", "head.norm"}),
        ("t5", NO_BODY, {"qa_outputs"}),
        ("qwen3", {}, {"qa_outputs"}),
    ],
)
def test_heads_of_several_kinds_are_trained_and_saved_whole(
    kind: str, sizes: dict[str, Any], whole: set[str], tmp_path: Path
) -> None:
    """Of ModernBERT's two layers, and of T5, which has no body of its own, so that nothing tells what else is new."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **tiny_models.SIZES | sizes)
    model = AutoModelForQuestionAnswering.from_config(config).eval()
    rows = [row("who sat?", *["cat"][: number % 2], passage=f"the cat {number} sat.") for number in range(8)]
    tunelift.tune(model, knows_pairs(), rows, output=tmp_path / "out", steps=2, learning_rate=1e-2)
    saved = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    names = {name.removeprefix("base_model.model.").rpartition(".")[0] for name in saved if "lora_" not in name}
    assert names == whole
    assert not any("lora_" in name and part in name for name in saved for part in ("qa_outputs", "classifier"))


@pytest.fixture
def with_none(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the same run with questions besides, in SQuAD 2's layout, whose passage lacks the answer."""
    for name in ("train", "test"):
        file, said = Path(asked["data"][name]), list[dict[str, Any]]()
        for number, line in enumerate(file.read_text().splitlines()):
            one = json.loads(line)
            wanted, passage = one["answers"]["text"][0], one["context"]
            none = {"question": one["question"], "answers": [], "is_impossible": True}
            is_in = {"question": one["question"], "is_impossible": False}
            is_in["answers"] = [{"text": wanted, "answer_start": passage.index(wanted)}]
            without = " ".join(word for word in passage.split() if word != wanted) + f" {number}"
            for context, qa in ((passage, is_in), (without, none)):
                said.append({"context": context, "qas": [{**qa, "id": f"{number} {len(said)}"}]})
        document = {"version": "v2.0", "data": [{"title": "t", "paragraphs": said}]}
        (file.parent / f"{name}.json").write_text(json.dumps(document))
        asked["data"][name] = str(file.parent / f"{name}.json")
    asked["train"]["steps"] = 120
    return asked


def test_no_answer_is_given_from_a_lead_that_validation_chose(
    with_none: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made, out = tunelift.run(**with_none).to_dict(), Path(with_none["output"])
    lineage = json.loads((out / "adapter" / "tunelift.json").read_text())
    chosen: dict[str, float] = {}
    for side in ("base", "tuned"):
        scores = Scores.read(out / side)
        chosen[side] = scores.info["made_with"]["none_threshold"]
        for one in scores.rows:
            assert one["prediction"] == ("" if one["none_over_span"] > chosen[side] else one["best_span"])
            assert one["slices"]["answerable"] == ("HasAns" if one["reference"] else "NoAns")
    assert chosen["tuned"] == lineage["threshold"] != chosen["base"] != 0
    assert made["metrics"]["squad_f1"]["tuned"] > made["metrics"]["squad_f1"]["base"]
    assert made["slices"]["answerable"].keys() == {"HasAns", "NoAns"}
    report, card = (out / "report.md").read_text(), (out / "README.md").read_text()
    assert "NoAns" in report
    assert f"sum to more than {lineage['threshold']:.6g} above" in card
    said = capsys.readouterr().err
    assert said.count("no answer is given where none scores more than") == 2

    again = tunelift.load(with_none["model"], adapter=out / "adapter", dtype="float32")
    scores = tunelift.evaluate(*again, data=with_none["data"]["test"], deduplicate=False)
    assert [one["prediction"] for one in scores.rows] == [one["prediction"] for one in Scores.read(out / "tuned").rows]
    answered = [
        json.loads(line)
        for line in Path(with_none["data"]["test"]).with_suffix(".jsonl").read_text().split("\n")
        if line
    ]
    scores = tunelift.evaluate(*again, data=answered, deduplicate=False)  # where all have one, none may still be said
    assert scores.info["made_with"]["none_threshold"] == lineage["threshold"]
    assert all("none_over_span" in one and "slices" not in one for one in scores.rows)

    for wrong in (True, "1", [], 1e400):
        (out / "adapter" / "tunelift.json").write_text(json.dumps(lineage | {"threshold": wrong}))
        with pytest.raises(InputError, match="is no threshold of question-answering"):
            tunelift.load(with_none["model"], adapter=out / "adapter", dtype="float32")


def test_where_every_question_has_an_answer_there_is_no_threshold(asked: dict[str, Any]) -> None:
    asked["train"]["steps"] = 2
    tunelift.run(**asked)
    out = Path(asked["output"])
    assert "threshold" not in json.loads((out / "adapter" / "tunelift.json").read_text())
    assert Scores.read(out / "tuned").info["made_with"]["none_threshold"] is None
    assert "No answer is given" not in (out / "README.md").read_text()
