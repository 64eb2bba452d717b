"""Greedy answers of base and tuned model, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from tunelift.config.schema import Config, EvaluateSection
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Conversation, Example
from tunelift.data.answers import answer_text
from tunelift.data.render import Renderer
from tunelift.evaluation.answers import greedy
from tunelift.evaluation.generation import Decoding, before_stop, end_ids
from tunelift.fast.target_model import target_model
from tunelift.model_facts.anatomy import context_length
from tunelift.pipeline.choices import with_adapter_facts
from tunelift.pipeline.session import Session
from tunelift.tasks import DEFAULT, TASKS


def generate_stage(config: Config, adapter: str | None, prompts: Sequence[str]) -> list[dict[str, str]]:
    """Return the greedy answers of the base and, with an adapter, of the tuned model, to each prompt.

    An adapter that was trained on conversations is asked through the chat template, with the prompt as the user's
    message, and so is the base beside it; else prompts are taken as they are. The base answers before the adapter is
    loaded, which may bring parts that cannot be switched off.
    """
    config, facts = with_adapter_facts(config, adapter)
    made_for = str(facts.get("task"))
    if made_for in TASKS and not TASKS.get(made_for).next_token:
        raise InputError(
            f"The adapter {adapter} was made for {made_for}, which continues no text.",
            fix="What it says of rows is in the scores: tunelift evaluate --adapter FOLDER --data rows.csv",
        )
    session = Session.open(config.model, DEFAULT)
    session.conversations = facts.get("conversations", False)
    if session.conversations:
        progress.note("generate: through the chat template, since the adapter was trained on conversations")
    elif getattr(session.tokenizer, "chat_template", None):
        progress.note("generate: prompts are taken as they are, not through the model's chat template")
    rows = [{"prompt": prompt} for prompt in prompts]
    rows = answered(session, "base", rows, config.evaluate, config.train.max_length)
    if adapter is None:
        return rows
    session.load_adapter(adapter)
    return answered(session, "tuned", rows, config.evaluate, config.train.max_length)


def answered(
    session: Session, side: str, rows: Sequence[dict[str, str]], settings: EvaluateSection, max_length: int
) -> list[dict[str, str]]:
    """Return the rows with the greedy answer of the session's model, as it is now, to each one's "prompt"."""
    renderer, examples = Renderer(session.tokenizer, max_length), []
    for number, row in enumerate(rows, start=1):
        asks = Conversation(({"role": "user", "content": row["prompt"]},)) if session.conversations else None
        examples.append(Example(str(number), row["prompt"], "", asks))
    context = context_length(session.model, session.tokenizer)
    asked = renderer.asked(examples)
    for number, one in enumerate(asked, start=1):
        if len(one.ids) >= context:
            raise InputError(
                f"Prompt {number} has {len(one.ids)} tokens; the model's context is {context}.",
                fix="Shorten the prompt.",
            )
    stop_ids = {*renderer.stop_ids(examples[0]), *end_ids(session.model)}
    stop = [*settings.stop, *renderer.stop_strings(examples[0])]
    decoding, ids = Decoding(stop_ids, settings.max_new_tokens, context, stop), [one.ids for one in asked]
    answer, _ = greedy(session.model, session.tokenizer, target_model(session.model)[0].nats, ids)
    with progress.bar("generate", len(rows)) as advance:
        found = answer(ids, decoding, settings.batch_size, advance)
    keep = settings.thinking == "keep"
    texts = (
        answer_text(session.tokenizer, said.ids, one.marks, keep_thinking=keep)
        for said, one in zip(found, asked, strict=True)
    )
    return [row | {side: before_stop(text, stop)} for row, text in zip(rows, texts, strict=True)]
