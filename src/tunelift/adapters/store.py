"""An adapter on disk: the stock PEFT layout, the tokenizer beside it, and what it was made on in a file of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunelift.adapters.targets import STATES_READ
from tunelift.core import files
from tunelift.core.errors import InputError, listed
from tunelift.model_facts.anatomy import base_of
from tunelift.model_facts.pooling import pooling_of
from tunelift.run_files.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, LINEAGE, LINEAGE_FORMAT, RunPaths
from tunelift.tasks import TASKS
from tunelift.untrusted import gate
from tunelift.untrusted.files import read_object


def save_adapter(model: Any, tokenizer: Any, folder: Path, lineage: Mapping[str, Any]) -> Path:
    """Write the adapter, and nothing of the base's weights, to `folder`, whole or not at all; no network is touched.

    The active adapter is saved, whatever others are on, and without its name. `lineage` says what it was made on:
    "base" (name, kind, path, revision, weights_sha256), "task" and "labels".
    """
    name, base = model.active_adapter, lineage["base"]
    config = model.peft_config[name]
    config.base_model_name_or_path = base["path"]
    if base.get("kind") == "hub":
        config.revision = base.get("revision")

    check_name(name)

    def fill(staging: Path) -> None:
        embeddings = _embeddings_targeted(config)
        with _alone(model, name) as own:
            model.save_pretrained(staging, state_dict=own, selected_adapters=[name], save_embedding_layers=embeddings)
        if (staging / name).is_dir():  # where peft puts an adapter that is not called "default"
            for file in (staging / name).iterdir():
                file.rename(staging / file.name)
            (staging / name).rmdir()
        # peft's card is a form to fill in; ours is written with results
        (staging / CARD).unlink(missing_ok=True)
        # In each process names that peft holds as a set have another order.
        written = files.read_json(staging / ADAPTER_CONFIG)
        unordered = [key for key in written if isinstance(getattr(config, key, None), (set, frozenset))]
        found = written | {key: sorted(written[key]) for key in unordered}
        if saved := written.get("modules_to_save"):  # to those that are named peft adds a head's, there or not
            found["modules_to_save"] = list(dict.fromkeys(saved))
        files.write_json(staging / ADAPTER_CONFIG, found)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        if config.task_type == STATES_READ:  # what makes one vector of a text lies beside it
            pooling_of(model).save(staging, base_of(model).config)
        files.write_json(staging / LINEAGE, {"format": LINEAGE_FORMAT, **lineage})

    files.write_folder(folder, fill)
    return folder


def check_name(name: str) -> None:
    """Raise InputError for a name of an adapter that peft takes for the end of a tensor's own."""
    if name in ("weight", "bias"):
        raise InputError(
            f'An adapter called "{name}" cannot be saved: peft takes its name for that of a tensor.',
            fix='Give it another name: get_peft_model(model, config, adapter_name="default").',
        )


@contextmanager
def _alone(model: Any, name: str) -> Iterator[dict[str, Any]]:
    """Give the tensors without those of other adapters, which peft does not hear of meanwhile.

    It tells them by names within keys, and leaves out every layer where another adapter is called "layers".
    """
    every = dict(model.peft_config)
    theirs = tuple(_places(model, every.keys() - {name}))
    try:
        for other in every.keys() - {name}:
            del model.peft_config[other]
        yield {key: tensor for key, tensor in model.state_dict().items() if not f"{key}.".startswith(theirs)}
    finally:
        model.peft_config.clear()
        model.peft_config.update(every)


def _places(model: Any, adapters: Collection[str]) -> Iterator[str]:
    """Yield where the tensors of adapters begin: they lie by name in the containers of peft's own modules."""
    for path, module in model.named_modules():
        for child, held in module.named_children() if type(module).__module__.startswith("peft.") else ():
            yield from (f"{path}.{child}.{name}." for name in adapters if hasattr(held, "keys") and name in held)


