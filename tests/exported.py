"""Tiny models of every architecture that is written as GGUF, with items and what transformers says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

import tiny_models
import tunelift
from small_rows import write_rows
from tiny_tokenizers import CHAT, byte_level
from tunelift.exporting import evidence, gguf_file, gguf_weights
from tunelift.exporting.checking import Asked
from tunelift.exporting.equality import Item, Scores
from tunelift.exporting.made import Made, Rows
from tunelift.exporting.merging import base_parameters
from tunelift.exporting.stock import values_of
from tunelift.model_facts.anatomy import base_of
from tunelift.tasks import DEFAULT

WIDE: dict[str, Any] = {
    **{"hidden_size": 256, "intermediate_size": 256, "head_dim": 64},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2},
}
"""Widths of real models' kind: the blocks of 256 numbers of K-quants fit, and sums round as those of so many do."""

EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256},
    "norm_topk_prob": True,
}
GEMMA = {"query_pre_attn_scalar": 64, "sliding_window": 16}
OWN: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": GEMMA,
    "gemma3_text": {**GEMMA, "attn_logit_softcapping": None, "num_hidden_layers": 6},  # the sixth sees the whole text
    "phi3": {},
    "gpt2": {"n_inner": 512},
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS,
}
KINDS: dict[str, dict[str, Any]] = {kind: WIDE | own for kind, own in OWN.items()}
ROUNDED = ("gemma2", "gemma3_text", "gpt2")
"""Where llama.cpp looks GELU up in a table of 16 bits (ggml_vec_gelu_f32 in ggml/src/ggml-cpu/vec.h)."""


def model(kind: str, **changes: Any) -> Any:
    return tiny_models.causal(kind, **{**KINDS[kind], **changes})


def tokenizer(template: str | None = CHAT) -> Any:
    return byte_level(template=template)


def items(lengths: tuple[int, ...] = (5, 12, 30)) -> list[Item]:
    """Random tokens behind BOS, and EOS at the end; parts of letters are among them."""
    draw = torch.Generator().manual_seed(3)
    found = []
    for number, length in enumerate(lengths):
        ids = (0, *torch.randint(4, 260, (length,), generator=draw).tolist(), 1)
        found.append(Item(str(number), ids, tuple(range(3, len(ids)))))
    return found


def scores(model: Any, asked: list[Item]) -> Scores:
    return {item.name: values_of(model, item.ids, item.targets) for item in asked}


def write_base(file: Path, model: Any, change: Callable[[str, Any], Any] | None = None, **values: Any) -> Path:
    """Write the base below an adapter, or a model, in 32 bits; `change` makes a fault of a tensor (None leaves out)."""
    config = base_of(model).config
    layout, own = gguf_weights.Layout.of(config), base_parameters(model)
    said = gguf_file.model_metadata(config, tokenizer(), [1], "tiny", "f32") | values

    def tensors() -> Any:
        for name, weights in layout.tensors(own):
            changed = change(name, weights) if change else weights
            if changed is not None:
                yield name, changed

    gguf_file.write(file, {k: v for k, v in said.items() if v is not None}, tensors, "f32")
    return file


LAYERS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "phi3": ["qkv_proj", "gate_up_proj", "down_proj"],
    "mixtral": ["q_proj", "k_proj", "o_proj"],
    "qwen3_moe": ["q_proj", "k_proj", "o_proj"],
}
TIED = {"gemma2", "gemma3_text", "gpt2"}
"""Where head and embeddings are one weight, on which no program takes a LoRA."""


def lora(model: Any, kind: str, *, ends: bool | None = None) -> Any:
    """A LoRA with a scale by rsLoRA, ranks and alphas of their own; on head and embeddings too (`ends`) unless tied."""
    layers = LAYERS.get(kind, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"])
    heads = (
        ["wte" if kind == "gpt2" else "embed_tokens", "lm_head"] if ends or (ends is None and kind not in TIED) else []
    )
    patterns = {"rank_pattern": {layers[0]: 2}, "alpha_pattern": {layers[1]: 3}}
    torch.manual_seed(1)
    config = LoraConfig(
        target_modules=[*layers, *heads], r=4, lora_alpha=6, use_rslora=True, init_lora_weights=False, **patterns
    )  # type: ignore[arg-type]
    return get_peft_model(model, config).eval()


def made(adapted: Any) -> tuple[Made, Rows]:
    """An adapter and items as an export gets them of a run."""

    def base_scores(asked: Sequence[Item]) -> Scores:
        with adapted.disable_adapter():
            return scores(adapted, list(asked))

    def unasked(_: Any) -> None:
        raise AssertionError("heads alone are asked so")

    asked = items()
    test = [Item(f"test {number}", one.ids, one.targets[:4]) for number, one in enumerate(items((4, 5, 6, 7, 8, 9)))]
    about = {one.name: ("", "") for one in (*asked, *test)}
    facts = {"made_of": {"model": {}, "tuned": {}}, "task": DEFAULT.name, "labels": []}
    return (
        Made(adapted, tokenizer(), DEFAULT, "tiny", Path(), [1], False, facts, base_scores, unasked, unasked),
        Rows(Asked(asked), test, [one.name for one in test], [], about),
    )


def run_of(
    model: Any, place: Path, learning_rate: float = 0.01, rows: Callable[..., Path] = write_rows, kind: str = "csv"
) -> Path:
    """A run of three steps on a model, whose rows are labelled texts unless others are given."""
    model.save_pretrained(place / "model")
    tokenizer().save_pretrained(place / "model")
    data = {"train": str(rows(place / f"train.{kind}", 40)), "test": str(rows(place / f"test.{kind}", 20, 100))}
    tunelift.run(
        model=str(place / "model"),
        data=data,
        train={"steps": 3, "learning_rate": learning_rate},
        dtype="float32",
        output=str(place / "out"),
        evaluate={"baselines": [], "forgetting": []},
    )
    return place / "out"


def sides(folder: Path) -> tuple[Scores, Scores, Scores, Scores]:
    """What an export's proof rests on: the base here and there, the model as peft has it, and as it was exported."""
    names = evidence.BASE, evidence.BASE_THERE, evidence.MODEL, evidence.EXPORTED
    base, there, model, exported = (evidence.read(folder, name) for name in names)
    assert base and there and model and exported
    return base, there, model, exported
