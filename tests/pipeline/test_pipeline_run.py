"""Whole runs on a tiny model: what is written, what is refused, what is not done again."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from transformers import DistilBertConfig, DistilBertModel

import tiny_models
import tunelift
from small_rows import write_rows
from tiny_tokenizers import CHAT, byte_level
from tunelift.config.keywords import from_keywords
from tunelift.core.errors import InputError, TuneliftError
from tunelift.data.columns import ANSWERS
from tunelift.evaluation.measures.ranked_labels import RankedLabels
from tunelift.pipeline import stages, tuning
from tunelift.pipeline.generating import generate_stage
from tunelift.pipeline.run import run
from tunelift.run_files.layout import FORMAT
from tunelift.tasks import TASKS


def test_a_run_writes_the_contract(tiny: dict[str, Any]) -> None:
    comparison = run(from_keywords("train", **tiny))
    out = Path(tiny["output"])
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {
        "config.yaml", "manifest.json", "events.jsonl", "comparison.json", "report.html", "README.md",
        "base/scores.jsonl", "base/metrics.json", "tuned/scores.jsonl", "tuned/metrics.json", "adapter/README.md",
        "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/tokenizer.json",
    } <= names  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert len(manifest["proofs"]) == 8
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert manifest["adapter"]["trainable"] > 0
    assert {"tokens", "seconds", "peak_bytes", "steps"} <= manifest["train"].keys()
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert events[0] == {"event": "start", "format": FORMAT}
    assert [e["step"] for e in events if e["event"] == "train"] == [1, 2, 3]
    assert json.loads((out / "comparison.json").read_text()) == comparison.to_dict()
    assert comparison.to_dict()["items"] == 20
    base = tunelift.Scores.read(out / "base")
    assert base.info["made_with"]["adapter"] is None
    assert list(base.metrics) == ["accuracy", "loss"]


def test_training_rows_are_rendered_once(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    task, asked = type(TASKS.get("causal-lm")), list[int]()
    rows = task.rows
    monkeypatch.setattr(task, "rows", lambda self, some, *rest: asked.append(len(some)) or rows(self, some, *rest))
    run(from_keywords("train", **tiny))
    assert sorted(asked, reverse=True)[:2] == [38, 2]  # train and validation; proofs look at single rows
    assert max(sorted(asked, reverse=True)[2:]) == 1


def test_test_rows_are_made_into_tokens_once(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    begin, asked = RankedLabels.begin, list[Any]()
    monkeypatch.setattr(RankedLabels, "begin", lambda self: asked.append(self.examples) or begin(self))
    run(from_keywords("train", **tiny))
    assert len(asked) > 1
    assert len({id(examples) for examples in asked}) == len(asked)


def test_a_finished_run_does_nothing_and_another_is_refused(
    tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(from_keywords("train", **tiny))
    before = {p: p.stat().st_mtime_ns for p in Path(tiny["output"]).rglob("*")}
    again = run(from_keywords("train", **tiny))
    assert again.to_dict() == first.to_dict()
    assert "complete; nothing to do" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"holds another run; what differs: adapter\.r, train\.learning_rate\."):
        run(from_keywords("train", **{**tiny, "train": {"steps": 3, "learning_rate": 0.02}, "adapter": {"r": 2}}))
    assert {p: p.stat().st_mtime_ns for p in Path(tiny["output"]).rglob("*")} == before


def test_an_interrupted_run_goes_on_with_what_is_complete(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tunelift.pipeline.run.concluded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(from_keywords("train", **tiny))
    monkeypatch.undo()
    monkeypatch.setenv("TUNELIFT_CACHE", str(Path(tiny["output"]).parent / "cache"))
    monkeypatch.setattr("tunelift.pipeline.tuning.train", interrupted)  # nothing is trained again
    assert run(from_keywords("train", **tiny)).to_dict()["items"] == 20


def test_the_same_config_on_other_data_is_another_run(tiny: dict[str, Any]) -> None:
    run(from_keywords("train", **tiny))
    write_rows(Path(tiny["data"]["test"]), 20, start=200)
    with pytest.raises(InputError, match=r"what differs: sources\..*test\.csv"):
        run(from_keywords("train", **tiny))


def test_a_tune_is_not_taken_for_a_run(tiny: dict[str, Any]) -> None:
    """Its adapter may have been trained on rows of the test set."""
    stages.tune_stage(from_keywords("train", **tiny))
    with pytest.raises(InputError, match="what differs: command"):
        run(from_keywords("train", **tiny))


def test_settings_that_cannot_work_are_found_before_anything_is_measured(tiny: dict[str, Any]) -> None:
    for adapter, message in (
        ({"target_modules": ["query"]}, "none of query is a layer"),
        ({"r": "many"}, r"adapter\.r: 'many' is not allowed"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"start_from": "nowhere"}, "is not an adapter"),
    ):
        with pytest.raises(InputError, match=message):
            run(from_keywords("train", **tiny, adapter=adapter))
    assert not Path(tiny["output"]).exists()


def test_a_disk_without_room_is_found_before_anything_is_measured(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    for begin, parts in ((run, "checkpoints 1 MB, adapter 1 MB, scores 1 MB"), (stages.tune_stage, "checkpoints 1 MB")):
        with pytest.raises(TuneliftError, match=rf"{parts}(.|\n)*Make room for 1 MB more"):
            begin(from_keywords("train", **tiny))
    assert not Path(tiny["output"]).exists()


@pytest.mark.parametrize("kind", ["tiny", "tiny_encoder"])
def test_the_room_that_a_run_takes_is_known_before(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder's new head is trained whole, beside the adapter."""
    keywords, asked, whole = request.getfixturevalue(kind), list[Any](), tuning.check_space
    monkeypatch.setattr(tuning, "check_space", lambda *room: (asked.append(room), whole(*room)))
    run(from_keywords("train", **keywords))
    (_, checkpoint, others), out = asked[0], Path(keywords["output"])
    trained = others["adapter"]
    assert checkpoint == 4 * trained  # with the best look's, and two moments
    assert trained == 4 * json.loads((out / "manifest.json").read_text())["adapter"]["trainable"]
    assert trained == pytest.approx((out / "adapter" / "adapter_model.safetensors").stat().st_size, rel=0.3)
    scores = sum((out / side / "scores.jsonl").stat().st_size for side in ("base", "tuned"))
    assert scores <= others["scores"] <= 4 * scores


