"""Tunes on conversations: their turns, the one date of a run, and being asked as they were trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from chat_families import assistant, user
from small_rows import WORDS
from tiny_tokenizers import CHAT, FORGETFUL
from tunelift.adapters.store import read_lineage
from tunelift.config.keywords import from_keywords
from tunelift.core.errors import TuneliftError
from tunelift.data.render import Renderer
from tunelift.pipeline import generating, stages, tuning
from tunelift.tasks.causal_lm import CausalLM

DATED = "Today is {{ strftime_now('%Y') }}. " + CHAT


@pytest.fixture
def chatty(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Return the keywords of a small run on conversations of two turns."""
    rows = [
        {"messages": [user(f"{word} {n}"), assistant(label), user(f"and {n}?"), assistant(f"{label} {n}")]}
        for n in range(10)
        for label, words in WORDS.items()
        for word in words[:2]
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer_with(CHAT, tiny)
    return tiny | {"data": {"train": str(path), "test": 0.2}}


def tokenizer_with(template: str, tiny: dict[str, Any]) -> None:
    tokenizer = tiny_models.byte_level(template=template)
    tokenizer.save_pretrained(tiny["model"])


def manifest(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(Path(config["output"], "manifest.json").read_text())


def test_turns_are_rows_of_their_own_where_a_template_forgets(chatty: dict[str, Any], capsys: Any) -> None:
    stages.tune_stage(from_keywords("train", **chatty))
    rows = manifest(chatty)["data"]["rendering"]["rows"]
    tokenizer_with(FORGETFUL.replace("loop.last", "loop.last and false"), chatty)
    assert "answer by answer" not in capsys.readouterr().err
    each = chatty | {"output": chatty["output"] + "-each", "data": chatty["data"] | {"turns": "each"}}
    stages.tune_stage(from_keywords("train", **each))
    made = manifest(each)["data"]["rendering"]
    assert made["rows"] == 2 * rows
    assert f"{rows} conversations are learned answer by answer, in {2 * rows} rows" in made["notes"]
    assert f"{rows} conversations are learned answer by answer" in capsys.readouterr().err
    assert all(proof["passed"] for proof in manifest(each)["proofs"])


def test_a_run_that_goes_on_another_day_has_the_date_of_its_beginning(
    chatty: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer_with(DATED, chatty)
    seen = set[str]()
    rows = CausalLM.rows

    def noted(self: Any, examples: Any, tokenizer: Any, *rest: Any) -> Any:
        kept, report = rows(self, examples, tokenizer, *rest)
        seen.update(tokenizer.decode(row.ids).split("Today is ")[1][:4] for row in kept)
        return kept, report

    def failing(*_: Any) -> Any:
        raise TuneliftError("midnight")

    monkeypatch.setattr(CausalLM, "rows", noted)
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "prove", failing)
        with pytest.raises(TuneliftError, match="midnight"):
            stages.tune_stage(from_keywords("train", **chatty))
    began = manifest(chatty)["date"]
    assert seen == {began[:4]}
    path = Path(chatty["output"], "manifest.json")
    path.write_text(path.read_text().replace(began, "1999-12-31T23:59:59"))
    seen.clear()
    # What was rendered with another date would be another training, which the checkpoints refuse.
    (Path(chatty["output"]) / "checkpoints").rename(Path(chatty["output"]) / "old")
    stages.tune_stage(from_keywords("train", **chatty))
    assert seen == {"1999"}
    assert manifest(chatty)["date"] == "1999-12-31T23:59:59"


def test_generate_asks_as_the_adapter_was_trained(
    chatty: dict[str, Any], tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    prompts: list[str] = []
    asked = Renderer.asked

    def noted(self: Renderer, examples: Any) -> Any:
        found = asked(self, examples)
        prompts.extend(self.tokenizer.decode(one.ids) for one in found)
        return found

    adapter = stages.tune_stage(from_keywords("train", **chatty))
    assert read_lineage(adapter)["conversations"] is True
    monkeypatch.setattr(Renderer, "asked", noted)
    order: list[str] = []
    load = generating.Session.load_adapter
    monkeypatch.setattr(
        generating.Session,
        "load_adapter",
        lambda self, *a, **k: (order.append(f"{len(prompts)} asked"), load(self, *a, **k)),
    )
    config, folder = stages.from_run_folder(chatty["output"])
    (row,) = generating.generate_stage(config, str(folder), ["ball 1"])
    assert set(row) == {"prompt", "base", "tuned"}
    assert prompts == ["<|im_start|>user\nball 1<|im_end|>\n<|im_start|>assistant\n"] * 2
    assert order == ["1 asked"]
    assert "through the chat template, since the adapter was trained on conversations" in capsys.readouterr().err

    prompts.clear()
    plain = tiny | {"output": str(tmp_path / "plain")}
    adapter = stages.tune_stage(from_keywords("train", **plain))
    assert "conversations" not in read_lineage(adapter)
    generating.generate_stage(stages.from_run_folder(plain["output"])[0], str(adapter), ["ball 1"])
    assert prompts == ["<s>ball 1"] * 2
    assert "prompts are taken as they are, not through the model's chat template" in capsys.readouterr().err
