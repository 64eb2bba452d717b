"""A model that repeats the references scores 1 on every metric of texts, whatever the template and the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, PreTrainedTokenizerFast

from chat_families import CASES, FAMILIES, assistant, example_of, tokenizer_of, user
from tiny_tokenizers import byte_level
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.render import Renderer
from tunelift.evaluation import run
from tunelift.evaluation.measures import likelihood
from tunelift.evaluation.run import Plan, score
from tunelift.metrics import resolve

METRICS = ["exact_match", "f1", "chrf", "bleu", "rouge_l"]


class Parrot(torch.nn.Module):
    """Continues each prompt it knows with its answer, token by token, and whatever else it reads with token 0.

    What was read before is kept in the cache itself, as keys of one number, so that rows may leave the batch.
    """

    def __init__(self, answers: dict[tuple[int, ...], list[int]], vocabulary: int) -> None:
        super().__init__()
        self.answers, self.vocabulary, self.device = answers, vocabulary, torch.device("cpu")
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = LlamaConfig(num_hidden_layers=1, max_position_embeddings=2048)
        self.generation_config = SimpleNamespace(eos_token_id=None)

    def forward(self, input_ids: Any, attention_mask: Any, past_key_values: Any = None, **_: Any) -> Any:
        if past_key_values is None:  # a row by itself, whole
            whole = input_ids[0].tolist()
            return SimpleNamespace(logits=self._chosen([self._next(whole[: at + 1]) for at in range(len(whole))])[None])
        keys = input_ids[:, None, :, None].double()
        read = past_key_values.update(keys, keys, 0)[0][:, 0, :, 0].long()
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(read, attention_mask, strict=True)]
        return SimpleNamespace(logits=self._chosen([self._next(row) for row in rows])[:, None])

    def _chosen(self, tokens: list[int]) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(tokens), self.vocabulary).float()

    def _next(self, ids: list[int]) -> int:
        for at in range(len(ids), 0, -1):
            if (answer := self.answers.get(tuple(ids[:at]))) is not None:
                said = len(ids) - at
                return answer[said] if said < len(answer) else 0
        return 0


def parrot(tokenizer: Any, examples: Sequence[Example], *, without: int = 0) -> Parrot:
    """Make a model that says each reference, with the end, and `without` so many of its last tokens."""
    renderer, answers = Renderer(tokenizer, 2048), {}
    for example, asked in zip(examples, renderer.asked(examples), strict=True):
        prompt, whole = renderer.prompt_ids(example), renderer.completion_ids(example)
        assert prompt[: len(asked.ids)] == asked.ids
        # Where no token ends an answer, a model goes on with the next question.
        beyond = tokenizer("USER: ", add_special_tokens=False)["input_ids"] if renderer.stop_strings(example) else []
        answer = [*prompt[len(asked.ids) :], *whole, *beyond]
        answers[tuple(asked.ids)] = answer[: len(answer) - without]
    return Parrot(answers, len(tokenizer))


def scored(tokenizer: Any, examples: Sequence[Example], monkeypatch: Any, model: Any = None, **plan: Any) -> Any:
    monkeypatch.setattr(run, "sped_up", lambda model, way: nullcontext({}))
    monkeypatch.setattr(likelihood, "target_model", lambda *_: (SimpleNamespace(fast_paths={}, nats=1.0), None))
    monkeypatch.setattr(likelihood, "log_likelihoods", lambda view, pairs, *_: [(-1.0, len(ids)) for _, ids in pairs])
    plan = {"max_new_tokens": 400} | plan
    return score(model or parrot(tokenizer, examples), tokenizer, examples, Plan(resolve(METRICS), **plan), {})


def accepted(name: str) -> dict[str, Example]:
    """Return the examples of the cases that a family's template takes."""
    found, renderer = {}, Renderer(tokenizer_of(name), 2048)
    for number, (title, case) in enumerate(CASES.items()):
        try:
            example = example_of(case, str(number))
            renderer.render_rows([example])
        except InputError:
            continue
        found[title] = example
    return found


