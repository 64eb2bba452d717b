"""A saved adapter put on a model: whether it fits, tensor by tensor, before anything is computed."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from tunelift.adapters.build import homeless, is_adapted, refuse_changes_of_base, without_strays
from tunelift.adapters.methods import METHODS, method_of, name_of, title_of
from tunelift.adapters.narrow import check_narrow
from tunelift.adapters.new_tokens import grow
from tunelift.adapters.read import BEGINNINGS, LORA_READ, MISREAD, READ
from tunelift.adapters.store import adapters_inside, read_adapter_config, read_lineage, vocabulary_of
from tunelift.adapters.targets import check_activates, check_layers
from tunelift.adapters.torchtune import is_turned
from tunelift.core import randomness
from tunelift.core.errors import InputError, listed
from tunelift.run_files.layout import ADAPTER_WEIGHTS

T = TypeVar("T")

PREFIX = "base_model.model."
VALUE_HEADS = ("value_head.safetensors", "value_head.bin")
"""Of reward models and PPO, as LLaMA-Factory and others write them."""
REWRITTEN = ("pissa_init", "pissa_backup")
"""Folders of LLaMA-Factory and of peft's examples: for a base that PiSSA rewrote, which their configs do not say."""
TRIED = "docs/adapters.md lists what was. Merge it into the base with peft, if it can be, and compare the two models."


def check_fits(
    model: Any, folder: str | Path, weights_sha256: str | None, name: str = "", fresh: Collection[str] = ()
) -> list[str]:
    """Raise InputError unless every tensor of an adapter's folder has its place in the model, which has none on yet.

    `name` is what the model is called, `fresh` are modules that its files lack and the adapter is to bring. Returns
    what a user should know of an adapter that fits. peft itself drops tensors that it finds no place for, and settings
    that it does not know.
    """
    config = read_adapter_config(folder)
    check_base(folder, weights_sha256)
    refuse_changes_of_base(config, str(folder))
    check_narrow(model, config, str(folder))
    if Path(folder).name in REWRITTEN:
        raise InputError(
            f"{folder} holds an adapter for a base that PiSSA rewrote, as folders of this name do.",
            fix="Take the one that was converted for the plain base: pissa_converted.",
        )
    if is_turned(Path(folder), config, getattr(model.config, "model_type", "")):
        raise InputError(
            f"{folder} is of torchtune, which turned queries and keys as for Llama: on a Qwen2 they act otherwise than "
            "they were trained.",
            fix=f"Turn them back: tunelift import {folder} --model BASE --output FOLDER.",
        )
    _check_tried(config, folder)
    _check_brought(Path(folder), fresh)
    adapted = _placed(model, Path(folder))
    check_layers(adapted, f"The adapter {folder}")
    check_activates(adapted, f"The adapter {folder}")
    _check_layout(config, adapted, folder)
    _check_base_is_kept(model, adapted, Path(folder))
    return [*_unknown_settings(config), *_notes(config, adapted, Path(folder), name)]


def load_adapter(model: Any, folder: str | Path, weights_sha256: str | None, *, trainable: bool = False) -> Any:
    """Return peft's own model: `model` with the adapter of `folder` on it.

    Raises InputError where the adapter was made on other weights than `weights_sha256`, or does not fit the model.
    """
    from peft import PeftModel

    read_adapter_config(folder)
    check_base(folder, weights_sha256)
    with _fitting(folder):
        grow(model, vocabulary_of(folder))
        return without_strays(PeftModel.from_pretrained(model, str(folder), is_trainable=trainable))


def load_adapters(model: Any, folders: Mapping[str, str | Path], weights_sha256: str | None) -> Any:
    """Return peft's own model: `model` with several adapters on it, each under its name here.

    Raises InputError where one was made on other weights, or cannot stand beside those before it.
    """
    for name, folder in folders.items():
        model = with_adapter(model, name, folder, weights_sha256)
    return model


def with_adapter(model: Any, name: str, folder: str | Path, weights_sha256: str | None) -> Any:
    """Return peft's own model: `model`, which may have adapters already, with one more; raises as `load_adapters`."""
    from peft import PeftModel

    read_adapter_config(folder)
    check_base(folder, weights_sha256)
    with _fitting(folder):
        if not is_adapted(model):
            return without_strays(PeftModel.from_pretrained(model, str(folder), adapter_name=name))
        model.load_adapter(str(folder), adapter_name=name)
    return model


