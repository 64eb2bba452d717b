"""`tunelift advise` from the command line, and what a run says of the same from its own files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import tiny_models
from tunelift.cli.main import cli
from tunelift.comparison.advice import CONTRADICT, ENOUGH, KNOWS, LACKS, SIMPLER


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Return a folder with a tiny decoder, and rows whose words tell their label but for a few that are turned."""
    tiny_models.causal(max_position_embeddings=512).save_pretrained(tmp_path / "model")
    tiny_models.tokenizer().save_pretrained(tmp_path / "model")
    draw = random.Random(0)
    for name, count in (("train", 150), ("test", 30)):
        lines = []
        for i in range(count):
            label = "cat" if (i % 2) != (name == "train" and i % 5 == 0) else "dog"
            words = draw.sample([f"{'fish' if i % 2 else 'bone'}{n}" for n in range(8)], 3)
            lines.append({"text": f"{' '.join(words)} number {name} {i}", "label": label})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_advice_is_given_before_anything_is_tuned(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["advise", "--model", str(rows / "model"), "--data", str(rows / "train.jsonl"), "--test"]
    command += [str(rows / "test.jsonl"), "--dtype", "float32", "--json", "--quiet", "data.max_validation=30"]
    before = sorted(path.name for path in rows.iterdir())
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code in (0, None)
    told = json.loads(capsys.readouterr().out)
    words = {question: finding["word"] for question, finding in told["findings"].items()}
    assert list(words) == [KNOWS, LACKS, SIMPLER, ENOUGH, CONTRADICT]
    shown = {question: "\n".join(finding["shown"]) for question, finding in told["findings"].items()}
    assert "few-shot (4 training examples in the prompt)" in shown[KNOWS]
    assert "nats" in shown[LACKS]
    assert "linear-probe" in shown[SIMPLER]
    assert "30 test rows; the effect looked for is 0.05" in shown[ENOUGH]
    assert (words[ENOUGH], words[CONTRADICT], told["advice"]) == ("few", "many", "more rows")
    assert sorted(path.name for path in rows.iterdir()) == before
