"""A method that somebody registers is used by its name everywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tunelift
from tunelift.adapters.methods import Method
from tunelift.config.keywords import from_keywords
from tunelift.core.errors import InputError
from tunelift.core.registry import Registry
from tunelift.pipeline import stages

TOY = Method("LOHA", title="Toy", defaults={"target_modules": "all-linear", "r": 4}, learning_rate=0.03)


def test_a_method_from_outside_runs_compares_reloads_and_reports(
    tiny: dict[str, Any], methods: Registry[Method], tmp_path: Path
) -> None:
    methods.add("toy", TOY)
    keywords = tiny | {"train": {"steps": 3}, "adapter": {"method": "toy", "alpha": 16}}
    comparison, out = tunelift.run(**keywords).to_dict(), Path(tiny["output"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["adapter"]["method"] == "toy"
    assert all(proof["passed"] for proof in manifest["proofs"])
    saved = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["r"], saved["alpha"]) == ("LOHA", 4, 16)
    assert "tuned with Toy" in (out / "report.html").read_text()
    assert "A Toy adapter for" in (out / "adapter" / "README.md").read_text()

    model, tokenizer = tunelift.load(tiny["model"], adapter=out / "adapter", dtype="float32")
    scores = tunelift.evaluate(model, tokenizer, data=tiny["data"]["test"])
    tuned = {name: entry["tuned"] for name, entry in comparison["metrics"].items()}
    assert scores.metrics == pytest.approx(tuned, rel=1e-5)
    config = from_keywords("evaluate", data=tiny["data"]["test"], output=str(tmp_path / "compared"), dtype="float32")
    compared = stages.compare_adapter(config, str(out / "adapter")).to_dict()
    assert compared["metrics"]["accuracy"] == comparison["metrics"]["accuracy"]


@pytest.mark.parametrize("name", ["lora", "ia3", "adalora", "vera"])
@pytest.mark.parametrize("kind", ["tiny", "tiny_encoder"])
def test_a_method_runs_by_its_name_alone(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    keywords = request.getfixturevalue(kind)
    assert tunelift.run(**keywords, adapter={"method": name}).to_dict()["items"] == 20
    manifest = json.loads((Path(keywords["output"]) / "manifest.json").read_text())
    assert manifest["adapter"]["method"] == name
    assert manifest["adapter"]["trainable"] > 0


def test_what_goes_on_from_an_adapter_is_of_its_method(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny |= {"train": {"steps": 1}}
    begun = stages.tune_stage(from_keywords("train", **tiny, adapter={"method": "ia3"}))
    tiny |= {"output": str(tmp_path / "on"), "adapter": {"start_from": str(begun)}}
    stages.tune_stage(from_keywords("train", **tiny))
    assert json.loads((tmp_path / "on" / "manifest.json").read_text())["adapter"]["method"] == "ia3"
    for folder in (begun.parent, tmp_path / "on"):
        assert "learning_rate: 0.01\n" in (folder / "config.yaml").read_text()


def test_its_learning_rate_is_taken_where_the_user_sets_none_and_written_down(
    tiny: dict[str, Any], methods: Registry[Method]
) -> None:
    methods.add("toy", TOY)
    adapter, out = {"method": "toy"}, Path(tiny["output"])
    stages.tune_stage(from_keywords("train", **tiny | {"train": {"steps": 1}}, adapter=adapter))
    assert "learning_rate: 0.03" in (out / "config.yaml").read_text()
    stages.tune_stage(from_keywords("train", **tiny | {"train": {"steps": 1}}, adapter=adapter))  # is the same run
    with pytest.raises(InputError, match=r"what differs: train\.learning_rate\."):
        stages.tune_stage(
            from_keywords("train", **tiny | {"train": {"steps": 1, "learning_rate": 2e-4}}, adapter=adapter)
        )


def test_its_learning_rate_is_that_of_a_ready_config_too(tiny: dict[str, Any], methods: Registry[Method]) -> None:
    from peft import LoHaConfig

    del methods._entries["loha"]  # or its rate would be taken
    rates = []
    for _ in range(2):
        model, tokenizer = tunelift.load(tiny["model"], dtype="float32")
        config, out = LoHaConfig(target_modules="all-linear"), Path(tiny["output"]) / str(len(rates))
        tunelift.tune(model, tokenizer, tiny["data"]["train"], adapter=config, steps=1, output=out)
        events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
        rates.append(next(event["learning_rate"] for event in events if event["event"] == "train"))
        if len(rates) == 1:
            methods.add("toy", TOY)
    assert rates[1] / rates[0] == pytest.approx(0.03 / 2e-4)


def test_under_a_head_its_learning_rate_is_another(
    tiny: dict[str, Any], tiny_encoder: dict[str, Any], methods: Registry[Method], tmp_path: Path
) -> None:
    methods.add("toy", replace(TOY, learning_rate_for_head=0.07))
    for keywords, rate in ((tiny, "0.03"), (tiny_encoder, "0.07")):
        given = keywords | {"train": {"steps": 1}, "output": str(tmp_path / rate)}
        stages.tune_stage(from_keywords("train", **given, adapter={"method": "toy"}))
        assert f"learning_rate: {rate}\n" in (tmp_path / rate / "config.yaml").read_text()
