"""Loads a model and its tokenizer: transformers' own classes, in evaluation mode, on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelift.config.schema import ModelSection
from tunelift.core import garbage, progress, randomness
from tunelift.core.errors import InputError, listed
from tunelift.fast import allocator
from tunelift.model_facts.anatomy import own_pad_id
from tunelift.models import block_cache, precision, prequantized, quantized, sources, streamed_conversion, weights
from tunelift.models.sources import ModelIdentity
from tunelift.tasks import DEFAULT, TASKS, Task

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class LoadedModel:
    """A stock transformers model in evaluation mode, its stock tokenizer, and what they are.

    `fresh` names the modules that the checkpoint does not have (a new head), which an adapter has to save whole.
    """

    model: Any
    tokenizer: Any
    identity: ModelIdentity
    dtype: torch.dtype
    device: torch.device
    dtype_reason: str
    fresh: tuple[str, ...] = ()


@garbage.not_looked_for()
def load(
    model: ModelSection | str | Path,
    *,
    task: Task = DEFAULT,
    labels: Sequence[str] | None = None,
    ordered: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Load a model by Hub id, folder, .gguf file or bundled name; a config section brings dtype, device, revision and
    quantization.

    For a task with a head `labels` names the classes of a new one, drawn by `seed`. A head that the checkpoint has for
    these labels, and maybe more, is kept, and so is any head where none are given; labels that are `ordered` say which
    class each is. Raises InputError for a model that does not exist, cannot be read, does not fit the task, or has a
    head for other labels or in another order.
    """
    given = {"name": str(model), "dtype": dtype, "device": device, "revision": revision}
    section = model if isinstance(model, ModelSection) else ModelSection.model_validate(given)
    identity, folder = sources.resolve(section.name, section.revision, narrow=section.quantization == "gguf")
    chosen = precision.choose(section.device, section.dtype)
    config = read_config(identity, folder)
    lies = prequantized.check(identity.name, config, chosen.device, task)
    _check_fit(identity, config, task)
    told = getattr(config, "problem_type", None)
    if not task.by_class:
        config.problem_type = task.problem_type
    own_labels = _name_labels(config, labels, ordered) if task.has_head and labels else None
    if task.outputs is not None and config.num_labels != task.outputs:
        config.num_labels = task.outputs
    # First the tokenizer: what building it takes is free again before the weights come.
    reads_words = task.reader == "AutoTokenizer"
    tokenizer = (read_tokenizer if reads_words else read_image_processor)(identity.name, identity.path, folder)
    with randomness.seeded(seed):
        options = {"config": config, "dtype": chosen.dtype}
        if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
            # Older versions let torch's fused attention run Gemma 2, which leaves the soft cap of its scores out.
            options["attn_implementation"] = "eager"
        if section.quantization != "none":
            quantized.check(section.quantization, chosen, task, config, folder)
        identity, more, settle = _held(identity, folder, section.quantization, chosen, lies)
        loaded, fresh, trained = _weights(identity, folder, options | more, task)
        settle(loaded)
    if trained and told and told != (task.problem_type or told):
        raise InputError(
            f"{identity.name} has a head for {told}, and the task {task.name} is {task.problem_type}.",
            fix="Take another task, or a model without a head.",
        )
    if own_labels and trained:
        _check_head(identity, own_labels, labels or [])
    if task.has_head and reads_words:
        if own_pad_id(loaded) is None:  # decoders find a row's last real token by it
            ids = (tokenizer.pad_token_id, tokenizer.eos_token_id)
            loaded.config.get_text_config().pad_token_id = next((token for token in ids if token is not None), None)
        check_padding(loaded)
    hashed = dataclasses.replace(identity, weights_sha256=weights.sha256(folder))
    loaded = _placed(task.opened(folder, loaded, tokenizer), hashed, chosen.device)
    return LoadedModel(loaded, tokenizer, hashed, chosen.dtype, chosen.device, chosen.reason, fresh)


def _held(
    identity: ModelIdentity, folder: Path, asked: str, chosen: precision.Precision, lies: prequantized.Kind | None
) -> tuple[ModelIdentity, dict[str, Any], Callable[[Any], None]]:
    """Return the identity with how its weights are held, what `from_pretrained` is told, and what to do once it did.

    `asked` is the config's model.quantization, and `lies` how files are quantised already.
    """
    if asked in quantized.OURS:
        sources.weights_of(identity, folder)
        place = block_cache.place(identity.name, weights.sha256(folder), asked, chosen.dtype)
        known = block_cache.found(place)
        more = quantized.options(asked, chosen.dtype, chosen.device, folder, known)
        return dataclasses.replace(identity, quantization=asked), more, partial(block_cache.keep, place, known=known)
    if asked != "none":
        more = quantized.options(asked, chosen.dtype, chosen.device, folder)
        return dataclasses.replace(identity, quantization=asked), more, lambda _: None
    if lies is None:
        return identity, {}, lambda _: None
    if lies.widened:
        said = f"weights widened from {lies.title}, without what it does to activations"
        identity = dataclasses.replace(identity, note="; ".join(filter(None, (identity.note, said))))
    else:
        identity = dataclasses.replace(identity, quantization=lies.title)
    more = prequantized.options(lies, chosen.device)
    return identity, more, partial(prequantized.bring_to, dtype=chosen.dtype)


