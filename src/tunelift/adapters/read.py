"""Methods and settings of adapters made elsewhere: which are seen to be scored as stock peft scores them."""

from __future__ import annotations

READ = frozenset(
    {
        *("ADALORA", "ADAMSS", "ADAPTION_PROMPT", "BEFT", "BOFT", "C3A", "CARTRIDGE", "CPT", "DEFT", "DELORA"),
        *("FOURIERFT", "FROD", "SHIRA"),
        *("GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "OSF"),
        *("PEANUT", "PREFIX_TUNING", "PROMPT_TUNING", "PSOFT", "PVERA", "P_TUNING", "RANDLORA", "ROAD", "SUPERTUNING"),
        *("TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT"),
    }
)
"""Methods whose saved adapters are seen to give stock peft's scores, and the base's when switched off."""

MISREAD = {
    "LILY": "each token is changed by the mean of all tokens, those behind it and those of other rows too, so that a "
    "reference is scored by what it says itself",
}
"""Methods that peft computes so that no score of theirs is one, each with the reason."""

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
