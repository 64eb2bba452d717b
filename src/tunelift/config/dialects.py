"""What the keys of Axolotl, LLaMA-Factory and TRL mean here, as their documentation and argument classes have them.

Seen: Axolotl's examples/llama-3 and LLaMA-Factory's examples/train_lora of 2026, and the fields of TRL 1.16's SFTConfig
and ModelConfig, which `trl sft --config FILE` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunelift.config.converting import Conversion, Dialect, Rule
from tunelift.core import text_files
from tunelift.core.errors import InputError, listed

HARDWARE = frozenset(
    """bf16 fp16 tf32 bfloat16 float16 half_precision_backend bf16_full_eval gradient_checkpointing flash_attention
    gradient_checkpointing_kwargs xformers_attention sdp_attention eager_attention flash_attn attn_implementation
    activation_offloading enable_liger_kernel use_liger_kernel use_unsloth disable_gradient_checkpointing
    upcast_layernorm pure_bf16 torch_compile torch_compile_backend use_cpu no_cuda device_map low_cpu_mem_usage
    torch_dtype dtype model_dtype sample_packing eval_sample_packing pad_to_sequence_len packing eval_packing
    neat_packing padding_free group_by_length dataloader_num_workers dataloader_pin_memory dataset_num_proc
    preprocessing_num_workers dataset_processes preprocessing_batch_size overwrite_cache dataset_prepared_path
    dataloader_prefetch_factor ddp_timeout ddp_find_unused_parameters local_rank shuffle_merged_datasets
    model_type tokenizer_type processor_type strict debug use_fast_tokenizer tokenizer_use_fast infer_backend
    lora_fan_in_fan_out lora_mlp_kernel lora_qkv_kernel lora_o_kernel plugins""".split()  # noqa: SIM905 (sixty lines otherwise)
)
"""What tunelift decides by measuring, or needs no key for."""

WATCHING = frozenset(
    """logging_steps logging_dir logging_first_step logging_strategy report_to run_name disable_tqdm plot_loss
    wandb_project wandb_entity wandb_watch wandb_name wandb_log_model wandb_mode use_tensorboard use_swanlab
    mlflow_tracking_uri mlflow_experiment_name comet_project_name eval_table_size eval_max_new_tokens
    loss_watchdog_threshold loss_watchdog_patience overwrite_output_dir save_only_model save_total_limit
    save_strategy saves_per_epoch save_safetensors resume_from_checkpoint auto_resume_from_checkpoints
    do_train do_eval do_predict eval_strategy evaluation_strategy per_device_eval_batch_size eval_batch_size
    evals_per_epoch load_best_model_at_end metric_for_best_model greater_is_better remove_unused_columns
    include_num_input_tokens_seen include_tokens_per_second push_to_hub hub_model_id hub_strategy hub_token
    hub_private_repo hf_use_auth_token""".split()  # noqa: SIM905
)
"""What is shown, saved or sent: a run always keeps its events, its best adapter and a report, and sends nothing."""


PREFERENCES = ("dpo", "ipo", "kto", "orpo", "simpo", "cpo")
"""Losses of preference tuning, as all of these trainers and tunelift call them."""


def only(key: str, allowed: tuple[Any, ...], why: str) -> Callable[[Conversion, Any], None]:
    """Return the rule of a key whose other values cannot be done here."""

    def rule(found: Conversion, value: Any) -> None:
        if value not in allowed:
            raise InputError(f"{key}: {value} has no counterpart: {why}.")

    return rule


def says(sentence: str) -> Callable[[Conversion, Any], None]:
    """Return the rule of a key that has no counterpart, unless it is off."""

    def rule(found: Conversion, value: Any) -> None:
        if value not in (False, 0, "none"):
            found.say(sentence)

    return rule


def flag(name: str, value: Any = True) -> Callable[[Conversion, Any], None]:
    """Return the rule of a key that, where it is true, sets a key of ours to a value."""

    def rule(found: Conversion, given: Any) -> None:
        if given:
            found.put(name, value)

    return rule


def schedule(found: Conversion, value: Any) -> None:
    """Take the schedules that are here; constant_with_warmup is constant, with its warm-up."""
    name = str(value).removesuffix("_with_warmup")
    if name in ("cosine", "linear", "constant"):
        found.put("train.schedule", name)
    else:
        found.say(f"The schedule {value} has no counterpart: cosine is used.")


def warmup_steps(found: Conversion, value: Any) -> None:
    """Take a number of warm-up steps as the fraction it is, where the steps are known."""
    steps = found.of("max_steps", 0)
    if isinstance(value, float) and 0 < value < 1:
        found.put("train.warmup", value)
    elif isinstance(steps, int) and steps > 0 and isinstance(value, int):
        found.put("train.warmup", min(value / steps, 0.99))
    elif value:
        found.say(f"warmup_steps: {value} is a fraction of the steps here; train.warmup stays at its default, 0.05.")


def optimizer(found: Conversion, value: Any) -> None:
    """Say where an optimiser is another than those here; pages of its state are not moved to the CPU here."""
    name = str(value).lower()
    if name == "adafactor":
        found.put("train.optimizer", name)
    elif name in ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"):
        found.put("train.optimizer", "adamw-8bit")
    elif name not in ("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf"):
        found.say(f"The optimiser {value} is AdamW here, its state in 32 bits: of an adapter that is little.")


def validation(found: Conversion, value: Any) -> None:
    """Take a fraction; a number of rows becomes the most that are drawn."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        if value < 1:
            found.put("data.validation", value)
        else:
            found.put("data.max_validation", int(value))
    else:
        found.say("Without validation rows nothing could be chosen: the default, a tenth of train, is taken.")


