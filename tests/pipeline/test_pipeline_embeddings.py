"""Sentence models: rows of every kind learned, measured as retrieval or by scores, saved and read back by stock."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, BertTokenizerFast

import tiny_models
import tunelift
from tiny_tokenizers import byte_level
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Near
from tunelift.data.examples import make_examples
from tunelift.data.formats import Table
from tunelift.evaluation.nearest import Search
from tunelift.metrics import METRICS, Answer
from tunelift.model_facts.pooling import FLAGS, Pooling, read
from tunelift.models import natural_task, task_of
from tunelift.pipeline.methods import tried
from tunelift.tasks import TASKS
from tunelift.tasks.sentence_embedding import paired
from tunelift.training.run import check_settings

TASK = TASKS.get("sentence-embedding")
USUAL = ("Transformer", "Pooling", "Normalize")
WORDS = [f"w{number}" for number in range(60)]


def sentence_model(folder: Path, modules: tuple[str, ...] = USUAL, **more: Any) -> str:
    """Write a tiny model of words with the files of a sentence model; `more` goes into the pooling's config."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    sizes = tiny_models.SIZES | {"vocab_size": 65, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(0)
    made = AutoModel.from_config(AutoConfig.for_model("bert", **sizes))
    with torch.no_grad():  # so large that words matter
        made.embeddings.word_embeddings.weight.mul_(10)
    made.save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    kinds = [f"sentence_transformers.models.{kind}" if "." not in kind else kind for kind in modules]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(modules) if i)]
    listed = [{"idx": i, "name": str(i), "path": paths[i], "type": kind} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": false}')
    if "Pooling" in modules:
        (folder / "1_Pooling").mkdir()
        config = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True} | more
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return str(folder)


def texts(count: int, seed: int) -> list[dict[str, Any]]:
    """Return texts of three topics, each a few of a topic's twenty words."""
    draw, found = random.Random(seed), list[dict[str, Any]]()
    while len(found) < count:
        topic = len(found) % 3
        text = " ".join(draw.sample(WORDS[20 * topic : 20 * topic + 20], draw.randint(2, 6)))
        found.append({"text": text, "label": f"topic {topic}"})
    return found


