"""A tiny run served and talked to: proved by what it measured, and refused where that is not what is served."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import tiny_models
from small_rows import WORDS
from tiny_tokenizers import CHAT
from tunelift.cli.main import cli
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import ModelSection
from tunelift.core.errors import InputError, TuneliftError
from tunelift.pipeline.loader import Loader
from tunelift.pipeline.proving import prove
from tunelift.pipeline.run import run
from tunelift.pipeline.served import measured_of, ready, section_for, sources_of
from tunelift.serving.decisions import read_decisions
from tunelift.serving.engine import Limits
from tunelift.serving.requests import Request, Stop
from tunelift.serving.service import Service
from tunelift.serving.worker import ask_all

LIMITS = Limits(tokens=1024)
QUICK = {"baselines": [], "forgetting": [], "max_new_tokens": 8}


def proofs(output: str) -> list[Any]:
    sources = sources_of([("tuned", output), ("again", f"{output}/adapter")])
    with ready(ModelSection(), sources, LIMITS) as found:
        assert [model.name for model in found.models] == ["model", "tuned", "again"]
        assert found.worker.engine.unmixed is None
        return prove(found)


def changed(file: Path, **fields: Any) -> None:
    rows = [json.loads(line) | fields for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_run_is_served_only_as_it_was_measured(tiny: dict[str, Any], tmp_path: Path) -> None:
    run(from_keywords("train", **tiny, evaluate=QUICK))
    base, tuned = proofs(tiny["output"])
    assert (base.name, base.side, base.items) == ("model", "base", 8)
    assert (tuned.name, tuned.side, tuned.items) == ("tuned", "tuned", 8)
    scores = Path(tiny["output"], "tuned", "scores.jsonl")
    kept = scores.read_text()
    changed(scores, log_likelihood=-1000.0)
    with pytest.raises(TuneliftError, match="tuned is not what the run measured"):
        proofs(tiny["output"])
    scores.write_text(Path(tiny["output"], "base", "scores.jsonl").read_text())
    with pytest.raises(TuneliftError, match="tuned is not what"):  # as of a server that ignores the adapter
        proofs(tiny["output"])
    scores.write_text(kept)
    with pytest.raises(InputError, match="Several adapters"):
        sources_of([(None, tiny["output"]), ("out", tiny["output"])])
    with pytest.raises(InputError, match="neither a run's"):
        sources_of([(None, str(tmp_path))])
    with pytest.raises(InputError, match="No model is named"):
        section_for(ModelSection(), [])
    assert section_for(ModelSection(), sources_of([(None, tiny["output"])])).dtype == "float32"  # as it was measured
    assert section_for(ModelSection(dtype="bfloat16"), sources_of([(None, tiny["output"])])).dtype == "bfloat16"
    lineage = Path(tiny["output"], "adapter", "tunelift.json")
    facts = json.loads(lineage.read_text())
    lineage.write_text(json.dumps(facts | {"base": facts["base"] | {"quantization": "int8"}}))
    alone = sources_of([(None, f"{tiny['output']}/adapter")])
    assert section_for(ModelSection(), alone).quantization == "int8"  # as it was trained
    assert section_for(ModelSection(quantization="int4"), alone).quantization == "int4"
    lineage.write_text(json.dumps(facts))
    with (
        pytest.raises(InputError, match="the base's name"),
        ready(ModelSection(), sources_of([("model", tiny["output"])]), LIMITS),
    ):
        pass


@pytest.fixture
def chatty(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Run on conversations, of which answers in words of its own are measured."""
    tiny_models.byte_level(template=CHAT).save_pretrained(tiny["model"])
    rows = [
        {"messages": [{"role": "user", "content": f"{word} {n}"}, {"role": "assistant", "content": label}]}
        for n in range(5)
        for label, words in WORDS.items()
        for word in words[:2]
    ]
    Path(tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny | {"data": {"train": str(tmp_path / "chat.jsonl"), "test": 0.3}}
    run(from_keywords("train", **config, evaluate=QUICK | {"metrics": ["exact_match", "loss"]}))
    return config


def test_a_runs_labels_are_decided_by_as_it_measured_them(tiny: dict[str, Any]) -> None:
    words = {"prompt": "About: {text}\nTopic:", "completion": " {label}"}
    run(from_keywords("train", **(tiny | {"data": tiny["data"] | words}), evaluate=QUICK))
    scores = [json.loads(line) for line in Path(tiny["output"], "tuned", "scores.jsonl").read_text().splitlines()]
    compared = json.loads(Path(tiny["output"], "comparison.json").read_text())
    compared["calibration"] = {"tuned": {"temperature": 0.5}}  # as of more rows of validation than a tiny run has
    Path(tiny["output"], "comparison.json").write_text(json.dumps(compared))
    sources = sources_of([("tuned", tiny["output"])])
    with ready(ModelSection(), sources, LIMITS) as found:
        service = Service(found.worker, found.models)
        assert [named.measured is not None for named in found.models] == [True, True]
        for row in scores[:4]:
            text = row["input"].removeprefix("About: ").removesuffix("\nTopic:")
            question = {"type": "choice", "criteria": {"tech": None, "sports": None}}
            body = {"model": "tuned", "state": {"text": text}, "questions": {"topic": question}}
            asked = service.decisions(read_decisions(body))[1]["topic"]
            for deltas in ask_all(found.worker, list(asked.requests)):
                for delta in deltas:
                    asked.add(delta)
            answer = asked.answer()
            sure = 1 / (1 + math.exp((row["label_scores"][" sports"] - row["label_scores"][" tech"]) / 0.5))
            assert answer["measured"] is True
            assert answer["probabilities"]["tech"] == pytest.approx(sure, abs=1e-4)
            assert f" {answer['choice']}" == row["prediction"]
    assert measured_of(sources_of([("tuned", f"{tiny['output']}/adapter")])[0], "tuned") is None


def test_answers_in_words_are_proved_and_talked_with(
    chatty: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = proofs(chatty["output"])
    assert [(one.side, one.answers > 0) for one in found] == [("base", True), ("tuned", True)]
    said = iter(
        ["/good", "hello", "/bad model", "/good", "/nothing", "and now?", "/system Be brief.", "hello", "/quit"]
    )
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    arguments = ["chat", f"tuned={chatty['output']}", "--max-new-tokens", "6", "--save", str(tmp_path / "rows.jsonl")]
    with pytest.raises(SystemExit) as done:
        cli.main(arguments)
    assert done.value.code == 0
    out, err = capsys.readouterr()
    assert out.count("model: ") == out.count("tuned: ") == 3
    assert "tuned has answered nothing yet" in err
    bad, good = (json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (bad["label"], bad["model"], good["label"], good["model"]) == (False, "model", True, "tuned")
    assert good["prompt"] == [{"role": "user", "content": "hello"}]
    assert good["completion"][0]["content"] in out


def test_the_command_listens_answers_and_stops(tiny: dict[str, Any]) -> None:
    pytest.importorskip("uvicorn", reason="tunelift serve listens by uvicorn, extra serve")
    command = [sys.executable, "-m", "tunelift", "serve", "--model", tiny["model"], "--port", "0", "--dtype", "float32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = threading.Timer(120, process.kill)
    watch.start()
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:")
    body = json.dumps({"prompt": "ab", "max_tokens": 3, "temperature": 0}).encode()
    request = urllib.request.Request(f"{address}/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] <= 3
    process.terminate()
    _, err = process.communicate(timeout=60)
    watch.cancel()
    assert process.returncode == 143
    assert "Traceback" not in err


def test_nothing_is_served_to_others_without_a_token(tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["serve", "--model", tiny["model"], "--host", "0.0.0.0"])
    assert done.value.code == 2
    assert "no token is asked for" in capsys.readouterr().err


@pytest.fixture
def two_adapters(tmp_path: Path) -> Path:
    """Two adapters of one tiny model, in a folder of their own, with the model beside it."""
    tiny_models.causal().save_pretrained(tmp_path / "model")
    tiny_models.byte_level().save_pretrained(tmp_path / "model")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = LoraConfig(target_modules="all-linear", init_lora_weights=False, r=4, task_type="CAUSAL_LM")
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), config)
        adapted.save_pretrained(tmp_path / "adapters" / name)
    return tmp_path / "adapters"


def greedy(service: Service, name: str, text: str = "ball") -> list[int]:
    named = service.named(name)
    ids, _ = named.asked(text)
    (deltas,) = ask_all(service.worker, [Request(ids, adapter=named.adapter, stop=Stop(max_new_tokens=8))])
    return [token.id for delta in deltas for token in delta.tokens]


def test_adapters_come_and_go_while_others_are_answered(
    two_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = sources_of([("one", str(two_adapters / "one")), ("two", str(two_adapters / "two"))])
    section = ModelSection(name=str(tmp_path / "model"), dtype="float32")
    with ready(section, sources, LIMITS) as found:
        service = Service(found.worker, found.models)
        wanted = {name: greedy(service, name) for name in service.models}
    with ready(section, [], LIMITS) as found:
        service = Service(found.worker, found.models)
        loader = Loader(found, service, [two_adapters])
        assert greedy(service, "model") == wanted["model"]
        for name in ("one", "two"):
            loader.load(name, name)
            assert {own: greedy(service, own) for own in service.models} == {own: wanted[own] for own in service.models}
        refused: list[tuple[str, str, str]] = [
            ("one", "two", "already"), ("three", str(tmp_path), "no folder"), ("three", "..", "no folder"),
            ("three", ".", "no folder"), ("three", "a" * 5000, "no folder"), ("three", "\0", "no folder"),
            (" ", "two", "lora_name"),
        ]  # fmt: skip
        for name, path, why in refused:
            with pytest.raises(InputError, match=why):
                loader.load(name, path)
        (two_adapters / "way").symlink_to(tmp_path)
        with pytest.raises(InputError, match="no folder"):
            loader.load("three", "way")
        # A request that is there when its adapter is unloaded ends as it would have.
        named, told = service.named("two"), list[Any]()
        ids, _ = named.asked("ball")
        request = Request(ids, adapter=named.adapter, stop=Stop(max_new_tokens=8))
        found.worker.submit(request, told.append)
        loader.unload("two")
        assert [token.id for delta in told for token in delta.tokens] == wanted["two"]
        assert list(service.models) == ["model", "one"]
        with pytest.raises(InputError, match="no adapter"):
            found.worker.submit(Request(ids, adapter=named.adapter, stop=Stop(max_new_tokens=8)), told.append)
        with pytest.raises(InputError, match="no model"):
            loader.unload("two")
        with pytest.raises(InputError, match="the base"):
            loader.unload("model")
        # Another adapter by the name of one that has gone is not taken for it, nor what was known under it.
        loader.unload("one")
        loader.load("one", "two")
        assert greedy(service, "one") == wanted["two"]
        assert greedy(service, "model") == wanted["model"]
        monkeypatch.setattr(found.worker.engine._adapters, "laid_out", lambda module: None)
        with pytest.raises(TuneliftError, match="not this adapter"):  # as of a server that ignores it
            loader.load("two", "two")
        assert list(service.models) == ["model", "one"]
        assert found.worker.broken is None