@pytest.mark.parametrize("thinking", ["strip", "keep"])
@pytest.mark.parametrize("name", FAMILIES)
def test_references_repeated_score_one(name: str, thinking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, examples = tokenizer_of(name), list(accepted(name).values())
    assert len(examples) >= 6
    scores = scored(tokenizer, examples, monkeypatch, thinking=thinking)
    assert {row["id"]: row["metrics"]["exact_match"] for row in scores.rows} == {e.id: 1.0 for e in examples}
    assert scores.metrics == pytest.approx({"exact_match": 1, "f1": 1, "chrf": 100, "bleu": 100, "rouge_l": 1})
    assert scores.info["cut"] == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_scored_is_what_the_user_wrote(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, examples = tokenizer_of(name), accepted(name)
    rows = scored(tokenizer, list(examples.values()), monkeypatch).rows
    for (title, example), row in zip(examples.items(), rows, strict=True):
        if "call" not in title:
            said = example.completion.partition("</think>")[2] or example.completion
            assert row["prediction"].strip() == said.strip(), title
        else:
            assert "weather" in row["prediction"], title


@pytest.mark.parametrize("name", FAMILIES)
def test_references_repeated_but_cut_score_less_and_are_counted(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer, example = tokenizer_of(name), example_of({"messages": [user("what?"), assistant("a cat " * 9)]})
    renderer = Renderer(tokenizer, 2048)
    (asked,) = renderer.asked([example])
    added = len(renderer.prompt_ids(example)) - len(asked.ids)
    scores = scored(tokenizer, [example], monkeypatch, max_new_tokens=added + 5)
    assert scores.metrics["exact_match"] == 0
    assert scores.metrics["chrf"] < 100
    assert (scores.info["cut"], scores.rows[0]["cut"]) == (1, True)
    said = capsys.readouterr().err
    assert "1 of 1 references are longer than evaluate.max_new_tokens" in said
    assert "1 of 1 answers were cut" in said


@pytest.mark.parametrize("completion", ["[TOOL_CALLS]Paris", "<s>old</s> new", "</s>x", " sat</s>", "<s>", "a <pad> b"])
def test_special_tokens_in_plain_text_are_text_on_both_sides(completion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "<pad>"]})
    example = Example("1", "the capital?", completion)
    scores = scored(tokenizer, [example], monkeypatch)
    assert scores.metrics["exact_match"] == 1
    assert scores.rows[0]["prediction"] == completion.removesuffix("</s>" if completion == " sat</s>" else "\0")
    tokens = Renderer(tokenizer, 99).tokens(example)
    inside = [t for t, counts in zip(tokens.ids, tokens.in_loss, strict=True) if counts][:-1]
    assert not set(inside) & set(tokenizer.all_special_ids)
    wrong = scored(tokenizer, [example], monkeypatch, parrot(tokenizer, [replace(example, completion="other")]))
    assert wrong.metrics["exact_match"] == 0


def test_a_thinking_models_thoughts_are_no_part_of_its_answer_unless_they_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = tokenizer_of("qwen3")
    plain = example_of(CASES["one turn"])
    thinks = example_of({"messages": [user("what is it?"), assistant(" it is a cat. ", reasoning_content="hm")]})
    assert plain.content == thinks.content
    model = parrot(tokenizer, [thinks])
    assert scored(tokenizer, [plain], monkeypatch, model).metrics["exact_match"] == 1
    assert scored(tokenizer, [plain], monkeypatch, model, thinking="keep").metrics["exact_match"] == 0
    assert scored(tokenizer, [thinks], monkeypatch, model, thinking="keep").metrics["exact_match"] == 1
    cut = scored(tokenizer, [plain], monkeypatch, model, max_new_tokens=3)
    assert (cut.rows[0]["prediction"], cut.info["cut"]) == ("", 1)


def test_calls_are_compared_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, case = tokenizer_of("qwen2.5"), CASES["a call"]
    example = example_of(case)
    text = '<tool_call>\n{"arguments":{"days":2,"city":"Paris \\"nord\\""},"name":"weather"}\n</tool_call><|im_end|>'
    (asked,) = Renderer(tokenizer, 2048).asked([example])
    for said, right in ((text, 1), (text.replace("2", "3"), 0), (text.replace("weather", "whether"), 0)):
        ids = tokenizer(said, add_special_tokens=False)["input_ids"]
        model = Parrot({tuple(asked.ids): ids}, len(tokenizer))
        assert scored(tokenizer, [example], monkeypatch, model).metrics["exact_match"] == right
