"""What other programs take of each method, as it is seen by trying."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import tiny_models
from tunelift.cli.methods import command
from tunelift.core.errors import InputError
from tunelift.pipeline.runtimes import RUNTIMES, taken


def test_an_adapter_that_is_no_lora_goes_to_llama_cpp_merged_and_virtual_tokens_do_not_go(tmp_path: Path) -> None:
    words = ["lora", "ia3", "prompt-tuning", "full", "--for", "llama.cpp", "--markdown", str(tmp_path / "table.md")]
    done = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
    found = {one["method"]: one for one in json.loads(done.stdout)["methods"]}
    assert found["lora"]["takes"] == {"lora-gguf": "yes", "gguf": "yes"}
    assert found["ia3"]["takes"]["gguf"] == "yes" and found["ia3"]["instead"] == "--to gguf"
    assert "llama.cpp loads LoRA" in found["ia3"]["takes"]["lora-gguf"]
    assert found["prompt-tuning"]["instead"] == "" and "no merged model" in found["prompt-tuning"]["takes"]["gguf"]
    assert "All weights are trained" in found["full"]["takes"]["gguf"]
    assert "| ia3 | no | yes | --to gguf |" in (tmp_path / "table.md").read_text()
    assert json.loads(done.stdout)["about"].count("peft ") == 1


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "llama.cpp"])
def test_each_program_takes_a_lora_and_says_why_not_the_rest(runtime: str) -> None:
    lora, virtual = taken(runtime, ["lora", "prefix-tuning"])[0]
    assert set(lora["takes"].values()) == {"yes"}
    merged = next(way.to for way in RUNTIMES[runtime].ways if not way.alone)
    assert virtual["takes"][merged] != "yes"


def test_it_is_tried_on_a_model_that_is_named_where_its_task_fits(tmp_path: Path) -> None:
    tiny_models.causal("gpt2").save_pretrained(tmp_path / "model")
    found, about = taken("llama.cpp", ["lora"], str(tmp_path / "model"))
    assert found[0]["takes"]["lora-gguf"] == "yes" and "a tiny gpt2" in about
    with pytest.raises(InputError, match=r"Known: transformers, llama\.cpp"):
        taken("vllm")
    done = CliRunner().invoke(command, ["--for", "onnx", "--task", "regression"])
    assert done.exit_code == 2 and "a task of its own" in str(done.exception or done.output) + done.output
