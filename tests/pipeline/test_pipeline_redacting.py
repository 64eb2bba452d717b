"""A run shared without its rows: what is left says the same, and what cannot be said any more is named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tunelift.cli.redact import command as redact_command
from tunelift.cli.verify import command as verify_command
from tunelift.comparison.differing import differing
from tunelift.comparison.run_folder import compare_run
from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.pipeline.redacting import Hidden, redact
from tunelift.pipeline.verifying import verify

FORMATS = Path(__file__).parents[1] / "formats"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run with baselines, seeds, slices and forgetting."""
    return Path(shutil.copytree(FORMATS / "2", tmp_path / "run"))


def words(run: Path) -> set[str]:
    """What no reader of a copy without rows may find: the beginnings of all inputs."""
    places = [path.parent for path in run.rglob("scores.jsonl")]
    return {str(row["input"]).partition("\n")[0] for place in places for row in Scores.read(place).rows}


def texts(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()}


def test_without_rows_no_text_is_left_and_the_verdict_is_made_again(run: Path, tmp_path: Path) -> None:
    out, inputs = tmp_path / "shared", words(run)
    assert len(inputs) > 10
    done = CliRunner().invoke(redact_command, [str(run), "--no-rows", "--output", str(out)], catch_exceptions=False)
    assert done.exit_code == 0 and "cannot be told  Texts of rows were left out" in done.output
    for file, text in texts(out).items():
        assert not [word for word in inputs if word and word in text], file
        if file.endswith(("jsonl", "comparison.json")):
            assert "sports" not in text, file
    before, after = (files.read_object(place / "comparison.json") for place in (run, out))
    for told in (before, after):
        description = told["baselines"]["majority"].pop("description")  # which quotes a label
        assert ("tech" in description) == (told is before)
    for key in ("metrics", "headline", "baselines", "forgetting", "recipe", "calibration", "without_duplicates"):
        assert differing(before.get(key), after.get(key), key) == []
    assert before["flips"] == after["flips"]
    right, wrong = verify(out)
    assert not wrong and any("comparison.json follows" in one for one in right)
    told = json.loads((out / "manifest.json").read_text())
    assert told["redacted"]["rows"] == "left out" and "inputs" not in told and "command" not in told
    assert "Texts of rows were left out" in (out / "README.md").read_text()
    assert "Texts of rows were left out" in (out / "report.md").read_text()
    assert "# shared" in (out / "README.md").read_text()

    scores = out / "tuned" / "scores.jsonl"
    scores.write_text(scores.read_text().replace('"accuracy": 1.0', '"accuracy": 0.0', 3))
    found = CliRunner().invoke(verify_command, [str(out)], catch_exceptions=False)
    assert found.exit_code == 3 and "does not follow from the scores" in found.output
    assert "cannot be told  Texts of rows were left out" in found.output


def test_what_a_pattern_matches_is_masked_everywhere_and_ids_stay_apart(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in [run / "base", run / "tuned", run / "seeds" / "1" / "tuned", *(run / "baselines").iterdir()]:
        found = Scores.read(place)
        for number, row in enumerate(found.rows):
            row["id"] = f"jane{number}@example.org"
        found.save(place)
    out = tmp_path / "shared"
    lost = redact(run, out, patterns=["ball", r"\S+@\S+", "nobody"])
    said = capsys.readouterr().err
    assert "'nobody' matches nothing" in said and "'ball'" not in said
    assert lost[0].startswith("Parts of texts were masked")
    for file, text in texts(out).items():
        assert "ball" not in text and "@example" not in text, file
    kept = Scores.read(out / "tuned").rows
    assert len({row["id"] for row in kept}) == len(kept)
    assert any("[masked]" in row["input"] for row in kept) and any("chip" in row["input"] for row in kept)
    assert not verify(out)[1]


def test_what_comes_out_otherwise_is_named(run: Path, tmp_path: Path) -> None:
    told = files.read_object(run / "comparison.json")
    told["items"] += 1  # as if another version had said it
    files.write_json(run / "comparison.json", told)
    lost: list[Any] = redact(run, tmp_path / "shared", rows=False)
    assert any("items is" in one for one in lost)


def test_what_cannot_be_redacted_is_refused(run: Path, tmp_path: Path) -> None:
    for given, how, said in (
        ({}, "nothing", "Nothing is to be left out"),
        ({"patterns": ["["]}, "pattern", "no regular expression"),
        ({"patterns": ["[0-9]*"]}, "wide", "between any two letters"),
    ):
        with pytest.raises(InputError, match=said):
            redact(run, tmp_path / how, **given)  # type: ignore[arg-type]
        assert not (tmp_path / how).exists()
    with pytest.raises(InputError, match="there already"):
        redact(run, run, rows=False)
    with pytest.raises(InputError, match="no run that came to a verdict"):
        redact(tmp_path, tmp_path / "other", rows=False)


TOWNS = ("Zqxham", "Zqxby")


@pytest.fixture
def private(run: Path) -> Path:
    """A run whose ids, clusters, slices and notes tell of somebody, as its comparison does."""
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("  id: null", "  id: customer"))
    for place in {path.parent for path in run.rglob("scores.jsonl")}:
        found = Scores.read(place)
        for row in found.rows:
            number = int(row["id"]) if row["id"].isdigit() else 0
            row |= {"id": f"77000{row['id']}", "cluster": f"88000{number // 2}"}
            row |= {"slices": {"town": TOWNS[number % 2]}, "samples": ["Zqx said so"]}
        baseline = found.info["made_with"].get("baseline", {})
        if baseline.get("name") == "majority":
            baseline["description"] = 'the most frequent training label ("Zqx "or" so")'
        found.save(place)
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "note", "said": 'the row "Zqx" is long'}) + "\n")
    told = compare_run(run).to_dict()
    assert told["slices"]["town"].keys() >= {*TOWNS}
    files.write_json(run / "comparison.json", told | {"items": told["items"] + 1})
    return run


@pytest.mark.parametrize("how", [{"rows": False}, {"patterns": ["Zqx\\w*", "[78]7?000[0-9]*"]}])
def test_ids_clusters_slices_and_what_quotes_a_label_are_hidden_in_every_file(
    how: dict[str, Any], private: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shared"
    lost = redact(private, out, **how)
    for file, text in texts(out).items():
        assert not re.findall(r"Zqx|\b77000\d|\b88000\d", text), file
    assert [one for one in lost if "items is" in one] and len(lost) == 2, lost
    assert not verify(out)[1]
    before, after = (compare_run(place).to_dict() for place in (private, out))
    assert len(after["slices"]["town"]) == len(before["slices"]["town"])
    assert differing(before["calibration"], after["calibration"], "calibration") == []


def test_labels_that_a_pattern_matches_stay_two(run: Path, tmp_path: Path) -> None:
    redact(run, tmp_path / "shared", patterns=["sports|tech"])
    rows = Scores.read(tmp_path / "shared" / "tuned").rows
    assert all(len(row["label_scores"]) == 2 and row["reference"] in row["label_scores"] for row in rows)


def test_answers_that_are_lists_are_named_one_by_one() -> None:
    row = {"id": "1", "input": "Zqx", "reference": ["Zqx", "so"], "prediction": ["Zqx"], "unscored": "it says 'Zqx'"}
    hidden = Hidden(str, rows=False, own_ids=False)
    hidden.learn([Scores([row])], numbers=False)
    found = hidden.row(row)
    assert "Zqx" not in json.dumps(found) and found["id"] == "1"
    assert found["prediction"] == found["reference"][:1] and len(found["reference"]) == 2