def check_goes_on(folder: str | Path) -> None:
    """Raise InputError for an adapter that peft does not load to be trained on."""
    name = name_of(str(read_adapter_config(folder)["peft_type"]))
    if name is not None and METHODS.get(name).virtual_tokens:
        raise InputError(
            f"The adapter {folder} is of {title_of(name)}, which peft does not load to be trained on.",
            fix="Train a new one: leave adapter.start_from out.",
        )


def on_a_copy(model: Any, put_on: Callable[[Any], T], *, whole: bool = False) -> T:
    """Return what `put_on` makes of a copy of a model whose parameters have shapes only.

    Some methods look at the weights to begin with: they are given a copy that shares them, or a `whole` one where
    something might be written into them.
    """
    import torch

    def copied(of: Callable[[Any], Any]) -> Any:
        own = {
            id(p): torch.nn.Parameter(of(p.detach()), requires_grad=p.requires_grad) if p.is_floating_point() else p
            for p in model.parameters()
        }  # quantised weights, which nobody trains, are shared
        return deepcopy(model, own)

    try:
        return put_on(copied(lambda weight: torch.empty_like(weight, device="meta")))
    except NotImplementedError:  # as torch says of what shapes alone cannot give
        return put_on(copied(torch.clone if whole else lambda weight: weight))


@contextmanager
def _fitting(folder: str | Path) -> Iterator[None]:
    """Let whatever peft makes of a wrong value in the adapter's config be an InputError that names its base."""
    try:
        # peft draws weights before it reads those of the file.
        with randomness.seeded(0), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between transformers and peft, not for users
            warnings.filterwarnings("ignore", message="Unexpected keyword arguments")  # which are noted
            warnings.filterwarnings("error", message="Found missing adapter keys")
            yield
    except Exception as error:
        raise InputError(
            f"The adapter {folder} does not fit this model: {_said(error)}", fix=f"It was made on {_base(folder)}."
        ) from error


def _said(error: Exception) -> str:
    """Return what peft says in a line; torch names tensors below its first."""
    lines = [line.strip() for line in (str(error) or repr(error)).splitlines()]
    return lines[1] if lines[0].startswith("Error(s) in loading") and len(lines) > 1 else lines[0]


def _check_tried(config: Mapping[str, Any], folder: str | Path) -> None:
    """Refuse methods and settings that peft knows and of which nobody has seen that they are scored as by stock peft.

    Settings that peft does not know it leaves out, which is noted.
    """
    import peft

    method, begin = config["peft_type"], config.get("init_lora_weights", True)
    if method in MISREAD:
        raise InputError(f"The adapter {folder} is of peft's {method}: {MISREAD[method]}.", fix="Take another method.")
    if method not in READ and name_of(method) is None:
        raise InputError(f"The adapter {folder} is of peft's {method}, which was not tried here.", fix=TRIED)
    if method != "LORA":
        return
    default = vars(peft.LoraConfig())
    untried = [key for key in default.keys() - LORA_READ if config.get(key, default[key]) != default[key]]
    untried += ["init_lora_weights"] if (begin.lower() if isinstance(begin, str) else begin) not in BEGINNINGS else []
    if untried:
        raise InputError(
            f"The adapter {folder} has settings of LoRA that were not tried here: {listed(sorted(untried))}.", fix=TRIED
        )


def _check_brought(folder: Path, fresh: Collection[str]) -> None:
    """Refuse to measure parts that would be drawn at random, since neither the base nor the adapter has them."""
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as weights:
        keys = tuple(weights.keys())
    lacking = [part for part in fresh if not any(key.startswith(f"{PREFIX}{part}.") for key in keys)]
    if lacking:
        raise InputError(
            f"Neither the model nor the adapter {folder} has {listed(lacking)}, which would be drawn at random.",
            fix="Take the model that it was made on, or train it with these among modules_to_save.",
        )


def check_base(folder: str | Path, weights_sha256: str | None) -> None:
    """Raise InputError where a folder says that it was made on other weights than these."""
    made_on = read_lineage(folder).get("base", {})
    if weights_sha256 and made_on.get("weights_sha256") not in (None, weights_sha256):
        raise InputError(
            f"What {folder} holds was made on {made_on.get('name')} (weights {made_on['weights_sha256'][:12]}), "
            f"not on this model (weights {weights_sha256[:12]}).",
            fix="Name the model that it was made on.",
        )