def test_until_something_is_trained_its_settings_may_change(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tunelift.pipeline.run.tune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(from_keywords("train", **tiny))
    measured = (Path(tiny["output"]) / "base" / "scores.jsonl").stat().st_mtime_ns
    run(from_keywords("train", **tiny, adapter={"r": 2}))
    assert (Path(tiny["output"]) / "base" / "scores.jsonl").stat().st_mtime_ns == measured
    assert "r: 2" in (Path(tiny["output"]) / "config.yaml").read_text()


def test_training_biases_is_no_failed_proof(tiny: dict[str, Any]) -> None:
    run(from_keywords("train", **tiny, adapter={"bias": "all"}))
    manifest = json.loads((Path(tiny["output"]) / "manifest.json").read_text())
    names = [proof["name"] for proof in manifest["proofs"]]
    assert "adapter acts" in names
    assert "base unchanged by training" not in names


def test_a_folder_of_other_files_is_left_alone(tiny: dict[str, Any]) -> None:
    out = Path(tiny["output"])
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no run folder of ours"):
        run(from_keywords("train", **tiny))
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_labels_that_train_lacks_are_refused_before_anything_is_written(tiny: dict[str, Any]) -> None:
    with Path(tiny["data"]["test"]).open("a") as file:
        file.write("new,politics\n")
    with pytest.raises(InputError, match="labels that no training row has: ' politics'"):
        run(from_keywords("train", **tiny))
    assert not Path(tiny["output"]).exists()


def test_tune_given_a_test_set_never_reads_it(tiny: dict[str, Any]) -> None:
    Path(tiny["data"]["test"]).unlink()
    adapter = stages.tune_stage(from_keywords("train", **tiny))
    assert (adapter / "adapter_model.safetensors").is_file()


def test_a_test_fraction_is_the_same_rows_for_tune_and_run(tiny: dict[str, Any]) -> None:
    """The rows that `run` tests on are none of those that `tune` trains on."""
    from tunelift.data.splits import load_splits

    section = from_keywords("train", **{**tiny, "data": {"train": tiny["data"]["train"], "test": 0.3}}).data
    tuned = load_splits(section, reading=ANSWERS, roles=("train", "validation"))
    tested = load_splits(section, reading=ANSWERS, roles=("test",)).test
    assert tested
    assert not {e.id for e in tested} & {e.id for e in [*tuned.train, *tuned.validation]}


def test_an_encoder_gets_a_head(tiny_encoder: dict[str, Any]) -> None:
    comparison = run(from_keywords("train", **tiny_encoder))
    out = Path(tiny_encoder["output"])
    assert json.loads((out / "manifest.json").read_text())["task"] == "sequence-classification"
    assert json.loads((out / "adapter" / "tunelift.json").read_text())["labels"] == ["sports", "tech"]
    compared = stages.compare_adapter(
        from_keywords("evaluate", data=tiny_encoder["data"]["test"], output=str(out) + "-2", dtype="float32"),
        str(out / "adapter"),
    )
    # The head of the base is drawn by the same seed, so both routes measure the same pair.
    assert compared.to_dict()["metrics"] == comparison.to_dict()["metrics"]


def test_texts_longer_than_the_context_are_cut_and_counted(
    tiny_encoder: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "test"):
        with Path(tiny_encoder["data"][name]).open("a") as file:
            file.write(f"{'ball goal ' * 90}{name},sports\n")
    run(from_keywords("train", **tiny_encoder))
    said = capsys.readouterr().err
    assert "1 of 21 texts were cut to 128 tokens" in said
    assert "training rows were cut to 128 tokens" in said


def test_the_classes_of_a_stock_head_must_be_named(tiny_encoder: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(tiny_encoder["model"], num_labels=2)
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="SEQ_CLS")
    get_peft_model(base, config).save_pretrained(tmp_path / "stock")
    test = tiny_encoder["data"]["test"]
    with pytest.raises(InputError, match="does not say which label each class"):
        stages.compare_adapter(from_keywords("evaluate", data=test), str(tmp_path / "stock"))
    found = []
    for labels in (["sports", "tech"], ["tech", "sports"]):
        config = from_keywords("evaluate", data=test, labels=labels, output=str(tmp_path / labels[0]))
        found.append(stages.compare_adapter(config, str(tmp_path / "stock")).to_dict()["metrics"]["accuracy"]["tuned"])
    assert found[0] == pytest.approx(1 - found[1])


def test_another_adapter_in_the_same_folder_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    adapters = []
    for seed in (0, 1):
        settings = {**tiny, "output": str(tmp_path / f"tune{seed}"), "train": {"steps": 1, "seed": seed}}
        adapters.append(str(stages.tune_stage(from_keywords("train", **settings))))
    config = from_keywords("evaluate", data=tiny["data"]["test"], output=str(tmp_path / "compared"))
    first = stages.compare_adapter(config, adapters[0])
    assert stages.compare_adapter(config, adapters[0]).to_dict() == first.to_dict()
    with pytest.raises(InputError, match="what differs: adapter"):
        stages.compare_adapter(config, adapters[1])


def test_every_new_layer_of_a_head_is_in_the_adapter(tiny_encoder: dict[str, Any]) -> None:
    """DistilBERT's head has a layer that peft would not save by itself."""
    config = DistilBertConfig(vocab_size=32, dim=32, hidden_dim=48, n_layers=1, n_heads=4, max_position_embeddings=128)
    DistilBertModel(config).save_pretrained(tiny_encoder["model"])
    adapter = stages.tune_stage(from_keywords("train", **{**tiny_encoder, "train": {"steps": 2, "seed": 5}}))
    ids = torch.tensor([[1, 4, 5, 6, 2]])
    torch.manual_seed(9)  # stock peft draws a head of its own before it reads the adapter's
    read = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=2, dtype=torch.float32).eval()
    model, _ = tunelift.load(tiny_encoder["model"], adapter=adapter, task="sequence-classification", dtype="float32")
    assert torch.allclose(read(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-6)


def test_compare_adapter_made_by_stock_peft(tiny: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny["model"]), config).save_pretrained(tmp_path / "stock")
    config = from_keywords("evaluate", data=tiny["data"]["test"], output=str(tmp_path / "compared"))
    comparison = stages.compare_adapter(config, str(tmp_path / "stock"))
    assert comparison.to_dict()["items"] == 20
    assert (tmp_path / "compared" / "report.html").is_file()


