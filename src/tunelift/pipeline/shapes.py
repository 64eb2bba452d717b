"""What a plan is made from: a run's model as shapes without weights, and its rows as tokens."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from tunelift.adapters.methods import trains_whole
from tunelift.config.schema import ModelSection
from tunelift.core import machine, randomness
from tunelift.evaluation import predicting
from tunelift.evaluation.baselines import suitable
from tunelift.evaluation.features import WordFeatures
from tunelift.evaluation.measures.base import Measure
from tunelift.evaluation.predicted_options import apart
from tunelift.evaluation.run import tokenised
from tunelift.model_facts.anatomy import context_length, own_pad_id
from tunelift.models import precision, prequantized, sources, twin
from tunelift.models.loader import read_config, read_image_processor, read_tokenizer
from tunelift.pipeline.preparing import Prepared
from tunelift.pipeline.session import Session
from tunelift.planning.memory import OF_FILES, Adapter, Facts, Rows, Settings
from tunelift.planning.sizes import sizes_of
from tunelift.tasks import Task
from tunelift.training.state import Footprint

WORDS_OF, GROWTH = 2000, 0.7
"""Rows of which words are counted, and by which power of their number there are more of them (Heaps' law)."""

MOST_ROWS = 5000
"""Rows whose steps are laid out, to find the largest; of more the longest and an even sample are taken."""


def session_of_shapes(section: ModelSection, task: Task, labels: Sequence[str]) -> Session:
    """Return a session whose model has the shapes of its weights and no weights; its tokenizer is the model's own.

    Raises InputError as `models.load` does for a model that does not exist or whose config cannot be used.
    """
    narrow = section.quantization == "gguf"
    identity, folder = sources.resolve(section.name, section.revision, narrow=narrow)
    config = read_config(identity, folder)
    prequantized.check(identity.name, config, precision.choose(section.device, section.dtype).device, task)
    reads_words = task.reader == "AutoTokenizer"
    tokenizer = (read_tokenizer if reads_words else read_image_processor)(identity.name, identity.path, folder)
    names = [*labels] if task.has_head else []
    if task.outputs is not None:
        config.num_labels = task.outputs
    model = twin.shapes(config, task, names)
    if task.has_head and reads_words and own_pad_id(model) is None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id or 0
    return Session.of(model, tokenizer, task, names)


def footprint_of(session: Session, ready: Prepared) -> Footprint:
    """Return what the training takes beside the model; raise InputError for adapter settings that will not do."""
    session.will_train(ready.splits.train, ready.config.train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return session.check(ready.config.adapter.model_dump())


def facts_of(
    session: Session, ready: Prepared, footprint: Footprint, process: int, usable: int | None, itemsize: int
) -> Facts:
    """Return what the plan of a run is made from; the session's model may have shapes only.

    `footprint` is what the training takes beside the model, `process` the bytes of the process without it, `usable`
    those of the machine that is planned for, and `itemsize` the bytes of a weight. Raises InputError for rows that no
    training can begin with.
    """
    config, task = ready.config, ready.task
    settings = settings_of(ready, itemsize)
    fast = task.next_token and not trains_whole(config.adapter.method)
    adapter = adapter_of(footprint, ready)
    own = weights_as_they_lie(config.model, task)
    if own and settings.quantization == "none":
        settings = replace(settings, quantization=OF_FILES)
    sizes = sizes_of(session.model, tiled=fast)
    return Facts(
        sizes, _rows(session, ready), adapter, settings, process=process, usable=usable, weights=own
    )  # fmt: skip


def settings_of(ready: Prepared, itemsize: int) -> Settings:
    """Return what of a run's settings decides over memory."""
    config, train = ready.config, ready.config.train
    rank = (config.adapter.model_extra or {}).get("r")
    return Settings(
        itemsize=itemsize,
        micro_batch_tokens=train.micro_batch_tokens,
        max_length=train.max_length,
        batch_size=train.batch_size,
        rank=rank if isinstance(rank, int) else (8 if config.adapter.method == "lora" else None),
        rows_at_once=config.evaluate.batch_size,
        new_tokens=config.evaluate.max_new_tokens,
        quantization=config.model.quantization,
        again=train.gradient_checkpointing,
        optimizer=train.optimizer,
        epochs=train.epochs,
        steps=train.steps,
        seed=train.seed,
    )


def adapter_of(footprint: Footprint, ready: Prepared) -> Adapter:
    """Return what is trained, part by part, of a training's own footprint."""
    config = ready.config.adapter
    bounded = {"layers_to_transform", "layers_pattern", "target_modules", "exclude_modules", "start_from"}
    own, exact = footprint.parameters, footprint.exact
    whole = trains_whole(config.method)
    given = {key for key, value in config.model_dump().items() if value is not None}
    everywhere = whole or (config.method == "lora" and not bounded & given)
    return Adapter(own, own + exact, footprint.moments, own + exact, whole=whole, everywhere=everywhere)


def dtype_size(section: ModelSection) -> tuple[int, str]:
    """Return the bytes of a weight in the precision that a run would take, and its name."""
    chosen = precision.choose(section.device, section.dtype)
    return chosen.dtype.itemsize, str(chosen.dtype).removeprefix("torch.")


def weights_as_they_lie(section: ModelSection, task: Task) -> int | None:
    """Return the bytes of files whose weights stay in few bits as they lie; None of others, or where they are not here.

    Such are .gguf files where that is asked for, and files that are quantised already and not widened.
    """
    if section.quantization not in ("none", "gguf"):
        return None
    identity, folder = sources.resolve(section.name, section.revision, narrow=section.quantization == "gguf")
    if section.quantization == "none":
        device = precision.choose(section.device, section.dtype).device
        kind = prequantized.check(identity.name, read_config(identity, folder), device, task)
        if kind is None or kind.widened:
            return None
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".gguf")) or None


