"""Logs as Inspect 0.3.285 wrote them (its mock model; without the events), and malformed ones."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tunelift.comparison import compare
from tunelift.comparison.readers import read_scores, zip_members
from tunelift.core.errors import InputError
from tunelift.core.records import Scores

DATA = Path(__file__).parent / "data"
QA = DATA / "inspect_qa_a.json"


def log(name: str = "qa_a") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"inspect_{name}.json").read_text())
    return found


def container(path: Path, content: dict[str, Any], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a log as a .eval file of older versions, which were deflated."""
    with zipfile.ZipFile(path, "w", method) as file:
        for sample in content.get("samples") or []:
            file.writestr(f"samples/{sample.get('id')}_epoch_{sample.get('epoch')}.json", json.dumps(sample))
        file.writestr("header.json", json.dumps({key: value for key, value in content.items() if key != "samples"}))
    return path


def read_log(folder: Path, content: Any) -> Scores:
    path = folder / "log.json"
    path.write_text(json.dumps(content))
    return read_scores(path)


def test_epochs_are_items_of_one_cluster_and_averages_are_inspect_s() -> None:
    scores = read_scores(QA)
    said = {(entry["scorer"], entry["name"]): entry["metrics"] for entry in log()["results"]["scores"]}
    assert scores.metrics["match"] == pytest.approx(said["match", "match"]["accuracy"]["value"])
    assert scores.metrics["partial"] == pytest.approx(said["partial", "partial"]["accuracy"]["value"])
    assert scores.metrics["grade"] == pytest.approx(said["grade", "grade"]["mean"]["value"])
    assert scores.metrics["rubric/depth"] == pytest.approx(said["rubric", "depth"]["mean"]["value"])
    assert [(row["id"], row["cluster"]) for row in scores.rows[::3]] == [("2/epoch 1", "2"), ("2/epoch 2", "2")]
    first = scores.rows[0]
    assert first["input"] == "system: Be brief.\nuser: Capital of France?"
    assert (first["reference"], first["prediction"]) == ('["Paris", "paris"]', "Rome")
    assert first["metrics"] == {"match": 0, "grade": 0.4, "rubric/tone": 0.5, "rubric/depth": 4, "partial": 0.5}
    assert (scores.info["made_with"]["task"], scores.info["made_with"]["model"]) == ("qa", "mockllm/model")


def test_the_epochs_of_a_sample_are_one_item(tmp_path: Path) -> None:
    other = container(tmp_path / "b.eval", log("qa_b"))
    result = compare(QA, other).metrics["match"]
    assert (result.items, result.effect.clusters) == (3, None)
    assert (result.base, result.tuned) == (0.5, 1.0)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_container_holds_what_the_json_file_holds(tmp_path: Path, method: int) -> None:
    packed, plain = read_scores(container(tmp_path / "a.eval", log(), method)), read_scores(QA)
    assert (packed.rows, packed.info) == (plain.rows, plain.info)


def test_zstandard_as_inspect_packs_it_now() -> None:
    pytest.importorskip("pyarrow")
    scores = read_scores(DATA / "inspect_choice.eval")
    assert [row["input"] for row in scores.rows] == ["2+2?\nA) 3\nB) 4\nC) five", "Largest?\nA) Mars\nB) Jupiter"]
    assert [(row["reference"], row["prediction"]) for row in scores.rows] == [("B", "ANSWER: B"), ("B", "ANSWER: A")]
    assert [row["metrics"] for row in scores.rows] == [{"choice": 1.0}, {"choice": 0.0}]
    assert "cluster" not in scores.rows[0]


def test_without_pyarrow_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match="packed with Zstandard, which needs pyarrow") as caught:
        read_scores(DATA / "inspect_choice.eval")
    assert "inspect log convert --to json --output-dir json inspect_choice.eval" in str(caught.value.fix)


def test_failed_and_cut_off_samples_are_unscored() -> None:
    errors = read_scores(DATA / "inspect_errors.json")
    assert [row.get("unscored") for row in errors.rows] == [None, "error: RuntimeError('boom')", None]
    assert errors.info["metrics"]["match"] == {"value": 1.0, "higher_is_better": True, "items": 2}
    limits = read_scores(DATA / "inspect_limits.json")
    assert [row.get("unscored") for row in limits.rows] == [None, None]


def test_other_solvers_arguments_or_settings_are_refused(tmp_path: Path) -> None:
    steps = [{"solver": "generate", "params": {"template": "Q: {prompt}"}}]
    for part, change, message in (
        ("plan", {"steps": steps}, "prompt differs"),
        ("eval", {"task_args": {"shots": 5}}, "prompt differs"),
        ("plan", {"config": {"temperature": 1.0}}, "decoding differs"),
        ("eval", {"task": "other"}, "task differs"),
    ):
        made = log("qa_b")
        made[part] |= change
        with pytest.raises(InputError, match=message):
            compare(QA, container(tmp_path / "b.eval", made))
    same = log("qa_b")
    same["eval"]["model"] = "tuned"
    same["plan"]["config"] = {"max_connections": 3}
    assert compare(QA, container(tmp_path / "b.eval", same)).metrics["match"].items == 3


