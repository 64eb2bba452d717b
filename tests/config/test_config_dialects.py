"""Configs of other trainers become ours: every key taken, named as needless, as different, or as unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tunelift.cli.convert_config import OF
from tunelift.cli.main import cli
from tunelift.config.converting import Conversion, as_yaml, convert
from tunelift.config.dialects import DIALECTS
from tunelift.config.load import load_config
from tunelift.config.schema import Config
from tunelift.core.errors import InputError

AXOLOTL = """
base_model: someone/small
load_in_8bit: false
load_in_4bit: true
datasets:
  - {path: rows.jsonl, type: alpaca}
  - {path: more.jsonl, type: alpaca}
val_set_size: 0.05
output_dir: out
adapter: qlora
lora_model_dir:
sequence_len: 512
sample_packing: true
lora_r: 16
lora_alpha: 32
lora_dropout: 0.05
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 2
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
flash_attention: true
warmup_steps: 10
weight_decay: 0.01
some_new_key: 1
"""
FACTORY = """
model_name_or_path: someone/small
trust_remote_code: true
stage: sft
finetuning_type: lora
lora_rank: 4
lora_target: q_proj,v_proj
dataset: mine
template: qwen3
cutoff_len: 256
max_samples: 100
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
num_train_epochs: 1.5
lr_scheduler_type: constant_with_warmup
warmup_ratio: 0.1
eval_dataset: other
"""
TRL = """
model_name_or_path: someone/small
dataset_name: someone/rows
dataset_config: english
use_peft: true
lora_r: 8
max_steps: 200
warmup_steps: 20
optim: adamw_torch_fused
packing: true
"""


def converted(folder: Path, text: str, named: str | None = None) -> tuple[Config, Conversion, str]:
    file = folder / "theirs.yaml"
    file.write_text(text)
    dialect, found = convert(file, DIALECTS, named)
    ours = folder / "ours.yaml"
    ours.write_text(as_yaml(found, "From there."))
    return load_config(ours), found, dialect.name


def test_axolotl(tmp_path: Path) -> None:
    config, found, name = converted(tmp_path, AXOLOTL)
    assert (name, config.model.name, config.model.quantization) == ("Axolotl", "someone/small", "nf4")
    assert (config.data.train, config.data.validation, config.output) == ("rows.jsonl", 0.05, "out")
    assert config.adapter.model_dump(exclude_none=True) == {
        "method": "lora", "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"
    }  # fmt: skip
    train = config.train
    assert (train.batch_size, train.epochs, train.learning_rate, train.max_length) == (8, 2, 2e-4, 512)
    assert (train.weight_decay, train.schedule, train.optimizer) == (0.01, "cosine", "adamw-8bit")
    assert found.unknown == ["some_new_key"]
    assert {"sample_packing", "bf16", "flash_attention"} == set(found.needless)
    said = "\n".join(found.different)
    assert all(word in said for word in ("1 more of datasets", "warmup_steps: 10"))
    assert "# Not known, and left out: some_new_key." in (tmp_path / "ours.yaml").read_text()


def test_llama_factory_with_its_table_of_data_sets(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "mine.json"}}))
    config, found, name = converted(tmp_path, FACTORY)
    assert (name, config.data.train, config.data.max_train) == (
        "LLaMA-Factory", str(tmp_path / "data" / "mine.json"), 100
    )  # fmt: skip
    adapter: Any = config.adapter
    assert (adapter.r, adapter.lora_alpha, adapter.target_modules) == (4, 8, ["q_proj", "v_proj"])
    train = config.train
    assert (train.batch_size, train.epochs, train.warmup, train.schedule) == (8, 1.5, 0.1, "constant")
    assert train.learning_rate == 5e-5, "what is missing there is that trainer's default"
    said = "\n".join(found.different)
    assert "trust_remote_code" in said
    assert "eval_dataset" in said


def test_trl(tmp_path: Path) -> None:
    config, found, name = converted(tmp_path, TRL)
    assert (name, config.data.train, config.data.subset) == ("TRL", "someone/rows", "english")
    assert (config.train.steps, config.train.warmup, config.train.learning_rate) == (200, 0.1, 2e-5)
    adapter: Any = config.adapter
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (8, 32, 0.05)
    assert not found.unknown
    whole, lost, _ = converted(tmp_path, "model_name_or_path: a\ndataset_name: b\nlora_r: 4\n")
    assert whole.adapter.method == "full"
    assert lost.different == ["Left out, as no LoRA is trained: adapter.r."]


@pytest.mark.parametrize(
    ("text", "loss", "beta"),
    [
        ("base_model: a\nadapter: lora\nlora_r: 8\nrl: kto\nrl_beta: 0.5\nload_in_8bit: true\n", "kto", 0.5),
        ("model_name_or_path: a\nstage: dpo\nfinetuning_type: lora\npref_beta: 0.2\npref_loss: sigmoid\n", "dpo", 0.2),
        ("model_name_or_path: a\nstage: kto\nfinetuning_type: lora\npref_loss: orpo\n", "kto", None),
    ],
)
def test_preference_tuning(text: str, loss: str, beta: float | None, tmp_path: Path) -> None:
    config, found, _ = converted(tmp_path, text)
    assert (config.task, config.preferences.loss, config.preferences.beta) == ("preference", loss, beta)
    assert not found.unknown
    assert config.model.quantization == ("int8" if "8bit" in text else "none")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage: ppo\nfinetuning_type: lora\n", "stage: ppo has no counterpart"),
        ("finetuning_type: freeze\n", "finetuning_type: freeze has no counterpart"),
        ("base_model: a\nrl: grpo\n", "rl: grpo has no counterpart"),
        ("stage: dpo\nfinetuning_type: lora\npref_loss: hinge\n", "pref_loss: hinge has no counterpart"),
        ("finetuning_type: lora\nquantization_bit: 3\n", "quantization_bit: 3 has no counterpart"),
        ("base_model: a\nmicro_batch_size: two\n", "micro_batch_size is 'two'; it is a whole number above 0"),
        ("base_model: a\ndatasets: [{type: alpaca}]\n", "the first entry names no path"),
        ("model: gpt2\ndata: x.csv\n", "no key tells one"),
    ],
)
def test_what_cannot_be_done_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        converted(tmp_path, text)


def test_the_command_prints_writes_and_says(tmp_path: Path) -> None:
    file, output = tmp_path / "a.yml", tmp_path / "b.yaml"
    file.write_text(AXOLOTL)
    assert set(OF) == set(DIALECTS)
    printed = CliRunner().invoke(cli, ["convert-config", str(file)], standalone_mode=False)
    assert printed.stdout.startswith("# From a.yml, a config of Axolotl."), printed.stdout
    CliRunner().invoke(cli, ["convert-config", str(file), "-o", str(output)], standalone_mode=False)
    assert load_config(output).train.batch_size == 8
