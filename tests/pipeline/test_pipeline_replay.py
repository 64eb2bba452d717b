"""Replay against forgetting: what is mixed in, how much it counts, and that it is nothing that is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
import tunelift
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import DataSection, EvaluateSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.data.columns import ANSWERS
from tunelift.data.splits import load_splits
from tunelift.evaluation.generation import Sampling
from tunelift.fast.targets import IGNORED
from tunelift.pipeline import replaying
from tunelift.pipeline.general_prompts import general_prompts
from tunelift.pipeline.replaying import Replay, replayed
from tunelift.pipeline.session import Session
from tunelift.pipeline.stages import tune_stage
from tunelift.tasks import DEFAULT
from tunelift.tasks.base import Row


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "ANSWER_TOKENS", 12)


def test_the_bases_own_answers_are_mixed_in(tiny: dict[str, Any]) -> None:
    train = tiny["train"] | {"replay": 0.25}
    verdict = tunelift.run(**tiny | {"train": train, "evaluate": {"forgetting": [], "baselines": []}})
    assert verdict.to_dict()["metrics"]["accuracy"]["items"] == 20
    out = Path(tiny["output"])
    manifest = json.loads((out / "manifest.json").read_text())
    rows = [json.loads(line) for line in (out / "replay.jsonl").read_text().splitlines()]
    said = manifest["train"]["replay"]
    count = round(0.25 * manifest["data"]["rendering"]["rows"])
    assert said["rows"] == len(rows) == count
    assert said["from"] == "the base's own answers to general prompts"
    assert said["tokens"] == sum(len(row["prompt_ids"]) + len(row["answer_ids"]) for row in rows)
    mean = sum(len(row["answer_ids"]) for row in rows) / len(rows)
    learned = manifest["data"]["rendering"]["tokens_in_loss"] / manifest["data"]["rendering"]["rows"]
    assert said["weight_of_a_token"] == pytest.approx(learned / mean), "a row of them counts as one of the task's"
    for page in ("report.html", "report.md"):
        assert f"{count} rows against forgetting are mixed in" in (out / page).read_text(), page
    assert all(proof["passed"] for proof in manifest["proofs"])

    kept = (out / "replay.jsonl").read_bytes()
    again = tiny | {"train": train, "output": str(out.with_name("again"))}
    tune_stage(from_keywords("train", **again))
    assert (out.with_name("again") / "replay.jsonl").read_bytes() == kept, "drawn by the seed"


def test_rows_of_the_users_are_mixed_in_but_not_those_that_are_measured(tiny: dict[str, Any], tmp_path: Path) -> None:
    test = (tmp_path / "test.csv").read_text().splitlines()
    rows = [f"something else {i},tech" for i in range(9)]
    (tmp_path / "own.csv").write_text("\n".join([test[0], *rows, test[3]]) + "\n")
    settings = {"replay": 0.5, "replay_from": str(tmp_path / "own.csv")}
    run = tiny | {"train": tiny["train"] | settings, "evaluate": {"forgetting": [], "baselines": []}}
    tunelift.run(**run)
    said = json.loads((Path(tiny["output"]) / "manifest.json").read_text())["train"]["replay"]
    assert said["left_out"] == 1
    assert said["from"].endswith("own.csv")
    (tmp_path / "own.csv").write_text("\n".join([test[0], test[3]]) + "\n")
    with pytest.raises(InputError, match="stands in what is measured"):
        tunelift.run(**run | {"output": str(tmp_path / "other")})


def of_users(tiny: dict[str, Any], folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Replay:
    """Return what is replayed of rows beside 40, of which 20 more are validation."""
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    session = Session.of(*tunelift.load(tiny["model"], dtype="float32"), DEFAULT, [])
    data = DataSection(train=str(folder / "train.csv"), validation=str(folder / "test.csv"))
    splits = load_splits(data, reading=ANSWERS, roles=("train", "validation"))
    how = TrainSection(replay_from=str(folder / "own.jsonl"), **settings)
    return replayed(session, splits, how, EvaluateSection(forgetting=[]), None)


def test_rows_that_are_measured_are_known_in_whatever_way_they_are_written(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Behind another template, as messages or as plain text they were replayed, and so trained on."""
    lines = [line.rpartition(",") for line in (tmp_path / "test.csv").read_text().splitlines()[1:]]
    measured = [(text.strip('"'), label) for text, _, label in lines]
    ways = [
        lambda text, label: {"prompt": text, "completion": label},
        lambda text, label: {"instruction": text, "output": label},
        lambda text, label: {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": label}]},
        lambda text, label: {"text": text.upper()},
    ]
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    for way in ways:
        rows = [way(*one) for one in [*measured[:3], ("what nobody asks", "tech")]]
        found = of_users(tiny, tmp_path, rows, replay=0.01)
        assert (found.facts["left_out"], found.facts["rows"]) == (3, 1), "few are asked for, and one at least is taken"


def test_of_many_rows_of_the_users_some_are_drawn(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A file may hold one kind of rows after the other: the first ones alone were replayed."""
    rows = [{"prompt": f"{kind} {i}", "completion": "x"} for kind in ("first", "second") for i in range(40)]
    drawn = [
        [tuple(row.ids) for row in of_users(tiny, tmp_path, rows, replay=0.5, seed=seed).rows] for seed in (0, 0, 1)
    ]
    firsts = {tuple(row.ids) for row in of_users(tiny, tmp_path, rows[:40], replay=1).rows}
    assert len(set(drawn[0])) == 20
    assert 5 <= len(firsts & set(drawn[0])) <= 15
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"task": "preference", "train": {"replay": 0.1}}, "the task preference learns none"),
        ({"train": {"replay_from": "own.csv"}}, "train.replay is 0"),
        ({"train": {"replay": 0.1, "replay_from": "nowhere.csv"}}, "nowhere.csv"),
    ],
)
def test_what_cannot_be_replayed_is_refused_first(
    settings: dict[str, Any], problem: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    if "task" in settings:
        row = {"prompt": "q", "chosen": "a", "rejected": "b"}
        pairs = [row | {"prompt": f"some question {i}", "chosen": f"a{i}"} for i in range(20)]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(one) + "\n" for one in pairs))
        settings = settings | {"data": {"train": str(tmp_path / "p.jsonl"), "test": 0.3}}
    with pytest.raises(InputError, match=problem):
        tunelift.run(**tiny | settings)
    assert not (tmp_path / "out" / "base").exists(), "before anything is measured"


def test_a_row_counts_by_its_weight(tiny: dict[str, Any]) -> None:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    rows = [
        Row([5, 6, 7, 8], [IGNORED, IGNORED, 7, 8]),
        Row([9, 10, 11, 12, 13], [IGNORED, 10, 11, 12, 13], weight=0.25),
    ]
    loss, _ = DEFAULT.loss(model)
    batch = DEFAULT.collate(rows, 1, torch.device("cpu"))
    assert batch.targets == 2 + 0.25 * 4

    def gradients(value: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        value.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

    one, other = (loss(DEFAULT.collate([Row(row.ids, row.labels)], 1, torch.device("cpu"))) for row in rows)
    expected = one + 0.25 * other
    found = loss(batch)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert torch.allclose(gradients(found), gradients(expected), rtol=1e-4, atol=1e-5)


def test_answers_are_drawn_by_the_models_probabilities_whatever_stands_beside() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampling = Sampling(1.0, 3, ["1", "7"])
    one, seven = sampling.draws()
    drawn = torch.cat([sampling.chosen(logits, [seven]) for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(shares, logits.softmax(dim=-1)[0], atol=0.03)
    one, seven = sampling.draws()
    beside = torch.cat([sampling.chosen(logits.repeat(2, 1), [one, seven])[1:] for _ in range(50)])
    assert torch.equal(beside, drawn[:50])


def test_general_prompts_are_no_general_text() -> None:
    from tunelift.data.sources import read_rows

    texts = " ".join(str(row["text"]) for row in read_rows("general-text").rows)
    for asked in (True, False):
        prompts = general_prompts(500, 0, asked=asked)
        assert len(set(prompts)) > 150
        assert not [prompt for prompt in set(prompts) if prompt.strip() in texts]
    assert general_prompts(5, 0, asked=True) != general_prompts(5, 1, asked=True)
