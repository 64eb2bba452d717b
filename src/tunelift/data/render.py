"""The one place where an example becomes tokens, for training, evaluation and generation alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.chat import Chat, without_answer

PROMPT_TOO_LONG = "the prompt alone fills max_length"
NOTHING_TO_LEARN = "nothing after the prompt"


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
        # The labels of one prompt come one after the other, so few prompts need to be kept.
        self._encode = lru_cache(maxsize=64)(self._encode_anew)

    def prompt_ids(self, example: Example) -> list[int]:
        """Return the ids (T,) that the model reads before it answers, whatever their number."""
        if example.messages is not None:
            return list(self._encode(self._chat.prompt(example.messages, example.id)))
        text, _ = _prompt_and_moved_spaces(example)
        return self._begun(self._encode(text)) if text else list(self._begin)

    def completion_ids(self, example: Example, completion: str | None = None) -> list[int]:
        """Return the ids of the completion (or of another in its place) as they follow `prompt_ids`, EOS at the end."""
        if completion is None:
            completion = example.messages[-1]["content"] if example.messages else example.completion
        return self.candidate_ids(example, [completion])[0]

    def candidate_ids(self, example: Example, completions: Sequence[str]) -> list[list[int]]:
        """Return `completion_ids` of several completions of one prompt, encoded together, which is faster."""
        if example.messages is not None:
            return [self._answer_ids(example, completion) for completion in completions]
        prompt, moved = _prompt_and_moved_spaces(example)
        endings = [moved + completion for completion in completions]
        return [self._closed(ids) for ids in self._continuations(prompt, endings)]

    def stop_ids(self, example: Example) -> list[int]:
        """Return the ids that end an answer: EOS, and for chat the token with which the template ends a turn."""
        last = [] if example.messages is None else self._answer_ids(example, "x")[-1:]
        return list(dict.fromkeys([*self.end, *last]))

    def tokens(self, example: Example) -> Tokens:
        """Return the whole row, cut on the right to max_length, with the loss on completion and EOS only.

        The first token is never in the loss: nothing stands before it from which it could be predicted.
        """
        if example.messages is not None:
            ids, in_loss = self._conversation(example)
        else:
            prompt, completion = self.prompt_ids(example), self.completion_ids(example) if example.completion else []
            ids, in_loss = prompt + completion, [False] * len(prompt) + [True] * len(completion)
        in_loss[:1] = [False] * len(in_loss[:1])
        return Tokens(ids[: self.max_length], in_loss[: self.max_length], len(ids))

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
        for example in examples:
            tokens = self.tokens(example)
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

    def _answer_ids(self, example: Example, completion: str) -> list[int]:
        """Return the ids of `completion` as the last answer of a conversation, with the token that ends the turn."""
        assert example.messages is not None
        messages = [*without_answer(example.messages), {"role": "assistant", "content": completion}]
        rendered = self._chat.last_answer(messages, example.id)
        ids = self._continuations(self._chat.prompt(messages, example.id), [rendered])[0]
        return ids if self._chat.ends_turn(rendered) else self._closed(ids)

    def _extended(self, ids: list[int], text: str, more: str) -> tuple[list[int], int]:
        """Return `ids` (of `text`) and those of `more` behind them, and how many were added."""
        if not more:
            return ids, 0
        whole = list(self._encode(text + more))
        grown = whole if whole[: len(ids)] == ids else ids + list(self._encode(more))
        return grown, len(grown) - len(ids)

    def _continuations(self, prompt: str, endings: Sequence[str]) -> list[list[int]]:
        """Return the ids of each ending as they follow the prompt's.

        The two are encoded together, as the model would meet them in running text; where the tokenizer then merges
        across the border, so that the prompt's own ids do not come first, the ending is encoded alone.
        """
        if not prompt:
            return [self._without_begin(ids) for ids in self._encode_all(endings)]
        before = list(self._encode(prompt))
        wholes = self._encode_all([prompt + ending for ending in endings])
        merged = [ending for ending, ids in zip(endings, wholes, strict=True) if ids[: len(before)] != before]
        alone = dict(zip(merged, self._encode_all(merged), strict=True))
        return [alone.get(ending, ids[len(before) :]) for ending, ids in zip(endings, wholes, strict=True)]

    def _begun(self, ids: Sequence[int]) -> list[int]:
        """Put BOS (what the tokenizer puts before a text) in front, unless the text itself began with it."""
        return [*self._begin, *self._without_begin(ids)]

    def _without_begin(self, ids: Sequence[int]) -> list[int]:
        begins = bool(self._begin) and list(ids[: len(self._begin)]) == self._begin
        return list(ids[len(self._begin) :] if begins else ids)

    def _closed(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == self.end else ids + self.end

    def _encode_anew(self, text: str) -> tuple[int, ...]:
        return tuple(self._encode_all([text])[0])

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        # verbose=False: long texts are counted and reported by us, not warned about by the tokenizer.
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


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
