"""Whole runs of preference tuning: measured, tuned, proved, compared, gone on from, and killed nowhere in silence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

import tiny_models
import tunelift
from tunelift.adapters import beginnings
from tunelift.adapters.from_rows import gradients
from tunelift.config.keywords import from_keywords
from tunelift.config.load import load_config
from tunelift.config.schema import EndpointSection, PreferencesSection
from tunelift.core.errors import InputError, TuneliftError
from tunelift.core.records import Scores
from tunelift.fast.preferences import PAIR_LOSSES, TAKES, Answers, Strength
from tunelift.pipeline.judging import Question, judge
from tunelift.pipeline.stages import compare_adapter, tune_stage
from tunelift.tasks import TASKS

PROMPT = "Say what you think of number"


def write(path: Path, count: int, start: int = 0, *, judged: bool = False) -> str:
    rows = []
    for i in range(start, start + count):
        asked, answers = f"{PROMPT} {i} today:", (f" a fine {i}", f" no {i % 7}")
        row: dict[str, Any] = {"prompt": asked, "chosen": answers[0], "rejected": answers[1]}
        rows.append({"prompt": asked, "completion": answers[i % 2], "label": i % 2 == 0} if judged else row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def tiny_pairs(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    data = {"train": write(tmp_path / "pairs.jsonl", 40), "test": write(tmp_path / "held.jsonl", 24, 100)}
    evaluate = {"forgetting": []}
    return tiny | {"task": "preference", "data": data, "evaluate": evaluate}


def proofs_of(folder: Path) -> dict[str, dict[str, Any]]:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert all(proof["passed"] for proof in manifest["proofs"])
    return {proof["name"]: proof for proof in manifest["proofs"]}


def test_a_run_ends_in_a_verdict_on_held_out_pairs(tiny_pairs: dict[str, Any]) -> None:
    other = Path(tiny_pairs["output"]).with_name("other.jsonl")
    other.write_text("".join(json.dumps({"prompt": f"p {i}:", "completion": f" c {i}"}) + "\n" for i in range(12)))
    evaluate = {"forgetting": [str(other)], "metrics": ["pair_margin", "pair_accuracy", "loss"]}
    verdict = tunelift.run(**tiny_pairs | {"evaluate": evaluate}).to_dict()
    out = Path(tiny_pairs["output"])
    proofs = proofs_of(out)
    assert "0.693147" in proofs["the reference is the base"]["detail"]
    assert {"labels are the answers", "the end is among the labels", "the loss is over the labels"} < set(proofs)
    margin = verdict["metrics"]["pair_margin"]
    assert margin["verdict"] == "better"
    row = json.loads((out / "tuned" / "scores.jsonl").read_text().splitlines()[0])
    assert row["metrics"]["pair_margin"] == pytest.approx(row["log_likelihood"] - row["rejected_log_likelihood"])
    assert row["rejected"] == " no 2"
    assert row["prediction"] in (row["reference"], row["rejected"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["train"]["first_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert manifest["train"]["last_loss"] < 0.69
    assert manifest["fast_paths"]["shared_prefix"] == "on"
    assert '"loss"' in (out / "forgetting" / "other" / "tuned" / "metrics.json").read_text(), "read as answers are"
    assert "pair_margin" in (out / "report.html").read_text()
    tunelift.run(str(out / "config.yaml"))  # complete: nothing is computed again


def test_judged_answers_and_pairs_are_learned_by_kto(tiny_pairs: dict[str, Any], tmp_path: Path) -> None:
    data = {
        "train": write(tmp_path / "j.jsonl", 40, judged=True),
        "test": write(tmp_path / "k.jsonl", 24, 90, judged=True),
    }
    verdict = tunelift.run(**tiny_pairs | {"data": data}).to_dict()
    assert verdict["metrics"]["liked_margin"]["verdict"] == "better"
    assert "the reference is the base" in proofs_of(Path(tiny_pairs["output"]))
    tune_stage(from_keywords("train", **tiny_pairs | {"preferences": "kto", "output": str(tmp_path / "of_pairs")}))
    assert "the reference is the base" in proofs_of(tmp_path / "of_pairs")
    with pytest.raises(InputError, match=r"preferences\.loss is ipo, which learns from pairs"):
        tunelift.run(**tiny_pairs | {"data": data, "preferences": {"loss": "ipo"}, "output": str(tmp_path / "no")})
    with pytest.raises(InputError, match="The metric pair_accuracy is not of such rows"):
        tunelift.run(
            **tiny_pairs | {"data": data, "evaluate": {"metrics": ["pair_accuracy"]}, "output": str(tmp_path / "no2")}
        )


@pytest.mark.parametrize("name", ["orpo", "ipo"])
def test_other_losses_are_learned_and_proved(name: str, tiny_pairs: dict[str, Any]) -> None:
    tune_stage(from_keywords("train", **tiny_pairs | {"preferences": name}))
    assert ("the reference is the base" in proofs_of(Path(tiny_pairs["output"]))) == (name == "ipo")


def test_a_preference_is_learned_after_answers_were(tiny_pairs: dict[str, Any], tmp_path: Path) -> None:
    answers = tiny_pairs | {"task": None, "output": str(tmp_path / "first")}
    answers["data"] = {**tiny_pairs["data"], "prompt": "{prompt}", "completion": "{chosen}"}
    tune_stage(from_keywords("train", **answers))
    tune_stage(from_keywords("train", **tiny_pairs | {"adapter": {"start_from": str(tmp_path / "first" / "adapter")}}))
    proofs = proofs_of(Path(tiny_pairs["output"]))
    assert "0.693147" in proofs["the reference is the model as the training begins"]["detail"]
    model, tokenizer = tunelift.load(
        tiny_pairs["model"], adapter=Path(tiny_pairs["output"]) / "adapter", task="causal-lm", dtype="float32"
    )
    scores = tunelift.evaluate(model, tokenizer, data=answers["data"] | {"train": None}, metrics=["loss"])
    assert scores.metrics["loss"] > 0  # measured as answers are


def test_python_takes_an_adapter_that_is_on_as_the_reference(tiny_pairs: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in Path(tiny_pairs["data"]["train"]).read_text().splitlines()]
    model, tokenizer = tunelift.load(tiny_pairs["model"], dtype="float32")
    adapted = tiny_models.adapted(model)
    settings: dict[str, Any] = {"data": rows, "task": "preference", "steps": 2}
    tunelift.tune(adapted, tokenizer, **settings)  # the adapter acts, so the base would fail the proof of the start
    with pytest.raises(InputError, match="int8"):
        tunelift.tune(adapted, tokenizer, **settings, products="int8")


def test_an_adapter_that_changes_the_model_at_once_is_found_out(tiny_pairs: dict[str, Any], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(tiny_pairs["data"]["train"]).read_text().splitlines()]
    model, tokenizer = tunelift.load(tiny_pairs["model"], dtype="float32")
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    settings: dict[str, Any] = {"data": rows, "task": "preference", "steps": 2, "adapter": config}
    with pytest.raises(TuneliftError, match="not what the training starts from: DPO's first loss is"):
        tunelift.tune(model, tokenizer, **settings)
    model, tokenizer = tunelift.load(tiny_pairs["model"], dtype="float32")
    tunelift.tune(model, tokenizer, **settings, reference="base", output=str(tmp_path / "virtual"))


def test_what_the_reference_said_is_kept(tiny_pairs: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    tune_stage(from_keywords("train", **tiny_pairs))
    assert "were scored before" not in capsys.readouterr().err
    again = tiny_pairs | {"output": tiny_pairs["output"] + "2", "train": {"steps": 3, "seed": 1}}
    tune_stage(from_keywords("train", **again))
    assert re.search(r"reference: (\d+) of \1 rows were scored before", capsys.readouterr().err)


def test_lora_ga_begins_with_the_gradient_of_the_first_step(
    tiny_pairs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where model and reference are the same every pair pulls alike, so that beta is a factor and nothing more."""
    found = list[dict[str, torch.Tensor]]()

    def seen(*given: Any) -> dict[str, torch.Tensor]:
        found.append(gradients(*given))
        return found[-1]

    monkeypatch.setattr(beginnings, "gradients", seen)
    for beta in (0.1, 2.0):
        settings = {"preferences": {"beta": beta}, "output": f"{tiny_pairs['output']}-{beta}"}
        tune_stage(from_keywords("train", **tiny_pairs | settings | {"adapter": {"init_lora_weights": "lora_ga"}}))
    one, other = found
    assert one.keys() == other.keys()
    assert all(torch.allclose(20 * slope, other[name], rtol=1e-3, atol=1e-4) for name, slope in one.items())


