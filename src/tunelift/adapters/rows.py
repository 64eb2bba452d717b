"""The table of PEFT methods: a row for each that holds `tests/method_battery.py`, and why the others have none.

A learning rate is that of peft's own method comparison (`method_comparison/MetaMathQA` in its repository), or where
that one learned little there, of the method's paper; docs/methods.md says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunelift.adapters import adalora, beginnings
from tunelift.adapters.defaults import Sizes, at_known_layers, head_alone, norms, scaled_layers
from tunelift.adapters.methods import METHODS, REFUSED, Method

METHODS.add(
    "lora",
    Method(
        "LORA",
        title="LoRA",
        defaults={"target_modules": "all-linear"},
        after_step=beginnings.hold,
        learning_rate_for_head=1e-3,
        begins_at_random=("lora_A", "lora_embedding_B"),  # the other side begins at zero
        reads_weights=False,
    ),
)
# docs/methods.md has the rates that were tried.
METHODS.add("ia3", Method("IA3", title="IA3", defaults=scaled_layers, learning_rate=1e-2, reads_weights=False))
METHODS.add(
    "adalora",
    Method(
        "ADALORA",
        title="AdaLoRA",
        defaults=adalora.schedule,
        learning_rate=1e-3,
        after_step=adalora.allocate,
        further_loss=adalora.orthogonality,
        kept=adalora.kept,
        put_back=adalora.put_back,
        after_training=adalora.end,
        begins_at_random=("lora_A", "lora_B"),
        never_trained=("ranknum",),
        reads_weights=False,
    ),
)
METHODS.add("ln-tuning", Method("LN_TUNING", "LN tuning", norms, 1e-3, reads_weights=False))
METHODS.add(
    "trainable-tokens",
    Method(
        "TRAINABLE_TOKENS",
        "Trainable tokens",
        learning_rate=0.2,
        needs={"token_indices": "the ids of the tokens whose embeddings are to be trained"},
        tried_with={"token_indices": [0, 1, 5]},
        stands_beside=False,
        reads_weights=False,
        known_failures={
            f"stands_beside ({kind})": "where embeddings are not tied to the head, two of them stand side by side"
            for kind in ("decoder", "qwen3_moe")
        },
    ),
)


def _add(name: str, peft_type: str, title: str, rate: float, sizes: Sizes | None = None, **facts: Any) -> None:
    """Add a row of a method that is put where peft knows to, or else at all linear layers."""
    METHODS.add(name, Method(peft_type, title, at_known_layers(peft_type, sizes or {}), rate, **facts))


# Kin of LoRA: matrices of low rank, or made of few numbers.
_add("vera", "VERA", "VeRA", 1e-3, reads_weights=False)
_add("pvera", "PVERA", "PVeRA", 3e-3)
_add("randlora", "RANDLORA", "RandLoRA", 1e-4, reads_weights=False)
_add("loha", "LOHA", "LoHa", 1e-4)
_add("lokr", "LOKR", "LoKr", 3e-3)
_add("hira", "HIRA", "HiRA", 4.5e-3)
_add("miss", "MISS", "MiSS", 1e-4, lambda widths: {"r": widths.block(64)}, reads_weights=False)
_add("gralora", "GRALORA", "GraLoRA", 2e-4, reads_weights=False)
_add("glora", "GLORA", "GLoRA", 1e-4)
_add("delora", "DELORA", "DeLoRA", 1e-3)
_add("deft", "DEFT", "DEFT", 1e-4)
_add("tinylora", "TINYLORA", "TinyLoRA", 1e-3)
_add("unilora", "UNILORA", "Uni-LoRA", 1e-3, begins_as_noop=False)
_add(
    *("vblora", "VBLORA", "VB-LoRA", 1e-3),
    lambda widths: {"vector_length": widths.block(256)},
    begins_as_noop=False,
    reads_weights=False,
)
_add("adamss", "ADAMSS", "AdaMSS", 1e-3)
_add("frod", "FROD", "FRoD", 1e-4, {"progressbar": False})
_add("psoft", "PSOFT", "PSOFT", 1e-4, lambda widths: dict.fromkeys(("r", "psoft_alpha"), widths.full_rank(32)))
_add("peanut", "PEANUT", "PEANuT", 1e-4)
_add("osf", "OSF", "OSF", 5e-5)
# Rotations, and products along circles.
_add("oft", "OFT", "OFT", 1e-4, reads_weights=False)
_add("boft", "BOFT", "BOFT", 1e-4, lambda widths: {"boft_block_size": widths.block_taken(4)}, reads_weights=False)
_add("hra", "HRA", "HRA", 1e-4)
_add("road", "ROAD", "RoAd", 1e-3, lambda widths: {"group_size": widths.block(64)}, reads_weights=False)
_add(
    *("c3a", "C3A", "C3A", 3e-1),
    lambda widths: {"block_size": widths.block(64)},
    begins_as_noop=False,
    reads_weights=False,
)
# Some numbers of each matrix, as they are or of its transform.
_add("shira", "SHIRA", "SHiRA", 3e-4, lambda widths: {"r": widths.rank(32)})
_add("supertuning", "SUPERTUNING", "SuperTuning", 1e-4)
_add(
    *("waveft", "WAVEFT", "WaveFT", 1e-4),
    lambda widths: {"n_frequency": widths.numbers(2592)},
    reads_weights=False,
)
_add(  # peft begins with random spectra by default, with which a model's answers are noise
    *("fourierft", "FOURIERFT", "FourierFT", 6e-2),
    lambda widths: {"n_frequency": widths.numbers(1000), "init_weights": True},
    reads_weights=False,
)
_add(
    *("beft", "BEFT", "BEFT", 8e-3),
    merges=False,
    reads_weights=False,
    known_failures={"merges (encoder)": "where layers have biases, as BERT's have, it can be merged"},
)


def _layers(model: Any, _rows: int, _steps: int) -> Mapping[str, Any]:
    return {"adapter_len": 10, "adapter_layers": model.config.get_text_config().num_hidden_layers}


METHODS.add(
    "adaption-prompt",
    Method("ADAPTION_PROMPT", "LLaMA-Adapter", _layers, 5e-3, merges=False, reads_weights=False),
)


def _add_prompts(name: str, peft_type: str, title: str, rate: float) -> None:
    """Add a row of a method that puts tokens, or keys and values of tokens, before each row."""
    facts: dict[str, Any] = {"begins_as_noop": False, "merges": False, "virtual_tokens": True, "reads_weights": False}
    facts["known_failures"] = {"loads_again": "peft does not load prompts to be trained on"}
    METHODS.add(name, Method(peft_type, title, {"num_virtual_tokens": 20}, rate, **facts))


_add_prompts("prompt-tuning", "PROMPT_TUNING", "Prompt tuning", 1e-3)
_add_prompts("p-tuning", "P_TUNING", "P-tuning", 1e-4)
_add_prompts("prefix-tuning", "PREFIX_TUNING", "Prefix tuning", 5e-3)
_add_prompts("cartridge", "CARTRIDGE", "Cartridge", 1e-3)

# The two ends that every method is compared with.
METHODS.add("full", Method("", "full fine-tuning", {}, 5e-5, trains_base=lambda _: True, whole=True, takes=()))
METHODS.add(  # saved as a LoRA that is on no layer, which stock peft loads: what is trained lies beside the base
    "head",
    Method("LORA", "head-only training", head_alone, 1e-2, needs_head=True, takes=("modules_to_save",)),
)

REFUSED |= {
    "XLORA": ("X-LoRA", "it saves nothing of what it trained, and cannot be loaded again"),
    "LILY": ("Lily", "each token is changed by the mean of all tokens, those behind it and those of other rows too"),
    "POLY": ("Poly", "each row must say which task it is of (task_ids), and rows here do not"),
    "MULTITASK_PROMPT_TUNING": (
        "Multitask prompt tuning",
        "each row must say which task it is of (task_ids), and rows here do not",
    ),
    "CPT": (
        "CPT",
        "it needs ids, masks and kinds of its tokens, and with the masks it takes by itself no loss is a number",
    ),
    "SHADOW": (
        "ShadowPEFT",
        "a part of it is trained only by a loss that the model's forward pass adds where it is given labels, "
        "and here the loss is taken from the logits",
    ),
}
