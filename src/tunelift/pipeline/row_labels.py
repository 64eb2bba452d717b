"""One training row seen from outside: what its labels say, where they end, and its loss without any fast path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.core.records import Example
from tunelift.data.conversations import is_learned
from tunelift.fast.targets import IGNORED
from tunelift.fast.undo import without_cache
from tunelift.tasks.base import Batch


@dataclass(frozen=True, slots=True)
class Learned:
    """An example, the batch (of this row alone) that training would make of it, and whether it was cut."""

    example: Example
    batch: Batch
    truncated: bool

    @property
    def targets(self) -> int:
        return self.batch.targets

    @property
    def ids(self) -> list[int]:
        """The row's token ids, (T,)."""
        return [int(token) for token in self.batch.inputs["input_ids"][0]]

    @property
    def counted(self) -> list[int]:
        """The positions whose labels the loss counts, in order."""
        return [at for at, label in enumerate(self.batch.labels[0].tolist()) if label != IGNORED]


def names_its_label(row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
    """Tell whether a head's class index is that of the example's label."""
    return labels[int(row.batch.labels[0])] == row.example.completion


def says_the_answer(row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
    """Tell whether the counted labels are the row's own tokens and decode to exactly its answer (for chat: answers)."""
    ids, own = row.ids, row.batch.labels[0].tolist()
    if any(own[at] != ids[at] for at in row.counted):
        return False
    return _says_the_turns(row, tokenizer) if row.example.conversation else _says_the_completion(row, tokenizer)


def stops(row: Learned, tokenizer: Any) -> bool:
    """Tell whether the last token of the row is an end token and is counted."""
    counted, ids = row.counted, row.ids
    return bool(counted) and counted[-1] == len(ids) - 1 and ids[-1] in _end_ids(row, tokenizer)


def plain_loss(row: Learned, model: Any) -> float:
    """Return minus the summed log-probability of the labels, in nats, from the model's own logits, in fp64."""
    logits, labels = model(**row.batch.inputs, **without_cache(model)).logits, row.batch.labels
    if labels.dim() == 1:
        return -float(logits[0].double().log_softmax(dim=-1)[labels[0]])
    logits, following = logits[0, -labels.shape[1] :][:-1], labels[0, 1:]  # virtual tokens of prompt methods come first
    where = following != IGNORED
    likely = logits[where].double().log_softmax(dim=-1).gather(1, following[where][:, None])
    return -float(likely.sum())


def _says_the_completion(row: Learned, tokenizer: Any) -> bool:
    """Compare as text, blanks at the ends aside: tokenizers differ in where they keep the blank before the answer.

    Without a prompt and without BOS nothing stands before the first token, which is then no label.
    """
    ids, counted = row.ids, row.counted
    while counted and ids[counted[-1]] == tokenizer.eos_token_id:
        counted = counted[:-1]
    answer = _decoded(tokenizer, _encoded(tokenizer, row.example.completion))
    answer = answer.removesuffix(tokenizer.eos_token or "").strip()
    said = [ids[at] for at in counted]
    readings = [said] if row.example.prompt or row.counted[:1] != [1] else [said, ids[:1] + said]
    texts = [_decoded(tokenizer, reading).strip() for reading in readings]
    if row.truncated:  # the cut may go through a character
        return any(answer.startswith(text.rstrip("\ufffd")) for text in texts)
    return answer in texts


def _says_the_turns(row: Learned, tokenizer: Any) -> bool:
    """Tell whether each run of counted tokens holds one learned answer in turn, and the rest what the user said.

    Templates set blanks as they like, so texts are compared without them; of calls their names are looked for.
    """
    messages, ids, counted = row.example.messages or (), row.ids, set(row.counted)
    whole = row.example.conversation is not None and row.example.conversation.turns != "last"
    answers = [message for message in messages if is_learned(message)][0 if whole else -1 :]
    runs: list[tuple[bool, list[int]]] = []
    for at, token in enumerate(ids):
        if not runs or runs[-1][0] != (at in counted):
            runs.append((at in counted, []))
        runs[-1][1].append(token)
    said = [_without_blanks(_decoded(tokenizer, run)) for learned, run in runs if learned]
    rest = "".join(_without_blanks(_decoded(tokenizer, run)) for learned, run in runs if not learned)
    if row.truncated:
        return len(said) <= len(answers)
    texts = [[_content(tokenizer, text) for text in _texts_of(answer)] for answer in answers]
    answered = [all(text in run for text in some) for run, some in zip(said, texts, strict=False)]
    asked = [_content(tokenizer, message["content"]) for message in messages if message["role"] == "user"]
    return len(said) == len(answers) and all(answered) and all(content in rest for content in asked)


def _texts_of(answer: Mapping[str, Any]) -> list[str]:
    """Return what an answer says. Tags around reasoning are the template's too: the prompt may have the first."""
    calls = [call["function"]["name"] for call in answer.get("tool_calls", ())]
    return [*re.split("</?think>", answer["content"]), answer.get("reasoning_content", ""), *calls]


def _content(tokenizer: Any, text: str) -> str:
    return _without_blanks(_decoded(tokenizer, _encoded(tokenizer, text)))


def _end_ids(row: Learned, tokenizer: Any) -> set[int]:
    """Return EOS, and for chat the special tokens with which a template may end a turn."""
    ends = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    if row.example.conversation is not None:
        ends |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return ends


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _without_blanks(text: str) -> str:
    return "".join(text.split())