def _rows(session: Session, ready: Prepared) -> Rows:
    """Return the lengths of the rows as the model gets them; the tokens are kept for what scores or trains on them."""
    train, task = ready.config.train, ready.task
    most = min(train.max_length, context_length(session.model, session.tokenizer))
    rows, _ = session.rows(ready.splits.train, most)
    lengths = sorted((task.size(row) for row in rows), reverse=True)
    if len(lengths) > MOST_ROWS:
        longest, rest = lengths[: MOST_ROWS // 5], lengths[MOST_ROWS // 5 :]
        lengths = [*longest, *rest[:: -(-len(rest) // (MOST_ROWS - len(longest)))]]
    packs = task.next_token or task.has_head
    if not ready.splits.test:
        return Rows(lengths, (), packs=packs)
    measure = _measure_of(session, ready)
    tested = [measure.length(i) for i in measure.fitting]
    prompts = [len(asked.ids) for asked in getattr(measure, "asked", [])] if measure.generates else []
    return Rows(lengths, tested, prompts, packs=packs)


def _measure_of(session: Session, ready: Prepared) -> Measure:
    """Return the test items as tokens, which are not made again when they are scored by this very plan."""
    items, plan = ready.splits.test, ready.plan
    return tokenised(session.model, session.tokenizer, items, plan, "base", known=session._measured)


def bytes_on_disk(section: ModelSection) -> int:
    """Return the bytes of the model's files, 0 where they are not here yet."""
    _, folder = sources.resolve(section.name, section.revision, narrow=section.quantization == "gguf")
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def regression_of(ready: Prepared, most: int | None = None) -> int:
    """Return how many numbers a regression on words would learn, counted on some of the rows; 0 where there is none.

    Made of `most` rows at most it learns fewer.
    """
    train, names = ready.splits.train, suitable(ready.plan, ready.splits.train, ready.config.evaluate.baselines)
    if "tf-idf" not in names or predicting.predictor(ready.plan) is not predicting.PREDICTORS["label"]:
        return 0
    some = randomness.sample(train, WORDS_OF, "plan")
    features = WordFeatures(apart(some))
    rows = min(len(train), most or len(train))
    width = features(apart(some[:1])).shape[1] * (rows / len(some)) ** GROWTH
    labels = len({example.completion for example in train})
    return int(width) * (labels if labels > 2 else 1)


def process_bytes() -> int:
    """Return what this process takes: Python, the libraries that a run loads on its way, the tokenizer and the rows."""
    import matplotlib.figure  # noqa: F401  for the report
    import peft  # noqa: F401

    with suppress(ImportError):  # for the baselines
        import sklearn.feature_extraction.text
        import sklearn.linear_model  # noqa: F401
    gc.collect()
    now = machine.resident()
    return now.all if now else 0
