"""What peft is asked for: the adapter section's keys, and what the task and the model add to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunelift.adapters.build import check_keys, peft_config, refuse_changes_of_base
from tunelift.adapters.from_rows import LOOKING_AT_TOKENS, MOST_ROWS, Given
from tunelift.adapters.methods import METHODS, Method, method_of
from tunelift.adapters.new_tokens import KEY, NewTokens, new_tokens
from tunelift.adapters.store import check_name
from tunelift.adapters.targets import linear_targets
from tunelift.core import progress
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example
from tunelift.model_facts.anatomy import base_of, context_length, pad_id
from tunelift.model_facts.parameters import device_of
from tunelift.pipeline.known import is_known
from tunelift.tasks import Task
from tunelift.tasks.base import Batch, Row
from tunelift.training.run import Render

SAVED_BY_PEFT = {
    "SEQ_CLS": {"classifier", "score"},
    "TOKEN_CLS": {"classifier", "score"},
    "QUESTION_ANS": {"qa_outputs"},
}
"""Heads that peft trains and saves whole by itself, by its task type."""


def config_for(
    keys: Mapping[str, Any] | Any,
    model: Any,
    task: Task,
    training: tuple[int, int],
    new: Sequence[str],
    tokens: NewTokens | None = None,
) -> Any:
    """Return peft's config of the adapter section's keys, or a ready one, for this model and its task.

    `training` are rows and steps, about; `new` modules that the model's files lack, of which peft would not save all by
    itself, `tokens` those that the adapter brings. Raises InputError for settings that will not do.
    """
    peft_type = task.peft_type
    ready = not isinstance(keys, Mapping)
    config: Any = keys if ready else peft_config(keys, peft_type, model, *training)
    if config.task_type is None:
        config = replace(config, task_type=peft_type)
    if config.task_type != peft_type:
        raise InputError(
            f"The adapter's task_type is {config.task_type}, and the task is {task.name}.",
            fix=f'task_type="{peft_type}", or none: for another one peft would not save a new head.',
        )
    if not (ready or task.has_head):
        _refuse_for_want_of_a_head(METHODS.get(keys.get("method", "lora")), task)
    if task.has_head:
        _refuse_headless(config, task)
    elif (
        not task.next_token and method_of(config).virtual_tokens
    ):  # others' lie elsewhere, or peft has no type for them
        raise _does_not_go(config, task, "virtual tokens are put before rows of causal language models alone")
    begins = getattr(config, "init_lora_weights", None)
    if begins in LOOKING_AT_TOKENS and not task.takes_tokens:
        raise InputError(
            f"adapter.init_lora_weights is {begins}, which looks at rows of tokens, and the task {task.name} has "
            "others.",
            fix="Begin with lora_ga, which looks at the loss, or leave it out.",
        )
    if begins == "eva" and (tokens or getattr(config, "trainable_token_indices", None)):
        raise InputError(
            "adapter.init_lora_weights: eva does not go with tokens that are trained: peft 0.21 takes the embeddings "
            "for one of its layers.",
            fix="Begin with lora_ga, or leave it out.",
        )
    by_peft = SAVED_BY_PEFT.get(peft_type or "", set())
    beside = [name for name in new if not by_peft & set(name.split("."))]
    if beside and task.has_head:
        saved = [*(config.modules_to_save or []), *beside]
        config = replace(config, modules_to_save=list(dict.fromkeys(saved)))
    config = tokens.asked_of(config) if tokens else config
    every = getattr(config, "target_modules", None) == "all-linear"
    if every and (named := linear_targets(model, peft_type)):
        config = replace(config, target_modules=named[0])
        progress.note_once(f"adapter: {named[1]}")
    return config


def check_put_on(model: Any, task: Task, new: Sequence[str]) -> None:
    """Raise InputError for an adapter that is on and cannot be saved whole; say where nobody can tell.

    `new` are modules that the model's files lack.
    """
    name = model.active_adapter
    check_name(name)
    kind = type(model.peft_config[name]).__name__
    refuse_changes_of_base(vars(model.peft_config[name]), "adapter")
    if not task.has_head:
        return
    moved = " ".join(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    bare = [part for part in new if f".{part}.modules_to_save." not in moved]
    bare = [part for part in bare if f".{part.partition('.')[0]}.modules_to_save." not in moved]
    if bare and is_known(base_of(model)):
        raise InputError(
            f"The adapter does not train {listed(bare)}, which the model's files lack: it would be lost.",
            fix=f"{kind}(modules_to_save={bare!r}, ...), or give tune the model without an adapter.",
        )
    if bare:
        progress.note(f"adapter: {listed(bare)} are not saved with it, and must be in the base's files")


def tokens_for(keys: Mapping[str, Any] | Any, model: Any, tokenizer: Any, task: Task) -> NewTokens | None:
    """Return the tokens that the adapter section adds to a model's, if any; raise InputError where none can be."""
    texts = keys.get(KEY) if isinstance(keys, Mapping) else None
    if not texts or check_keys(keys):  # which is said elsewhere
        return None
    if task.exact or not (task.next_token or task.has_head) or not task.takes_tokens:
        reason = "the reference has no rows for them" if task.exact else "they are for language models and heads"
        raise InputError(f"adapter.{KEY} does not go with the task {task.name}: {reason}.", fix="Leave it out.")
    return new_tokens(model, tokenizer, texts)


def given_to(
    model: Any, tokenizer: Any, task: Task, render: Render, learned: Sequence[Example], longest: int
) -> Given | None:
    """Return what an adapter may begin with: some of the training rows, spread evenly over them; None without any.

    `render` gives the rows of what is `learned` as the training has them, cut where they are `longest` (tokens): with
    what a reference says of them, where the loss compares with one.
    """
    if not learned:
        return None

    def rows() -> Sequence[Row]:
        made, _ = render(learned, min(longest, context_length(model, tokenizer)))
        return made[:: -(-len(made) // MOST_ROWS)]  # at most so many

    def collate(part: Sequence[Row]) -> Batch:
        return task.collate(part, pad_id(model, tokenizer), device_of(model))

    return Given(rows, collate, lambda adapted: task.loss(adapted)[0])


def _refuse_headless(config: Any, task: Task) -> None:
    """Raise InputError for a method that cannot be used with a head."""
    method, reason = method_of(config), ""
    if "modules_to_save" not in vars(config):
        reason = "peft saves no head with it"
    elif method.virtual_tokens:
        reason = "peft cannot switch it off under a head"
    if reason:
        raise _does_not_go(config, task, reason)


def _does_not_go(config: Any, task: Task, reason: str) -> InputError:
    method = method_of(config)
    return InputError(
        f"adapter: {method.title or method.peft_type} does not go with the task {task.name}: {reason}.",
        fix="Take another method.",
    )


def _refuse_for_want_of_a_head(method: Method, task: Task) -> None:
    """Raise InputError for a method that is for tasks with a head."""
    if method.needs_head:
        raise InputError(
            f"adapter.method: {method.title} is for tasks with a head; that of {task.name} is the whole vocabulary.",
            fix="adapter.method: full trains it with all else, and adapter.modules_to_save with an adapter.",
        )
