"""What configs of other trainers become is run: from their file to a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunelift.config.converting import as_yaml, convert
from tunelift.config.dialects import DIALECTS
from tunelift.config.load import load_config
from tunelift.pipeline.run import run

AXOLOTL = """
base_model: {model}
datasets:
  - path: {rows}
    type: alpaca
val_set_size: 0.2
adapter: lora
sequence_len: 128
sample_packing: true
lora_r: 4
lora_alpha: 8
lora_target_modules: [q_proj, v_proj]
gradient_accumulation_steps: 2
micro_batch_size: 2
max_steps: 2
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 0.001
bf16: auto
output_dir: {out}
"""
FACTORY = """
model_name_or_path: {model}
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 4
lora_target: all
dataset: mine
dataset_dir: .
template: default
cutoff_len: 128
val_size: 0.2
max_steps: 2
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 1.0e-3
output_dir: {out}
"""


@pytest.mark.parametrize("theirs", [AXOLOTL, FACTORY], ids=["axolotl", "llama-factory"])
def test_a_converted_config_runs(theirs: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"instruction": f"Say number {i}", "input": "", "output": f"It is {i % 3}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.jsonl"}}))
    file = tmp_path / "theirs.yaml"
    file.write_text(theirs.format(model=tiny["model"], rows=tmp_path / "rows.jsonl", out=tiny["output"]))
    _, found = convert(file, DIALECTS)
    assert not found.unknown
    (tmp_path / "ours.yaml").write_text(as_yaml(found, "Converted."))
    config = load_config(tmp_path / "ours.yaml", ["data.test=0.2", "model.dtype=float32", "evaluate.forgetting=[]"])
    comparison = run(config)
    manifest = json.loads((Path(tiny["output"]) / "manifest.json").read_text())
    assert manifest["train"]["steps"] == 2
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert manifest["adapter"]["config"]["r"] == 4
    assert comparison.to_dict()["items"] == 8
