"""Columns beside the ones that are used: what has a meaning that would be lost is refused, the rest is named."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunelift.core.errors import InputError, listed
from tunelift.data.formats import Table, tagged_tokens

TRUTHS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
_PAIRS = ("chosen", "rejected", "rejected_response", "chosen_response")
_ASKED = ("messages", "conversations", "prompt", "instruction", "question")
_VERDICTS = ("label", "kto_tag")
_FLAGS = ("train", "trainable", "loss", "loss_mask", "weight")
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_TALK = {
    "system": "a system text",
    "system_prompt": "a system text",
    "history": "earlier turns",
    "tools": "tools",
    "functions": "tools",
    "documents": "documents",
    "chat_template_kwargs": "arguments of the chat template",
    "enable_thinking": "an argument of the chat template",
    "reasoning_effort": "an argument of the chat template",
}
"""What belongs to a conversation: used beside messages where `layouts.BESIDE` says so, and by no text alone."""
_TAG = re.compile(r"O|[BIESLU]-\S+")
_LOOKED_AT = 1000  # rows


def refuse_preferences(table: Table) -> None:
    """Raise InputError for preference pairs, which no layout can use."""
    pair = [name for name in _PAIRS if name in table.columns]
    if any(name.startswith("rejected") for name in pair):
        raise InputError(
            f"{table.name} holds preference pairs ({listed(pair)}): this task learns answers, and has no use for "
            "rejected ones.",
            fix="To learn from both: --task preference. "
            + _chosen_alone(table, next((name for name in pair if name.startswith("chosen")), None)),
        )


def refuse_tagged_tokens(table: Table) -> None:
    """Raise InputError for tokens with their tags, one a line (CoNLL) or in lists: no task here learns them."""
    tags, some = [name for name in table.columns if name.endswith("tags")], table.rows[:_LOOKED_AT]
    lists = any(isinstance(row.get(name), list) for name in tags for row in some)
    if ("tokens" in table.columns and lists) or _is_conll(table):
        raise tagged_tokens(table.name)


def refuse_unusable(table: Table, used: Sequence[str]) -> None:
    """Raise InputError, naming the row, for a column that changes what a row means and that the layout does not use.

    `used` are the columns of a layout that was chosen by their names. What is empty says nothing.
    """
    is_talk = bool({"messages", "conversations", "completion", "output"} & set(used))
    is_pair = set(_PAIRS) & set(used)
    for name in table.columns:
        if name in used:
            continue
        if name in _VERDICTS and is_talk:
            _refuse_verdicts(table, name, used)
        elif name in _FLAGS and is_talk:
            _refuse_flags(table, name, used)
        elif name in _MEDIA:
            _refuse_values(table, name, "media, and models here read text alone", "Leave out rows with media.")
        elif name in _TALK and (is_talk or is_pair):
            _refuse_values(table, name, f"{_TALK[name]}, which these rows cannot use", _talk_fix(name, used))


def _is_conll(table: Table) -> bool:
    """Whether nearly every line of text ends in a tag such as O or B-person."""
    if table.unit != "line":
        return False
    rows = [[str(value) for value in row.values()] for row in table.rows[:_LOOKED_AT]]
    words = [" ".join(values).split() for values in rows]
    tags = [found[-1] for found in words if len(found) > 1 and _TAG.fullmatch(found[-1])]
    return len(tags) > 0.9 * len(words) and any("-" in tag for tag in tags)


def _chosen_alone(table: Table, chosen: str | None) -> str:
    answers = [row[chosen] for row in table.rows if row.get(chosen)] if chosen else []
    if not answers:
        return "Give rows with the answers to learn, such as prompt and completion."
    asked = next((name for name in _ASKED if name in table.columns), None)
    if not isinstance(answers[0], str) or asked in ("messages", "conversations"):
        how = f'append "{chosen}" to "{asked}" in each row' if asked else f'call "{chosen}" "messages"'
        others = "both columns of the pair" if asked else "the other column of the pair"
        return f"To learn the chosen answers: {how}, and remove {others}."
    flags = f'--prompt "{{{asked}}}" --completion' if asked else "--text"
    return f'To learn the chosen answers: {flags} "{{{chosen}}}"'


def _refuse_verdicts(table: Table, name: str, used: Sequence[str]) -> None:
    values = [row.get(name) for row in table.rows]
    said = [TRUTHS.get(str(value).strip().lower()) for value in values if value not in (None, "")]
    if False not in said or None in said:
        return  # every answer is wanted, or these are names of classes
    is_text = "completion" in used
    or_by_name = " If it says something else, set data.prompt and data.completion." * is_text
    raise InputError(
        f'{table.name}: "{name}" says whether an answer is wanted: {said.count(True)} are, {said.count(False)} are '
        "not. All would be learned.",
        fix=f'To learn from both: --task preference. Keep the rows whose "{name}" is true, and remove the others, to '
        f"learn those alone.{or_by_name}",
    )


def _refuse_flags(table: Table, name: str, used: Sequence[str]) -> None:
    values = [
        TRUTHS.get(str(row.get(name)).strip().lower(), "other") for row in table.rows if row.get(name) is not None
    ]
    if False in values and "other" not in values:
        index = next(index for index, row in enumerate(table.rows) if TRUTHS.get(str(row.get(name)).lower()) is False)
        raise InputError(
            f'{table.where(index)}: "{name}" says that the row is not learned, and it would be.',
            fix=f'Remove such rows, and the column "{name}".',
        )
    if name != "weight" or not {"messages", "conversations"} & set(used):
        return  # beside text a weight may be anything's; beside messages it is the row's
    for index, row in enumerate(table.rows):
        if row.get("weight") is not None and TRUTHS.get(str(row["weight"]).strip().lower()) is not True:
            raise InputError(
                f'{table.where(index)}: "weight" is {row["weight"]!r:.40}, and every row that is learned counts alike.',
                fix='Remove the column "weight", and the rows that should not be learned.',
            )


def _refuse_values(table: Table, name: str, what: str, fix: str) -> None:
    for index, row in enumerate(table.rows):
        value = row.get(name)
        if value not in (None, "", [], {}, ()) and not (isinstance(value, str) and value.strip() in ("", "[]", "{}")):
            raise InputError(f'{table.where(index)}: the column "{name}" holds {what}.', fix=fix)


def _talk_fix(name: str, used: Sequence[str]) -> str:
    if {"messages", "conversations"} & set(used):
        return (
            'Call tools "tools", and write what a template takes into "chat_template_kwargs", an object for each row.'
        )
    if "completion" in used and isinstance(name, str) and name.startswith("system"):
        return f'Name it in the prompt: --prompt "{{{name}}}\\n\\n{{prompt}}" --completion "{{completion}}"'
    return 'Write the rows as "messages", which may have it beside them, or remove the column.'
