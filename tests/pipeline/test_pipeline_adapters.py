"""Strangers' adapters through the stages: what they are asked with, what is said, what is refused at once."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_models
import tunelift
from tunelift.adapters.combining import combine
from tunelift.adapters.store import read_lineage
from tunelift.adapters.targets import linear_targets
from tunelift.cli.main import cli
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import ModelSection
from tunelift.core.errors import InputError
from tunelift.fast.target_model import target_model
from tunelift.fast.unpad import sped_up
from tunelift.fast.whole_logits import WholeLogits
from tunelift.pipeline.session import Session
from tunelift.pipeline.stages import compare_adapter, evaluate_stage, tune_stage
from tunelift.tasks import TASKS

CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
ROWS = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(12)]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_models.causal("llama").save_pretrained(tmp_path / "base")
    tiny_models.tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def data(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"test": str(file), "prompt": "Text: {text}\nLabel:", "completion": " {label}"}


def session(base: Path) -> Session:
    model, tokenizer = tunelift.load(str(base), dtype="float32")
    return Session.of(model, tokenizer, TASKS.get("causal-lm"))


def compared(tmp_path: Path, base: Path, adapter: Path, rows: Any = ROWS, **more: Any) -> dict[str, Any]:
    section = data(tmp_path, rows) | more
    config = from_keywords("compare", model=str(base), data=section, output=str(tmp_path / "run"))
    compare_adapter(config, str(adapter))
    manifest: dict[str, Any] = json.loads((tmp_path / "run" / "manifest.json").read_text())
    return manifest


def test_the_tuned_side_is_asked_with_its_own_tokenizer(tmp_path: Path, base: Path, adapter: Path) -> None:
    own = deepcopy(tiny_models.tokenizer())
    own.add_tokens(["<tag>"])
    own.save_pretrained(adapter)
    opened = session(base)
    opened.load_adapter(adapter)
    assert "<tag>" in opened.tokenizer.get_vocab() and "<tag>" not in opened.base_tokenizer.get_vocab()
    with opened.base():
        assert "<tag>" not in opened.tokenizer.get_vocab()
    manifest = compared(tmp_path, base, adapter)
    said = [line["done"] for line in manifest["happened"]]
    assert said == ["its own tokenizer is used for the tuned side, which is not the base's"]


def test_the_same_tokenizer_is_no_other(base: Path, adapter: Path) -> None:
    tiny_models.tokenizer().save_pretrained(adapter)
    opened = session(base)
    assert opened.examine(adapter) == ()
    opened.load_adapter(adapter)
    assert opened.tokenizer is opened.base_tokenizer


@pytest.mark.parametrize("alone", [False, True])
def test_a_base_without_a_template_is_asked_with_the_adapters(base: Path, adapter: Path, alone: bool) -> None:
    own = deepcopy(tiny_models.tokenizer())
    own.chat_template = CHAT
    if alone:
        (adapter / "chat_template.jinja").write_text(CHAT)
    else:
        own.save_pretrained(adapter)
    opened = session(base)
    assert opened.base_tokenizer.chat_template is None
    assert opened.examine(adapter) == ("the base has no chat template, and is asked with the adapter's",)
    assert opened.base_tokenizer.chat_template == CHAT
    other = session(base)
    other.base_tokenizer.chat_template = "{{ messages }}"
    (note,) = other.examine(adapter)
    assert note.startswith("its own chat template is used for the tuned side; the base is asked with its own")
    other.load_adapter(adapter)
    assert (other.tokenizer.chat_template, other.base_tokenizer.chat_template) == (CHAT, "{{ messages }}")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(base: Path, adapter: Path) -> None:
    own = deepcopy(tiny_models.tokenizer())
    own.add_tokens([f"<more{i}>" for i in range(300)])
    own.save_pretrained(adapter)
    with pytest.raises(InputError, match=r"has the token \d+, and the model has 400 embeddings"):
        session(base).examine(adapter)


def test_an_adapter_that_does_not_fit_is_refused_before_the_base_is_measured(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deeper = tiny_models.adapted(tiny_models.causal("llama", num_hidden_layers=5))
    deeper.save_pretrained(tmp_path / "deeper")
    monkeypatch.setattr(Session, "score", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(InputError, match="for which this model has no place"):
        compared(tmp_path, base, tmp_path / "deeper")


def test_doctor_says_whether_an_adapter_fits(tmp_path: Path, base: Path, adapter: Path) -> None:
    done = CliRunner().invoke(cli, ["doctor", str(adapter), "--model", str(base)])
    assert done.exit_code == 0, done.output
    assert "Every tensor of" in done.output
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 8}))
    done = CliRunner().invoke(cli, ["doctor", str(adapter), "--model", str(base)])
    assert isinstance(done.exception, InputError) or done.exit_code == 2


def test_an_adapter_that_acts_from_a_token_on_is_scored_as_stock_scores_it() -> None:
    """An aLoRA looks for its tokens in the ids of the model's call, which nobody else may make."""
    config = LoraConfig(target_modules=["q_proj"], alora_invocation_tokens=[7, 8], task_type="CAUSAL_LM", r=4)
    model = get_peft_model(tiny_models.causal("llama"), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [5, 6, 9, 9, 9, 10]])
    stock = torch.log_softmax(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, -1)[:, :-1]
    stock = stock.gather(2, ids[:, 1:, None]).flatten()
    view, _ = target_model(model)
    assert isinstance(view, WholeLogits)
    with sped_up(model):
        found = view.log_likelihoods({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
        with model.disable_adapter():
            base = view.log_likelihoods({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
    assert torch.allclose(found, stock, atol=1e-5)
    assert not torch.allclose(found[:5], base[:5], atol=1e-3)  # it acts on the row that has its tokens
    assert torch.allclose(found[5:], base[5:], atol=1e-5)


def test_a_merged_model_is_no_longer_its_file(base: Path, adapter: Path) -> None:
    model, tokenizer = tunelift.load(str(base), adapter=str(adapter), dtype="float32")
    assert Session.of(model, tokenizer, TASKS.get("causal-lm")).identity.weights_sha256 is not None
    merged = model.merge_and_unload()
    identity = Session.of(merged, tokenizer, TASKS.get("causal-lm")).identity
    assert (identity.weights_sha256, identity.name) == (None, f"{base}, changed")


def test_a_classifier_in_memory_needs_a_padding_token() -> None:
    model = tiny_models.classifier(["a", "b"], "llama", pad_token_id=None)
    with pytest.raises(InputError, match="has no pad_token_id"):
        tunelift.evaluate(model, tiny_models.tokenizer(), [{"text": "x", "label": "a"}])


def classifier(folder: Path, labels: list[str], kind: str = "bert", **changes: Any) -> Path:
    tiny_models.classifier(labels, kind, **changes).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def test_a_decoders_classifier_is_no_language_model(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "c", ["a", "b"], "llama", tie_word_embeddings=True)
    with pytest.raises(InputError, match="was saved with a classification head"):
        tunelift.load(str(folder))
    from tunelift.models import natural_task

    assert natural_task(str(folder)).name == "sequence-classification"


def test_a_trained_head_is_kept_where_the_data_shows_fewer_classes(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "c", ["bad", "good", "so-so"])
    model, _ = tunelift.load(str(folder), task="sequence-classification", labels=["good", "bad"], dtype="float32")
    own = tiny_models.classifier(["bad", "good", "so-so"])
    assert torch.equal(model.classifier.weight, own.classifier.weight)
    unnamed = classifier(tmp_path / "u", ["LABEL_0", "LABEL_1", "LABEL_2"])
    with pytest.raises(InputError, match="has a trained head of 3 classes without names"):
        tunelift.load(str(unnamed), task="sequence-classification", labels=["good", "bad"])


def test_the_order_of_an_adapters_labels_is_that_which_is_given(tmp_path: Path) -> None:
    """A base without a head takes it; one whose own head has another order cannot be compared."""
    body = tiny_models.classifier(["a", "b"]).base_model
    body.config.id2label, body.config.label2id = {0: "a", 1: "b"}, {"a": 0, "b": 1}
    body.save_pretrained(tmp_path / "body")
    tiny_models.tokenizer().save_pretrained(tmp_path / "body")
    section = ModelSection.model_validate({"name": str(tmp_path / "body"), "dtype": "float32"})
    opened = Session.open(section, TASKS.get("sequence-classification"), ["b", "a"], ordered=True)
    assert list(opened.labels) == ["b", "a"]
    trained = classifier(tmp_path / "c", ["a", "b"])
    section = section.model_copy(update={"name": str(trained)})
    assert list(Session.open(section, TASKS.get("sequence-classification"), ["b", "a"]).labels) == ["a", "b"]
    with pytest.raises(InputError, match="a head for the labels a, b, in this order, and they are given as b, a"):
        Session.open(section, TASKS.get("sequence-classification"), ["b", "a"], ordered=True)


EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "mlp_only_layers": [0]},
}
ATTENTION = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
DENSE = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
SHARED = {"mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"}
ADAPTED = {"qwen3_moe": ATTENTION, "mixtral": ATTENTION, "qwen2_moe": ATTENTION | DENSE | SHARED}


@pytest.mark.parametrize("kind", ADAPTED)
def test_all_linear_of_a_mixture_leaves_routers_out(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**tiny_models.SIZES, **EXPERTS}))
    assert linear_targets(tiny_models.causal("llama"), "CAUSAL_LM") is None
    opened = Session.of(model, tiny_models.tokenizer(), TASKS.get("causal-lm"))
    opened.attach({"method": "lora", "target_modules": "all-linear"}, seed=0)
    kinds = {
        name.split(".lora_")[0].split(".layers.")[1].split(".", 1)[1]
        for name, parameter in opened.model.named_parameters()
        if parameter.requires_grad
    }
    assert kinds == ADAPTED[kind]
    said = capsys.readouterr().err
    assert "left bare: " in said and "mlp.experts.gate_up_proj" in said


