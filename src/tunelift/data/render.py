"""The one place where an example becomes tokens, for training, evaluation and generation alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from tunelift.core.errors import InputError
from tunelift.core.records import Example, Pair
from tunelift.data.answers import Asked, Marks
from tunelift.data.chat import Chat, Written
from tunelift.data.conversations import as_answer
from tunelift.data.encoding import Added, Encoder, Text, spelt_as_text
from tunelift.data.pairs import encode_pair
from tunelift.data.pieces import pieces

PROMPT_TOO_LONG = "the prompt alone fills max_length"
NOTHING_TO_LEARN = "nothing after the prompt"

TEXTS_AT_ONCE = 128
"""Texts encoded in one call: more take no less time each, and a tokenizer's own record of each is large."""

Continued = tuple[list[int], list[list[int]]]
"""The ids of a prompt, and of each of several completions behind it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row for the model: token ids (T,), and for each whether the loss counts its prediction (T,).

    `full_length` is the row's length in tokens before it was cut on the right. `segments` are the token types (T,) by
    which a model tells two texts apart, None where all are alike.
    """

    ids: list[int]
    in_loss: list[bool]
    full_length: int
    segments: list[int] | None = None

    @property
    def truncated(self) -> bool:
        """Whether tokens were cut off."""
        return self.full_length > len(self.ids)


