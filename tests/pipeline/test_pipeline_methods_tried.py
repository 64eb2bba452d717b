"""`tunelift methods`: what is seen on a twin is so on the model, and what a record says wrongly is seen."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_models
from tunelift.adapters.abilities import recorded
from tunelift.adapters.methods import METHODS, REFUSED, Method
from tunelift.cli.methods import command
from tunelift.config.schema import ModelSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.core.registry import Registry
from tunelift.models import natural_task
from tunelift.models.twin import twin
from tunelift.pipeline.methods import task_to_try, tried
from tunelift.pipeline.session import Session
from tunelift.tasks import DEFAULT, TASKS


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSection:
    folder = tmp_path_factory.mktemp("llama")
    tiny_models.causal("llama").save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return ModelSection(name=str(folder))


def by_name(found: Any) -> dict[str, dict[str, Any]]:
    return {one.method: one.to_dict() for one in found}


def test_the_records_say_of_every_method_of_peft_what_it_does_or_why_not() -> None:
    found = by_name(recorded())
    assert found.keys() == {*METHODS, *(name.lower().replace("_", "-") for name in REFUSED)}
    assert all(one["reason"] for one in found.values() if one["verdict"] == "refused")
    assert (found["lora"]["merges"], found["prompt-tuning"]["merges"]) == (True, False)
    assert found["lora"]["learning_rate"] == TrainSection().learning_rate


def test_methods_are_tried_and_counted_on_the_models_own_shapes(llama: ModelSection) -> None:
    names = ("lora", "prompt-tuning", "beft", "trainable-tokens", "unilora")
    found = by_name(tried(llama, names=names))
    assert {one["verdict"] for one in found.values()} == {"right"}
    assert all(one["trains"] and one["switches_off"] and one["loads_with_peft"] for one in found.values())
    assert [found[name]["merges"] for name in names] == [True, False, False, True, True]
    for name, one in found.items():
        session = Session.open(ModelSection(name=llama.name, dtype="float32"), DEFAULT)
        session.attach({"method": name, **METHODS.get(name).tried_with}, 0)
        trainable, total = session.model.get_nb_trainable_parameters()
        assert (one["trainable"], one["total"]) == (trainable, total)


def test_what_peft_or_a_head_cannot_is_refused_with_the_reason(tmp_path: Path) -> None:
    tiny_models.causal("gpt2").save_pretrained(tmp_path / "gpt2")
    assert "Conv1D" in by_name(tried(ModelSection(name=str(tmp_path / "gpt2")), names=["oft"]))["oft"]["reason"]
    tiny_models.classifier(["a", "b"]).save_pretrained(tmp_path / "bert")
    found = by_name(tried(ModelSection(name=str(tmp_path / "bert")), names=["lora", "prompt-tuning"]))
    assert (found["lora"]["verdict"], found["prompt-tuning"]["verdict"]) == ("right", "refused")
    assert "under a head" in found["prompt-tuning"]["reason"]


def test_an_encoder_is_tried_for_what_a_run_takes_it_for_and_for_masks_without_virtual_tokens(tmp_path: Path) -> None:
    tiny_models.classifier(["a", "b"]).base_model.save_pretrained(tmp_path)
    section = ModelSection(name=str(tmp_path))
    assert task_to_try(section).name == natural_task(str(tmp_path)).name
    found = by_name(tried(section, "masked-lm", ["prompt-tuning", "xlora", "full"]))
    assert [one["verdict"] for one in found.values()] == ["refused"] * 3
    assert "virtual tokens" in found["prompt-tuning"]["reason"]
    assert "the model's own weights" in found["full"]["reason"]


def test_a_method_that_is_refused_is_named_with_its_reason_and_full_has_nothing_to_switch_off() -> None:
    found = by_name(recorded(["xlora", "full"]))
    assert (found["xlora"]["verdict"], found["xlora"]["reason"]) == ("refused", REFUSED["XLORA"][1])
    assert (found["full"]["verdict"], found["full"]["switches_off"], found["full"]["merges"]) == ("trained", None, None)


def test_a_record_that_says_what_is_not_so_is_named(llama: ModelSection, methods: Registry[Method]) -> None:
    methods._entries["unilora"] = replace(METHODS.get("unilora"), begins_as_noop=True)
    methods._entries["vblora"] = replace(METHODS.get("vblora"), begins_as_noop=True)
    [found] = [one for one in tried(llama, names=["vblora"]) if one.method == "vblora"]
    assert (found.verdict, found.begins_as_base) == ("wrong", False)
    assert "begins as base" in found.reason


def test_what_cannot_be_counted_without_weights_is_not_counted(llama: ModelSection) -> None:
    assert by_name(tried(llama, names=["adamss"]))["adamss"]["trainable"] is None


TWINS = ("llama", "gpt2", "gemma3_text", "qwen3_moe", "mamba", "phi3", "deepseek_v3", "ministral3")


@pytest.mark.parametrize("kind", TWINS)
def test_a_twin_has_the_layers_of_its_model(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    model, tokenizer = twin(config, DEFAULT, [])
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config)

    def parts(model: Any) -> set[str]:
        return {name.rpartition(".")[2] for name, _ in model.named_modules() if not name.rpartition(".")[2].isdigit()}

    assert parts(model) == parts(whole)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)


def test_of_what_no_twin_can_be_made_that_is_said() -> None:
    with pytest.raises(InputError, match=r"No tiny twin of a blt model can be made: .* parameters"):
        twin(AutoConfig.for_model("blt"), DEFAULT, [])


@pytest.mark.parametrize("name", list(TASKS))
def test_a_tasks_examples_are_rows_of_it(name: str) -> None:
    from tunelift.models.twin import tokenizer

    task = TASKS.get(name)
    labels = sorted(task.labels_in(task.made_up()))
    rows, report = task.rows(task.made_up(), tokenizer(), 64, labels)
    assert len(rows) == len(task.made_up()) and report.dropped == 0


def test_no_such_method_and_no_such_task_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'no PEFT method "lorra".* Did you mean "lora"'):
        recorded(["lorra"])
    tiny_models.classifier(["a", "b"]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"does not fit the task {DEFAULT.name}"):
        tried(ModelSection(name=str(tmp_path)), DEFAULT.name)


def test_the_command_prints_a_table_json_and_markdown(llama: ModelSection, tmp_path: Path) -> None:
    file = tmp_path / "methods.md"
    done = CliRunner().invoke(command, ["lora", "--model", llama.name, "--markdown", str(file)])
    assert done.exit_code == 0, done.output
    assert "LoRA" in done.stdout and "trained numbers" in done.stdout
    assert file.read_text().count("| lora | LoRA | yes | yes | yes | yes | yes | yes |") == 1
    found = json.loads(CliRunner().invoke(command, ["--json"]).stdout)
    assert found["versions"]["peft"] and len(found["methods"]) == len(METHODS._entries) + len(REFUSED)
    assert CliRunner().invoke(command, ["--task", "causal-lm"]).exit_code == 2


def printed(model: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, int]:
    capsys.readouterr()
    model.print_trainable_parameters()
    trainable, total = re.findall(r"params: ([\d,]+)", capsys.readouterr().out)
    return int(trainable.replace(",", "")), int(total.replace(",", ""))


OWN_NEEDS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    **{key: {"num_virtual_tokens": 20} for key in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE")},
    "ADAPTION_PROMPT": {"adapter_len": 10, "adapter_layers": 2},
    "TRAINABLE_TOKENS": {"token_indices": [0, 1, 5]},
}
"""Keys without which peft's own config of a method is none."""


def test_what_is_counted_on_gpt2_is_what_peft_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """With each method's defaults as peft has them, and with ours: on weights, and on shapes as the command does."""
    config, counted = AutoConfig.for_model("gpt2", n_layer=2, n_embd=192, n_head=4, vocab_size=500), set()
    for name in [name for name in METHODS if METHODS.get(name).peft_type]:
        method = METHODS.get(name)
        own = method.config_class(task_type=DEFAULT.peft_type, **OWN_NEEDS.get(method.peft_type, {}))
        with torch.device("meta"):
            shapes = Session.of(AutoModelForCausalLM.from_config(config), None, DEFAULT)
        shapes.will_train(DEFAULT.made_up(), TrainSection())
        for keys in (own, {"method": name, **method.tried_with}):
            real = Session.of(AutoModelForCausalLM.from_config(config), None, DEFAULT)
            real.will_train(DEFAULT.made_up(), TrainSection())
            try:
                count = shapes.count(deepcopy(keys))
                stock = get_peft_model(real.model, real._peft_config(deepcopy(keys)))
            except (InputError, NotImplementedError):  # Conv1D refused, or made of the weights
                continue
            assert printed(stock, capsys) == (count.trainable, count.total), name
            counted.add(name)
    assert len(counted) >= 17
