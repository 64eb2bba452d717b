"""From the configuration to a PEFT model."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_type_hints

from tunelift.adapters import new_tokens
from tunelift.adapters.beginnings import SUBTRACTED, begin, doubled, held_in, is_subtracted
from tunelift.adapters.from_rows import Given, explain, looks_at_rows
from tunelift.adapters.methods import METHODS, Method, method_of, refused
from tunelift.adapters.narrow import check_narrow
from tunelift.adapters.read import REWRITES
from tunelift.adapters.targets import check_activates, check_heads, check_layers
from tunelift.core import randomness
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.run_files.layout import ADAPTER_CONFIG
from tunelift.untrusted import gate

OURS = {"method", "start_from", new_tokens.KEY}
WHY_NOT = {
    "loftq": ": peft 0.21 computes it on a GPU alone, and writes its own few bits over the base, so that with the "
    "adapter off it is another model; take a plain LoRA on a base in few bits (model.quantization: nf4 or int4)",
    "mica": ": it freezes half of what it saves, by directions of the base's weights",
}
"""Of beginnings of LoRA that peft has."""


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters as peft's `print_trainable_parameters` counts them."""

    trainable: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.trainable / self.total

    def __str__(self) -> str:
        return f"trainable params: {self.trainable:,} of {self.total:,} ({self.percent:.4f}%)"


