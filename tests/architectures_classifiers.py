"""What is asked of every sequence classifier: see architectures.py.

Log-probabilities of rows together, loss and gradients of an adapter, both against the model's own logits of each row
alone; `tunelift.tune` for three steps with every proof; and `fast.apply` against its own `forward(labels=)`.
"""

from __future__ import annotations

from typing import Any

import architectures
from architectures import OF_GRADIENTS, _logits, _loss_and_gradients, _tokenizer, _tuned, _verdict, _without_dropout
from tunelift.tasks import TASKS

HEAD = "AutoModelForSequenceClassification"
ROWS = [[*row, 2] for row in architectures.ROWS]
"""Some classes read the state at the end token, of which a row has one."""

ZAMBA: dict[str, Any] = {
    **{"num_hidden_layers": 6, "layers_block_type": ["linear_attention", "linear_attention", "hybrid"] * 2},
    **{"attention_hidden_size": 64, "attention_head_dim": 32, "num_key_value_heads": 2},
}
SPECIAL: dict[str, dict[str, Any]] = {
    "bigbird_pegasus": {"attention_type": "original_full", "decoder_start_token_id": 2},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "esmc": {"num_key_value_heads": 2},
    "flaubert": {"emb_dim": 32, "n_words": 160, "pad_index": 0},
    "gptj": {"rotary_dim": 8},
    "ibert": {"hidden_act": "gelu"},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "lilt": {"hidden_size": 48},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "mistral4": {"head_dim": 16, "num_key_value_heads": 2},
    "perceiver": {
        **{"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2},
        **{"num_self_attention_heads": 2, "num_cross_attention_heads": 2, "pad_token_id": 0},
    },
    "reformer": {"axial_pos_embds": False, "is_decoder": False, "num_buckets": 4, "hash_seed": 0},
    "xlm": {"emb_dim": 32, "n_words": 160, "pad_index": 0},
    "xlnet": {"d_inner": 48},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": ZAMBA | {"mamba_dt_rank": 4},
    "zamba2": ZAMBA | {"n_mamba_heads": 8, "mamba_headdim": 8, "kv_channels": 16, "num_query_groups": 2},
    **{kind: {"decoder_start_token_id": 0} for kind in ("t5", "mt5", "umt5")},
}
"""What some types want besides."""


def tiny(kind: str, **changes: Any) -> Any:
    return architectures.tiny(kind, HEAD, SPECIAL.get(kind, {}) | changes)


def _alone(model: Any, row: list[int]) -> Any:
    return _logits(model, row).log_softmax(dim=-1)


def _probabilities(model: Any) -> str:
    from tunelift.evaluation.measures.head import head_logits
    from tunelift.fast.unpad import sped_up

    with sped_up(model, "forward"):
        found = head_logits(model, ROWS, 0, 8, lambda *_: None).log_softmax(dim=-1).tolist()
    expected = [_alone(model, row).tolist() for row in ROWS]
    return _verdict([v for row in found for v in row], [v for row in expected for v in row])


def _adapted(model: Any) -> Any:
    """Put an adapter on as a session does: with the parts of the head that peft would not save, and without routers."""
    from tunelift.adapters.build import attach
    from tunelift.pipeline.session import Session

    session = Session.of(model, _tokenizer(), TASKS.get("sequence-classification"))
    config = session._peft_config({"r": 4, "init_lora_weights": False})
    return attach(model, config, seed=0)


def _training(model: Any) -> str:
    import torch
    import torch.nn.functional as F

    from tunelift.fast.undo import without_cache
    from tunelift.fast.unpad import sped_up
    from tunelift.tasks.base import TASKS, Row

    model, labels = _adapted(model), [0, 2, 1]
    task = TASKS.get("sequence-classification")
    with sped_up(model):
        batch = task.collate([Row(*pair) for pair in zip(ROWS, labels, strict=True)], 0, torch.device("cpu"))
        found = _loss_and_gradients(model, task.loss(model)[0](batch))
    logits = torch.cat([model(input_ids=torch.tensor([row]), **without_cache(model)).logits for row in ROWS])
    expected = _loss_and_gradients(model, F.cross_entropy(logits, torch.tensor(labels), reduction="sum"))
    return _verdict(found, expected, OF_GRADIENTS) if len(found) == len(expected) else "wrong: other gradients"


def _tune(model: Any) -> str:
    from tokenizers.processors import TemplateProcessing

    tokenizer = _tokenizer()
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    words = [[f"w{5 + (i + 3 * j) % 90}" for j in range(6 + i % 5)] for i in range(18)]
    rows = [{"text": " ".join(some), "label": f"LABEL_{i % 3}"} for i, some in enumerate(words)]
    return _tuned(model, tiny(model.built_as), rows, "sequence-classification", tokenizer)


def _apply(model: Any) -> str:
    import torch

    from tunelift.fast import apply, restore
    from tunelift.fast.undo import without_cache

    model = _without_dropout(_adapted(model))
    width = max(map(len, ROWS))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ROWS])
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 2, 1]), **without_cache(model)}
    expected = _loss_and_gradients(model, model.train()(**inputs).loss)
    apply(model)
    found = _loss_and_gradients(model, model(**inputs).loss)
    restore(model)
    return _verdict(found, expected, OF_GRADIENTS) if len(found) == len(expected) else "wrong: other gradients"