def test_the_example_config_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).parents[2] / "examples"
    monkeypatch.chdir(folder)
    config = load_config(folder / "preferences.yaml")
    assert config.task == "preference"
    assert config.preferences.loss == "dpo"


def test_lora_elsewhere_than_on_linear_layers_has_the_base_for_reference(tiny_pairs: dict[str, Any]) -> None:
    """Where TRL's copy of the adapter is no reference (0.6185 instead of 0.6931 with LoRA on the embedding)."""
    rows = [json.loads(line) for line in Path(tiny_pairs["data"]["train"]).read_text().splitlines()]
    model, tokenizer = tunelift.load(tiny_pairs["model"], dtype="float32")
    adapted = get_peft_model(model, LoraConfig(target_modules=["embed_tokens", "q_proj"], r=4, task_type="CAUSAL_LM"))
    tunelift.tune(adapted, tokenizer, data=rows, task="preference", steps=2, learning_rate=0.01)
    tunelift.tune(adapted, tokenizer, data=rows, task="preference", steps=2)  # from where it is now


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": "dpo", "gamma": 0.3}, r"preferences.gamma is nothing to the loss dpo: simpo look at it"),
        ({"gamma": 0.0}, r"preferences.gamma is nothing to the loss dpo"),
        ({"loss": "kto", "gamma": 1}, r"preferences.gamma is nothing to the loss kto"),
        ({"loss": "simpo", "reference": "base"}, r"preferences.reference is nothing to the loss simpo: dpo, ipo, kto"),
        (
            {"loss": "orpo", "reference": "base", "gamma": 1},
            r"(?s)preferences.gamma is nothing.*preferences.reference is",
        ),
        ({"loss": "simpo", "gamma": 0.2, "beta": 1}, None),
        ({"loss": "ipo", "reference": "base"}, None),
    ],
)
def test_settings_that_the_loss_does_not_look_at_are_refused_by_name(given: dict[str, Any], said: str | None) -> None:
    task, settings = TASKS.get("preference"), PreferencesSection(**given)
    if said is None:
        assert task.with_settings(settings).about == settings.model_dump()
        return
    with pytest.raises(InputError, match=said):
        task.with_settings(settings)