def run(tmp_path: Path, model: str, train: list[Any], test: list[Any], **more: Any) -> tuple[dict[str, Any], Path]:
    for name, rows in (("train", train), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl"), "deduplicate": False}
    training = {"steps": 40, "learning_rate": 0.03, "batch_size": 12, "micro_batch_tokens": 100}
    training |= more.pop("how", {})
    made = tunelift.run(
        model=model, task="sentence-embedding", data=data, dtype="float32", train=training,
        output=str(tmp_path / "out"), **more,
    )  # fmt: skip
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert {proof["name"] for proof in manifest["proofs"]} > {"labels are the answers", "the loss is over the labels"}
    assert manifest["fast_paths"]["unpadded"] == "on"
    return made.to_dict(), tmp_path / "out"


READ_BACK = """
import importlib.util, json, sys, torch
from peft import AutoPeftModelForFeatureExtraction
from transformers import AutoModel, AutoTokenizer
folder, kind, said = sys.argv[1], sys.argv[2], json.load(sys.stdin)
load = AutoPeftModelForFeatureExtraction if kind == "adapter" else AutoModel
model, tokenizer = load.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
given = tokenizer(said, padding=True, truncation=True, max_length=24, return_tensors="pt")
with torch.no_grad():
    states = model(**given).last_hidden_state
mask = given["attention_mask"][..., None]
found = [((states * mask).sum(1) / mask.sum(1)).tolist()]
if importlib.util.find_spec("sentence_transformers"):
    from sentence_transformers import SentenceTransformer
    found.append(SentenceTransformer(folder, device="cpu").encode(said).tolist())
print(json.dumps(found))
"""


def read_back(folder: Path, said: list[str]) -> list[np.ndarray[Any, Any]]:
    """Return vectors of length 1 that another process makes of texts with a saved folder.

    By stock peft or transformers, and by sentence-transformers, where that is installed (an extra that CI lacks).
    """
    told = subprocess.run(
        [sys.executable, "-c", READ_BACK, str(folder), folder.name],
        input=json.dumps(said), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [np.array(vectors) for vectors in json.loads(told.stdout.splitlines()[-1])]
    return [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in found]


def test_texts_with_labels_are_learned_measured_and_read_back_by_stock(tmp_path: Path) -> None:
    model = sentence_model(tmp_path / "model")
    made, out = run(tmp_path, model, texts(90, 0), texts(30, 1))
    assert list(made["metrics"]) == ["ndcg@10", "mrr@10", "hit@1", "recall@10"]
    assert made["metrics"]["ndcg@10"]["tuned"] > made["metrics"]["ndcg@10"]["base"] + 0.08
    assert {path.name for path in (out / "baselines").iterdir()} == {"bm25", "tf-idf-cosine"}
    card = (out / "README.md").read_text()
    assert "pipeline_tag: sentence-similarity" in card
    assert "SentenceTransformer(FOLDER)" in card

    said = [row["text"] for row in texts(30, 1)]
    scored = [json.loads(line) for line in (out / "tuned" / "scores.jsonl").read_text().splitlines()]
    for vectors in read_back(out / "adapter", said):
        cosines = vectors @ vectors.T
        for i, row in enumerate(scored):
            order = [j for j in np.argsort(-cosines[i], kind="stable") if said[j] != said[i]]
            own = [at for at, j in enumerate(order, 1) if texts(30, 1)[j]["label"] == row["reference"]]
            assert row["relevant"] == len(own)
            apart = [abs(a - b) for a, b in zip(row["ranks"], own, strict=True)]
            assert sum(apart) <= 2  # two texts that are equally near may change places
            assert row["metrics"]["mrr@10"] == pytest.approx(1 / row["ranks"][0] if row["ranks"][0] <= 10 else 0)

    again = tunelift.load(model, adapter=out / "adapter", dtype="float32")
    scores = tunelift.evaluate(*again, data=str(tmp_path / "test.jsonl"), task="sentence-embedding")
    assert scores.metrics["ndcg@10"] == pytest.approx(made["metrics"]["ndcg@10"]["tuned"], rel=1e-4)


def test_scored_pairs_are_learned_by_their_order(tmp_path: Path) -> None:
    def pairs(count: int, seed: int) -> list[dict[str, Any]]:
        some = texts(count, seed)
        others = random.Random(seed).sample(texts(count, seed + 1), count)
        scores = [4.5 if a["label"] == b["label"] else 0.5 for a, b in zip(some, others, strict=True)]
        return [
            {"sentence1": a["text"], "sentence2": b["text"], "score": score}
            for a, b, score in zip(some, others, scores, strict=True)
        ]

    train, test = (random.Random(3).sample(pairs(count, seed), count) for count, seed in ((120, 0), (40, 7)))
    model, how = sentence_model(tmp_path / "model"), {"learning_rate": 0.002, "steps": 40}
    made, out = run(tmp_path, model, train, test, how=how, adapter={"method": "full"})
    assert list(made["metrics"]) == ["spearman", "pearson"]
    assert made["metrics"]["spearman"]["tuned"] > made["metrics"]["spearman"]["base"] + 0.1
    assert {"tf-idf", "tf-idf-cosine"} <= {path.name for path in (out / "baselines").iterdir()}
    rows = [json.loads(line) for line in (out / "tuned" / "scores.jsonl").read_text().splitlines()]
    said = [[pair["sentence1"], pair["sentence2"]] for pair in test]
    for vectors in read_back(out / "model", [text for two in said for text in two]):
        cosines = (vectors[::2] * vectors[1::2]).sum(axis=1)
        assert [float(row["prediction"]) for row in rows] == pytest.approx(cosines.tolist(), abs=1e-4)


def test_pairs_of_one_query_are_one_cluster_and_search_among_positives_and_negatives() -> None:
    rows = [
        {"query": "q", "positive": "a", "negative": "n", "hard_negative_2": ""},
        {"query": "q", "positive": "b", "negative": "a", "hard_negative_2": "m"},
        {"query": "r", "positive": "c", "negative": "", "hard_negative_2": None},
        {"query": "", "positive": "c", "negative": "", "hard_negative_2": ""},
    ]
    examples, empty = make_examples(Table("rows", rows, [1, 2, 3, 4]), DataSection(), TASK.reading)
    assert [example.cluster for example in examples] == ["q", "q", "r"]
    assert [example.wanted for example in examples] == [Near("a", ("n",)), Near("b", ("a", "m")), Near("c")]
    assert dict(empty) == {"an empty text of a pair": 1}
    alone, _ = make_examples(Table("rows", rows[1:3], [2, 3]), DataSection(), TASK.reading)
    assert [example.cluster for example in alone] == [None, None]
    search = Search.of(examples)
    assert search.texts == ["a", "n", "b", "m", "c"]
    assert search.own == [[0, 2], [0, 2], [4]]
    near = np.array([[0.9, 0.95, 0.2, 0.5, 0.5], [0.9, 0.95, 0.2, 0.5, 0.5], [0.0, 0.3, 0.3, 0.1, 0.3]])
    found = search.answers(range(3), lambda some: near[list(some)], 20.0)
    assert [(found[i].ranks, found[i].relevant, found[i].prediction) for i in range(3)] == [
        ([2, 5], 2, "n"),
        ([2, 5], 2, "n"),
        ([3], 1, "n"),
    ]  # fmt: skip  equally near texts stand before one's own
    answer = Answer("", "", ranks=(2, 5), relevant=2)
    gain = (1 / math.log2(3) + 1 / math.log2(6)) / (1 + 1 / math.log2(3))
    wanted = {"hit@1": 0, "hit@5": 1, "recall@1": 0, "recall@5": 1, "mrr@10": 0.5, "ndcg@10": gain}
    for name, value in wanted.items():
        score = METRICS.get(name).score
        assert score is not None
        assert score(answer) == pytest.approx(value)
        assert score(Answer("", "", ranks=(), relevant=3)) == 0


def test_a_text_with_a_label_gets_another_of_its_label() -> None:
    examples = [Example(str(i), f"text {i // 2}", f"label {i % 3}") for i in range(12)] + [Example("x", "alone", "own")]
    found = paired(examples)
    assert len(found) == 12
    labels = {(example.prompt, example.completion) for example in examples}
    for example in found:
        assert isinstance(example.wanted, Near)
        assert example.wanted.positive != example.prompt
        assert (example.wanted.positive, example.wanted.kind) in labels
    assert found == paired(examples)
    rows, report = TASK.rows(examples, byte_level(), 30, [])
    assert (len(rows), report.dropped_reasons) == (12, {"no other text has its label": 1})


@pytest.mark.parametrize("mode", FLAGS.values())
def test_padding_is_no_part_of_a_vector_and_every_way_is_sentence_transformers(mode: str) -> None:
    torch.manual_seed(0)
    states, mask = torch.randn(2, 5, 4), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    found = Pooling((mode,))(states, mask)
    assert torch.allclose(found[1:], Pooling((mode,))(states[1:, :3], mask[1:, :3]))
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="an extra that CI lacks")
    theirs = modules.Pooling(4, mode)({"token_embeddings": states, "attention_mask": mask})["sentence_embedding"]
    torch.testing.assert_close(found, theirs)
    both = Pooling((mode, "cls"), normalized=True)(states, mask)
    assert both.shape == (2, 8)
    assert both.norm(dim=1).tolist() == pytest.approx([1, 1])


def test_a_model_is_read_as_its_files_say_or_refused(tmp_path: Path) -> None:
    folder = Path(sentence_model(tmp_path / "model", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True))
    settings = {"prompts": {"query": "Query: "}, "default_prompt_name": "query", "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    found = read(folder)
    assert (found.modes, found.normalized, found.max_length, found.prompt) == (("cls",), True, 24, "Query: ")
    assert read(tmp_path) == Pooling()
    found.save(tmp_path / "copy", None)
    assert read(tmp_path / "copy") == found
    Pooling().save(tmp_path / "plain", AutoConfig.for_model("bert", hidden_size=32))
    assert read(tmp_path / "plain").modes == ("mean",)
    width = json.loads((tmp_path / "plain" / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"]
    assert width == 32  # without which sentence-transformers does not open the folder
    (folder / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "euclidean"}')
    with pytest.raises(InputError, match="compared by 'euclidean'"):
        read(folder)
    for name, modules, more, said in [
        ("dense", ("Transformer", "Pooling", "Dense"), {}, "names Dense, and what such a module computes"),
        ("code", ("Transformer", "my_code.Pooling"), {}, r"names my_code\.Pooling"),
        ("turned", ("Pooling", "Transformer"), {}, "are known in this order"),
        ("way", ("Transformer", "Pooling"), {"pooling_mode": "median"}, "pools by median"),
        ("prompts", ("Transformer", "Pooling"), {"include_prompt": False}, "leaves prompts out"),
    ]:
        with pytest.raises(InputError, match=said):
            tunelift.load(sentence_model(tmp_path / name, modules, **more), task="sentence-embedding", dtype="float32")
    escaping = Path(sentence_model(tmp_path / "escaping"))
    (escaping / "modules.json").write_text((escaping / "modules.json").read_text().replace("1_Pooling", "../model"))
    with pytest.raises(InputError, match="outside the folder"):
        read(escaping)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    name = sentence_model(tmp_path / "model")
    model, tokenizer = tunelift.load(name, task="sentence-embedding", dtype="float32")
    assert (task_of(model), natural_task(name).name) == (TASK, "sequence-classification")

    def evaluated(rows: list[dict[str, Any]], **more: Any) -> Any:
        return tunelift.evaluate(model, tokenizer, data=rows, **more)

    pair = {"anchor": "w1", "positive": "w2"}
    for rows, more, said in [
        ([pair], {"metrics": ["spearman"]}, "no score of a pair"),
        ([pair], {"metrics": ["accuracy"]}, "does not give accuracy"),
        ([pair | {"score": 1}], {"metrics": ["mrr@10"]}, "how their cosines go with the scores"),
        ([pair | {"score": "high"}], {}, "a number is expected"),
        ([pair | {"score": 1, "negative": "w3"}], {}, "either can be learned"),
        ([pair], {"completion": "positive"}, "writes no completion"),
        ([{"text": "w1", "label": "a"}, {"text": "w2", "label": "b"}], {}, "none has a label that another has"),
        ([{"text": "w1"}], {}, "not clear which"),
    ]:
        with pytest.raises(InputError, match=said):
            evaluated(rows, **more)
    with pytest.raises(InputError, match="All 2 test rows have the same number: spearman, pearson would be 0"):
        evaluated([pair | {"score": 1}, {"anchor": "w3", "positive": "w4", "score": 1.0}])
    with pytest.raises(InputError, match="have the score 1: there is no order"):
        tunelift.tune(model, tokenizer, data=[pair | {"score": 1}, {"anchor": "w3", "positive": "w4", "score": 1}])
    alike = (
        [{"text": f"w{i}", "label": "a"} for i in range(4)],
        [{"anchor": f"w{i}", "positive": "w9"} for i in range(4)],
    )
    for rows in alike:
        with pytest.raises(InputError, match="there is nothing to tell apart"):
            tunelift.tune(model, tokenizer, data=rows, task="sentence-embedding")
    with pytest.raises(InputError, match="no label stands in two rows"):
        tunelift.tune(model, tokenizer, data=[{"text": "w1", "label": "a"}, {"text": "w2", "label": "b"}])
    with pytest.raises(InputError, match="batch_size is 1"):
        check_settings(model, TASK, TrainSection(batch_size=1))


def test_methods_are_tried_on_it_and_those_of_virtual_tokens_refused(tmp_path: Path) -> None:
    section = ModelSection(name=sentence_model(tmp_path / "model"))
    found = {one.method: one for one in tried(section, "sentence-embedding", ["lora", "prompt-tuning"])}
    assert found["lora"].verdict == "right"
    assert "virtual tokens" in str(found["prompt-tuning"].reason)
