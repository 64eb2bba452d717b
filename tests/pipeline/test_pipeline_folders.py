"""Folders of every trainer: scored as by stock peft, or refused before anything is measured; doctor says it first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel

import strange_adapters as strange
import tiny_models
import tunelift
from tunelift.cli.main import cli
from tunelift.config.schema import ModelSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.pipeline.proofs import likelihoods
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS

Writer = Callable[[Path], Path]
OTHER = r"the adapter was made on \S+, and is put on \S+"
TEMPLATE = "the base has no chat template, and is asked with the adapter's"

USED: dict[str, tuple[Writer, list[str]]] = {
    **{f"peft {version}": (strange.of_peft(version), [OTHER]) for version in ("0.6", *strange.ADDED)},
    "later": (
        strange.changed("0.21", peft_version="0.99.0", use_frobnication=True),
        [r"made by peft 0\.99\.0 has settings that peft \S+ leaves out: use_frobnication", OTHER],
    ),
    "rslora": (strange.changed("0.8", use_rslora=True), [OTHER]),
    "Unsloth": (strange.of_unsloth, [OTHER]),
    "Unsloth, a pattern": (strange.of_unsloth_by_pattern, [OTHER]),
    "LLaMA-Factory": (strange.of_llama_factory, [OTHER, "the one beside checkpoint-5 is used"]),
    "LLaMA-Factory, PPO": (
        strange.with_a_value_head,
        [OTHER, r"value_head\.safetensors beside the adapter is not used"],
    ),
    "Axolotl": (strange.of_axolotl, [OTHER]),
    "TRL": (strange.of_trl, [OTHER, TEMPLATE]),
    "TRL, DPO": (strange.with_a_reference, [OTHER, "the one beside reference is used"]),
}
REFUSED: dict[str, tuple[Writer, str]] = {
    "pickled": (strange.pickled, r"has no adapter_model\.safetensors.\n.*save it again"),
    "another rank": (strange.changed("0.10", rank_pattern={"q_proj": 2}), r"size mismatch for .*q_proj\.lora_A"),
    "a vision tower": (strange.of_unsloth_with_vision, r"holds .*vision_tower.*no place"),
    "a value head inside": (strange.with_the_value_head_inside, r"holds v_head\.summary\.bias .*no place"),
    "more tokens": (strange.of_axolotl_with_more_tokens, r"size mismatch for .*embed_tokens.*\[408, 32\]"),
    "checkpoints only": (strange.only_checkpoints, r"It holds several: checkpoint-500, checkpoint-1000"),
    "called 0": (strange.called_zero, "does not fit|no place"),
    "compiled": (strange.compiled, r"_orig_mod.*no place|missing adapter keys"),
    "a backup of PiSSA": (strange.of_pissa_backup, "for a base that PiSSA rewrote"),
    "PiSSA": (
        strange.changed("0.12", init_lora_weights="pissa_niter_16"),
        "pissa_niter_16 rewrites the base's weights",
    ),
    "OLoRA": (strange.changed("0.12", init_lora_weights="olora"), "olora rewrites the base's weights"),
    "CorDA": (strange.changed("0.15", init_lora_weights="corda"), "corda rewrites the base's weights"),
    "LoftQ": (
        strange.changed("0.8", init_lora_weights="loftq", loftq_config={"loftq_bits": 4}),
        "loftq rewrites the base's weights",
    ),
    "repeated layers": (
        strange.changed("0.10", layer_replication=[[0, 2], [1, 3]]),
        "layer_replication repeats layers",
    ),
    "megatron": (strange.changed("0.8", megatron_config={"a": 1}), "makes peft import a module"),
    "Arrow": (strange.changed("0.18", arrow_config={"top_k": 2}), "were not tried here: arrow_config"),
    "a method": (strange.changed("0.18", peft_type="POLY"), "of peft's POLY, which was not tried here"),
    "features": (strange.changed("0.10", task_type="FEATURE_EXTRACTION"), "does not fit this model"),
    "tasks": (strange.changed("0.10", task_type=["CAUSAL_LM"]), "was made for"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    tiny_models.causal("llama").save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "score", lambda *_: pytest.fail("something was measured"))


def doctor(folder: Path, base: Path) -> tuple[int, str]:
    """Return the exit code of doctor, and all that it says."""
    done = CliRunner().invoke(cli, ["doctor", str(folder), "--model", str(base)])
    error = done.exception if isinstance(done.exception, InputError) else None
    assert error or isinstance(done.exception, SystemExit | None), done.exception
    return InputError.exit_code if error else done.exit_code, f"{done.output}\n{done.stderr}\n{error or ''}"


def rows(folder: Path) -> Path:
    file = folder / "test.jsonl"
    some = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in some))
    return file


def said_of(notes: Sequence[str], wanted: list[str]) -> bool:
    return len(notes) == len(wanted) and all(re.search(one, note) for one, note in zip(wanted, notes, strict=True))


@pytest.mark.parametrize("case", USED)
def test_a_folder_is_scored_as_stock_peft_scores_it(case: str, tmp_path: Path, base: Path) -> None:
    write, wanted = USED[case]
    folder = write(tmp_path / "adapter")
    section = ModelSection.model_validate({"name": str(base), "dtype": "float32"})
    session = Session.open(section, TASKS.get("causal-lm"))
    session.load_adapter(folder)
    assert session.examined is not None
    assert said_of(session.examined.notes, wanted), session.examined.notes
    stock = PeftModel.from_pretrained(tiny_models.causal("llama"), folder).eval()
    examples = [Example("1", "the cat sat", " on the mat"), Example("2", "label:", " sports business")]
    found = likelihoods(session, examples, 64)
    assert found == pytest.approx([_by_stock(stock, session.tokenizer, one) for one in examples], abs=1e-4)
    plain = tiny_models.causal("llama")
    assert found != pytest.approx([_by_stock(plain, session.tokenizer, one) for one in examples], abs=1e-2)
    code, said = doctor(folder, base)
    assert code == 0 and "has its place in" in said
    assert all(note in said for note in session.examined.notes), said


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("nothing_is_measured")
def test_a_folder_is_refused_before_anything_is_measured(case: str, tmp_path: Path, base: Path) -> None:
    write, why = REFUSED[case]
    folder = write(tmp_path / "adapter")
    answers = []
    for command in ("compare", "evaluate"):
        asked = [command, "--adapter", str(folder), "--model", str(base), "--data", str(rows(tmp_path))]
        done = CliRunner().invoke(cli, [*asked, "--output", str(tmp_path / command)])
        answers.append((done.exit_code, f"{done.output}\n{done.stderr}"))
        assert not (tmp_path / command).exists()
    answers.append(doctor(folder, base))
    with pytest.raises(InputError) as error:
        tunelift.load(str(base), adapter=folder)
    answers.append((InputError.exit_code, str(error.value)))
    for code, said in answers:
        assert code == InputError.exit_code and re.search(why, said), said


@torch.no_grad()
def _by_stock(model: Any, tokenizer: Any, example: Example) -> float:
    """Return the log-likelihood of the completion and the end token, of the model's own logits."""
    prompt = tokenizer(example.prompt)["input_ids"]
    answer = tokenizer(example.completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    ids = torch.tensor([[*prompt, *answer]])
    likely = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].double().log_softmax(-1)
    return float(likely[range(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]].sum())
