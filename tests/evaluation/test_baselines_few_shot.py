"""The few-shot baseline: which rows are shown, where answers end, what fits the context."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import tiny_models
from tiny_tokenizers import CHAT, byte_level
from tunelift.core.errors import InputError
from tunelift.core.records import Conversation, Example
from tunelift.evaluation.baselines import few_shot, suitable
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.baselines.few_shot import FewShot, Joining, drawn
from tunelift.evaluation.run import Plan, score
from tunelift.metrics import resolve

LABELS = [" cat", " mat", " dog"]
TRAIN = [Example(f"train {i}", f"Q: {'abcdefgh'[i]}\nA:", LABELS[i % 3]) for i in range(8)]
TEST = [Example(f"test {i}", f"Q: {'stuvwxyz'[i]}\nA:", LABELS[i % 3], row={"n": str(i % 2)}) for i in range(6)]


def few(train: list[Example] = TRAIN, tokenizer: Any = None, shots: int = 3, **settings: Any) -> FewShot:
    metrics = resolve(settings.pop("metrics", ["accuracy", "loss"]))
    plan = Plan(metrics, **{"labels": LABELS, "max_new_tokens": 8} | settings)
    model = tiny_models.causal("qwen3", seed=2)
    return FewShot(Given(model, tokenizer or tiny_models.tokenizer(), train, plan, shots, 0, {"adapter": None}))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Example], Plan]]:
    """Return a list that fills with the examples and the plan that the model is given."""
    calls: list[tuple[list[Example], Plan]] = []

    def listening(model: Any, tokenizer: Any, examples: list[Example], plan: Plan, *rest: Any) -> Any:
        calls.append((examples, plan))
        return score(model, tokenizer, examples, plan, *rest)

    monkeypatch.setattr(few_shot, "score", listening)
    return calls


def test_scores_are_those_of_the_base_behind_the_examples() -> None:
    found = few(slices=["n"])
    scores = found.score(TEST, "few-shot")
    prefix = "".join(f"{row.prompt}{row.completion}\n\n" for row in drawn(TRAIN, 3, 0))
    given = found.given
    by_hand = score(given.model, given.tokenizer, [replace(e, prompt=prefix + e.prompt) for e in TEST], given.plan, {})
    for row, expected, item in zip(scores.rows, by_hand.rows, TEST, strict=True):
        assert row == expected | {"input": item.prompt}
        assert row["slices"] == item.row
    assert scores.metrics == by_hand.metrics
    assert scores.info["made_with"]["baseline"] == {
        "name": "few-shot", "description": "3 training examples in the prompt",
    }  # fmt: skip
    assert scores.rows != score(given.model, given.tokenizer, TEST, given.plan, {}).rows


def test_only_training_rows_are_shown_and_the_same_for_all(seen: list[Any]) -> None:
    few().score(TEST, "few-shot")
    ((shown, _),) = seen
    prefixes = {e.prompt.removesuffix(item.prompt) for e, item in zip(shown, TEST, strict=True)}
    (prefix,) = prefixes
    solved = prefix.removesuffix("\n\n").split("\n\n")
    assert set(solved) <= {row.prompt + row.completion for row in TRAIN}
    assert len(set(solved)) == 3


def test_every_label_is_shown_before_one_comes_again() -> None:
    train = [Example(str(i), f"q {i}", " rare" if i == 57 else f" common {i % 2}") for i in range(200)]
    for seed in range(20):
        rows = drawn(train, 5, seed)
        assert len({row.completion for row in rows[:3]}) == 3
        assert len({row.id for row in rows}) == 5
    assert drawn(train, 5, 0) == drawn(train, 5, 0) != drawn(train, 5, 1)
    assert len(drawn(train[:3], 5, 0)) == 3


LONG = [Example(str(i), f"Q: {'xyzw'[i] * 25}\nA:", LABELS[i % 3]) for i in range(4)]
"""Each takes about 33 tokens; the context is 128."""


def test_fewer_examples_are_shown_where_the_context_has_no_room() -> None:
    found = few(LONG, shots=4)
    used = len(found.shown)
    assert 1 <= used < 4
    assert found.description == f"{used} training examples in the prompt ({4 - used} more did not fit the context)"
    scores = found.score([*TEST, LONG[0]], "few-shot")
    assert scores.info["unscored"] == 0
    assert scores.info["made_with"]["baseline"]["description"] == found.description
    longest = max(LONG, key=lambda row: len(row.prompt + row.completion))
    one_more = replace(longest, prompt=found.joining.prefix(drawn(LONG, used + 1, 0)) + longest.prompt)
    with pytest.raises(InputError, match="longer than the model's context"):
        score(found.given.model, found.given.tokenizer, [one_more], found.given.plan, {})


def test_the_number_of_examples_is_the_same_for_whatever_is_scored(seen: list[Any]) -> None:
    """It is settled by the training rows: a longer item is unscored, and shorter ones are not shown more."""
    found, long = few(LONG, shots=4), Example("long", "Q: " + "z" * 90 + "\nA:", " cat")
    before = found.description
    mixed = found.score([*TEST, long], "validation")
    found.score(TEST, "test")
    assert [row["id"] for row in mixed.rows if "unscored" in row] == ["long"]
    (validation, _), (test, _) = seen
    assert validation[0].prompt == test[0].prompt
    assert found.description == before


def test_rows_without_room_for_one_example_still_get_an_answer() -> None:
    long = [Example(str(i), "Q: " + "xyzw"[i] * 100 + "\nA:", LABELS[i % 3]) for i in range(4)]
    assert few(long).description == "0 training examples in the prompt (3 more did not fit the context)"
    assert few(long).score(TEST, "few-shot").info["unscored"] == 0
    too_long = Example("long", "Q: " + "z" * 200 + "\nA:", " cat")
    assert few([*TRAIN, too_long], shots=1).description == "1 training example in the prompt"


@pytest.mark.parametrize(
    ("prompts", "answers", "separator", "stop"),
    [
        (["Question: a\nAnswer:", "Question: b\nAnswer:"], [" 1", " 2"], "\n\n", ("\n\nQuestion:", "\nQuestion:")),
        (["Solve it.\n\nQ: a", "Solve it.\n\nQ: b"], [" 1", " 2"], "\n\n", ("\n\nSolve it.", "\nSolve it.")),
        (["Q: a", "Q: b"], ["x\nQ: y", "z"], "\n\n", ("\n\nQ:",)),
        (["a\nAnswer:", "b\nAnswer:"], [" 1\n2\n", " 2"], "\n\n", ("\n\n",)),
        (["a\nAnswer:", "b\nAnswer:"], [" 1\n\n2", " 2"], "\n\n###\n\n", ("\n\n###",)),
        (['"a" is', '"b" is'], [" 1", " 2"], "\n\n", ("\n\n",)),
    ],
)
def test_an_answer_ends_where_the_next_example_would_begin(
    prompts: list[str], answers: list[str], separator: str, stop: tuple[str, ...]
) -> None:
    train = [Example(str(i), prompt, answers[i]) for i, prompt in enumerate(prompts)]
    assert Joining.of(train) == Joining(separator, stop)


def test_generated_answers_are_cut_at_the_stop(seen: list[Any]) -> None:
    found = few(metrics=["exact_match"], stop=["###"], labels=[], max_new_tokens=12)
    wholes = [row["prediction"] for row in found.score(TEST, "few-shot").rows]
    assert seen[0][1].stop == ["###", "\n\nQ:", "\nQ:"]
    n, whole = next((n, w) for n, w in enumerate(wholes) if len(w) > 5 and "\ufffd" not in w)
    found.joining = Joining("\n\n", (whole[2:4],))
    cut = found.score(TEST, "few-shot").rows[n]["prediction"]
    assert cut == whole[: whole.index(whole[2:4])]
    assert 0 < len(cut) < len(whole)


def test_nothing_stops_where_nothing_is_generated(seen: list[Any]) -> None:
    few(metrics=["loss"], labels=[]).score(TEST, "few-shot")
    assert seen[0][1].stop == ()


def chat(number: int, question: str, system: str) -> Example:
    turns = [("system", system), ("user", question), ("assistant", LABELS[number % 3].strip())]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    return Example(str(number), question, messages[-1]["content"], Conversation(messages))


def test_chat_rows_have_the_examples_as_earlier_turns(seen: list[Any]) -> None:
    train = [chat(i, f"what is {i}?", "the cat") for i in range(4)]
    found = few(train, byte_level(template=CHAT), shots=2, metrics=["loss", "exact_match"], labels=[])
    item = chat(9, "what is it?", "the mat")
    scores = found.score([item], "few-shot")
    ((shown,), plan) = seen[0]
    assert [message["role"] for message in shown.messages] == ["system", *["user", "assistant"] * 3]
    assert shown.messages[0]["content"] == "the mat"
    assert [shown.messages[1], shown.messages[3]] == [row.messages[1] for row in found.shown]
    assert shown.messages[-2:] == item.messages[-2:]
    assert (scores.rows[0]["input"], plan.stop) == ("what is it?", [])


def test_rows_without_a_question_have_no_examples_to_show() -> None:
    plan = Plan(resolve(["loss"]))
    alone = Example("0", "", "hi", Conversation(({"role": "assistant", "content": "hi"},)))
    for train in ([Example("0", "", "plain text")], [alone], []):
        assert suitable(plan, train, None) == []
    with pytest.raises(InputError, match="few-shot does not fit: rows of plain text"):
        suitable(plan, [alone], ["few-shot"])