def test_a_folder_of_several_adapters_names_them(tmp_path: Path, base: Path) -> None:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    for name in ("second", "third"):
        model.add_adapter(name, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "several")
    *_, note = session(base).examine(tmp_path / "several")
    assert note == "of several adapters in the folder the one beside second, third is used"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "several" / name).unlink()
    with pytest.raises(InputError, match="It holds several: second, third"):
        session(base).examine(tmp_path / "several")


def test_adapters_made_one_are_compared_like_any_other(tiny: dict[str, Any], tmp_path: Path) -> None:
    runs = []
    for rank in (2, 4):
        settings = tiny | {"train": {"steps": 2}, "adapter": {"r": rank}, "output": str(tmp_path / str(rank))}
        runs.append(tune_stage(from_keywords("train", **settings)))
    made = combine(runs, tmp_path / "merged", weights=[0.5, 1.5])
    assert (made.rank, made.left_out) == (6, 0.0)
    config = from_keywords("evaluate", data=tiny["data"]["test"], output=str(tmp_path / "compared"), dtype="float32")
    assert compare_adapter(config, str(made.folder)).to_dict()["items"] == 20
    assert read_lineage(made.folder)["base"] == read_lineage(runs[0])["base"]
    config = config.model_copy(update={"output": str(tmp_path / "run")})  # a run's folder stands for its adapter
    assert compare_adapter(config, str(tmp_path / "2")).to_dict()["items"] == 20
    config = config.model_copy(update={"output": str(tmp_path / "scores")})
    assert evaluate_stage(config, str(tmp_path / "2")).info["made_with"]["adapter"]["source"] == str(runs[0])


def test_a_model_into_which_peft_put_layers_is_not_tuned_as_a_plain_one(tiny: dict[str, Any]) -> None:
    model, tokenizer = tunelift.load(tiny["model"], dtype="float32")
    tunelift.tune(model, tokenizer, tiny["data"]["train"], steps=1)
    with pytest.raises(InputError, match="an adapter's layers in it"):
        tunelift.tune(model, tokenizer, tiny["data"]["train"], steps=1)
