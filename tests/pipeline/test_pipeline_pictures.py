"""Pictures and their labels: read from a column or from folders, decoded, learned, told apart by what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import task_battery
import tunelift
from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Picture
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows, resolve_splits
from tunelift.models import natural_task
from tunelift.tasks import TASKS

TASK = TASKS.get("image-classification")


def drawn(path: Path, number: int, colour: int) -> Path:
    """Write a picture of one colour with noise; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    points = np.random.default_rng(number).integers(0, 60, (10, 14, 3), dtype=np.uint8)
    points[..., colour] += 180
    Image.fromarray(points).save(path)
    return path


def examples(source: Any, **settings: Any) -> list[Example]:
    return make_examples(read_rows(source), DataSection(**settings), TASK.reading)[0]


def test_paths_are_those_beside_the_table_and_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    drawn(tmp_path / "a/1.png", 1, 0)
    table = tmp_path / "rows.csv"
    table.write_text("path,class\na/1.png,red\na/1.png,\n")
    found, empty = make_examples(read_rows(table), DataSection(), TASK.reading)
    assert [(example.prompt, example.completion) for example in found] == [("a/1.png", "red")]
    assert isinstance(found[0].given, Picture) and Path(found[0].given.path) == tmp_path / "a/1.png"
    assert empty == {"no label": 1}
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "c.png").write_bytes((tmp_path / "a/1.png").read_bytes()[:60])
    for name, said in (("no.png", "there is no picture"), ("b.png", "no picture that can be read"), ("c.png", "c.png")):
        table.write_text(f"path,class\na/1.png,red\n{name},red\n")
        with pytest.raises(InputError) as error:
            examples(table)
        assert "line 3" in str(error.value) and said in str(error.value)
    with pytest.raises(InputError, match="it is not clear which are paths of pictures"):
        examples([{"where": "a/1.png", "class": "red"}])


def test_a_folder_for_each_class_is_a_table_and_may_have_splits(tmp_path: Path) -> None:
    for number in range(4):
        drawn(tmp_path / f"all/{['red', 'green'][number % 2]}/{number}.png", number, number % 2)
        drawn(tmp_path / f"split/train/{['red', 'green'][number % 2]}/{number}.png", number, number % 2)
        drawn(tmp_path / f"split/test/{['red', 'green'][number % 2]}/{number}.png", number + 9, number % 2)
    assert [example.completion for example in examples(tmp_path / "all")] == ["green", "green", "red", "red"]
    assert set(resolve_splits(tmp_path / "split") or {}) == {"train", "test"}
    (tmp_path / "all" / "green").rename(tmp_path / "alone")
    with pytest.raises(InputError, match="holds no split files"):
        examples(tmp_path / "all")


def test_a_whole_run_on_folders_of_pictures(tmp_path: Path) -> None:
    keys = task_battery.prepared(TASK.name, tmp_path)
    for number in range(48):
        kind = number % 2
        drawn(tmp_path / f"pictures/{['red', 'green'][kind]}/{number}.png", number, kind)
    drawn(tmp_path / "pictures/red/again.png", 0, 0)  # the same as another one
    how = {"train": {"steps": 12, "learning_rate": 0.02}, "evaluate": {"forgetting": []}}
    data = {"train": str(tmp_path / "pictures"), "test": 0.4}
    assert natural_task(keys["model"]) is TASK
    found = tunelift.run(model=keys["model"], dtype="float32", data=data, output=str(tmp_path / "out"), **how).to_dict()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert all(proof["passed"] for proof in manifest["proofs"])
    assert set(found["baselines"]) == {"majority", "pixels", "linear-probe"}
    assert (tmp_path / "out" / "tuned" / "calibration" / "scores.jsonl").is_file()
    assert found["baselines"]["pixels"]["base"] == 1.0  # the colour is what tells them apart
    assert found["metrics"]["loss"]["verdict"] == "better"
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'processor = AutoImageProcessor.from_pretrained("' in card
    assert (tmp_path / "out" / "adapter" / "preprocessor_config.json").is_file()
    model, processor = tunelift.load(keys["model"], adapter=tmp_path / "out" / "adapter", dtype="float32")
    some = [{"image": str(tmp_path / f"pictures/red/{n}.png"), "label": "red"} for n in (0, 2)]
    scores = tunelift.evaluate(model, processor, some, task=TASK.name)
    with torch.no_grad(), Image.open(some[0]["image"]) as picture:
        stock = model(**processor(images=[picture.convert("RGB")], return_tensors="pt")).logits.log_softmax(dim=-1)
    likely = list(scores.rows[0]["label_scores"].values())
    assert likely == pytest.approx(stock[0].tolist(), rel=1e-4, abs=1e-5)