def read_adapter_config(folder: str | Path) -> dict[str, Any]:
    """Return adapter_config.json of a folder; raise InputError where it is no adapter."""
    folder = Path(folder)
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        inside = adapters_inside(folder)
        hint = "Give a folder that peft's save_pretrained wrote."
        if RunPaths(folder).model.is_dir():
            hint = f"All weights were tuned there: give {RunPaths(folder).model} where a tuned model may stand."
        elif inside:
            hint = f"Did you mean {folder / inside[0]}?" if len(inside) == 1 else f"It holds several: {listed(inside)}."
        raise InputError(f"{folder} is not an adapter: it has no adapter_config.json.", fix=hint)
    gate.check(folder, gate.ADAPTER)
    config = read_object(file)
    if "peft_type" not in config:
        raise InputError(f"{file} is no adapter's config: it has no peft_type.")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        fix = "Weights are read from safetensors only: other formats can run code when they are opened."
        if (folder / "adapter_model.bin").is_file():  # as peft wrote it before 0.7
            fix += (
                " If you trust who made adapter_model.bin, load it with peft and save it again: "
                f'PeftModel.from_pretrained(base, "{folder}").save_pretrained("{folder}-safe").'
            )
        raise InputError(f"{folder} has no adapter_model.safetensors.", fix=fix)
    return config


def adapters_inside(folder: Path) -> list[str]:
    """Return the names of folders in a folder that hold adapters, as peft saves each but one called "default".

    Numbers in names count as such: checkpoint-1000 comes behind checkpoint-500.
    """
    names = [file.parent.name for file in folder.glob(f"*/{ADAPTER_CONFIG}")]
    return sorted(names, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"([0-9]+)", name)])


def read_lineage(folder: str | Path) -> dict[str, Any]:
    """Return what the adapter was made on, or an empty mapping for a stock adapter, which does not say.

    Raises InputError for a file that is not as `save_adapter` writes it.
    """
    file = Path(folder) / LINEAGE
    lineage = read_object(file) if file.is_file() else {}
    files.check_format(lineage, file, LINEAGE_FORMAT)
    base, labels = lineage.get("base", {}), lineage.get("labels", [])
    sound = isinstance(base, dict) and isinstance(labels, list)
    if not sound or any(not isinstance(text, str | None) for text in [*base.values(), *labels, lineage.get("task")]):
        raise InputError(f"{file} does not say what the adapter was made on: base, task and labels are no texts.")
    _check_threshold(lineage, file)
    return lineage


def vocabulary_of(folder: str | Path) -> int:
    """Return how many embeddings a model needs for the tokens that an adapter brings; 0 where it brings none."""
    rows = read_lineage(folder).get("vocabulary", 0)
    if type(rows) is not int or not 0 <= rows < 2**31:
        raise InputError(f"{Path(folder) / LINEAGE}: the vocabulary {rows!r:.40} is no number of tokens.")
    return rows


def _check_threshold(lineage: Mapping[str, Any], file: Path) -> None:
    """Raise InputError for a threshold that the task cannot have chosen; what other tasks say is not looked at."""
    task, threshold = lineage.get("task"), lineage.get("threshold")
    how = TASKS.get(str(task)).threshold if task in TASKS else None
    if how is None or threshold is None:
        return
    least, most = how.within
    if type(threshold) not in (int, float) or not least <= threshold <= most:
        raise InputError(f"{file}: {threshold!r:.40} is no threshold of {task}: a number from {least:g} to {most:g}.")


def adapter_hash(folder: str | Path) -> str:
    """Return the SHA-256 of the adapter's weights and config, in hex."""
    folder = Path(folder)
    both = files.sha256(folder / ADAPTER_WEIGHTS) + files.sha256(folder / ADAPTER_CONFIG)
    return hashlib.sha256(both.encode()).hexdigest()


def _embeddings_targeted(config: Any) -> bool:
    """Say it ourselves: peft's own "auto" asks the Hub whether the vocabulary was resized.

    Where rows of tokens alone are trained, these are what is saved, there too.
    """
    from peft.utils.constants import EMBEDDING_LAYER_NAMES

    if config.peft_type == "TRAINABLE_TOKENS" or getattr(config, "trainable_token_indices", None):
        return False
    targets = getattr(config, "target_modules", None) or []
    return any(name in ([targets] if isinstance(targets, str) else targets) for name in EMBEDDING_LAYER_NAMES)