def test_start_from_goes_on_with_an_adapter(tiny: dict[str, Any], tmp_path: Path) -> None:
    adapter = stages.tune_stage(from_keywords("train", **tiny))
    on = {**tiny, "adapter": {"start_from": str(adapter)}, "output": str(tmp_path / "on")}
    stages.tune_stage(from_keywords("train", **on))
    first, second = (json.loads((Path(o) / "manifest.json").read_text()) for o in (tiny["output"], on["output"]))
    assert second["train"]["first_loss"] < first["train"]["first_loss"]


def test_evaluate_and_generate_take_a_saved_adapter(tiny: dict[str, Any], tmp_path: Path) -> None:
    adapter = str(stages.tune_stage(from_keywords("train", **tiny)))
    config = from_keywords("evaluate", data=tiny["data"]["test"], output=str(tmp_path / "scores"), metrics=["accuracy"])
    scores = stages.evaluate_stage(config, adapter)
    assert scores.info["made_with"]["adapter"]["source"] == adapter
    assert tunelift.Scores.read(tmp_path / "scores").rows == scores.rows
    with pytest.raises(InputError, match="is not empty"):
        stages.evaluate_stage(config, adapter)
    config, folder = stages.from_run_folder(tiny["output"])
    answers = generate_stage(config, str(folder), ["ball 1", "code"])
    assert [row["prompt"] for row in answers] == ["ball 1", "code"]
    assert all(row["base"] != row["tuned"] for row in answers)


