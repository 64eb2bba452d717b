"""The table of PEFT methods: what peft is asked to make, what training does beside, and what is true of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunelift.adapters.targets import kind, linear_layers
from tunelift.core.registry import Registry

Defaults = Mapping[str, Any] | Callable[[Any, int, int], Mapping[str, Any]]
"""Keys of peft's config, or a function that makes them of the base model, the training rows and the steps (numbers)."""


def trains_biases(config: Any) -> bool:
    """Tell whether an adapter of this config trains biases of the base (LoRA's `bias`, which others have too)."""
    return bool(getattr(config, "bias", "none") != "none")


@dataclass(frozen=True, slots=True)
class Method:
    """One PEFT method: the config's class is the one that peft has for `peft_type`.

    `title` is how its name is written. `defaults` are ours where they differ from peft's; the user's keys come first.
    `learning_rate` is taken where the user set none; None is that of the config's schema.

    Training calls two hooks, with peft's model around the base: `after_step(model, step)`, from step 1 on, when the
    parameters are moved and their gradients still there, and `further_loss(model)`, a scalar Tensor (nats) that is
    added to the mean loss of each step.

    What is true of it: `trains_base(config)` tells whether parameters of the base are trained, which switching off does
    not bring back. `begins_as_noop`, `switches_off` (to the base, bit for bit), `merges` (into the base's weights) and
    `stands_beside` (another adapter of its kind on the same model) say what holds. `virtual_tokens` says that tokens
    are put before each row. `begins_at_random` are parts of tensors' names: such a tensor is never all zero.
    `known_failures` are checks of the battery that it fails, by name, each with the reason.
    """

    peft_type: str
    title: str = ""
    defaults: Defaults = field(default_factory=dict)
    learning_rate: float | None = None
    after_step: Callable[[Any, int], None] | None = None
    further_loss: Callable[[Any], Any] | None = None
    trains_base: Callable[[Any], bool] = trains_biases
    begins_as_noop: bool = True
    switches_off: bool = True
    merges: bool = True
    stands_beside: bool = True
    virtual_tokens: bool = False
    begins_at_random: tuple[str, ...] = ()
    known_failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def config_class(self) -> Any:
        """Return peft's own config class, found by its type."""
        import peft  # noqa: F401  which fills the table
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        by_type: Mapping[str, Any] = PEFT_TYPE_TO_CONFIG_MAPPING  # whose keys are texts too
        return by_type[self.peft_type]

    def keys_for(self, model: Any, rows: int, steps: int) -> Mapping[str, Any]:
        """Return the keys of peft's config where ours differ, for a base model that is trained so long."""
        return self.defaults(model, rows, steps) if callable(self.defaults) else self.defaults


METHODS: Registry[Method] = Registry("PEFT method")
METHODS.add(
    "lora",
    Method(
        "LORA",
        title="LoRA",
        defaults={"target_modules": "all-linear"},
        begins_at_random=("lora_A", "lora_embedding_B"),  # the other side begins at zero
    ),
)


KEYS_VALUES = re.compile(r"(^|_)(w?q?k?v|w?q?k|keys?|values?|c_attn)(_|$)")
"""Names of layers that make keys or values, alone or with the queries in one."""


def scaled_layers(model: Any, _rows: int, _steps: int) -> Mapping[str, Any]:
    """Return what IA3 scales: what peft knows for the model's type, else keys, values and the feed-forward's inside.

    The latter is what goes into the layer that leads from another width back to the model's. Of a model that has
    neither the outputs of all linear layers are scaled.
    """
    from peft.utils import constants

    known = (
        constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
        constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    )
    if all(model.config.model_type in table for table in known):
        return {}
    linear = [name for name in linear_layers(model)[0] if any(part.isdigit() for part in name.split("."))]
    scaled = {kind(name) for name in linear if KEYS_VALUES.search(name.rpartition(".")[2].lower())}
    fed_forward = {kind(name) for name in linear if _leads_back(model, name)} - scaled
    if not scaled and not fed_forward:
        return {"target_modules": linear or "all-linear", "feedforward_modules": []}
    at = "|".join(map(re.escape, sorted(fed_forward)))
    return {"target_modules": sorted(scaled | fed_forward), "feedforward_modules": rf".*\.({at})" if at else []}


def _leads_back(model: Any, name: str) -> bool:
    """Tell whether a layer leads from another width back to the model's own, outside of attention."""
    layer, width = model.get_submodule(name), getattr(model.config.get_text_config(), "hidden_size", None)
    inside, outside = (layer.in_features, layer.out_features) if hasattr(layer, "in_features") else (layer.nx, layer.nf)
    return inside != width == outside and "att" not in name.rpartition(".")[0].lower()


# docs/methods.md has the rates that were tried.
METHODS.add("ia3", Method("IA3", title="IA3", defaults=scaled_layers, learning_rate=1e-2))


def method_of(config: Any) -> Method:
    """Return the row for a ready config of peft, or None; where no row has its type, what peft itself says of it.

    Of several rows of one type the first is taken.
    """
    peft_type = getattr(config, "peft_type", "")
    if name := name_of(peft_type):
        return METHODS.get(name)
    return Method(str(peft_type), virtual_tokens=bool(getattr(config, "is_prompt_learning", False)))


def name_of(peft_type: str) -> str | None:
    """Return the name of the first row of peft's type, None where there is none."""
    return next((name for name in METHODS if METHODS.get(name).peft_type == peft_type), None)


def title_of(name: str) -> str:
    """Return how a method's name is written; the name itself where no row has it, as in files made elsewhere."""
    return (METHODS.get(name).title or name) if name in METHODS else name


READ = frozenset(
    {
        *("ADALORA", "ADAPTION_PROMPT", "BEFT", "BOFT", "C3A", "CARTRIDGE", "CPT", "DEFT", "DELORA", "FOURIERFT"),
        *("GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "OSF"),
        *("PEANUT", "PREFIX_TUNING", "PROMPT_TUNING", "PSOFT", "PVERA", "P_TUNING", "RANDLORA", "ROAD", "SUPERTUNING"),
        *("TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT"),
    }
)
"""Methods whose saved adapters are seen to give stock peft's scores, and the base's when switched off."""

LORA_READ = frozenset(
    {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
        *("bias", "use_rslora", "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern"),
        *("rank_pattern", "alpha_pattern", "megatron_core", "trainable_token_indices", "loftq_config", "eva_config"),
        *("corda_config", "lora_ga_config", "use_dora", "velora_config", "alora_invocation_tokens", "use_qalora"),
        *("qalora_group_size", "lora_bias", "target_parameters", "ensure_weight_tying", "layer_replication"),
    }
)
"""Settings of LoRA of which the same is seen."""

BEGINNINGS = (True, False, "true", "false", "gaussian", "orthogonal", "eva")
"""Ways to begin a LoRA that leave the base as it is, in `init_lora_weights`."""

REWRITES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways that do not, by how their names begin."""
