"""Adapter folders as releases of peft and other trainers write them, rebuilt small on a tiny Llama.

The keys of each config are those that the release writes (read in its source, and run where it could be). Layers, ranks
and numbers are drawn here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny_models

Tensors = dict[str, Tensor]

AT_FIRST: dict[str, Any] = {
    "auto_mapping": None, "base_model_name_or_path": "someone/tiny-llama", "bias": "none", "fan_in_fan_out": False,
    "inference_mode": True, "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None,
    "lora_alpha": 8, "lora_dropout": 0.1, "modules_to_save": None, "peft_type": "LORA", "r": 4, "revision": None,
    "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "alpha_pattern": {}, "rank_pattern": {},
}  # fmt: skip
"""What peft 0.6 wrote."""

ADDED: dict[str, dict[str, Any]] = {
    "0.8": {"loftq_config": {}, "megatron_config": None, "megatron_core": "megatron.core", "use_rslora": False},
    "0.10": {"layer_replication": None, "use_dora": False},
    "0.14": {"eva_config": None, "exclude_modules": None, "lora_bias": False},
    "0.15": {"corda_config": None, "trainable_token_indices": None},
    "0.16": {"qalora_group_size": 16, "use_qalora": False},
    "0.17": {"target_parameters": None},
    "0.18": {
        "alora_invocation_tokens": None, "arrow_config": None, "ensure_weight_tying": False, "peft_version": "0.18.0",
    },
    "0.19": {"lora_ga_config": None, "peft_version": "0.19.1", "use_bdlora": None},
    "0.20": {"monteclora_config": None, "peft_version": "0.20.0", "velora_config": None},
    "0.21": {"kasa_config": None, "peft_version": "0.21.0"},
}  # fmt: skip
"""What each release added."""


def written_by(version: str) -> dict[str, Any]:
    """Return the config of a plain LoRA as a release of peft writes it."""
    config = dict(AT_FIRST)
    for release, keys in ADDED.items():
        if _number(release) <= _number(version):
            config |= keys
    return config


def _number(release: str) -> list[int]:
    return [int(part) for part in release.split(".")]


def write(folder: Path, config: dict[str, Any], tensors: Tensors | None = None) -> Path:
    """Write an adapter's folder; without tensors those of a plain LoRA of the config's target modules."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    if tensors is None:
        names = config["target_modules"]
        tensors = lora(names if isinstance(names, list) else ["q_proj", "v_proj"], rank=config["r"])
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def lora(names: Iterable[str], rank: int = 4, layers: Iterable[int] = range(3), prefix: str = "") -> Tensors:
    """Return A and B of some layers, by the keys that all releases write; `prefix` stands in front of the layers."""
    model, numbers = tiny_models.causal("llama"), torch.Generator().manual_seed(5)
    tensors = {}
    for layer in layers:
        for name in sorted(names):
            part = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            linear = model.get_submodule(f"model.layers.{layer}.{part}.{name}")
            key = f"base_model.model.{prefix}model.layers.{layer}.{part}.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, linear.in_features, generator=numbers)
            tensors[f"{key}.lora_B.weight"] = torch.randn(linear.out_features, rank, generator=numbers)
    return tensors


def with_tokenizer(folder: Path) -> Path:
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def files_of_a_trainer(folder: Path, *names: str) -> Path:
    """Put beside an adapter what trainers leave there; nothing of it may be opened."""
    for name in names:
        (folder / name).write_bytes(b"\x80\x04cos\nsystem\n.")
    return folder


CHECKPOINT = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")


def of_peft(version: str) -> Callable[[Path], Path]:
    return lambda folder: write(folder, written_by(version))


def changed(version: str, **settings: Any) -> Callable[[Path], Path]:
    return lambda folder: write(folder, written_by(version) | settings)


def pickled(folder: Path) -> Path:
    """As peft before 0.7, and Axolotl with save_safetensors: false."""
    write(folder, written_by("0.6"))
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    return folder


UNSLOTH = {
    "base_model_class": "LlamaForCausalLM",
    "parent_library": "transformers.models.llama.modeling_llama",
    "unsloth_fixed": True,
}


def of_unsloth(folder: Path) -> Path:
    config = written_by("0.18") | {
        "auto_mapping": UNSLOTH,
        "base_model_name_or_path": "unsloth/tiny-llama-unsloth-bnb-4bit",
        "lora_dropout": 0,
        "loftq_config": {},
    }
    return with_tokenizer(write(folder, config))


