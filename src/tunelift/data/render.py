"""The one place where an example becomes tokens, for training, evaluation and generation alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.chat import Chat, without_answer

PROMPT_TOO_LONG = "the prompt alone fills max_length"
NOTHING_TO_LEARN = "nothing after the prompt"

TEXTS_AT_ONCE = 128
"""Texts encoded in one call: more take no less time each, and a tokenizer's own record of each is large."""

Continued = tuple[list[int], list[list[int]]]
"""The ids of a prompt, and of each of several completions behind it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row for the model: token ids (T,), and for each whether the loss counts its prediction (T,).

    `full_length` is the row's length in tokens before it was cut on the right.
    """

    ids: list[int]
    in_loss: list[bool]
    full_length: int

    @property
    def truncated(self) -> bool:
        """Whether tokens were cut off."""
        return self.full_length > len(self.ids)


@dataclass(slots=True)
class RenderReport:
    """What became of the rows that were rendered; `tokens` and `tokens_in_loss` count the rows that were kept."""

    rows: int = 0
    truncated: int = 0
    dropped: int = 0
    dropped_reasons: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    tokens_in_loss: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the counts for a JSON file."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the counts as lines for people; cut and dropped rows only where there are any."""
        kept = self.rows - self.dropped
        lines = [f"{kept} rows, {self.tokens} tokens, {self.tokens_in_loss} in the loss"]
        if self.truncated:
            lines.append(f"{self.truncated} rows cut on the right to fit max_length")
        lines += [f"{count} rows dropped: {reason}" for reason, count in self.dropped_reasons.items()]
        return lines


