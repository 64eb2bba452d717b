"""Which characters of a rendered conversation the assistant wrote, found by rendering its prefixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.core.errors import InputError
from tunelift.core.untrusted import bounded

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the chat template writes it, and the spans (start, end) in characters that are the answers."""

    text: str
    answers: list[tuple[int, int]]


class Chat:
    """A tokenizer's chat template, applied to the conversations of one data set."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        self._special = (*tokenizer.all_special_tokens, *(str(token) for token in added if token.special))

    def prompt(self, messages: Messages, row: str) -> str:
        """Return the text up to where the assistant begins its last answer (which is left out where it is given)."""
        return self._render(without_answer(messages), row, prompt=True)

    def last_answer(self, messages: Messages, row: str) -> str:
        """Return the last message, the assistant's, as the template writes it behind `prompt`, with its turn's end."""
        before, text = self.prompt(messages, row), self._render(messages, row, prompt=False)
        _check_prefixes(before, text, text, where=f"row {row}, message {len(messages)}")
        return self._turn(text[len(before) :])

    def conversation(self, messages: Messages, row: str) -> Rendered:
        """Render all messages and find every assistant's answer, with the token that ends its turn.

        The template is rendered for each prefix of the conversation. Where one rendering does not begin with the
        one before it (a template that rewrites earlier turns, such as those that drop earlier reasoning), the spans
        would be a guess: InputError.
        """
        text = self._render(messages, row, prompt=False)
        answers = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._render(messages[:index], row, prompt=True)
                last = index == len(messages) - 1
                upto = text if last else self._render(messages[: index + 1], row, prompt=False)
                _check_prefixes(before, upto, text, where=f"row {row}, message {index + 1}")
                answers.append((len(before), len(before) + len(self._turn(upto[len(before) :]))))
        return Rendered(text, answers)

    def ends_turn(self, text: str) -> bool:
        """Whether `text` ends with a token of the template's own, such as <|im_end|>."""
        return text.endswith(self._special)

    def _turn(self, written: str) -> str:
        """Cut the blanks that a template writes after the token that ends a turn: the model never writes them."""
        bare = written.rstrip()
        return bare if self.ends_turn(bare) else written

    def _render(self, messages: Messages, row: str, *, prompt: bool) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(
                f"Row {row} holds chat messages, and this model's tokenizer has no chat template.",
                fix="Give data.prompt and data.completion templates, or use an instruction-tuned model.",
            )
        plain = [dict(message) for message in messages]
        return _with_reason(
            lambda: self.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=prompt), row
        )


def without_answer(messages: Messages) -> Messages:
    """Return the messages without the assistant's last answer, where they end with one."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _with_reason(render: Callable[[], str], row: str) -> str:
    """Run a template (in transformers' sandbox) and name the row where the template refuses it."""
    from jinja2 import TemplateError

    try:
        with bounded(f"Row {row}: the model's chat template"):
            return render()
    except (TemplateError, TypeError, KeyError, IndexError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"Row {row}: the model's chat template refuses the messages: {error}.",
            fix="Many templates want user and assistant in turn, and some have no system role. Change the messages.",
        ) from error


def _check_prefixes(before: str, upto: str, text: str, *, where: str) -> None:
    if not upto.startswith(before):
        reason = "the text before the answer changes when the answer is added"
    elif not text.startswith(upto):
        reason = "the answer is written differently once messages follow it"
    else:
        return
    raise InputError(
        f"In {where}: this model's chat template gives no exact mask of the assistant's tokens: {reason}.",
        fix="Give prompt and completion instead of messages, or use a model whose template keeps earlier turns.",
    )