def of_unsloth_by_pattern(folder: Path) -> Path:
    """As of its models with a vision tower, and of those that it takes for such; it writes no task."""
    pattern = (
        r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|v_proj).*?)|"
        r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|v_proj)))"
    )
    config = written_by("0.17") | {"auto_mapping": UNSLOTH, "target_modules": pattern, "task_type": None}
    return with_tokenizer(write(folder, config))


def of_unsloth_with_vision(folder: Path) -> Path:
    config = written_by("0.17") | {"auto_mapping": UNSLOTH, "task_type": None}
    towers = lora(["q_proj", "v_proj"], prefix="model.vision_tower.")
    return write(folder, config, lora(["q_proj", "v_proj"]) | towers)


def of_llama_factory(folder: Path) -> Path:
    config = written_by("0.15") | {"target_modules": ["k_proj", "up_proj", "q_proj", "down_proj"], "r": 8}
    write(folder, config)
    for name in ("all_results.json", "train_results.json", "trainer_state.json"):
        (folder / name).write_text('{"epoch": 3.0, "best_model_checkpoint": null}')
    (folder / "trainer_log.jsonl").write_text('{"current_steps": 5, "loss": 1.0}\n')
    (folder / "training_loss.png").write_bytes(b"\x89PNG")
    files_of_a_trainer(folder, "training_args.bin")
    checkpoint = write(folder / "checkpoint-5", config)
    files_of_a_trainer(checkpoint, *CHECKPOINT)
    return with_tokenizer(folder)


def with_a_value_head(folder: Path) -> Path:
    """As LLaMA-Factory's reward models and PPO."""
    of_peft("0.15")(folder)
    head = {"v_head.summary.weight": torch.zeros(1, 32), "v_head.summary.bias": torch.zeros(1)}
    save_file(head, folder / "value_head.safetensors", metadata={"format": "pt"})
    return folder


def with_the_value_head_inside(folder: Path) -> Path:
    head = {"v_head.summary.weight": torch.zeros(1, 32), "v_head.summary.bias": torch.zeros(1)}
    return write(folder, written_by("0.8"), lora(["q_proj", "v_proj"]) | head)


def of_axolotl(folder: Path) -> Path:
    """It writes the base's config beside the adapter, quantised as it was trained."""
    config = written_by("0.17") | {
        "target_modules": ["o_proj", "q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
    }
    model = tiny_models.causal("llama")
    whole = {
        "base_model.model.model.embed_tokens.weight": model.model.embed_tokens.weight.detach() + 0.1,
        "base_model.model.lm_head.weight": model.lm_head.weight.detach() - 0.1,
    }
    write(folder, config, lora(["o_proj", "q_proj"]) | whole)
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (folder / "config.json").write_text(json.dumps(model.config.to_dict() | {"quantization_config": quantised}))
    (folder / "debug.log").write_text("axolotl\n")
    return with_tokenizer(files_of_a_trainer(folder, "tokens_state.bin"))


def of_axolotl_with_more_tokens(folder: Path) -> Path:
    config = written_by("0.17") | {"modules_to_save": ["embed_tokens"]}
    more = {"base_model.model.model.embed_tokens.weight": torch.zeros(408, 32)}
    return write(folder, config, lora(["q_proj", "v_proj"]) | more)


def of_trl(folder: Path) -> Path:
    """A checkpoint of SFTTrainer, with the template it was trained with in a file of its own."""
    write(folder, written_by("0.18"))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    (folder / "trainer_state.json").write_text('{"global_step": 10}')
    return with_tokenizer(files_of_a_trainer(folder, *CHECKPOINT))


def only_checkpoints(folder: Path) -> Path:
    """What a training that was cut off leaves."""
    for step in (500, 1000):
        files_of_a_trainer(write(folder / f"checkpoint-{step}", written_by("0.18")), *CHECKPOINT)
    return folder


def with_a_reference(folder: Path) -> Path:
    """As DPO with a second adapter for its reference."""
    write(folder / "reference", written_by("0.18"))
    return write(folder, written_by("0.18"))


def called_zero(folder: Path) -> Path:
    """An adapter called "0", as peft before 0.13 wrote it: the layers' own numbers are gone."""
    tensors = {key.replace(".layers.0.", ".layers."): t for key, t in lora(["q_proj", "v_proj"]).items()}
    return write(folder, written_by("0.10"), tensors)


def compiled(folder: Path) -> Path:
    tensors = {key.replace(".model.model.", ".model._orig_mod.model."): t for key, t in lora(["q_proj"]).items()}
    return write(folder, written_by("0.14") | {"target_modules": ["q_proj"]}, tensors)


def of_pissa_backup(folder: Path) -> Path:
    return write(folder / "pissa_backup", written_by("0.15"))