def targets(found: Conversion, value: Any) -> None:
    """Take `all` and lists, also those with commas in a text."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
    found.put("adapter.target_modules", "all-linear" if names in (["all"], ["all-linear"]) else names)


def modules(found: Conversion, value: Any) -> None:
    """Take modules trained whole."""
    found.put("adapter.modules_to_save", value.split(",") if isinstance(value, str) else list(value))


def epochs_or_steps(found: Conversion, value: Any) -> None:
    """Take a number of steps; -1 means epochs."""
    if isinstance(value, int) and value > 0:
        found.put("train.steps", value)


def template(found: Conversion, value: Any) -> None:
    """Say that conversations are written as the model's own tokenizer has it."""
    if value not in ("tokenizer_default", "default", "empty"):
        found.say(f"The template {value} is the model's own here, as its tokenizer has it: look at `tunelift data`.")


def _axolotl_data(found: Conversion, value: Any) -> None:
    first, *others = value if isinstance(value, list) and value else [{}]
    if not isinstance(first, Mapping) or not first.get("path"):
        raise InputError("datasets: the first entry names no path.")
    found.put("data.train", first["path"])
    if others:
        found.say(f"One data set is trained on: {len(others)} more of datasets are left out; put the rows together.")
    kind = str(first.get("type", ""))
    renamed = {"data_files": "data.train", "name": "data.subset", "field_messages": None, "type": None, "path": None}
    for key, entry in first.items():
        if key not in renamed:
            found.say(
                f"datasets.{key} has no counterpart: name columns with data.prompt, data.completion or data.text."
            )
        elif renamed[key] and entry:
            found.put(str(renamed[key]), entry[0] if isinstance(entry, list) and len(entry) == 1 else entry)
    if kind.startswith("completion"):
        found.put("data.text", first.get("field", "text"))
    if first.get("field_messages", "messages") not in ("messages", "conversations"):
        found.say(f"Conversations are looked for in the column messages, not {first['field_messages']}: rename it.")


def _axolotl_adapter(found: Conversion, value: Any) -> None:
    if value not in ("lora", "qlora"):
        raise InputError(f"adapter: {value} has no counterpart. Known: lora, qlora, or none for all weights.")
    found.put("adapter.method", "lora")
    if value == "qlora":
        found.put("model.quantization", "nf4")


def _factory_data(found: Conversion, value: Any) -> None:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
    if len(names) > 1:
        found.say(f"One data set is trained on: {', '.join(names[1:])} left out; put the rows together.")
    index = found.folder / str(found.of("dataset_dir", "data")) / "dataset_info.json"
    about = text_files.json_value(text_files.text_of(index), str(index)) if index.is_file() else {}
    entry = about.get(names[0]) if isinstance(about, dict) else None
    if not isinstance(entry, dict):
        found.put("data.train", names[0])
        found.say(
            f"{names[0]} is a name of dataset_info.json, which is not in {index.parent}: put the file's path there."
        )
        return
    file = entry.get("file_name")
    found.put("data.train", str(index.parent / file) if file else entry.get("hf_hub_url", names[0]))
    if "columns" in entry:
        found.say("dataset_info.json names columns: rename them, or say data.prompt and data.completion.")


