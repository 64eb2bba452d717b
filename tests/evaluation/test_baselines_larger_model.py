"""A larger model as a baseline: what it is asked, what its replies are taken for, what a thousand items cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loopback import Body, served
from tunelift.config.schema import EndpointSection
from tunelift.core.errors import InputError
from tunelift.core.records import Conversation, Example, Picture
from tunelift.evaluation.baselines import suitable
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.baselines.larger_model import LargerModel, cost, misfit, named, without_thoughts
from tunelift.evaluation.endpoint import Reply
from tunelift.evaluation.run import Plan
from tunelift.metrics import resolve

pytest.importorskip("httpx2")

LABELS = [" card_arrival", " card", " lost_card"]
TRAIN = [Example(f"train {i}", f"Message: {'abcdefgh'[i]}\nIntent:", LABELS[i % 3]) for i in range(8)]
TEST = [
    Example(f"test {i}", f"Message: {'stuvwx'[i]}\nIntent:", LABELS[i % 3], row={"n": str(i % 2)}) for i in range(6)
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path / "cache"))


def model(address: str, train: list[Example] = TRAIN, shots: int = 3, **more: Any) -> LargerModel:
    metrics = resolve(more.pop("metrics", ["accuracy", "loss"]))
    section = {"address": address, "served_model": "large"} | more.pop("section", {})
    labels = more.pop("labels", LABELS)
    plan = Plan(metrics, labels=labels, larger_model=EndpointSection.model_validate(section), cache=True, **more)
    return LargerModel(Given(None, None, train, plan, shots, 0, {"adapter": None}))


def test_it_is_shown_solved_rows_and_the_labels_and_scored_as_any_baseline() -> None:
    told = {"s": "Card arrival.", "t": "I am sure it is: card", "u": "<think>card? no</think>\n**lost_card**"}

    def answer(body: Body) -> str:
        asked = body["messages"][-1]["content"].removeprefix("Message: ")[0]
        return told.get(asked, "none of these")

    with served(answer) as server:
        found = model(server.address, section={"price": [2.0, 10.0]}, slices=["n"])
        scores = found.score(TEST, "larger-model")
    system, *turns = server.asked[0]["messages"]
    assert system["role"] == "system"
    assert system["content"].splitlines()[1:] == ["card_arrival", "card", "lost_card"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3 + ["user"]
    shown = {(turns[i]["content"], f" {turns[i + 1]['content']}") for i in range(0, 6, 2)}
    assert shown <= {(row.prompt, row.completion) for row in TRAIN}
    assert (server.asked[0]["temperature"], server.asked[0]["max_tokens"]) == (0, 128)
    rows = scores.rows
    assert [row["prediction"] for row in rows] == [*LABELS, "none of these", "none of these", "none of these"]
    assert [row["metrics"] for row in rows] == [{"accuracy": 1.0}] * 3 + [{"accuracy": 0.0}] * 3
    assert all(row["input"] == item.prompt and row["slices"] == item.row for row, item in zip(rows, TEST, strict=True))
    assert scores.metrics == {"accuracy": 0.5}
    about = scores.info["made_with"]["baseline"]
    read = sum(sum(len(m["content"].split()) for m in body["messages"]) for body in server.asked) / 6 * 1000
    written = (2 + 6 + 3 + 3 * 3) / 6 * 1000
    money = (read * 2 + written * 10) / 1e6
    assert about["name"] == "larger-model"
    tokens = f"{read:,.0f} tokens read, {written:,.0f} written"
    assert about["description"].startswith(f"1,000 items cost {money:.3g} ({tokens}); large, 3 training examples")


def test_conversations_go_as_they_are_and_texts_are_answered_in_words() -> None:
    def talk(i: int) -> Example:
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"say {i}"},
            {"role": "assistant", "content": f"{i}", "train": True},
        ]
        return Example(str(i), f"say {i}", str(i), Conversation(tuple(messages)))

    with served(lambda body: f"{body['messages'][-1]['content'].split()[-1]}###\nsay more") as server:
        section = {"instructions": "Repeat.", "request": {"max_completion_tokens": 9, "temperature": None}}
        more = {"metrics": ["exact_match"], "labels": [], "stop": ["###"], "section": section}
        found = model(server.address, [talk(i) for i in range(5)], 2, **more)
        scores = found.score([talk(7), talk(8)], "t")
    assert scores.metrics == {"exact_match": 1.0}
    messages = next(body["messages"] for body in server.asked if body["messages"][-1]["content"] == "say 7")
    assert messages[0] == {"role": "system", "content": "Be brief.\n\nRepeat."}
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert all(message.keys() == {"role", "content"} for message in messages)
    assert server.asked[0].keys() == {"model", "messages", "max_completion_tokens", "path"}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" card_arrival ", " card_arrival"),
        ("Card Arrival!", " card_arrival"),
        ("`lost_card`\n\nsince it is lost", " lost_card"),
        ("It is lost.\nlost card", " lost_card"),
        ("The intent is card_arrival.", " card_arrival"),
        ("card or lost_card", " lost_card"),
        ("card_arrival or lost_card", None),
        ("scorecard", None),
        ("", None),
    ],
)
def test_a_reply_is_taken_for_the_label_that_it_names(text: str, label: str | None) -> None:
    assert named(text, LABELS) == label


def test_thoughts_and_costs() -> None:
    assert without_thoughts("<think>a</think> b") == " b"
    assert without_thoughts("<think>a b") == ""
    assert without_thoughts("a <think>b</think>") == "a <think>b</think>"
    replies = [Reply("", read=100, written=10), Reply("", read=300, written=30)]
    assert cost(replies, [1.0, 5.0]) == "1,000 items cost 0.3 (200,000 tokens read, 20,000 written)"
    assert cost(replies, []) == "1,000 items take 200,000 tokens read, 20,000 written"
    assert cost([Reply("")], [1.0, 5.0]) == "the address does not say how many tokens it took"


def test_it_is_off_unless_named_and_refused_where_it_does_not_fit() -> None:
    section = EndpointSection.model_validate({"address": "http://127.0.0.1:1/v1", "served_model": "large"})
    off, on = (Plan(resolve(["accuracy"]), labels=LABELS, larger_model=one) for one in (None, section))
    assert "larger-model" not in suitable(off, TRAIN, None)
    assert "larger-model" in suitable(on, TRAIN, None)
    with pytest.raises(InputError, match=r"no address is named \(larger_model.address\)"):
        suitable(off, TRAIN, ["larger-model"])
    with pytest.raises(InputError, match=r"larger_model.address is named, and evaluate.baselines does not name"):
        suitable(on, TRAIN, ["majority"])
    with pytest.raises(InputError, match=r"does not say which model"):
        suitable(
            Plan(on.metrics, labels=LABELS, larger_model=section.model_copy(update={"served_model": ""})), TRAIN, None
        )
    pictures = [Example("a", "a.png", "cat", Picture("a.png", "0"))]
    for plan, train, said in (
        (on, [], "no training rows"),
        (on, pictures, "more than that"),
        (on, [Example("a", "", "plain text")], "ask nothing"),
        (Plan(resolve(["loss"]), larger_model=section), TRAIN, "no metric here looks at an answer"),
    ):
        assert said in (misfit(plan, train) or "")
        with pytest.raises(InputError, match=said):
            suitable(plan, train, None)