def check_keys(keys: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the adapter section's keys, a sentence each; imports peft only if there are any."""
    extra = keys.keys() - OURS
    method = keys.get("method", "lora")
    if reason := refused(str(method)):
        return [f"adapter.method: {reason}"]
    if method not in METHODS:
        near = did_you_mean(str(method), METHODS) or f" Known: {listed(METHODS, 99)}."
        return [f'adapter.method: there is no PEFT method "{method}".{near}']
    if problems := new_tokens.wrong(keys, str(method)):
        return problems
    if keys.get("start_from") or METHODS.get(method).takes is not None:
        return _idle_keys(METHODS.get(method), keys)
    lacking = [
        f"adapter.{key}: {METHODS.get(method).title or method} needs {what}."
        for key, what in METHODS.get(method).needs.items()
        if not (keys.get(key) or keys.get(new_tokens.KEY))
    ]
    if not extra or lacking:
        return lacking
    fields = {field.name for field in dataclasses.fields(METHODS.get(method).config_class) if field.init}
    unknown = [
        f"adapter.{key}: peft's {METHODS.get(method).config_class.__name__} has no such key."
        + (did_you_mean(key, fields) or f" Its keys: {listed(sorted(fields), 99)}.")
        for key in sorted(extra - fields)
    ]
    values = {key: keys[key] for key in sorted(extra & fields)}
    # A config may be a stranger's too, and what it names peft would follow.
    found = [(key, *wrong) for key in values for wrong in gate.wrong_settings({key: values[key]}, ADAPTER_CONFIG)]
    foreign = [f"adapter.{key if key == at else f'{key}.{at}'}: it {why}. Leave it out." for key, at, why in found]
    return unknown + foreign + _wrong_values(method, values)


def _idle_keys(row: Method, keys: Mapping[str, Any]) -> list[str]:
    """Return which keys would do nothing, where the method or the adapter to go on from brings its own."""
    extra = keys.keys() - OURS
    if not keys.get("start_from"):
        known = f" It takes: {listed(row.takes)}." if row.takes else ""
        idle = extra.difference(row.takes or ())
        return [f"adapter.{key}: {row.title} has no such key.{known}" for key in sorted(idle)]
    if row.whole:
        return [f"adapter.start_from: {row.title} goes on from no adapter; name the model to go on from as the model."]
    return [f"adapter.{key}: it cannot be set, since adapter.start_from brings its own." for key in sorted(extra)]


def peft_config(
    keys: Mapping[str, Any], task_type: str | None, model: Any = None, rows: int = 0, steps: int = 0
) -> Any:
    """Return peft's own config for the adapter section's keys; raise InputError for keys or values it refuses.

    Defaults of some methods are made from the base `model`, the number of training rows and that of steps.
    """
    if problems := check_keys(keys):
        raise InputError(*problems, fix="The keys are the fields of peft's own config class.")
    method = METHODS.get(keys.get("method", "lora"))
    own = {key: value for key, value in keys.items() if key not in OURS}
    try:
        return method.config_class(**{"task_type": task_type, **method.keys_for(model, rows, steps), **own})
    except (TypeError, ValueError) as error:
        raise InputError(f"adapter: peft refuses these settings: {error}") from error


def refuse_changes_of_base(config: Mapping[str, Any], where: str) -> None:
    """Raise InputError for settings with which the model under the adapter is another than the base."""
    if config.get("layer_replication"):
        raise InputError(
            f"{where}: layer_replication repeats layers of the base, so that it is another model with the adapter off.",
            fix="Compare the two models by themselves: tunelift evaluate each, then compare the files.",
        )
    begin = config.get("init_lora_weights")
    rewriting = begin if isinstance(begin, str) and begin.lower().startswith(REWRITES) else None
    rewriting = "KaSA" if config.get("kasa_config") else rewriting
    if rewriting:
        raise InputError(
            f"{where}: {rewriting} rewrites the base's weights, so that it is another model with the adapter off.",
            fix="Let peft save it as a plain LoRA where it can (path_initial_model_for_weight_conversion), or compare "
            "the two models by themselves: tunelift evaluate each, then compare the files.",
        )


def attach(
    model: Any, config: Any, seed: int, given: Given | None = None, begun: Callable[[Any], None] | None = None
) -> Any:
    """Return peft's own model around `model`, its new weights drawn by `seed`, in fp32 whatever the base's precision.

    `begun(adapted)` gives some of them their beginning first. Some beginnings look at `given` training rows; without
    any they are left plain, as where nothing will be trained.
    Raises InputError where the target modules are not in the model, peft refuses the settings, or it would not find
    again what it saves.
    """
    adapted = built(model, config, seed, given, begun)
    check_layers(adapted, "adapter.target_modules")
    check_heads(adapted, "adapter")
    check_activates(adapted, "adapter.alora_invocation_tokens")
    _check_comes_back(adapted)
    return adapted


def built(
    model: Any, config: Any, seed: int, given: Given | None = None, begun: Callable[[Any], None] | None = None
) -> Any:
    """Return the same without a look at what was made of the layers and at what would be saved."""
    from peft import get_peft_model

    check_targets(model, config)
    check_narrow(model, config, "adapter")
    asked, subtracted = config, is_subtracted(config)
    config = doubled(config) if subtracted else config
    refuse_changes_of_base(vars(config), "adapter")
    try:
        with randomness.seeded(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between transformers and peft, not for users
            adapted = get_peft_model(model, config)
            if begun is not None:
                begun(adapted)
            if subtracted:
                begin(adapted, asked, given)
            elif given and looks_at_rows(config):
                explain(adapted, given)
    except (ValueError, TypeError, NotImplementedError) as error:
        if isinstance(error, NotImplementedError) and any(p.is_meta for p in model.parameters()):
            raise  # as torch says where shapes alone do not suffice
        raise InputError(f"adapter: peft refuses this model and these settings: {error}") from error
    if not any(p.requires_grad for p in adapted.parameters()):  # as OSF passes over Conv1D without a word (peft 0.21)
        raise InputError("adapter: peft finds nothing to train in this model with these settings.")
    return without_strays(adapted)


def without_strays(adapted: Any) -> Any:
    """Return peft's model, its parameters frozen that the method does not train.

    Of a base in half precision peft 0.21 casts them to fp32 by parameters of their own, which are trained again.
    """
    never = {*method_of(adapted.active_peft_config).never_trained}
    for name, parameter in adapted.named_parameters() if never else ():
        if never.intersection(name.split(".")):
            parameter.requires_grad_(False)
    return adapted


def _check_comes_back(adapted: Any) -> None:
    """Raise InputError where peft would not find the places of what it saves, as where names of old files are renamed.

    transformers 5.23 reads Laguna's old name "mlp.shared_expert." as a pattern, which the new names fit too.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    saved = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    lost = homeless(adapted, set_peft_model_state_dict(adapted, saved))
    if lost:
        mark = f".{getattr(adapted.base_model, 'prefix', 'adapter_')}"  # with which the method's names begin
        parts = sorted({key.partition(mark)[0].rpartition("layers.")[2].partition(".")[2] or key for key in lost})
        raise InputError(
            f"adapter.target_modules: what peft saves of {listed(parts)} it would not find again: transformers renames "
            "these layers as if they came from an older file.",
            fix="Leave them out: adapter.target_modules names the layers to adapt.",
        )


def homeless(adapted: Any, found: Any) -> list[str]:
    """Return the tensors for which peft `found` no place; those of virtual tokens it names too, and has placed."""
    virtual = ["prompt_embeddings"] if method_of(adapted.active_peft_config).virtual_tokens else []
    return [key for key in getattr(found, "unexpected_keys", []) if key not in virtual]


def check_targets(model: Any, config: Any) -> None:
    """Raise InputError where none of the target modules is in the model, listing the linear layers there are."""
    from peft.utils.constants import DUMMY_TARGET_MODULES
    from torch import nn

    targets = getattr(config, "target_modules", None)
    if not targets or targets in ("all-linear", DUMMY_TARGET_MODULES):
        return
    names = [name for name, _ in model.named_modules()]
    if isinstance(targets, str):
        found = any(re.fullmatch(targets, name) for name in names)
    else:
        found = any(name == target or name.endswith(f".{target}") for target in targets for name in names)
    if not found:
        asked = targets if isinstance(targets, str) else listed(sorted(targets))
        linear = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        raise InputError(
            f"adapter.target_modules: none of {asked} is a layer of this model.",
            fix=f'Use "all-linear", or some of: {listed(sorted(linear))}.',
        )


def count_parameters(model: Any) -> ParameterCount:
    """Return the trainable and the total number of parameters of a PEFT model, or of one that is trained whole."""
    if is_adapted(model):
        trained, total = model.get_nb_trainable_parameters()
        from tunelift.fast.blocks import numbers_beyond_bytes

        total += numbers_beyond_bytes(model)
        return ParameterCount(trained - sum(one.values.numel() for one in held_in(model)), total)
    counts = [(p.numel() * p.requires_grad, p.numel()) for p in model.parameters()]
    return ParameterCount(*map(sum, zip(*counts, strict=True)))


def is_adapted(model: Any) -> bool:
    """Return whether `model` is peft's own model around another."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def carries_layers(model: Any) -> bool:
    """Return whether peft put its layers into a model that is handed over without peft's own around it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    return not is_adapted(model) and any(isinstance(m, (BaseTunerLayer, ModulesToSaveWrapper)) for m in model.modules())


@contextmanager
def switched_off(model: Any) -> Iterator[Any]:
    """Give the base model for a while: the same object, its adapter switched off, its vocabulary the base's."""
    if is_adapted(model):
        with model.disable_adapter(), new_tokens.shrunk(model):
            yield model
    else:
        yield model


def _wrong_values(method: str, values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with values, by the types that peft declares and by what is not supported here."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    hints = get_type_hints(METHODS.get(method).config_class)
    problems = []
    how = values.get("init_lora_weights")
    for key, value in values.items():
        if key == "init_lora_weights" and isinstance(value, str):
            continue  # below
        try:
            TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            problems.append(f"adapter.{key}: {value!r} is not allowed: {error.errors()[0]['msg']}.")
    if isinstance(how, str) and how not in ("gaussian", "orthogonal", "eva") and SUBTRACTED.fullmatch(how) is None:
        problems.append(
            f"adapter.init_lora_weights: {how!r} is not trained here{WHY_NOT.get(how, '')}. "
            "Allowed: true, false, gaussian, orthogonal, pissa, pissa_niter_16, olora, eva, lora_ga, corda."
        )
    return problems
