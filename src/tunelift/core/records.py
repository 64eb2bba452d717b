"""Records that cross rooms: one example of the data, and the scores of a model on many of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.run_files.layout import METRICS, SCORES

ScoreRow = Mapping[str, Any]
"""What is known of one item, as a line of scores.jsonl has it; see `Scores`."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as they are passed to a chat template, the last one an answer of the assistant's.

    A message has "role" and "content", and where they apply "reasoning_content", "tool_calls" (each {"type":
    "function", "function": {"name", "arguments": a mapping}}), "tool_call_id", "name", and "train": False for an answer
    that is not to be learned. `tools` are JSON schemas, {"type": "function", "function": ...}; `template_arguments` are
    what else the template is given, such as {"enable_thinking": False}. `turns` says which answers are learned.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    turns: Literal["all", "each", "last"] | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """A text in words, as it is given where each of them wants something."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True, slots=True)
class Tags:
    """A tag for each word, without blanks in it."""

    tags: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.tags)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts that are asked about together, such as a premise and a hypothesis."""

    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first}\n{self.second}"


@dataclass(frozen=True, slots=True)
class Numbers:
    """A number for each output of a head, by the outputs' names."""

    names: tuple[str, ...]
    values: tuple[float, ...]

    def __str__(self) -> str:
        return " ".join(repr(value).removesuffix(".0") for value in self.values)


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The labels that apply, maybe none, each once and in order; none of them holds the text that joins them."""

    labels: tuple[str, ...]

    JOIN: ClassVar[str] = " | "

    def __str__(self) -> str:
        return self.JOIN.join(self.labels)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a passage: its text, and the place of its first character there."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """The place behind its last character."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Spans:
    """The parts of a passage that answer a question, the first of them the one to learn; none where nothing does."""

    spans: tuple[Span, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """What they say, each text once."""
        return tuple(dict.fromkeys(span.text for span in self.spans))


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked, and the texts of which one is the answer: those of this item, as they are to be written."""

    asked: str
    texts: tuple[str, ...]

    def __str__(self) -> str:
        return "\n- ".join((self.asked, *self.texts))


@dataclass(frozen=True, slots=True)
class Picture:
    """A file with a picture, and the SHA-256 of what it holds, by which it is told from others."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The answer that was liked less than the completion: as text, and in a conversation that ends with it."""

    text: str
    given: Conversation | None = None


@dataclass(frozen=True, slots=True)
class Liked:
    """Whether the completion was liked, judged by itself."""

    liked: bool


@dataclass(frozen=True, slots=True)
class Near:
    """A text that belongs to the one that is given, and others that do not; `kind` is what both are of, if it is said.

    `negatives` may be none.
    """

    positive: str
    negatives: tuple[str, ...] = ()
    kind: str | None = None


Given = Conversation | Words | Pair | Options | Picture
Wanted = Tags | Numbers | LabelSet | Spans | Rejected | Liked | Near
"""The closed kinds of what is given and wanted, besides plain text and a label's name."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row of the data.

    `prompt` and `completion` are what the model is given and what it should answer, as text: people read them, items
    are told apart and duplicates found by them, and scores hold them. They are all there is of plain text, which has an
    empty prompt, and of a label, whose name is the completion. What is more than a text, such as a conversation, stands
    in `given` and `wanted` besides. `row` has the columns that the example came from.
    """

    id: str
    prompt: str
    completion: str
    given: Given | None = None
    wanted: Wanted | None = None
    cluster: str | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def conversation(self) -> Conversation | None:
        """What is given, where that is a conversation."""
        return self.given if isinstance(self.given, Conversation) else None

    @property
    def messages(self) -> tuple[Mapping[str, Any], ...] | None:
        """The conversation's messages, where it is one."""
        return self.conversation.messages if self.conversation else None

    @property
    def content(self) -> tuple[str, str]:
        """What identifies the item whatever its id: the input and the reference."""
        return self.prompt, self.completion

    @property
    def references(self) -> tuple[str, ...]:
        """Every text that is a right answer; none where a question has no answer."""
        return self.wanted.texts if isinstance(self.wanted, Spans) else (self.completion,)

    @property
    def is_text(self) -> bool:
        """Whether prompt and completion are all there is."""
        return self.given is None and self.wanted is None


@dataclass(slots=True)
class Scores:
    """What `evaluate` returns: one row per item (the scores.jsonl contract) and how the rows were made (metrics.json).

    A row has "id", "input", "reference", "prediction", "metrics" ({name: value}), "log_likelihood" (nats) and "tokens".
    Where they apply, it also has: "references", all of several; "cluster", the source that several items come from;
    "unscored", the reason why there are no metrics; "label_scores" ({label: log-likelihood}, without labels that were
    never finished since they could not win); "none_over_span", by how much no answer scores above the
    "best_span"; "entity_probabilities" of the entities that tags mark, in order, or "word_probabilities" of each word's
    tag; "samples", answers that were drawn; "counts" ({metric: {name: number}}) for metrics of the whole data set,
    which are summed over items or looked at all together, and stand in no row's "metrics"; "slices" ({column: value as
    text}); "duplicate_of", the id of a training row that the item repeats, exactly or nearly.

    `info` has "format", "items", "unscored", "metrics" (name: {"value", "higher_is_better", "items"}, and "defined_by",
    which stands for a schema, a pattern or code that the metric is of) and "made_with" (whatever
    must agree before two such results may be compared, and what may differ: model, adapter, dtype, prompt, decoding,
    label scoring).
    """

    rows: list[dict[str, Any]]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The aggregate of each metric, by name."""
        return {name: entry["value"] for name, entry in self.info.get("metrics", {}).items()}

    def save(self, folder: str | Path) -> Path:
        """Write scores.jsonl and metrics.json into `folder`, each whole or not at all; return the folder.

        A metric's value that is not finite, such as the perplexity of a model that diverged, is null in metrics.json.
        """
        folder = Path(folder)
        files.write_text(folder / SCORES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))
        metrics = {}
        for name, entry in (self.info.get("metrics") or {}).items():
            value = entry.get("value")
            lost = isinstance(value, float) and not math.isfinite(value)
            metrics[name] = {**entry, "value": None} if lost else entry
        files.write_json(folder / METRICS, self.info | ({"metrics": metrics} if metrics else {}))
        return folder

    @classmethod
    def read(cls, path: str | Path) -> Scores:
        """Read scores.jsonl (or the folder that holds it), with metrics.json beside it where there is one.

        Raises InputError for a file that is missing, empty or no scores file, naming the line.
        """
        path = Path(path)
        file = path / SCORES if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"{file} does not exist.", fix="Give a scores.jsonl file or the folder that holds one.")
        rows = [row for _, row in files.read_jsonl(file)]
        if not rows:
            raise InputError(f"{file} holds no rows.", fix="A scores file has one JSON object per item.")
        return cls(rows, files.read_object(file.with_name(METRICS)))


def content_hash(text: str, reference: str) -> str:
    """Return the hash (16 hex digits) that identifies an item by its input and reference."""
    both = json.dumps([text, reference], ensure_ascii=False)
    return hashlib.sha256(both.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def content_of(row: ScoreRow) -> tuple[str, str]:
    """Return what identifies an item whatever its id: input and reference as text."""
    return as_text(row["input"]), as_text(row["reference"])


def as_text(value: Any) -> str:
    """Return text as it is and anything else as JSON, in which the order of keys makes no difference."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