@dataclass(slots=True)
class RenderReport:
    """What became of the rows that were rendered; `tokens` and `tokens_in_loss` count the rows that were kept.

    `notes` say what a template or a tokenizer made of them that a user should know.
    """

    rows: int = 0
    truncated: int = 0
    dropped: int = 0
    dropped_reasons: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    tokens_in_loss: int = 0
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the counts as lines for people; cut and dropped rows only where there are any."""
        kept = self.rows - self.dropped
        lines = [f"{kept} rows, {self.tokens} tokens, {self.tokens_in_loss} in the loss"]
        if self.truncated:
            lines.append(f"{self.truncated} rows cut on the right to fit max_length")
        lines += [f"{count} rows dropped: {reason}" for reason, count in self.dropped_reasons.items()]
        return lines + self.notes


class Renderer:
    """Makes tokens with one tokenizer; rows for training are cut on the right to `max_length` tokens.

    A text without a prompt is not cut off: it makes as many rows as it takes.

    `tokenizer` is a transformers tokenizer. What it puts before a text by itself (BOS for most models) is put there
    once. What it puts behind (SEP, or an EOS that only some add) is not: every completion is closed by one EOS here.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.end: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        """The token that closes a completion; empty for a tokenizer without EOS, whose model learns no end."""
        added = Added.to(tokenizer)
        self.special_ids = added.ids
        self._begin = _ids_put_before(tokenizer)
        self._encoder = Encoder(tokenizer, added)
        self._chat = Chat(tokenizer, self._encoder)
        self._endings = added.names - {tokenizer.bos_token} | {tokenizer.eos_token}
        self._counts = Counter[str]()

    def prompt_ids(self, example: Example) -> list[int]:
        """Return the ids (T,) that stand before the answer, whatever their number."""
        return self.continued([example], [[]])[0][0]

    def completion_ids(self, example: Example) -> list[int]:
        """Return the ids of the completion as they follow `prompt_ids`, EOS at the end."""
        return self.candidate_ids(example, [own_completion(example)])[0]

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

    def asked(self, examples: Sequence[Example]) -> list[Asked]:
        """Return what the model reads before it answers each example in words of its own.

        Of a conversation that is less than `prompt_ids` where the template writes something before an answer that it
        does not write at the end of a prompt, such as an empty block of reasoning.
        """
        texts = iter(self.continued([e for e in examples if e.conversation is None], [[] for _ in examples]))
        written = [None if example.conversation is None else self.written(example) for example in examples]
        prompts = iter(self._encoder.encode([w.text.cut(0, w.answers[-1].asked) for w in written if w]))
        found = []
        for example, w in zip(examples, written, strict=True):
            found.append(Asked(next(prompts), self._marks(example, w)) if w else Asked(next(texts)[0]))
        return found

    def stop_ids(self, example: Example) -> list[int]:
        """Return the ids that end an answer: EOS, and for chat the token with which the template ends a turn."""
        last = [] if example.conversation is None else self.candidate_ids(example, ["x"])[0][-1:]
        return list(dict.fromkeys([*self.end, *(token for token in last if token in self.special_ids)]))

    def stop_strings(self, example: Example) -> list[str]:
        """Return the text that ends an answer where no id does: what the template writes before the next question."""
        if example.conversation is None or self.stop_ids(example):
            return []
        between = self._chat.between_turns(example.conversation, example.id)
        return [between] if between else []

    def parts(self, example: Example) -> list[Example]:
        """Return the examples that training makes of one: of a conversation there may be one for each answer."""
        if example.conversation is None:
            return [example]
        parts = self._chat.parts(example.conversation, example.id)
        return [replace(example, given=part) for part in parts]

    def tokens(self, example: Example) -> Tokens:
        """Return the whole row, cut on the right to max_length, with the loss on completion and EOS only.

        The first token is never in the loss: nothing stands before it from which it could be predicted. Of what is
        learned in several rows it is the last one.
        """
        return list(self._rows([example]))[-1]

    def head_tokens(self, example: Example) -> Tokens:
        """Return the prompt's text for a head: special tokens as the tokenizer puts them, no loss; of a pair both."""
        if isinstance(example.given, Pair):
            both = encode_pair(self.tokenizer, example.given, self.max_length)
            return Tokens(both.ids, [False] * len(both.ids), both.full_length, both.segments)
        how = spelt_as_text(self.tokenizer, [example.prompt])
        if how and not spelt_as_text(self.tokenizer, map(str, example.row.values())):
            how = {}  # no column of the row spells it, so whoever wrote data.text did, and means it
        ids = list(self.tokenizer(example.prompt, verbose=False, **how)["input_ids"])
        full_length = len(ids)
        if full_length > self.max_length:  # the tokenizer itself keeps a closing SEP where it cuts
            ids = list(self.tokenizer(example.prompt, truncation=True, max_length=self.max_length, **how)["input_ids"])
        return Tokens(ids, [False] * len(ids), full_length)

    def render_rows(self, examples: Iterable[Example]) -> tuple[list[Tokens], RenderReport]:
        """Render rows for training; rows without a token in the loss are dropped and counted.

        Raises InputError where none is left, naming the longest row and what to set.
        """
        report, kept, reasons, longest = RenderReport(), [], Counter[str](), 0
        self._counts.clear()
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
        report.notes = self._notes()
        return kept, report

    def _rows(self, examples: Iterable[Example]) -> Iterator[Tokens]:
        rows = (part for example in examples for part in self._counted(example))
        while some := list(islice(rows, TEXTS_AT_ONCE)):
            texts = [example for example in some if example.conversation is None]
            answers = [[example.completion] if example.completion else [] for example in texts]
            continued = iter(self.continued(texts, answers))
            chats = iter(self._conversations([example for example in some if example.conversation is not None]))
            for example in some:
                if example.conversation is not None:
                    yield self._cut(*next(chats))
                    continue
                prompt, answer = next(continued)
                whole = [token for completion in answer for token in completion]
                parts = [(prompt, whole)] if example.prompt else pieces(prompt, whole, self.max_length)
                self._counts["documents"] += len(parts) > 1
                self._counts["pieces"] += len(parts) * (len(parts) > 1)
                for before, ids in parts:
                    yield self._cut([*before, *ids], [False] * len(before) + [True] * len(ids))

    def _cut(self, ids: list[int], in_loss: list[bool]) -> Tokens:
        in_loss[:1] = [False] * len(in_loss[:1])
        return Tokens(ids[: self.max_length], in_loss[: self.max_length], len(ids))

    def _counted(self, example: Example) -> list[Example]:
        parts = self.parts(example)
        self._counts["conversations"] += len(parts) > 1
        self._counts["parts"] += len(parts) * (len(parts) > 1)
        return parts

    def _conversations(self, examples: Sequence[Example]) -> Iterator[tuple[list[int], list[bool]]]:
        """Yield ids and mask of conversations, each ending with the token that ends its last answer."""
        written = [self._chat.written(e.conversation, e.id) for e in examples if e.conversation is not None]
        cuts = [[(w.text.cut(0, at), learned) for at, learned in _borders(w)] for w in written]
        encoded = iter(self._encoder.encode([text for texts in cuts for text, _ in texts]))
        for w, texts in zip(written, cuts, strict=True):
            self._counts["spelt"] += bool(w.text.plain)
            ids, in_loss, done = list[int](), list[bool](), 0
            for text, learned in texts:
                ids, done = self._grown(ids, text, next(encoded), done), len(text.text)
                in_loss += [learned] * (len(ids) - len(in_loss))
            # A template that ends the last answer with plain text would teach the model to go on for ever.
            if not self._chat.ends_turn(w.text.text):
                ids = self._closed(ids)
            yield ids, in_loss + [True] * (len(ids) - len(in_loss))

    def _continued(self, examples: Sequence[Example], completions: Sequence[Sequence[str]]) -> Iterator[Continued]:
        texts = [self._texts(example, some) for example, some in zip(examples, completions, strict=True)]
        prompts = iter(self._encoder.encode([border for borders, _ in texts for border in borders]))
        wholes = iter(self._encoder.encode([answer for _, answers in texts for answer in answers]))
        for example, (borders, answers) in zip(examples, texts, strict=True):
            before, done = list[int](), 0
            for border in borders:
                before, done = self._grown(before, border, next(prompts), done), len(border.text)
            behind = [self._grown(before, answer, next(wholes), done)[len(before) :] for answer in answers]
            if example.conversation is None:
                behind = behind if before else [self._without_begin(answer) for answer in behind]
                yield [*self._begin, *self._without_begin(before)], [self._closed(answer) for answer in behind]
            else:
                ended = [self._chat.ends_turn(answer.text) for answer in answers]
                yield before, [a if done else self._closed(a) for a, done in zip(behind, ended, strict=True)]

    def _texts(self, example: Example, completions: Sequence[str]) -> tuple[list[Text], list[Text]]:
        """Return the texts through which the prompt grows, and each completion with the prompt before it."""
        if example.conversation is None:
            prompt = example.prompt.rstrip(" ")  # tokenizers join these blanks to the word that follows
            moved = example.prompt[len(prompt) :]
            return [Text(prompt)] * bool(prompt), [self._answered(prompt, moved + answer) for answer in completions]
        own = self.written(example)
        answered = [_answered_with(example, completion) for completion in completions]
        answers = [own.text if one is example else self.written(one).text for one in answered]
        last = own.answers[-1]
        borders = [own.text.cut(0, at) for at in dict.fromkeys((last.asked, last.begun))]
        # Before an answer with reasoning a template writes other words than before one without.
        return [b for b in borders if all(answer.text.startswith(b.text) for answer in answers)], answers

    def _answered(self, prompt: str, completion: str) -> Text:
        """Return prompt and completion as one text, in which special tokens that the completion spells are text.

        Those at its end are what they say, since they end it, and so is a BOS that opens a text without a prompt.
        """
        whole, bos = prompt + completion, self.tokenizer.bos_token
        spelt = list(self._encoder.spelt(whole, [(len(prompt), len(whole))]))
        ending, end = list[tuple[int, int]](), len(whole)
        while spelt and spelt[-1][1] == end and whole[spelt[-1][0] : end] in self._endings:
            ending.insert(0, spelt.pop())
            end = ending[0][0]
        if not whole[len(prompt) : end].strip():
            spelt += ending  # it says nothing else
        elif not prompt and spelt and spelt[0][0] == 0 and whole[: spelt[0][1]] == bos:
            del spelt[0]
        self._counts["spelt"] += bool(spelt)
        return Text(whole, tuple(spelt))

    def _grown(self, ids: list[int], text: Text, whole: list[int], done: int) -> list[int]:
        """Return ids of a text that begin with `ids`, those of its first `done` characters; `whole` are its own."""
        if whole[: len(ids)] == ids:
            return whole
        return ids + self._encoder.encode([text.cut(done, len(text.text))])[0]

    def written(self, example: Example) -> Written:
        """Return a conversation with its last answer alone, which may be one that is not known yet."""
        assert example.conversation is not None
        last = example.conversation.messages[-1]["role"]
        render = self._chat.written if last == "assistant" else self._chat.asked
        return render(replace(example.conversation, turns="last"), example.id)

    def _marks(self, example: Example, written: Written) -> Marks:
        last, text = written.answers[-1], written.text.text
        assert example.conversation is not None
        # What the reference is, with reasoning or without, must make no difference to how a prediction is read.
        asked = replace(example.conversation, messages=tuple(without_answer(example.conversation.messages)))
        plain = self._chat.asked(asked, example.id)
        added = plain.text.text[plain.answers[-1].asked : plain.answers[-1].begun]
        opens, closes = self._chat.thinking
        # Words of a template without a token of its own, such as "Answer:", may be words of an answer too.
        ends = [added.strip()] if self._encoder.added.search(added) else []
        return Marks(
            added,
            (opens, "<think>"),
            tuple(dict.fromkeys([*ends, closes, "</think>"])),
            text[: last.asked].rstrip().endswith((opens, "<think>")),
            bool(example.messages and example.messages[-1].get("tool_calls")),
        )

    def _notes(self) -> list[str]:
        """Return what was made of the rows since `render_rows` began."""
        counts, notes = self._counts, list(self._chat.notes)
        if counts["conversations"]:
            by_answer = (
                f"{counts['conversations']} conversations are learned answer by answer, in {counts['parts']} rows"
            )
            notes = [by_answer, *notes]
        if counts["documents"]:
            longer = f"{counts['documents']} texts are longer than {self.max_length} tokens"
            notes = [*notes, f"{longer}, and make {counts['pieces']} rows"]
        if counts["spelt"]:
            notes.append(f"{counts['spelt']} rows spell a special token in what is said; it is text there")
        return notes

    def _without_begin(self, ids: Sequence[int]) -> list[int]:
        begins = bool(self._begin) and list(ids[: len(self._begin)]) == self._begin
        return list(ids[len(self._begin) :] if begins else ids)

    def _closed(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == self.end else ids + self.end


def _borders(written: Written) -> list[tuple[int, bool]]:
    """Return the places through which a conversation's ids grow, and of each whether what ends there is learned."""
    borders = list[tuple[int, bool]]()
    for answer in written.answers:
        borders += [(answer.asked, False), (answer.begun, True)][: 1 + (answer.begun > answer.asked)]
        borders.append((answer.end, True))
    return borders


def own_completion(example: Example) -> str:
    """Return the completion that an example itself has; of a conversation what its last message says."""
    return as_answer(example.messages[-1]) if example.messages else example.completion


def _answered_with(example: Example, completion: str) -> Example:
    """Return a conversation that ends with this answer; its own keeps its reasoning and its calls."""
    assert example.conversation is not None
    messages = example.conversation.messages
    if messages[-1]["role"] == "assistant" and completion == own_completion(example):
        return example
    asked = without_answer(messages)
    answered = (*asked, {"role": "assistant", "content": completion})
    return replace(example, given=replace(example.conversation, messages=answered, turns="last"))


def without_answer(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the messages without the assistant's last answer, where they end with one."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


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