def _factory_type(found: Conversion, value: Any) -> None:
    if value not in ("lora", "full", "oft"):
        raise InputError(f"finetuning_type: {value} has no counterpart. Known: lora, oft, full.")
    found.put("adapter.method", value)
    if value == "lora":
        rank = found.of("lora_rank", 8)
        found.put("adapter.r", rank)
        found.put("adapter.lora_alpha", found.of("lora_alpha", 2 * rank))


def _trl_peft(found: Conversion, value: Any) -> None:
    """Take TRL's own defaults of LoRA; where it names no layers, peft adapts those of its table, and here all."""
    found.put("adapter.method", "lora" if value else "full")
    if value:
        for key, ours, default in (
            ("lora_r", "r", 16),
            ("lora_alpha", "lora_alpha", 32),
            ("lora_dropout",) * 2 + (0.05,),
        ):
            found.put(f"adapter.{ours}", found.of(key, default))
        if found.of("lora_target_modules") is None:
            found.say("No layers are named: peft's table has two or three of a model, here it is all linear ones.")


def _preference(found: Conversion, key: str, value: Any) -> None:
    """Take preference tuning by the name of its loss."""
    if value not in PREFERENCES:
        raise InputError(f"{key}: {value} has no counterpart. Known: {listed(PREFERENCES)}.")
    found.put("task", "preference")
    found.put("preferences.loss", value)


def _of_preferences(found: Conversion, key: str, value: Any) -> None:
    """Take a setting of the loss where preferences are what is tuned."""
    if found.of("rl") is not None or found.of("stage") in ("dpo", "kto"):
        found.put(f"preferences.{key}", value)


def _factory_stage(found: Conversion, value: Any) -> None:
    if value in ("dpo", "kto"):
        loss = found.of("pref_loss", "sigmoid") if value == "dpo" else "kto"
        _preference(found, "pref_loss", "dpo" if loss == "sigmoid" else loss)
    elif value not in ("sft", "pt"):
        raise InputError(f"stage: {value} has no counterpart. Known: sft, pt, dpo, kto.")


def _bits(found: Conversion, value: Any) -> None:
    if value not in (4, 8):
        raise InputError(f"quantization_bit: {value} has no counterpart. Known: 4, as nf4, and 8, as int8.")
    found.put("model.quantization", "nf4" if value == 4 else "int8")


_TRAINING: dict[str, Rule] = {
    "learning_rate": "train.learning_rate",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_grad_norm",
    "num_train_epochs": "train.epochs",
    "max_steps": epochs_or_steps,
    "lr_scheduler_type": schedule,
    "warmup_ratio": "train.warmup",
    "warmup_steps": warmup_steps,
    "eval_steps": "train.evaluate_every",
    "save_steps": "train.save_every",
    "early_stopping_patience": "train.patience",
    "seed": "train.seed",
    "data_seed": "data.seed",
    "optim": optimizer,
    "output_dir": "output",
    "trust_remote_code": says("Code from a model repository is never run: trust_remote_code is left out."),
    "neftune_noise_alpha": says("Noise on embeddings (NEFTune) has no counterpart."),
    "deepspeed": says("DeepSpeed has no counterpart: one machine, one device."),
    "fsdp": says("FSDP has no counterpart: one machine, one device."),
    "fsdp_config": says("FSDP has no counterpart: one machine, one device."),
    "label_smoothing_factor": says("Smoothed labels have no counterpart."),
}
_LORA: dict[str, Rule] = {
    "lora_r": "adapter.r",
    "lora_rank": "adapter.r",
    "lora_alpha": "adapter.lora_alpha",
    "lora_dropout": "adapter.lora_dropout",
    "use_rslora": flag("adapter.use_rslora"),
    "use_dora": flag("adapter.use_dora"),
    "load_in_4bit": flag("model.quantization", "nf4"),
    "load_in_8bit": flag("model.quantization", "int8"),
    "loraplus_lr_ratio": flag("train.optimizer", "lora-plus"),
}

