"""A larger model behind an address in a whole run: asked, kept, reported with its cost, and never by a stranger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tunelift
from loopback import Body, served
from tunelift.config.load import load_config
from tunelift.core.errors import InputError, TuneliftError
from tunelift.evaluation import endpoint

pytest.importorskip("httpx2")

KEY = "sk-a-secret-of-this-test"


def test_a_run_asks_it_beside_the_other_baselines(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)
    out, broken = Path(tiny["output"]), [True]

    def answer(body: Body) -> Any:
        said = body["messages"][0]["content"].splitlines()[-1]
        return (404, {"error": {"message": "no such model"}}) if broken[0] else f"It is {said}."

    tiny |= {"evaluate": {"metrics": ["accuracy"], "forgetting": []}, "labels": ["a", "b"]}
    with served(answer) as server:
        large = {"address": server.address, "served_model": "wrong", "key_from": "MY_KEY", "price": [1, 2]}
        with pytest.raises(TuneliftError, match="status 404: 'no such model'"):
            tunelift.run(**tiny, larger_model=large)
        broken[0] = False
        found = tunelift.run(**tiny, larger_model=large | {"served_model": "large"}).to_dict()
        asked = len(server.asked)
        assert {body["model"] for body in server.asked} == {"wrong", "large"}
        again = tiny | {"output": str(out.with_name("again"))}
        assert tunelift.run(**again, larger_model=large | {"served_model": "large"}).to_dict()["baselines"].keys()
        assert len(server.asked) == asked  # all was answered before
    about = found["baselines"]["larger-model"]["description"]
    assert about.startswith("1,000 items cost ")
    assert about.endswith("; large, 4 training examples before each item")
    assert about in (out / "report.html").read_text()
    assert "1,000 items cost" in (out / "report.md").read_text()
    assert "larger-model" in found["selection"]["values"]
    with pytest.raises(InputError, match=r"holds another run; what differs: larger_model.served_model"):
        tunelift.run(**tiny, larger_model=large)
    written = [path for folder in (out, out.with_name("again"), out.with_name("cache")) for path in folder.rglob("*")]
    assert not any(KEY.encode() in path.read_bytes() for path in written if path.is_file())


def test_an_address_that_cannot_be_asked_is_refused_before_anything_is_written(tiny: dict[str, Any]) -> None:
    for wrong, said in (
        ({"address": "http://127.0.0.1:1/v1"}, "served_model does not say which model is asked"),
        ({"address": "http://127.0.0.1:1/v1", "served_model": "x", "key_from": "NOT_SET_AT_ALL"}, "is not set"),
    ):
        with pytest.raises(InputError, match=said):
            tunelift.run(**tiny, larger_model=wrong)
    given = {"served_model": "x", "price": [1, 2], "timeout": 3}
    with pytest.raises(InputError, match="no address is named") as caught:
        tunelift.run(**tiny, larger_model=given)
    assert [problem.split()[0] for problem in caught.value.problems] == [f"larger_model.{name}" for name in given]
    assert not Path(tiny["output"]).exists()


@pytest.mark.parametrize(
    "text",
    [
        "larger_model: {address: https://host/v1, served_model: a}",
        "larger_model: https://host/v1",
        "larger_model: {key_from: AWS_SECRET_ACCESS_KEY}",
    ],
)
def test_a_config_of_another_folder_or_of_a_run_names_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    here = tmp_path / "here"
    (here / "runs").mkdir(parents=True)
    monkeypatch.chdir(here)
    for folder in (here, tmp_path, here / "runs"):
        (folder / "config.yaml").write_text(f"model: gpt2\n{text}\n")
    assert load_config("config.yaml").larger_model.served_model in ("", "a")
    for path in (tmp_path / "config.yaml", "runs/config.yaml", "../config.yaml"):
        with pytest.raises(InputError, match="names an address that your rows would be sent to, and lies in another"):
            load_config(path)
    (here / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="and is the config of a run"):
        load_config("config.yaml")
    assert load_config("config.yaml", of_run=True).model.name == "gpt2"
    (here / "plain.yaml").write_text("model: gpt2\n")
    flags = {"larger_model.address": "https://host/v1", "larger_model.request": "{temperature: null, seed: 3}"}
    (here / "manifest.json").unlink()
    found = load_config("plain.yaml", flags=flags, overrides=["larger_model.price=1,2.5"]).larger_model
    assert (found.address, found.price) == ("https://host/v1", [1, 2.5])
    assert found.request == {"temperature": None, "seed": 3}
    assert json.loads(found.model_dump_json())["attempts"] == 6