def _placed(model: Any, folder: Path) -> Any:
    """Put the adapter on a copy of a model, of shapes only if it can be; raise InputError if peft drops any tensor."""
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

    def put_on(copy: Any) -> tuple[Any, Any]:
        grow(copy, vocabulary_of(folder))
        adapted = PeftModel.from_pretrained(copy, str(folder))
        if adapted.active_peft_config.peft_type == "ADALORA":
            adapted.active_peft_config.rank_pattern = None  # by which peft would take ranks away once more
        return adapted, set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu"))

    with _fitting(folder):
        warnings.filterwarnings("ignore", message=".*parameter in the checkpoint to a meta parameter")  # as is meant
        adapted, found = on_a_copy(model, put_on, whole=True)
    if lost := homeless(adapted, found):
        raise InputError(
            f"The adapter {folder} holds {lost[0]}{_and_more(lost)}, for which this model has no place as its config "
            "says.",
            fix=f"It was made on {_base(folder)}: name that model, and leave the adapter's folder as it was saved.",
        )
    _check_biases(adapted, found.missing_keys, folder)
    return adapted


def _check_layout(config: Mapping[str, Any], adapted: Any, folder: str | Path) -> None:
    """Refuse LoRA on the weights of experts of a peft that wrote A and B the other way round, seen or not by shapes."""
    from peft.tuners.lora.layer import ParamWrapper

    made_by = re.findall(r"[0-9]{1,9}", str(config.get("peft_version") or "0.17"))  # which did not say so yet
    turned = [int(part) for part in made_by[:3]] < [0, 19, 1]
    wrapped = [layer for layer in adapted.modules() if isinstance(layer, ParamWrapper)]
    if turned and any(layer._did_swap_in_out_features for layer in wrapped):
        raise InputError(
            f"The adapter {folder} has target_parameters, and A and B are the other way round in peft before 0.19.1.",
            fix="Merge it into the base with the peft that made it, and compare the two models.",
        )


def _check_biases(adapted: Any, missing: Collection[str], folder: Path) -> None:
    """Refuse a folder that lacks biases of the base, which its config says were trained."""
    if not _trains_base(adapted):
        return
    adapted.set_requires_grad("default")
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    if lacking := sorted(trained.intersection(missing)):
        raise InputError(
            f"The adapter {folder} lacks {lacking[0]}{_and_more(lacking)}, which its config says was trained.",
            fix='peft before 0.21 lost the biases that bias="lora_only" trains: train it again with a later one.',
        )


def _trains_base(adapted: Any) -> bool:
    config = adapted.active_peft_config
    return method_of(config).trains_base(config)


def _and_more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _check_base_is_kept(model: Any, adapted: Any, folder: Path) -> None:
    """Refuse tensors that peft writes over the base's own, as of embeddings that were trained or grew.

    Biases that LoRA's `bias` trains are the base's own too, as is known of it.
    """
    import torch
    from safetensors import safe_open

    own, places = dict(model.named_parameters()), {name for name, _ in adapted.named_parameters()}
    biases = _trains_base(adapted)
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as weights:
        for key in sorted(places.intersection(weights.keys())):
            name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
            if name not in own or (biases and name.endswith(".bias")):
                continue
            if not torch.equal(weights.get_tensor(key).to(own[name]), own[name]):
                raise InputError(
                    f"The adapter {folder} writes over the base's own {name}: with it switched off the model would no "
                    "longer be the base.",
                    fix="Merge it into the base with peft and compare the two models.",
                )


def _base(folder: str | Path) -> str:
    named = read_lineage(folder).get("base", {}).get("name")
    return str(named or read_adapter_config(folder).get("base_model_name_or_path") or "a model that it does not name")


def _unknown_settings(config: Mapping[str, Any]) -> list[str]:
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]])}
    unknown = sorted(
        key for key in config.keys() - known - {"auto_mapping"} if config[key] not in (None, False, {}, [])
    )
    if not unknown:
        return []
    made = f", made by peft {config['peft_version']}" if config.get("peft_version") else ""
    return [f"the adapter's config{made} has settings that peft {peft.__version__} leaves out: {listed(unknown)}"]


def _notes(config: Mapping[str, Any], adapted: Any, folder: Path, name: str) -> Iterator[str]:
    made_on, hashed = _base(folder), read_lineage(folder).get("base", {}).get("weights_sha256")
    if name and not hashed and Path(made_on).name.lower() != Path(name).name.lower():
        yield f"the adapter was made on {made_on}, and is put on {name}"
    if tokens := config.get("alora_invocation_tokens"):
        yield f"the adapter acts from the tokens {tokens} on (aLoRA): a row without them is the base's"
    if _trains_base(adapted):
        yield "the adapter trains biases of the base, which stay when it is switched off: the base is measured before"
    if heads := [head for head in VALUE_HEADS if (folder / head).is_file()]:
        yield f"{heads[0]} beside the adapter is not used: answers are measured, not rewards"
    if inside := adapters_inside(folder):
        yield f"of several adapters in the folder the one beside {listed(inside)} is used"
