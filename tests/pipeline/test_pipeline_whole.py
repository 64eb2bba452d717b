"""The two ends that methods are compared with: all weights of the model trained, or its head alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import tiny_models
import tunelift
from small_rows import write_rows
from tunelift.adapters.build import check_keys
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.data.splits import load_splits
from tunelift.model_facts.anatomy import pad_id
from tunelift.pipeline import stages
from tunelift.pipeline.generating import generate_stage
from tunelift.pipeline.proofs import likelihoods, rows_to_prove_on
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS
from tunelift.training.run import train
from tunelift.training.state import Footprint, check_memory

IDS = [5, 6, 7, 8, 9, 10, 11]
STOCK = """
import sys, torch, transformers
model = getattr(transformers, sys.argv[1]).from_pretrained(sys.argv[2]).eval()
assert type(model).__module__.startswith("transformers.models"), type(model)
with torch.no_grad():
    print(model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10, 11]])).logits.flatten().tolist())
"""


def by_stock(auto: str, folder: Path) -> list[float]:
    """Return the logits of what stock transformers loads in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", STOCK, auto, str(folder)], capture_output=True, text=True, check=True, timeout=120
    )
    return [float(value) for value in done.stdout.strip().strip("[]").split(",")]


@torch.no_grad()
def logits(model: Any) -> list[float]:
    found: list[float] = model(input_ids=torch.tensor([IDS])).logits.flatten().tolist()
    return found


def manifest(out: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(out) / "manifest.json").read_text())
    return found


@pytest.mark.parametrize(
    ("kind", "auto"), [("tiny", "AutoModelForCausalLM"), ("tiny_encoder", "AutoModelForSequenceClassification")]
)
def test_a_model_trained_whole_is_stock_in_a_new_process(
    kind: str, auto: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    keywords = request.getfixturevalue(kind)
    comparison, out = tunelift.run(**keywords, adapter={"method": "full"}).to_dict(), Path(keywords["output"])
    noted = manifest(out)
    assert all(proof["passed"] for proof in noted["proofs"])
    assert {"model saved", "model names its base", "model on disk equals memory", "training acts"} <= {
        proof["name"] for proof in noted["proofs"]
    }
    assert "base unchanged by training" in {proof["name"] for proof in noted["proofs"]}
    assert noted["adapter"]["trainable"] == noted["adapter"]["total"]
    assert not (out / "adapter").exists()

    model, tokenizer = tunelift.load(keywords["model"], adapter=out / "model", dtype="float32")
    assert by_stock(auto, out / "model") == pytest.approx(logits(model), abs=1e-5)
    scores = tunelift.evaluate(model, tokenizer, data=keywords["data"]["test"])
    tuned = {name: entry["tuned"] for name, entry in comparison["metrics"].items()}
    assert scores.metrics == pytest.approx(tuned, rel=1e-5)
    # It is a model too, which needs no base.
    as_model = from_keywords(
        "evaluate",
        model=str(out / "model"),
        data=keywords["data"]["test"],
        output=str(tmp_path / "as"),
        dtype="float32",
    )
    assert stages.evaluate_stage(as_model).metrics == pytest.approx(tuned, rel=1e-5)


def test_a_model_trained_whole_is_compared_generated_with_and_reported(tiny: dict[str, Any], tmp_path: Path) -> None:
    out = Path(tiny["output"])
    comparison = tunelift.run(**tiny, adapter={"method": "full"}).to_dict()
    config, folder = stages.from_run_folder(out)
    assert folder == out / "model"
    answers = generate_stage(config, str(folder), ["ball 1"])
    (answer,) = generate_stage(from_keywords("evaluate", model=tiny["model"], dtype="float32"), None, ["ball 1"])
    assert answers[0]["base"] == answer["base"]
    (alone,) = generate_stage(from_keywords("evaluate", model=str(folder), dtype="float32"), None, ["ball 1"])
    assert answers[0]["tuned"] == alone["base"]

    given = from_keywords("evaluate", data=tiny["data"]["test"], output=str(tmp_path / "compared"), dtype="float32")
    compared = stages.compare_adapter(given, str(folder)).to_dict()
    for name in ("accuracy", "loss"):
        own, again = comparison["metrics"][name], compared["metrics"][name]
        assert (again["base"], again["tuned"]) == pytest.approx((own["base"], own["tuned"]), rel=1e-5)

    for text in ((tmp_path / "compared" / name).read_text() for name in ("README.md", "report.md")):
        assert "LoRA" not in text and '"adapter"' not in text
    assert '"FOLDER_OF_THE_MODEL"' in (tmp_path / "compared" / "README.md").read_text()
    assert stages.compare_adapter(given, str(out)).to_dict()["metrics"] == compared["metrics"], "a run is its folder"

    card = (folder / "README.md").read_text()
    assert "`model`, all of its weights fine-tuned." in card
    assert 'AutoModelForCausalLM.from_pretrained("model")' in card
    assert "library_name: transformers" in card
    assert "adapter" not in card
    assert "tuned with full fine-tuning" in (out / "report.html").read_text()
    assert stages.examined_adapter(str(folder), tiny["model"]) == ()


def test_what_is_loaded_as_tuned_must_be_of_the_base(tiny: dict[str, Any], tmp_path: Path) -> None:
    tunelift.run(**tiny, adapter={"method": "full"})
    other = tiny_models.causal("llama", seed=1)
    other.save_pretrained(tmp_path / "other")
    tiny_models.tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="was made on"):
        stages.examined_adapter(str(Path(tiny["output"]) / "model"), str(tmp_path / "other"))
    stages.examined_adapter(str(tmp_path / "other"), tiny["model"])  # somebody else's: nothing says what it was made of
    tiny_models.causal("gpt2").save_pretrained(tmp_path / "another")
    tiny_models.tokenizer().save_pretrained(tmp_path / "another")
    with pytest.raises(InputError, match="is a gpt2, and the base a llama"):
        stages.examined_adapter(str(tmp_path / "another"), tiny["model"])