def test_every_setting_is_some_losss_and_none_is_looked_at_in_silence() -> None:
    """A loss that gives the same whatever a setting says does not look at it."""
    assert {name for names in TAKES.values() for name in names} == set(PreferencesSection.model_fields)
    own, other = torch.tensor([-3.0, -5.0]), torch.tensor([-4.0, -4.5])
    sides = [Answers(one, one + by, torch.tensor([3.0, 4.0])) for one, by in ((own, 0.3), (other, -0.2))]
    for name, loss in PAIR_LOSSES.items():
        values = [loss(*sides, Strength(beta, gamma)) for beta, gamma in ((0.1, 0.5), (0.2, 0.5), (0.1, 0.9))]
        moved = [
            replace(side, reference=side.reference + shift) for side, shift in zip(sides, (0.2, -0.4), strict=True)
        ]
        values.append(loss(*moved, Strength(0.1, 0.5)))
        seen = {key for key, value in zip(("beta", "gamma", "reference"), values[1:], strict=True)
                if not torch.allclose(value, values[0])}  # fmt: skip
        assert seen == set(TAKES[name]) - {"loss"}


@pytest.mark.parametrize("liked", [True, False])
def test_answers_of_one_judgement_are_refused(liked: bool, tiny_pairs: dict[str, Any], tmp_path: Path) -> None:
    """Nothing was said, and the likelihood of liked answers alone was called better."""
    path = Path(write(tmp_path / "judged.jsonl", 40, judged=True))
    rows = [json.loads(line) | {"label": liked} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match=r"training answers are (not )?liked: there is nothing to tell apart"):
        tunelift.run(**tiny_pairs | {"data": {"train": str(path), "test": 0.3}})
    assert not (Path(tiny_pairs["output"]) / "base").exists()


def test_other_tasks_refuse_settings_of_preferences(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"preferences.loss is set, and the task causal-lm learns no preferences"):
        tunelift.run(**tiny, task="causal-lm", loss="simpo")
    assert not Path(tiny["output"]).exists()


def test_generated_answers_are_measured_after_the_run_and_judged(tiny_pairs: dict[str, Any], tmp_path: Path) -> None:
    tiny_pairs["data"]["test"] = write(tmp_path / "more.jsonl", 60, 100)
    tunelift.run(**tiny_pairs)
    out = Path(tiny_pairs["output"])
    with pytest.raises(InputError, match="hold no answers of the models'"):
        judge([out], Question("f1"), EndpointSection(), None)
    evaluate = {"metrics": ["f1"], "max_new_tokens": 6, "forgetting": []}
    data = {"test": tiny_pairs["data"]["test"]}
    config = from_keywords(
        "evaluate", data=data, task="preference", evaluate=evaluate, output=str(tmp_path / "answers"), dtype="float32"
    )
    compare_adapter(config, str(out))
    rows = [Scores.read(tmp_path / "answers" / side).rows for side in ("base", "tuned")]
    apart = [(a, b) for a, b in zip(*rows, strict=True) if a["prediction"].strip() != b["prediction"].strip()]
    told = judge([tmp_path / "answers"], Question("f1"), EndpointSection(), None)
    assert told is not None
    wins = [0.5 + 0.5 * (b["metrics"]["f1"] > a["metrics"]["f1"]) - 0.5 * (b["metrics"]["f1"] < a["metrics"]["f1"])
            for a, b in apart]  # fmt: skip
    assert told["value"] == pytest.approx(sum(wins) / len(wins))
    assert "win rate" in (tmp_path / "answers" / "report.html").read_text()
