"""Adapters on disk: read by stock peft in a process of its own, and the other way round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import tiny_models
from tunelift.adapters.loading import load_adapter
from tunelift.adapters.store import read_adapter_config, save_adapter
from tunelift.core.errors import InputError

STOCK = """
import sys, json, torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
kind, folder, out, ids = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
ids = torch.tensor(ids)
if kind == "causal":
    model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    new = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    assert new.shape[1] > ids.shape[1]
else:
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3, dtype=torch.float32)
torch.save(model.eval()(input_ids=ids).logits, out)
assert not any(name.startswith("tunelift") for name in sys.modules)
"""
IDS = [[5, 6, 7, 8, 9]]


def lineage(path: Path, sha: str = "abc") -> dict[str, Any]:
    return {"base": {"name": "tiny", "path": str(path), "weights_sha256": sha}, "task": "causal-lm", "labels": []}


def by_stock_peft(kind: str, adapter: Path, out: Path) -> tuple[torch.Tensor, str]:
    """Return the logits that stock peft gives in a fresh process, and what it printed on standard error."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "warning"}
    command = [sys.executable, "-c", STOCK, kind, str(adapter), str(out), json.dumps(IDS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(out), done.stderr


def noises(stderr: str, *paths: Path) -> set[str]:
    """Return the warnings, without the folders that differ and the progress bars."""
    for path in paths:
        stderr = stderr.replace(str(path), "FOLDER")
    return {line for line in stderr.splitlines() if "arn" in line}


def saved_base(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def test_stock_peft_reads_ours_without_another_warning(tmp_path: Path) -> None:
    base = saved_base(tiny_models.causal("llama"), tmp_path / "base")
    model = tiny_models.adapted(tiny_models.causal("llama"))
    memory = model(input_ids=torch.tensor(IDS)).logits
    ours = save_adapter(model, tiny_models.tokenizer(), tmp_path / "ours", lineage(base))
    model.save_pretrained(tmp_path / "stock")
    logits, printed = by_stock_peft("causal", ours, tmp_path / "a.pt")
    _, printed_for_stock = by_stock_peft("causal", tmp_path / "stock", tmp_path / "b.pt")
    assert torch.allclose(logits, memory, atol=1e-5)
    assert noises(printed, ours) <= noises(printed_for_stock, tmp_path / "stock")


def test_stock_peft_reads_a_head_of_ours(tmp_path: Path) -> None:
    labels = ["bad", "good", "so-so"]
    tiny_models.classifier(labels).base_model.save_pretrained(tmp_path / "base")  # an encoder without a head
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="SEQ_CLS")
    model = get_peft_model(tiny_models.classifier(labels), config).eval()
    memory = model(input_ids=torch.tensor(IDS)).logits
    ours = save_adapter(model, None, tmp_path / "ours", lineage(tmp_path / "base"))
    logits, _ = by_stock_peft("classifier", ours, tmp_path / "a.pt")
    assert torch.allclose(logits, memory, atol=1e-5)


def test_ours_reads_stock_pefts(tmp_path: Path) -> None:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    memory = model(input_ids=torch.tensor(IDS)).logits
    model.save_pretrained(tmp_path)
    read = load_adapter(tiny_models.causal("llama"), tmp_path, "any")
    assert torch.allclose(read(input_ids=torch.tensor(IDS)).logits, memory, atol=1e-6)


def test_nothing_of_the_base_is_saved(tmp_path: Path) -> None:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    folder = save_adapter(model, tiny_models.tokenizer(), tmp_path / "adapter", lineage(tmp_path))
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        assert all("lora_" in key for key in weights.keys())  # noqa: SIM118  safe_open is no mapping
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tunelift.json"} <= names
    assert not list(tmp_path.glob(".*"))


def test_an_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    save_adapter(model, None, tmp_path / "adapter", lineage(tmp_path, sha="a" * 64))
    with pytest.raises(InputError, match=r"was made on tiny \(weights aaaaaaaaaaaa\), not on this model"):
        load_adapter(tiny_models.causal("llama"), tmp_path / "adapter", "b" * 64)
    with pytest.raises(InputError, match="does not fit this model") as error:
        load_adapter(tiny_models.causal("gpt2"), tmp_path / "adapter", None)
    assert "It was made on tiny." in str(error.value)
    with pytest.raises(InputError, match="does not fit this model"):
        load_adapter(tiny_models.causal("llama", hidden_size=16), tmp_path / "adapter", None)


def test_a_folder_that_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not an adapter: it has no adapter_config\.json"):
        read_adapter_config(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(InputError, match=f"Did you mean {tmp_path / 'adapter'}"):
        read_adapter_config(tmp_path)
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors"):
        read_adapter_config(tmp_path / "adapter")


def test_a_crash_while_saving_leaves_the_old_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    folder = save_adapter(model, None, tmp_path / "adapter", lineage(tmp_path))
    before = (folder / "adapter_model.safetensors").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tunelift.core.files.write_json", full)
    with pytest.raises(OSError, match="No space"):
        save_adapter(model, None, folder, lineage(tmp_path))
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_broken_adapter_is_an_input_error(tmp_path: Path) -> None:
    tiny_models.adapted(tiny_models.causal("llama")).save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is not a sound safetensors file.*\n.*copy"):
        load_adapter(tiny_models.causal("llama"), tmp_path, None)
    weights.write_bytes(whole)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"adapter_config\.json: a JSON object is expected, not list"):
        read_adapter_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="is no adapter's config"):
        read_adapter_config(tmp_path)


def test_names_are_written_in_their_order(tmp_path: Path) -> None:
    model = get_peft_model(tiny_models.causal("llama"), LoraConfig(target_modules=["v_proj", "q_proj", "down_proj"]))
    folder = save_adapter(model, None, tmp_path / "adapter", lineage(tmp_path))
    assert read_adapter_config(folder)["target_modules"] == ["down_proj", "q_proj", "v_proj"]


NAMES = [
    ("default", "layers"),
    ("default", "q_proj"),
    ("default", "lora_A"),
    ("default", "0"),
    ("default", "weight"),
    ("layers", "default"),
    ("q_proj", "model"),
    ("model", None),
    ("lora", None),
]


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"trainable_token_indices": [5, 6]}], ids=str)
@pytest.mark.parametrize(("name", "other"), NAMES)
def test_names_that_are_part_of_a_path_lose_nothing(
    name: str, other: str | None, settings: dict[str, Any], tmp_path: Path
) -> None:
    """peft itself writes no layer of an adapter beside another one called "layers"."""
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, r=4, **settings)
    model = get_peft_model(tiny_models.causal("llama"), config, adapter_name=name)
    if other:
        model.add_adapter(other, config)
    model.set_adapter(name)
    with torch.no_grad():  # what was drawn is drawn again by the seed of the tiny model
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2)
    memory = model.eval()(torch.tensor(IDS)).logits
    adapters = list(model.peft_config)
    folder = save_adapter(model, None, tmp_path / "adapter", lineage(tmp_path))
    assert list(model.peft_config) == adapters
    assert torch.equal(model(torch.tensor(IDS)).logits, memory)
    stock = PeftModel.from_pretrained(tiny_models.causal("llama"), folder).eval()
    assert torch.equal(stock(torch.tensor(IDS)).logits, memory)


def test_a_name_that_is_a_tensors_own_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(tiny_models.causal("llama"), config, adapter_name="weight")
    with pytest.raises(InputError, match='An adapter called "weight" cannot be saved'):
        save_adapter(model, None, tmp_path / "adapter", lineage(tmp_path))


def test_pickled_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """As peft wrote them before 0.7."""
    tiny_models.adapted(tiny_models.causal("llama")).save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors") as error:
        read_adapter_config(tmp_path)
    assert "If you trust who made adapter_model.bin, load it with peft and save it again" in str(error.value)


def test_modules_that_peft_names_twice_are_named_once(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["query"], task_type="SEQ_CLS", modules_to_save=["classifier"], r=2)
    model = get_peft_model(tiny_models.classifier(["a", "b"]), config)
    assert model.peft_config["default"].modules_to_save == ["classifier", "classifier", "score"]
    base = {"name": "x", "kind": "folder", "path": "x", "revision": None, "weights_sha256": "0"}
    save_adapter(model, None, tmp_path / "a", {"base": base, "task": "sequence-classification", "labels": ["a", "b"]})
    saved = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert saved["modules_to_save"] == ["classifier", "score"]