AXOLOTL = Dialect(
    "Axolotl",
    ("base_model", "datasets"),
    {
        **_TRAINING,
        **_LORA,
        "base_model": "model.name",
        "revision_of_model": "model.revision",
        "datasets": _axolotl_data,
        "test_datasets": says("test_datasets: name the file that decides as data.test; train never sees it."),
        "val_set_size": validation,
        "adapter": _axolotl_adapter,
        "lora_model_dir": "adapter.start_from",
        "lora_target_modules": targets,
        "lora_target_linear": flag("adapter.target_modules", "all-linear"),
        "lora_modules_to_save": modules,
        "peft_use_dora": flag("adapter.use_dora"),
        "peft_use_rslora": flag("adapter.use_rslora"),
        "sequence_len": "train.max_length",
        "num_epochs": "train.epochs",
        "optimizer": optimizer,
        "lr_scheduler": schedule,
        "chat_template": template,
        "train_on_inputs": says("train_on_inputs: prompts are never in the loss; for all of a text use data.text."),
        "special_tokens": says("special_tokens: the tokenizer's own are used; padding is never seen by the model."),
        "tokens": says("tokens: new tokens have no counterpart."),
        "rl": lambda found, value: _preference(found, "rl", value),
        "rl_beta": lambda found, value: _of_preferences(found, "beta", value),
    },
    HARDWARE | WATCHING,
    (("micro_batch_size", 1), ("gradient_accumulation_steps", 1)),
    {"adapter.method": "full", "train.epochs": 1, "train.schedule": "cosine"},
)

LLAMA_FACTORY = Dialect(
    "LLaMA-Factory",
    ("finetuning_type", "stage"),
    {
        **_TRAINING,
        **_LORA,
        "model_name_or_path": "model.name",
        "model_revision": "model.revision",
        "adapter_name_or_path": "adapter.start_from",
        "stage": _factory_stage,
        "pref_loss": lambda found, value: None,  # with the stage
        "pref_beta": lambda found, value: _of_preferences(found, "beta", value),
        "simpo_gamma": lambda found, value: _of_preferences(found, "gamma", value),
        "finetuning_type": _factory_type,
        "lora_target": targets,
        "additional_target": modules,
        "pissa_init": flag("adapter.init_lora_weights", "pissa"),
        "quantization_bit": _bits,
        "quantization_method": only("quantization_method", ("bnb", "bitsandbytes"), "known is bnb"),
        "dataset": _factory_data,
        "dataset_dir": lambda found, value: None,
        "eval_dataset": says("eval_dataset: name the file that decides as data.test; train never sees it."),
        "template": template,
        "cutoff_len": "train.max_length",
        "max_samples": "data.max_train",
        "val_size": validation,
        "mask_history": flag("data.turns", "last"),
        "train_on_prompt": says("train_on_prompt: prompts are never in the loss; for all of a text use data.text."),
    },
    HARDWARE | WATCHING,
    (("per_device_train_batch_size", 8), ("gradient_accumulation_steps", 1)),
    {
        "adapter.method": "lora",
        "train.epochs": 3,
        "train.learning_rate": 5e-5,
        "train.schedule": "linear",
        "train.warmup": 0,
        "train.max_length": 2048,
    },
)

TRL = Dialect(
    "TRL",
    ("dataset_name", "use_peft", "model_name_or_path"),
    {
        **_TRAINING,
        **_LORA,
        "model_name_or_path": "model.name",
        "model_revision": "model.revision",
        "dataset_name": "data.train",
        "dataset_config": "data.subset",
        "dataset_text_field": "data.text",
        "max_length": "train.max_length",
        "max_seq_length": "train.max_length",
        "lora_target_modules": targets,
        "lora_modules_to_save": modules,
        "use_peft": _trl_peft,
        "chat_template_path": template,
        "completion_only_loss": says("completion_only_loss: prompts are never in the loss, as where it is true."),
        "assistant_only_loss": says(
            "assistant_only_loss: the assistant's turns alone are in the loss, as where it is true."
        ),
        "loss_type": only("loss_type", ("nll", "chunked_nll"), "the likelihood of the answer is what is trained"),
    },
    HARDWARE | WATCHING,
    (("per_device_train_batch_size", 8), ("gradient_accumulation_steps", 1)),
    {
        "adapter.method": "full",
        "train.epochs": 3,
        "train.learning_rate": 2e-5,
        "train.schedule": "linear",
        "train.warmup": 0,
        "train.max_length": 1024,
    },
)

DIALECTS = {"axolotl": AXOLOTL, "llama-factory": LLAMA_FACTORY, "trl": TRL}
"""Name for --of: the dialect, those first whose marks no other has."""
