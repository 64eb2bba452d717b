"""Every decoder class of transformers, built tiny from its config and tried against stock: docs/architectures.md.

    python benchmarks/architectures.py [--only llama,gpt2] [--write]

Each kind is tried in a process of its own, which may crash or hang. For each: log-likelihoods of padded rows, labels
ranked, greedy answers of two prompts of different lengths, and loss and gradients of an adapter, all against the
model's own logits of each row alone, without a cache; and `fast.apply` against its own `forward(labels=)`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from pathlib import Path
from queue import Empty
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
SECONDS = 120
fork = multiprocessing.get_context("fork")
CHECKS = ("likelihoods", "labels", "answers", "training", "apply")

SMALL: dict[str, Any] = {
    **{
        "vocab_size": 160,
        "hidden_size": 32,
        "n_embd": 32,
        "d_model": 32,
        "dim": 32,
        "n_embed": 32,
        "word_embed_proj_dim": 32,
    },
    **{"embedding_size": 32, "intermediate_size": 48, "ffn_dim": 48, "d_ff": 48, "n_inner": 48, "ffn_hidden_size": 48},
    **{
        "num_hidden_layers": 3,
        "n_layer": 3,
        "n_layers": 3,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "decoder_layers": 3,
    },
    **{
        "encoder_layers": 3,
        "num_attention_heads": 2,
        "n_head": 2,
        "n_heads": 2,
        "num_heads": 2,
        "decoder_attention_heads": 2,
    },
    **{"encoder_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128},
    **{
        "n_positions": 128,
        "n_ctx": 128,
        "max_seq_len": 128,
        "num_experts": 4,
        "num_local_experts": 4,
        "n_routed_experts": 4,
    },
    **{
        "moe_num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    **{"shared_intermediate_size": 32, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "lru_width": 32},
    **{"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16},
    **{
        "state_size": 8,
        "mamba_d_state": 8,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_expand": 2,
        "mamba_n_groups": 1,
    },
    **{"attention_hidden_size": 32, "decoder_ffn_dim": 48, "encoder_ffn_dim": 48, "pad_token_id": 0, "bos_token_id": 1},
    **{"eos_token_id": 2, "is_decoder": True, "is_encoder_decoder": False, "sliding_window": 64, "hidden_act": "silu"},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16},
}
"""Values for whatever keys of these names a config has."""


def kinds() -> list[str]:
    """Return the model types of transformers' mapping for causal models, aliases of one class once."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    return sorted({cls: kind for kind, cls in reversed(list(NAMES.items()))}.values())


def tiny(kind: str) -> Any:
    """Return a tiny random model of a type, its weights large enough to matter."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    own = AutoConfig.for_model(kind).to_dict()
    sizes = {key: value for key, value in SMALL.items() if key in own}
    if "kv_lora_rank" in own:  # latent attention has as many heads of keys
        sizes |= {"num_key_value_heads": 2} | ({"head_dim": 8} if "head_dim" in own else {})
    config = AutoConfig.for_model(kind, **sizes)
    with torch.device("meta"):  # what parts in configs of their own take is seen without taking it
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > 20_000_000:
        raise ValueError("it cannot be built tiny from its config's usual keys")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
    return model.eval()


def tried(kind: str) -> dict[str, str]:
    """Return what becomes of each check: "right", "refused: why", "wrong: how far", or "crashed: what"."""
    found = {}
    try:
        _alone(tiny(kind), ROWS[0])
    except Exception as error:  # stock itself
        return {"built": f"not built: {_line(error)}"}
    for name in CHECKS:
        try:
            found[name] = globals()[f"_{name}"](tiny(kind))
        except Exception as error:
            refused = type(error).__name__ in ("InputError", "UncompiledError")
            found[name] = f"{'refused' if refused else 'crashed'}: {_line(error)}"
    return found


ROWS = [[5, 6, 7, 8, 9, 10, 11, 12], [20, 21, 22, 23, 24], [5, 6, 7, 8, 9, 10, 30, 31, 32, 33, 34]]


def _alone(model: Any, row: list[int]) -> Any:
    """Return the model's own log-probabilities (T, V) of one row by itself, without a cache."""
    import torch

    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([row]), use_cache=False).logits[0].double(), dim=-1)


def _scores(model: Any, prompt: list[int], completion: list[int]) -> float:
    found = _alone(model, [*prompt, *completion])
    return sum(float(found[len(prompt) + i - 1, token]) for i, token in enumerate(completion))


def _verdict(found: list[float], expected: list[float], allowed: float = 1e-4) -> str:
    worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, expected, strict=True))
    return "right" if worst <= allowed else f"wrong: {worst:.1e}"


def _likelihoods(model: Any) -> str:
    import torch

    from tunelift.evaluation.likelihood import log_likelihoods
    from tunelift.fast.targets import target_model
    from tunelift.fast.unpad import sped_up

    pairs = [(row[:3], row[3:]) for row in ROWS]
    expected = [_scores(model, *pair) for pair in pairs]
    with sped_up(model):
        view, _ = target_model(model)
        found = log_likelihoods(view, pairs, torch.device("cpu"), 8, lambda *_: None)
    return _verdict([value for value, _ in found], expected)