def _placed(model: Any, identity: ModelIdentity, device: torch.device) -> Any:
    """Return the model in evaluation mode on its device."""
    model = quantized.keep(model, identity.name, device) if identity.quantization else model.to(device)
    if device.type == "cpu":
        allocator.keep_freed_memory()  # not before: what loading takes and frees goes back
    return model.eval()


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """Load the stock tokenizer of a model, named as for `load`, without the weights; raises InputError as it does."""
    identity, folder = sources.resolve(name, revision)
    return read_tokenizer(identity.name, identity.path, folder)


def _name_labels(config: Any, labels: Sequence[str], ordered: bool) -> list[str] | None:
    """Write the labels into the config, unless it has them and maybe more in an order of its own, which may be kept.

    Returns those that it had instead.
    """
    own = [str(config.id2label[index]) for index in sorted(config.id2label)]
    if own == [*labels] or (set(labels) <= set(own) and not (ordered and set(labels) == set(own))):
        return None
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    return own


def _check_head(identity: ModelIdentity, own: Sequence[str], labels: Sequence[str]) -> None:
    """Refuse to call the classes of a trained head by other names; take unnamed ones in order, and say so."""
    if set(own) == set(labels):
        raise InputError(
            f"{identity.name} has a head for the labels {', '.join(own)}, in this order, and they are given as "
            f"{', '.join(labels)}.",
            fix="Leave the order to the head, or take a model without one.",
        )
    unnamed = all(name == f"LABEL_{index}" for index, name in enumerate(own))
    if unnamed and len(own) != len(labels):
        raise InputError(
            f"{identity.name} has a trained head of {len(own)} classes without names; the data has {listed(labels)}.",
            fix="Name every class in the head's order with data.labels, or take a model without a head.",
        )
    if unnamed:
        order = listed(f"{index} {label}" for index, label in enumerate(labels))
        progress.note(f"{identity.name} has a head without names of labels; they are taken to be {order}.")
        return
    raise InputError(
        f"{identity.name} has a head for the labels {listed(own)}; the data has {listed(labels)}.",
        fix="Write the labels in the data as the head calls them, or take a model without a head.",
    )


def _check_fit(identity: ModelIdentity, config: Any, task: Task) -> None:
    """Refuse a model of another task: a decoder's classifier, with a tied head, would pass for a language model."""
    fitting = fitting_tasks(config)
    if task.name not in [fit.name for fit in fitting]:
        raise InputError(
            f"{identity.name} (model type {config.model_type}) does not fit the task {task.name}.",
            fix=f"It fits: {listed(task.name for task in fitting)}." if fitting else "Choose another model.",
        )
    saved_for = next((other for other in map(TASKS.get, TASKS) if was_saved_for(config, other)), task)
    if saved_for.has_head and not task.has_head:
        raise InputError(
            f"{identity.name} was saved with a classification head, and would be measured as a language model.",
            fix=f"--task {saved_for.name}",
        )


def _weights(
    identity: ModelIdentity, folder: Path, options: dict[str, Any], task: Task
) -> tuple[Any, tuple[str, ...], bool]:
    """Load the weights, and name the modules drawn from torch's random numbers since the checkpoint lacks them.

    Tells too whether the checkpoint has a head, of this size or another.
    """
    import transformers
    from safetensors import SafetensorError

    auto = getattr(transformers, task.auto_class)
    more = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": task.has_head}
    prequantized.check_files(identity.name, options["config"], sources.weights_of(identity, folder))
    with quiet(), streamed_conversion.converted_in_pieces():
        try:
            model, info = auto.from_pretrained(folder, **sources.LOCAL, **options, **more)
        except (OSError, ImportError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"The weights of {identity.name} cannot be loaded: {error}",
                fix="Weights are read only from safetensors, never from formats that can run code.",
            ) from error
    fresh = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    body = f"{model.base_model_prefix}."  # which may lack nothing: a head may
    unread = [key for key in fresh if "pooler" in key] if task.reads_states else []
    fresh = [key for key in fresh if key not in unread]
    lacking = [key for key in fresh if not task.has_head or (key.startswith(body) and "pooler" not in key)]
    if lacking:
        raise InputError(
            f"The weights of {identity.name} lack {listed(sorted(lacking), 5)}, so it cannot be used for {task.name}."
        )
    model.name_or_path = model.config.name_or_path = identity.path  # what peft writes into an adapter
    has_head = not info["missing_keys"] or bool(info["mismatched_keys"])
    return model, tuple(sorted({key.rpartition(".")[0] for key in fresh})), has_head


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' report on a head drawn anew, which is expected, and its bars."""
    from transformers.utils import logging

    level, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bar:
            logging.enable_progress_bar()