def test_what_is_long_is_looked_up_and_pictures_are_told_apart(tmp_path: Path) -> None:
    made = log("errors")
    made["samples"][0] |= {"input": "attachment://ab", "attachments": {"ab": "a long text"}}
    parts = [{"type": "text", "text": "see"}, {"type": "image", "image": "data:1"}]
    made["samples"][1]["input"] = [{"role": "user", "content": parts}]
    made["samples"][2]["output"] = {"choices": [{"message": {"content": parts[:1]}}]}
    rows = read_log(tmp_path, made).rows
    assert rows[0]["input"] == "a long text"
    assert rows[1]["input"].startswith("user: see\n[image ")
    assert rows[2]["prediction"] == "see"
    parts[1]["image"] = "data:2"
    assert read_log(tmp_path, made).rows[1]["input"] != rows[1]["input"]


def test_values_in_words_and_none(tmp_path: Path) -> None:
    made = log("errors")
    for sample, value in zip(made["samples"], ("N", "yes", "blue"), strict=True):
        sample.pop("error", None)
        sample["scores"] = {"match": {"value": value}, "nothing": {"value": None}}
    scores = read_log(tmp_path, made)
    assert [row["metrics"] for row in scores.rows] == [{"match": 0}, {"match": 1}, {}]
    assert scores.rows[2]["unscored"] == "it has no score that is a number"
    assert "the values of match are no numbers" in scores.info["notes"][0]


def test_malformed_logs(tmp_path: Path) -> None:
    for key, value, message in (
        ("id", None, "sample 2: the id is missing"),
        ("id", {"a": 1}, "sample 2: the id is"),
        ("epoch", "one", 'sample 2: "epoch" must be a number'),
        ("scores", [1], 'sample 2: "scores" must be an object'),
    ):
        made = log()
        made["samples"][1][key] = value
        with pytest.raises(InputError, match=message):
            read_log(tmp_path, made)
    for samples, message in ((None, "holds no samples"), (3, "must be a list"), ([3], "sample 1: a JSON object")):
        with pytest.raises(InputError, match=message):
            read_log(tmp_path, log() | {"samples": samples})


def test_odd_values_end_in_rows_not_in_a_traceback(tmp_path: Path) -> None:
    keys = ("input", "target", "choices", "output", "error", "limit", "attachments")
    for value in (None, 3, "x", [], [3], {}, {"choices": [3]}, {"completion": 3}, {"type": 3}, [{"content": [3]}]):
        for key in keys:
            made = log("errors")
            made["samples"][0][key] = value
            assert len(read_log(tmp_path, made).rows) == 3
        for key in ("plan", "eval", "status", "results"):
            if key != "eval":
                assert len(read_log(tmp_path, log("errors") | {key: value}).rows) == 3
    assert (
        'the status of the log is "started"'
        in read_log(tmp_path, log("errors") | {"status": "started"}).info["notes"][0]
    )


def test_damaged_foreign_and_swelling_zip_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = container(tmp_path / "good.eval", log()).read_bytes()
    bad = tmp_path / "bad.eval"
    for cut in (10, len(good) // 2, len(good) - 5):
        bad.write_bytes(good[:cut])
        with pytest.raises(InputError, match="no zip file that can be read"):
            read_scores(bad)
    packed = (DATA / "inspect_choice.eval").read_bytes()
    with zipfile.ZipFile(DATA / "inspect_choice.eval") as file:
        inside = file.getinfo("samples/1_epoch_1.json").header_offset + 80
    for content, start in ((good, 100), (packed, inside)):
        bad.write_bytes(content[:start] + bytes([content[start] ^ 255]) + content[start + 1 :])
        with pytest.raises(InputError, match="cannot be unpacked"):
            read_scores(bad)
    with zipfile.ZipFile(bad, "w") as file:
        file.writestr("word/document.xml", "<x/>")
    with pytest.raises(InputError, match="is a zip file, but no log of Inspect"):
        read_scores(bad)
    monkeypatch.setattr(zip_members, "LARGEST", 2000)
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("header.json", " " * 3000)
    with pytest.raises(InputError, match=r"header\.json: 3,000 bytes; at most 2,000 are read"):
        read_scores(bad)
    monkeypatch.setattr(zip_members, "FREE", 1000)
    monkeypatch.setattr(zip_members, "RATIO", 2)
    with pytest.raises(InputError, match="unpacks to 3,000 bytes, more than 2 times its size"):
        read_scores(bad)


def test_a_container_that_is_refused_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = zip_members.Container(container(tmp_path / "log.eval", log()))
    monkeypatch.setattr(zip_members, "LARGEST", 1)
    with pytest.raises(InputError, match="at most 1 are read"), opened:
        pass
    assert opened.fp is None


def test_any_flipped_byte_of_a_container_is_read_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    packed = (DATA / "inspect_choice.eval").read_bytes()
    bad = tmp_path / "bad.eval"
    for position in range(0, len(packed), 7):
        bad.write_bytes(packed[:position] + bytes([packed[position] ^ 0x55]) + packed[position + 1 :])
        try:
            read_scores(bad)
        except InputError as error:
            assert "bad.eval" in str(error)