def test_python_functions_with_stock_objects(tiny: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = tunelift.load(tiny["model"], dtype="float32")
    assert type(model).__name__ == "LlamaForCausalLM"
    base = tunelift.evaluate(model, tokenizer, data=tiny["data"]["test"])
    peft_model = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    returned = tunelift.tune(
        peft_model, tokenizer, data=tiny["data"]["train"], steps=4, learning_rate=0.05, output=tmp_path / "py"
    )
    assert returned is peft_model
    tuned = tunelift.evaluate(peft_model, tokenizer, data=tiny["data"]["test"])
    comparison = tunelift.compare(base, tuned)
    assert comparison.to_dict()["items"] == 20
    read = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "py" / "adapter", dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(read(input_ids=ids).logits, peft_model(input_ids=ids).logits, atol=1e-5)
    (row,) = tunelift.generate(peft_model, tokenizer, "ball", max_new_tokens=3)
    assert set(row) == {"prompt", "base", "tuned"}


def test_tune_puts_a_given_config_on_a_plain_model(tiny: dict[str, Any]) -> None:
    model, tokenizer = tunelift.load(tiny["model"], dtype="float32")
    rows = [{"prompt": f"ball {i}", "completion": " sports"} for i in range(12)]
    tuned = tunelift.tune(model, tokenizer, data=rows, adapter=LoraConfig(r=2, target_modules=["q_proj"]), steps=1)
    assert tuned.peft_config["default"].r == 2
    with pytest.raises(InputError, match="has an adapter already"):
        tunelift.tune(tuned, tokenizer, data=rows, adapter={"r": 4})
    with pytest.raises(InputError, match='Did you mean "learning_rate"'):
        tunelift.tune(tuned, tokenizer, data=rows, learnig_rate=1)


def test_a_run_in_python_reads_a_config_file(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        f"model: {tiny['model']}\ndata: {{train: {tiny['data']['train']}, test: 0.3}}\n"
        f"train: {{steps: 1}}\noutput: {tmp_path / 'yaml'}\n"
    )
    assert tunelift.run(tmp_path / "c.yaml").to_dict()["items"] > 5


def test_a_table_with_other_columns_is_answered_with_a_command(tiny: dict[str, Any], tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "odd.csv", 10).read_text().replace("text,label", "utterance,intent")
    (tmp_path / "odd.csv").write_text(rows)
    with pytest.raises(InputError, match="utterance") as error:
        run(from_keywords("train", **{**tiny, "data": str(tmp_path / "odd.csv")}))
    assert "--prompt" in str(error.value)


def test_plain_text_is_measured_in_bits_per_byte(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("".join(f"the cat sat on mat {i}\n" for i in range(40)))
    comparison = run(from_keywords("train", **{**tiny, "data": str(tmp_path / "lines.txt")}))
    assert comparison.to_dict()["headline"]["metric"] == "bits_per_byte"


def test_chat_rows_through_the_whole_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    byte_level(template=CHAT).save_pretrained(tiny["model"])
    rows = [
        {"messages": [{"role": "user", "content": f"is it {i}?"}, {"role": "assistant", "content": f"it is {i % 3}."}]}
        for i in range(40)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate = {"metrics": ["f1", "loss"], "max_new_tokens": 4}
    comparison = run(from_keywords("train", **{**tiny, "data": str(tmp_path / "chat.jsonl"), "evaluate": evaluate}))
    assert list(comparison.to_dict()["metrics"]) == ["f1", "loss"]
    manifest = json.loads((Path(tiny["output"]) / "manifest.json").read_text())
    assert 0 < manifest["data"]["rendering"]["tokens_in_loss"] < manifest["data"]["rendering"]["tokens"]


def test_a_model_that_nobody_holds_is_freed(tiny: dict[str, Any]) -> None:
    model, _ = tunelift.load(tiny["model"], dtype="float32")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_an_adapter_of_another_name_is_saved_where_peft_looks(tiny: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = tunelift.load(tiny["model"], dtype="float32")
    model = get_peft_model(model, LoraConfig(target_modules="all-linear"), adapter_name="mine")
    rows = [{"prompt": f"ball {i}", "completion": " sports"} for i in range(12)]
    tunelift.tune(model, tokenizer, data=rows, steps=1, learning_rate=0.1, output=tmp_path / "named")
    read = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "named" / "adapter", dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(read(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)
    with pytest.raises(InputError, match="exists and is not empty"):
        tunelift.tune(model, tokenizer, data=rows, steps=1, output=tmp_path / "named")


def test_evaluate_leaves_the_model_as_it_was(tiny: dict[str, Any]) -> None:
    model, tokenizer = tunelift.load(tiny["model"], dtype="float32")
    model.train()
    tunelift.evaluate(model, tokenizer, data=tiny["data"]["test"], metrics=["loss"])
    assert model.training


def test_prompts_that_cannot_be_answered(tiny: dict[str, Any]) -> None:
    model, tokenizer = tunelift.load(tiny["model"], dtype="float32")
    with pytest.raises(InputError, match="the model's context is 128"):
        tunelift.generate(model, tokenizer, "ball " * 99, max_new_tokens=60)
    with pytest.raises(InputError, match="prompt 1 is empty"):
        tunelift.generate(model, tiny_models.byte_level(bos=False), "", max_new_tokens=3)


@pytest.mark.parametrize("task", ["causal-lm", "sequence-classification"])
def test_a_run_in_float16_passes_its_proofs(task: str, tiny: dict[str, Any], tiny_encoder: dict[str, Any]) -> None:
    chosen = tiny if task == "causal-lm" else tiny_encoder | {"task": task}
    run(from_keywords("train", **chosen | {"dtype": "float16"}))
    manifest = json.loads((Path(tiny["output"]) / "manifest.json").read_text())
    assert manifest["dtype"] == "float16"
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert manifest["train"]["skipped"] == 0