def _labels(model: Any) -> str:
    import torch

    from tunelift.evaluation.ranking import ranker
    from tunelift.fast.targets import target_model
    from tunelift.fast.unpad import sped_up

    labels = [[40, 41, 2], [40, 2], [50, 51, 52, 2]]
    expected = [_scores(model, row, label) for row in ROWS for label in labels]
    with sped_up(model):
        view, _ = target_model(model)
        rank, _ = ranker(view, torch.device("cpu"), 8, (ROWS[0], labels))
        found = rank.rank(ROWS, [labels] * 3, None, lambda *_: None)
    return _verdict([value for row in found for value in row], expected)


def _answers(model: Any) -> str:
    from tunelift.evaluation.answers import greedy
    from tunelift.evaluation.generation import Decoding
    from tunelift.fast.targets import target_model
    from tunelift.fast.unpad import sped_up

    expected = []
    for row in ROWS:
        whole = list(row)
        for _ in range(6):
            whole.append(int(_alone(model, whole)[-1].argmax()))
        expected.append(whole[len(row) :])
    with sped_up(model):
        generate, state = greedy(model, None, target_model(model)[0].nats)
        found = [answer.ids for answer in generate(ROWS, Decoding(set(), 6), 8, lambda *_: None)]
    if found == expected and state != "on":
        return "right (one by one)"
    return "right" if found == expected else f"wrong: {sum(a != b for a, b in zip(found, expected, strict=True))} of 3"


def _loss_and_gradients(model: Any, loss: Any) -> list[float]:
    model.zero_grad()
    loss.backward()
    sizes = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
    return [float(loss.detach()), *sizes]


def _adapted(model: Any) -> Any:
    from tunelift.adapters.build import attach, peft_config
    from tunelift.adapters.targets import linear_targets

    named = linear_targets(model)
    keys = {"r": 4, "target_modules": named[0] if named else "all-linear", "init_lora_weights": False}
    return attach(model, peft_config(keys, "CAUSAL_LM"), seed=0)


def _training(model: Any) -> str:
    import torch
    import torch.nn.functional as F

    from tunelift.fast.targets import target_model
    from tunelift.fast.unpad import sped_up

    model = _adapted(model)
    parts = [model(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1] for row in ROWS]
    targets = torch.tensor([token for row in ROWS for token in row[1:]])
    expected = _loss_and_gradients(model, F.cross_entropy(torch.cat(parts), targets, reduction="sum"))
    width = max(map(len, ROWS))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ROWS])
    with sped_up(model):
        view, _ = target_model(model)
        if hasattr(view, "frozen"):
            view.frozen.skip_below = 0.0
        labels = ids.masked_fill(mask == 0, -100)
        found = _loss_and_gradients(model, view.loss_sum({"input_ids": ids, "attention_mask": mask}, labels))
    if len(found) != len(expected):
        return f"wrong: {len(found)} gradients of {len(expected)}"
    return _verdict(found, expected, 1e-3)


def _apply(model: Any) -> str:
    import torch

    from tunelift.fast import apply, restore
    from tunelift.fast.undo import without_cache

    model = _adapted(model)
    for module in model.modules():  # what is drawn at random cannot be compared
        for name in ("dropout", "p", "attention_dropout", "activation_dropout", "attn_pdrop", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    ids = torch.tensor([ROWS[0], ROWS[2][:8]])
    inputs = {"input_ids": ids, "labels": ids, **without_cache(model)}
    expected = _loss_and_gradients(model, model.train()(**inputs).loss)
    states = apply(model)
    found = _loss_and_gradients(model, model(**inputs).loss)
    restore(model)
    if len(found) != len(expected):
        return f"wrong: {len(found)} gradients of {len(expected)}"
    verdict = _verdict(found, expected, 1e-3)
    off = states.get("target_only_head", "on")
    return f"{verdict} ({off})" if verdict == "right" and off != "on" else verdict


def _line(error: Exception) -> str:
    return " ".join((str(error) or repr(error)).split())[:160].replace("|", "/")


def in_a_process(kind: str) -> dict[str, str]:
    """Try a kind in a copy of this process, in which torch and transformers are loaded already."""
    queue = fork.Queue()
    process = fork.Process(target=lambda: queue.put(tried(kind)))
    process.start()
    try:
        found: dict[str, str] = queue.get(timeout=SECONDS)
    except Empty:
        process.kill()
        return {"built": f"crashed: not done after {SECONDS} s, or ended"}
    process.join()
    return found


def table(found: dict[str, dict[str, str]]) -> str:
    import transformers

    whole = sum(all(r.get(c, "").startswith(("right", "refused")) for c in CHECKS) for r in found.values())
    lines = [
        "# Every decoder class",
        "",
        f"Written by `python benchmarks/architectures.py --write` with transformers {transformers.__version__}: "
        f"{len(found)} classes, {whole} of them right, or refused before anything is computed, in every column.",
        "",
        f"| model type | {' | '.join(CHECKS)} |",
        "|---" * (1 + len(CHECKS)) + "|",
    ]
    for kind, results in found.items():
        cells = [results.get(name, results.get("built", "")) for name in CHECKS]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    import torch
    import transformers.generation.utils  # noqa: F401  (before processes are copied)

    torch.set_num_threads(1)
    found = {}
    for kind in options.only.split(",") if options.only else kinds():
        found[kind] = in_a_process(kind)
        print(kind, json.dumps(found[kind]), flush=True)
    if options.write:
        PAGE.write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
