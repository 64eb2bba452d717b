"""A saved adapter put on a model: whether it fits, tensor by tensor, before anything is computed."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from tunelift.adapters.build import refuse_changes_of_base
from tunelift.adapters.store import adapters_inside, read_adapter_config, read_lineage
from tunelift.core import randomness
from tunelift.core.errors import InputError, listed

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


def check_fits(model: Any, folder: str | Path, weights_sha256: str | None, name: str = "") -> list[str]:
    """Raise InputError unless every tensor of an adapter's folder has its place in the model, which has none on yet.

    `name` is what the model is called. Returns what a user should know of an adapter that fits. peft itself drops
    tensors that it finds no place for, and settings that it does not know.
    """
    config = read_adapter_config(folder)
    _check_base(folder, weights_sha256)
    refuse_changes_of_base(config, str(folder))
    adapted = _placed(shapes_of(model), Path(folder))
    _check_base_is_kept(model, adapted, Path(folder))
    return [*_unknown_settings(config), *_other_base(folder, name), *_in_part(config), *_others(Path(folder))]


def load_adapter(model: Any, folder: str | Path, weights_sha256: str | None, *, trainable: bool = False) -> Any:
    """Return peft's own model: `model` with the adapter of `folder` on it.

    Raises InputError where the adapter was made on other weights than `weights_sha256`, or does not fit the model.
    """
    from peft import PeftModel

    read_adapter_config(folder)
    _check_base(folder, weights_sha256)
    with _fitting(folder):
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def shapes_of(model: Any) -> Any:
    """Return a copy of a model whose parameters have shapes only."""
    import torch

    shapes = {
        id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return deepcopy(model, shapes)


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
        said = (str(error) or repr(error)).splitlines()[0]
        raise InputError(
            f"The adapter {folder} does not fit this model: {said}", fix=f"It was made on {_base(folder)}."
        ) from error


def _check_base(folder: str | Path, weights_sha256: str | None) -> None:
    made_on = read_lineage(folder).get("base", {})
    if weights_sha256 and made_on.get("weights_sha256") not in (None, weights_sha256):
        raise InputError(
            f"The adapter {folder} was made on {made_on.get('name')} (weights {made_on['weights_sha256'][:12]}), "
            f"not on this model (weights {weights_sha256[:12]}).",
            fix="Name the model that it was made on.",
        )


def _placed(shapes: Any, folder: Path) -> Any:
    """Put the adapter on a copy of a model that has shapes only; raise InputError if peft drops any tensor."""
    from peft import PeftModel

    with _fitting(folder):
        warnings.filterwarnings("ignore", message=".*parameter in the checkpoint to a meta parameter")  # as is meant
        adapted = PeftModel.from_pretrained(shapes, str(folder))
        homeless = adapted.load_adapter(str(folder), "default").unexpected_keys
    if homeless:
        more = f" (and {len(homeless) - 1} more)" if len(homeless) > 1 else ""
        raise InputError(
            f"The adapter {folder} holds {homeless[0]}{more}, for which this model has no place as its config says.",
            fix=f"It was made on {_base(folder)}: name that model, and leave the adapter's folder as it was saved.",
        )
    return adapted


def _check_base_is_kept(model: Any, adapted: Any, folder: Path) -> None:
    """Refuse tensors that peft writes over the base's own, as of embeddings that were trained or grew.

    Biases that LoRA's `bias` trains are the base's own too, as is known of it.
    """
    import torch
    from safetensors import safe_open

    own, places = dict(model.named_parameters()), {name for name, _ in adapted.named_parameters()}
    biases = getattr(adapted.active_peft_config, "bias", "none") != "none"
    with safe_open(folder / WEIGHTS, "pt") as weights:
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


def _other_base(folder: str | Path, name: str) -> list[str]:
    made_on = _base(folder)
    same = Path(made_on).name.lower() == Path(name).name.lower()
    hashed = read_lineage(folder).get("base", {}).get("weights_sha256")
    return [] if same or hashed or not name else [f"the adapter was made on {made_on}, and is put on {name}"]


def _in_part(config: Mapping[str, Any]) -> list[str]:
    tokens = config.get("alora_invocation_tokens")
    if not tokens:
        return []
    return [f"the adapter acts from the tokens {tokens} on (aLoRA): a row without them is the base's"]


def _others(folder: Path) -> list[str]:
    inside = adapters_inside(folder)
    return [f"of several adapters in the folder the one beside {listed(inside)} is used"] if inside else []
