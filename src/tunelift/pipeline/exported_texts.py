"""The texts of a sentence model's test items, that an export of it is proved on."""

from __future__ import annotations

from collections.abc import Sequence

from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.exporting.checking import Asked
from tunelift.exporting.equality import Item
from tunelift.exporting.made import Rows
from tunelift.model_facts.anatomy import context_length
from tunelift.model_facts.pooling import pooling_of
from tunelift.pipeline.session import Session
from tunelift.tasks.sentence_embedding import paired, said_texts, tokens_of


def text_rows(session: Session, test: Sequence[Example], max_length: int, count: int) -> Rows:
    """Return texts of test items taken evenly from the whole of them, each as it is measured.

    One more, longer than the model takes, is cut there too. Raises InputError where there is no text.
    """
    most = min(max_length, context_length(session.model, session.tokenizer))
    longest = min(most, pooling_of(session.tokenizer).max_length or most)
    texts = list(dict.fromkeys(text for example in paired(test) for text in said_texts(example)))
    if not texts:
        raise InputError("No test item has a text to embed, so that no export can be proved.", fix="Name data.test.")
    chosen = texts[:: max(1, len(texts) // count)][:count]
    tokens = [own.ids for own in tokens_of(session.tokenizer, chosen, longest)]
    items = [Item(str(place), tuple(ids)) for place, ids in enumerate(tokens)]
    long = " ".join([*chosen, *[chosen[0]] * longest])
    (cut,) = tokens_of(session.tokenizer, [long], longest)
    asked = Asked(items, [*zip(chosen, tokens, strict=True), (long, cut.ids)])
    about = {item.name: (text, "") for item, text in zip(items, chosen, strict=True)}
    return Rows(asked, [], [], [], about, longest)