def session_of(folder: Path, model: Any, task: str, labels: tuple[str, ...] = ()) -> Session:
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return Session.open(ModelSection(name=str(folder), dtype="float32"), TASKS.get(task), labels)


MODELS = {
    "untied": lambda: tiny_models.causal("llama", tie_word_embeddings=False),
    "tied": lambda: tiny_models.causal("gemma3_text", tie_word_embeddings=True),
    "conv1d": lambda: tiny_models.causal("gpt2", **tiny_models.NO_DROPOUT),
    "classifier": lambda: tiny_models.classifier(["sports", "tech"], **tiny_models.NO_DROPOUT),
}


@pytest.mark.parametrize("kind", MODELS)
def test_three_steps_are_those_of_plain_torch(kind: str, tmp_path: Path) -> None:
    """Fast paths that count on frozen weights have no part in it: loss by loss, and in the weights at the end."""
    task = TASKS.get("sequence-classification" if kind == "classifier" else "causal-lm")
    labels = ("sports", "tech") if kind == "classifier" else ()
    session = session_of(tmp_path / "model", MODELS[kind](), task.name, labels)
    source = write_rows(tmp_path / "train.csv", 24)
    rows = load_splits(DataSection(train=str(source)), reading=task.reading, roles=("train",)).train
    settings = TrainSection(steps=3, batch_size=24, learning_rate=3e-3, schedule="constant", warmup=0.0, epochs=9)
    tied = kind == "tied"
    session.attach({"method": "full"}, 0)
    losses = list[float]()

    def listener(event: str, **figures: Any) -> None:
        if event == "train":
            losses.append(figures["loss"])

    done = train(
        session.model, session.tokenizer, task, {"train": rows}, settings, labels=session.labels, listeners=[listener]
    )
    assert done.fast_paths["frozen_products"].startswith("off")

    plain = (AutoModelForSequenceClassification if labels else AutoModelForCausalLM).from_pretrained(tmp_path / "model")
    rendered, _ = task.rows(rows, session.tokenizer, 128, session.labels)
    batch = task.collate(rendered, pad_id(plain, session.tokenizer), torch.device("cpu"))
    optimiser = torch.optim.AdamW(plain.parameters(), lr=3e-3, weight_decay=0.0)
    plain.train()
    expected = []
    for _ in range(3):
        found = plain(**batch.inputs).logits
        if labels:
            loss = nn.functional.cross_entropy(found, batch.labels.flatten())
        else:
            loss = nn.functional.cross_entropy(found[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimiser.step()
        expected.append(float(loss))
    assert losses == pytest.approx(expected, rel=1e-5)
    assert expected[-1] < expected[0]
    own = dict(session.model.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.dim() > 1:  # the gradient by a bias of keys is zero but for rounding, of which AdamW makes a step
            assert float((own[name] - parameter).norm()) <= 1e-4 * float(parameter.norm()), name
    head, embedding = session.model.get_output_embeddings(), session.model.get_input_embeddings()
    assert (head is not None and head.weight is embedding.weight) == (tied or kind == "conv1d")


@pytest.mark.parametrize("loaded", [True, False])
def test_the_base_answers_as_before(tiny: dict[str, Any], tmp_path: Path, loaded: bool) -> None:
    """From its files again, and from a copy where a model was given in memory."""
    task = TASKS.get("causal-lm")
    session = session_of(tmp_path / "again", tiny_models.causal("llama"), task.name)
    if not loaded:
        session = Session.of(session.model, session.tokenizer, task)
    rows = load_splits(DataSection(train=tiny["data"]["train"]), reading=task.reading, roles=("train",)).train
    before = logits(session.model)
    session.attach({"method": "full"}, 0)
    train(session.model, session.tokenizer, task, {"train": rows}, TrainSection(steps=2, learning_rate=0.01))
    assert logits(session.model) != before
    tuned = session.model
    with session.base():
        assert logits(session.model) == before
        assert session.made_with()["adapter"] is None
    assert session.model is tuned
    assert session.made_with()["adapter"] == {"source": "in memory"}
    some = rows_to_prove_on(rows)
    now = likelihoods(session, some, 128)
    with session.base():
        assert likelihoods(session, some, 128) != now


def test_a_model_in_memory_is_trained_whole(tiny: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = tunelift.load(tiny["model"], dtype="float32")
    out = tmp_path / "mine"
    tuned = tunelift.tune(
        model, tokenizer, tiny["data"]["train"], adapter={"method": "full"}, output=out, steps=2, learning_rate=0.01
    )
    assert tuned is model
    assert by_stock("AutoModelForCausalLM", out / "model") == pytest.approx(logits(model), abs=1e-5)


def test_the_head_alone_is_trained(tiny_encoder: dict[str, Any]) -> None:
    comparison, out = tunelift.run(**tiny_encoder, adapter={"method": "head"}).to_dict(), Path(tiny_encoder["output"])
    assert all(proof["passed"] for proof in manifest(out)["proofs"])
    saved = load_file(out / "adapter" / "adapter_model.safetensors")
    assert {name.removeprefix("base_model.model.") for name in saved} == {"classifier.weight", "classifier.bias"}
    assert manifest(out)["adapter"]["trainable"] == sum(tensor.numel() for tensor in saved.values())
    sides = [[json.loads(line) for line in (out / side / "scores.jsonl").open()] for side in ("base", "tuned")]
    assert all(a["log_likelihood"] != b["log_likelihood"] for a, b in zip(*sides, strict=True))
    model, tokenizer = tunelift.load(tiny_encoder["model"], adapter=out / "adapter", dtype="float32")
    scores = tunelift.evaluate(model, tokenizer, data=tiny_encoder["data"]["test"])
    assert scores.metrics == pytest.approx({n: e["tuned"] for n, e in comparison["metrics"].items()}, rel=1e-5)
    assert "tuned with head-only training" in (out / "report.html").read_text()
    assert ", trained alone and saved as a LoRA on no layer" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"method": "head"}, "head-only training is for tasks with a head; that of causal-lm is the whole vocabulary"),
        ({"method": "head", "r": 8}, "adapter.r: head-only training has no such key. It takes: modules_to_save."),
        ({"method": "full", "r": 8}, "adapter.r: full fine-tuning has no such key."),
    ],
)
def test_what_neither_end_can_do_is_said_before(tiny: dict[str, Any], adapter: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        stages.tune_stage(from_keywords("train", **tiny, adapter=adapter))
    assert not Path(tiny["output"]).exists()


def test_all_weights_go_on_from_no_adapter() -> None:
    (said,) = check_keys({"method": "full", "start_from": "somewhere"})
    assert "full fine-tuning goes on from no adapter; name the model to go on from as the model" in said


def test_a_model_that_could_not_be_saved_again_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = tunelift.load(tiny["model"], dtype="float32")
    model.generation_config.pad_token_id = -5
    with pytest.raises(InputError, match="would not save this LlamaForCausalLM again"):
        tunelift.tune(model, tokenizer, tiny["data"]["train"], adapter={"method": "full"}, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_memory_cannot_hold_is_refused_before(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights with their gradients, two moments and the best look's; an adapter has few of these."""
    model = tiny_models.causal("llama")
    weights = 4 * sum(p.numel() for p in model.parameters())
    footprint = Footprint.of(model.parameters())
    assert (footprint.memory, footprint.checkpoint, footprint.saved) == (4 * weights, 4 * weights, weights)
    half = Footprint.of(model.to(torch.bfloat16).parameters())
    assert (half.memory, half.checkpoint, half.saved) == (5 * weights, 4 * weights, weights // 2)

    monkeypatch.setattr("tunelift.core.machine.usable_bytes", lambda: 4 * weights)
    with pytest.raises(InputError, match="Memory does not suffice for this training"):
        stages.tune_stage(from_keywords("train", **tiny, adapter={"method": "full"}))
    assert not Path(tiny["output"]).exists()
    loaded, tokenizer = tunelift.load(tiny["model"], dtype="float32")
    with pytest.raises(InputError, match="Memory does not suffice for this training"):
        tunelift.tune(loaded, tokenizer, tiny["data"]["train"], adapter={"method": "full"}, steps=1)
    check_memory(model, Footprint(0, weights, 0))


def test_another_base_of_these_shapes_does_not_go_on_from_its_checkpoints(tiny: dict[str, Any], tmp_path: Path) -> None:
    task = TASKS.get("causal-lm")
    rows = load_splits(DataSection(train=tiny["data"]["train"]), reading=task.reading, roles=("train",)).train
    for seed in (0, 1):
        model = tiny_models.causal("llama", seed=seed)
        how = {"train": rows}, TrainSection(steps=2, learning_rate=0.01)
        if seed == 0:
            train(model, tiny_models.tokenizer(), task, *how, checkpoints=tmp_path / "checkpoints")
        else:
            with pytest.raises(InputError, match="is of another training"):
                train(model, tiny_models.tokenizer(), task, *how, checkpoints=tmp_path / "checkpoints")


def test_in_half_precision_and_with_further_seeds(tiny: dict[str, Any]) -> None:
    """Steps are taken in fp32; what is saved is what was measured, in the precision of the run."""
    keywords = tiny | {"dtype": "bfloat16", "train": {"steps": 3, "learning_rate": 1e-4, "seeds": [0, 1]}}
    tunelift.run(**keywords, adapter={"method": "full"})
    for folder in (Path(tiny["output"]), Path(tiny["output"]) / "seeds" / "1"):
        assert all(proof["passed"] for proof in manifest(folder)["proofs"])
        saved = load_file(folder / "model" / "model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