def read_tokenizer(name: str, path: str, folder: Path, config: Any = None) -> Any:
    """Return the stock tokenizer of a folder that has passed the gate, called `name` in errors and `path` by itself.

    `config` is the model's, where the folder has none. Raises InputError for one that cannot be loaded.
    """
    from transformers import AutoTokenizer

    more = {} if config is None else {"config": config}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **sources.LOCAL, **more)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise InputError(f"The tokenizer of {name} cannot be loaded: {error}") from error
    tokenizer.name_or_path = path
    if getattr(tokenizer, "is_fast", False):
        for part in ("_vocab", "_merges"):  # what it was built from, as a million objects of Python: 200 MB of Gemma's
            vars(tokenizer).pop(part, None)
        allocator.give_back_freed_memory()
    return tokenizer


def read_image_processor(name: str, path: str, folder: Path) -> Any:
    """Return what makes pixels of pictures, of a folder that has passed the gate; raise InputError for none."""
    from transformers import AutoImageProcessor

    try:
        with quiet():  # which says that it takes the one of pillow where torchvision is not there
            processor = AutoImageProcessor.from_pretrained(folder, **sources.LOCAL)
    except Exception as error:  # whatever its classes make of values that they did not expect
        raise InputError(f"The image processor of {name} cannot be loaded: {error}") from error
    return processor


def check_padding(model: Any) -> None:
    """Raise InputError for a classifier whose config names no padding token."""
    if own_pad_id(model) is None:
        raise InputError(
            "The model's config has no pad_token_id, without which a classifier takes no rows of several lengths.",
            fix="model.config.pad_token_id = tokenizer.pad_token_id, or that of the end token",
        )


def read_config(identity: ModelIdentity, folder: Path) -> Any:
    """Return the transformers config in the model's folder; raise InputError for one that transformers cannot use."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, **sources.LOCAL)
    except Exception as error:  # whatever a config's class makes of values that it did not expect
        raise InputError(f"The config.json of {identity.name} cannot be used: {error}") from error


def fitting_tasks(config: Any) -> list[Task]:
    """Return the tasks that a model with this transformers config fits, maybe none.

    The one that it was saved for comes first, then the most natural; a model without a head was saved for any.
    """
    found = [task for task in map(TASKS.get, TASKS) if task.fits(config)]

    def place(task: Task) -> tuple[bool, ...]:
        own = was_saved_for(config, task) and not task.reads_states
        return not own, not _told(config, task), not task.natural

    return sorted(found, key=place)


def _told(config: Any, task: Task) -> bool:
    """Tell whether a config says that a task of a class that serves several is meant; where it says none, by class."""
    told = getattr(config, "problem_type", None)
    return task.by_class if told is None else task.problem_type in (None, told)


def was_saved_for(config: Any, task: Task) -> bool:
    """Tell whether a checkpoint was saved from a class of this task: a decoder may have been a classifier."""
    return any(task.is_class(str(name)) for name in getattr(config, "architectures", None) or [])


def natural_task(name: str, revision: str | None = None, *, narrow: bool = False) -> Task:
    """Return the task that suits a model best; raise InputError where the model does not exist or fits none.

    A `narrow` one is a GGUF file that will be loaded as it lies.
    """
    config = read_config(*sources.resolve(name, revision, narrow=narrow))
    fitting = fitting_tasks(config)
    if not fitting:
        raise InputError(f"{name} (model type {config.model_type}) fits no task that is offered here.")
    own = (task for task in fitting if task.natural or (task.has_head and was_saved_for(config, task)))
    if (task := next(own, None)) is None:
        raise InputError(
            f"{name} (model type {config.model_type}) is taken for no task unless one is named.",
            fix=f"It fits: {', '.join(f'--task {task.name}' for task in fitting)}.",
        )
    return task


def task_of(base: Any) -> Task:
    """Return the task that a model in memory was made for, by its class; raise InputError for one that fits none."""
    name = type(base).__name__
    fitting = [task for task in map(TASKS.get, TASKS) if task.is_class(name) and _told(base.config, task)]
    known = min(fitting, key=lambda task: not task.natural, default=None)  # BART's class is that of two
    if getattr(base.config, "is_encoder_decoder", False) and (known is None or known.next_token):
        raise InputError(
            f"{name} has an encoder and a decoder; language models here have a decoder alone.",
            fix="Take a causal language model, a classifier, or one of transformers' classes for sequence to sequence.",
        )
    return known or DEFAULT