class Renderer:
    """Makes tokens with one tokenizer; rows for training are cut on the right to `max_length` tokens.

    `tokenizer` is a transformers tokenizer. What it puts before a text by itself (BOS for most models) is put there
    once. What it puts behind (SEP, or an EOS that only some add) is not: every completion is closed by one EOS here.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.end: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        """The token that closes a completion; empty for a tokenizer without EOS, whose model learns no end."""
        self._begin = _ids_put_before(tokenizer)
        self._chat = Chat(tokenizer)

    def prompt_ids(self, example: Example) -> list[int]:
        """Return the ids (T,) that the model reads before it answers, whatever their number."""
        return self.continued([example], [[]])[0][0]

    def completion_ids(self, example: Example, completion: str | None = None) -> list[int]:
        """Return the ids of the completion (or of another in its place) as they follow `prompt_ids`, EOS at the end."""
        return self.candidate_ids(example, [own_completion(example) if completion is None else completion])[0]

    def candidate_ids(self, example: Example, completions: Sequence[str]) -> list[list[int]]:
        """Return `completion_ids` of several completions of one prompt."""
        return self.continued([example], [completions])[0][1]

    def continued(self, examples: Sequence[Example], completions: Sequence[Sequence[str]]) -> list[Continued]:
        """Return `prompt_ids` and `candidate_ids` of each example with its completions.

        Many texts are encoded in one call, which is faster. Prompt and completion are encoded together, as the model
        would meet them in running text; where the tokenizer then merges across the border, so that the prompt's own ids
        do not come first, the completion is encoded alone.
        """
        at_once = max(1, TEXTS_AT_ONCE // (1 + max(map(len, completions), default=0)))
        found: list[Continued] = []
        for start in range(0, len(examples), at_once):
            found += self._continued(examples[start : start + at_once], completions[start : start + at_once])
        return found

    def stop_ids(self, example: Example) -> list[int]:
        """Return the ids that end an answer: EOS, and for chat the token with which the template ends a turn."""
        last = [] if example.messages is None else self.candidate_ids(example, ["x"])[0][-1:]
        return list(dict.fromkeys([*self.end, *last]))

    def tokens(self, example: Example) -> Tokens:
        """Return the whole row, cut on the right to max_length, with the loss on completion and EOS only.

        The first token is never in the loss: nothing stands before it from which it could be predicted.
        """
        return next(self._rows([example]))

    def head_tokens(self, example: Example) -> Tokens:
        """Return the prompt's text for a classification head: special tokens as the tokenizer puts them, no loss."""
        ids = list(self.tokenizer(example.prompt, verbose=False)["input_ids"])
        full_length = len(ids)
        if full_length > self.max_length:  # the tokenizer itself keeps a closing SEP where it cuts
            ids = list(self.tokenizer(example.prompt, truncation=True, max_length=self.max_length)["input_ids"])
        return Tokens(ids, [False] * len(ids), full_length)

    def render_rows(self, examples: Iterable[Example]) -> tuple[list[Tokens], RenderReport]:
        """Render rows for training; rows without a token in the loss are dropped and counted.

        Raises InputError where none is left, naming the longest row and what to set.
        """
        report, kept, reasons, longest = RenderReport(), [], Counter[str](), 0
        for tokens in self._rows(examples):
            report.rows += 1
            longest = max(longest, tokens.full_length)
            if any(tokens.in_loss):
                kept.append(tokens)
            else:
                reasons[PROMPT_TOO_LONG if tokens.truncated else NOTHING_TO_LEARN] += 1
        if not kept:
            raise _nothing_left(report.rows, reasons, longest, self.max_length)
        report.truncated = sum(tokens.truncated for tokens in kept)
        report.dropped, report.dropped_reasons = sum(reasons.values()), dict(reasons)
        report.tokens = sum(len(tokens.ids) for tokens in kept)
        report.tokens_in_loss = sum(sum(tokens.in_loss) for tokens in kept)
        return kept, report

    def _rows(self, examples: Iterable[Example]) -> Iterator[Tokens]:
        examples = iter(examples)
        while some := list(islice(examples, TEXTS_AT_ONCE)):
            texts = [example for example in some if example.messages is None]
            answers = [[example.completion] if example.completion else [] for example in texts]
            continued = iter(self.continued(texts, answers))
            for example in some:
                if example.messages is not None:
                    ids, in_loss = self._conversation(example)
                else:
                    prompt, answer = next(continued)
                    ids = [*prompt, *(token for completion in answer for token in completion)]
                    in_loss = [False] * len(prompt) + [True] * (len(ids) - len(prompt))
                in_loss[:1] = [False] * len(in_loss[:1])
                yield Tokens(ids[: self.max_length], in_loss[: self.max_length], len(ids))

    def _continued(self, examples: Sequence[Example], completions: Sequence[Sequence[str]]) -> Iterator[Continued]:
        texts = [self._texts(example, some) for example, some in zip(examples, completions, strict=True)]
        prompts = self._encode([prompt for prompt, _ in texts])
        wholes = iter(self._encode([prompt + answer for prompt, answers in texts for answer in answers]))
        for example, (prompt, answers), ids in zip(examples, texts, prompts, strict=True):
            before = ids if prompt else []
            behind = [self._behind(before, next(wholes), answer) for answer in answers]
            if example.messages is None:
                yield [*self._begin, *self._without_begin(before)], [self._closed(answer) for answer in behind]
            else:
                ended = [self._chat.ends_turn(answer) for answer in answers]
                yield before, [a if done else self._closed(a) for a, done in zip(behind, ended, strict=True)]

    def _texts(self, example: Example, completions: Sequence[str]) -> tuple[str, list[str]]:
        """Return the text of the prompt, and of each completion as it stands behind it."""
        if example.messages is None:
            prompt, moved = _prompt_and_moved_spaces(example)
            return prompt, [moved + completion for completion in completions]
        asked = without_answer(example.messages)
        answers = [[*asked, {"role": "assistant", "content": completion}] for completion in completions]
        prompt = self._chat.prompt(example.messages, example.id)
        return prompt, [self._chat.last_answer(messages, example.id) for messages in answers]

    def _behind(self, before: list[int], whole: list[int], ending: str) -> list[int]:
        """Return the ids of `ending`, given those of the text before it and of both as one."""
        if not before:
            return self._without_begin(whole)
        return whole[len(before) :] if whole[: len(before)] == before else self._encode([ending])[0]

    def _conversation(self, example: Example) -> tuple[list[int], list[bool]]:
        """Return ids and mask of a conversation, ending with the token that ends its last answer."""
        assert example.messages is not None
        rendered = self._chat.conversation(example.messages, example.id)
        ids: list[int] = []
        in_loss: list[bool] = []
        done = 0
        for start, end in rendered.answers:
            for stop, learned in ((start, False), (end, True)):
                ids, added = self._extended(ids, rendered.text[:done], rendered.text[done:stop])
                in_loss += [learned] * added
                done = stop
        # A template that ends the last answer with plain text would teach the model to go on for ever.
        if ids and ids[-1:] != self.end and not self._chat.ends_turn(rendered.text[:done]):
            ids, in_loss = ids + self.end, in_loss + [True] * len(self.end)
        return ids, in_loss

    def _extended(self, ids: list[int], text: str, more: str) -> tuple[list[int], int]:
        """Return `ids` (of `text`) and those of `more` behind them, and how many were added."""
        if not more:
            return ids, 0
        whole = self._encode([text + more])[0]
        grown = whole if whole[: len(ids)] == ids else ids + self._encode([more])[0]
        return grown, len(grown) - len(ids)

    def _without_begin(self, ids: Sequence[int]) -> list[int]:
        begins = bool(self._begin) and list(ids[: len(self._begin)]) == self._begin
        return list(ids[len(self._begin) :] if begins else ids)

    def _closed(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == self.end else ids + self.end

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        # verbose=False: long texts are counted and reported by us, not warned about by the tokenizer.
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def own_completion(example: Example) -> str:
    """Return the completion that an example itself has; a conversation's last message."""
    return example.messages[-1]["content"] if example.messages else example.completion


def _prompt_and_moved_spaces(example: Example) -> tuple[str, str]:
    """Split spaces off the prompt's end: tokenizers join them to the word that follows, so they open the completion."""
    bare = example.prompt.rstrip(" ")
    return bare, example.prompt[len(bare) :]


def _ids_put_before(tokenizer: Any) -> list[int]:
    """Return the ids that this tokenizer puts before a text: [BOS], [] or what else the model was trained with."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    dressed = list(tokenizer("a")["input_ids"])
    for before in range(len(dressed) - len(plain) + 1):
        if dressed[before : before + len(plain)] == plain:
            return dressed[:before]
    return []


def _nothing_left(rows: int, reasons: Counter[str], longest: int, max_length: int) -> InputError:
    if not rows:
        return InputError("There are no rows to train on.", fix="Give data.train a file with at least one row.")
    if reasons[PROMPT_TOO_LONG]:
        return InputError(
            f"No row is left to train on: the prompts of {reasons[PROMPT_TOO_LONG]} of {rows} rows fill max_length "
            f"({max_length} tokens) before the completion begins; the longest row has {longest} tokens.",
            fix=f"Set train.max_length to {longest}, which fits every row, or shorten the prompts.",
        )
    return InputError(
        f"No row is left to train on: none of the {rows} rows has a token in the loss.",
        fix="The loss counts what the completion holds; set data.completion to a template that is not empty.",
    )
