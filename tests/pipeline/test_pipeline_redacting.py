"""A run shared without its rows: what is left says the same, and what cannot be said any more is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tunelift.cli.redact import command as redact_command
from tunelift.cli.verify import command as verify_command
from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.pipeline.redacting import redact
from tunelift.pipeline.verifying import differing, verify

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


def test_what_a_pattern_matches_is_masked_everywhere_and_ids_stay_apart(run: Path, tmp_path: Path) -> None:
    for place in [run / "base", run / "tuned", run / "seeds" / "1" / "tuned", *(run / "baselines").iterdir()]:
        found = Scores.read(place)
        for number, row in enumerate(found.rows):
            row["id"] = f"jane{number}@example.org"
        found.save(place)
    out = tmp_path / "shared"
    lost = redact(run, out, patterns=["ball", r"\S+@\S+"])
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
    ):
        with pytest.raises(InputError, match=said):
            redact(run, tmp_path / how, **given)  # type: ignore[arg-type]
        assert not (tmp_path / how).exists()
    with pytest.raises(InputError, match="there already"):
        redact(run, run, rows=False)
    with pytest.raises(InputError, match="no run that came to a verdict"):
        redact(tmp_path, tmp_path / "other", rows=False)
