"""Classifiers of others, without a task, a padding token or names: used, or refused before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from peft import LoraConfig, get_peft_model

import tiny_models
import tiny_tokenizers
import tunelift
from tunelift.cli.main import cli
from tunelift.core.errors import InputError
from tunelift.pipeline.session import Session

ROWS = [{"text": f"row {i} {'good' if i % 2 else 'bad'}", "label": "ab"[i % 2]} for i in range(12)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def classifier(folder: Path, tokenizer: Any = None, **changes: Any) -> Path:
    tiny_models.classifier(["a", "b"], "llama", **changes).save_pretrained(folder)
    (tokenizer or tiny_models.tokenizer()).save_pretrained(folder)
    return folder


def adapter(folder: Path, base: Path, task_type: str) -> Path:
    model = tiny_models.classifier(["a", "b"], "llama") if task_type == "SEQ_CLS" else tiny_models.causal("llama")
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, r=4, task_type=task_type)
    model = get_peft_model(model, config)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    return folder


def asked(command: str, *options: object) -> Result:
    return CliRunner().invoke(cli, [command, *map(str, options)])


def refused(done: Result) -> str:
    assert done.exit_code == InputError.exit_code, done.output
    return f"{done.output}\n{done.stderr}"


@pytest.fixture
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "score", lambda *_: pytest.fail("something was measured"))


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_decoders_classifier_is_never_a_language_model(tmp_path: Path, data: Path) -> None:
    base = classifier(tmp_path / "c")
    tuned = adapter(tmp_path / "adapter", base, "CAUSAL_LM")
    for done in (
        asked("evaluate", "--model", base, "--data", data, "--task", "causal-lm"),
        asked("evaluate", "--model", base, "--data", data, "--adapter", tuned),
        asked("compare", "--model", base, "--data", data, "--adapter", tuned),
        asked("compare", "--data", data, "--adapter", tuned),
        asked("doctor", tuned, "--model", base),
    ):
        assert "was saved with a classification head" in refused(done)
    with pytest.raises(InputError, match="was saved with a classification head"):
        tunelift.load(str(base))
    with pytest.raises(InputError, match="was saved with a classification head"):
        tunelift.load(str(base), adapter=tuned)


def test_a_decoders_classifier_without_a_task_is_one(tmp_path: Path, data: Path) -> None:
    base = classifier(tmp_path / "c")
    done = asked("evaluate", "--model", base, "--data", data, "--output", tmp_path / "scores")
    assert done.exit_code == 0, done.output
    first = json.loads((tmp_path / "scores" / "scores.jsonl").read_text().splitlines()[0])
    assert first["prediction"] in {"a", "b"}


@pytest.mark.parametrize("labels", [None, "a,b"])
def test_an_adapter_of_a_classifier_needs_the_names_of_its_classes(
    tmp_path: Path, data: Path, labels: str | None
) -> None:
    base = classifier(tmp_path / "c")
    options = ["--data", data, "--adapter", adapter(tmp_path / "adapter", base, "SEQ_CLS")]
    options += ["--labels", labels] if labels else []
    done = asked("compare", *options, "--output", tmp_path / "run")
    if labels:
        assert done.exit_code == 0, done.output
    else:
        assert "does not say which label each class of its head is" in refused(done)


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_head_that_neither_has_is_not_drawn_at_random(tmp_path: Path, data: Path) -> None:
    base = tmp_path / "base"
    tiny_models.causal("llama").save_pretrained(base)
    tiny_models.tokenizer().save_pretrained(base)
    tuned = adapter(tmp_path / "adapter", base, "CAUSAL_LM")
    options = ["--data", data, "--adapter", tuned, "--task", "sequence-classification", "--labels", "a,b"]
    for made_for, said in (("CAUSAL_LM", "was made for CAUSAL_LM"), ("SEQ_CLS", "has score, which would be drawn at")):
        settings = json.loads((tuned / "adapter_config.json").read_text())
        (tuned / "adapter_config.json").write_text(json.dumps(settings | {"task_type": made_for}))
        for command in ("compare", "evaluate"):
            assert said in refused(asked(command, *options))


@pytest.mark.parametrize("eos", [True, False])
def test_a_classifier_without_a_padding_token(tmp_path: Path, data: Path, eos: bool) -> None:
    """The end token pads; without one nothing can be measured, in batches or on a decoder at all."""
    tokenizer = tiny_tokenizers.byte_level(eos=eos)
    base = classifier(tmp_path / "c", tokenizer, pad_token_id=None)
    done = asked("evaluate", "--model", base, "--data", data, "--output", tmp_path / "scores")
    if eos:
        assert done.exit_code == 0, done.output
        return
    assert "pad" in refused(done)
    assert not (tmp_path / "scores").exists()
    with pytest.raises(InputError, match="pad"):
        tunelift.load(str(base), task="sequence-classification", labels=["a", "b"])
