"""An adapter of another program put on its base by stock peft, saved in peft's layout, and compared with what that
program itself makes of its own file on the same base."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunelift.core.errors import InputError
from tunelift.exporting import evidence, gguf_file, llama_cpp, manifest, mlx_runtime, to_gguf, to_mlx
from tunelift.exporting.checking import Asked as Questions
from tunelift.exporting.checking import ExportFailed, base_runs, check, compared
from tunelift.exporting.equality import Item, Scores, equal, tolerance_of
from tunelift.exporting.foreign import GGUF, TORCHTUNE, Foreign
from tunelift.exporting.gguf_weights import Layout
from tunelift.exporting.stock import values_of

ANOTHER_BASE = "Name its own base with --model."


def put_on(model: Any, foreign: Foreign) -> Any:
    """Return peft's model with the adapter on; raise InputError where it does not fit the base."""
    import torch
    from peft import LoraConfig, get_peft_model

    _check_fits(model, foreign)
    ranks = {module: b.shape[1] for module, (_, b) in foreign.factors.items()}
    alphas = {module: _number(foreign.scales[module] * rank) for module, rank in ranks.items()}
    rank, alpha = (Counter(one.values()).most_common(1)[0][0] for one in (ranks, alphas))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,  # which may be no whole number
        target_modules=sorted(ranks),
        rank_pattern={module: one for module, one in ranks.items() if one != rank},
        alpha_pattern={module: one for module, one in alphas.items() if one != alpha},
        use_dora=bool(foreign.magnitudes),
    )
    adapted = get_peft_model(model, config)
    for module, (a, b) in foreign.factors.items():
        layer: Any = adapted.get_base_model().get_submodule(module)
        if hasattr(layer, "lora_embedding_A") and "default" in layer.lora_embedding_A:
            sides = [(layer.lora_embedding_A["default"], a), (layer.lora_embedding_B["default"], b)]
        else:
            sides = [(layer.lora_A["default"].weight, a), (layer.lora_B["default"].weight, b)]
        if module in foreign.magnitudes:
            sides.append((layer.lora_magnitude_vector["default"].weight, foreign.magnitudes[module]))
        with torch.no_grad():
            for parameter, values in sides:
                parameter.copy_(torch.from_numpy(np.array(values, order="C")).reshape(parameter.shape))
    return adapted.eval()


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)


def _check_fits(model: Any, foreign: Foreign) -> None:
    modules = dict(model.named_modules())
    tied = getattr(model.config, "tie_word_embeddings", False)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    for module, (a, b) in foreign.factors.items():
        layer = modules.get(module)
        weight = getattr(layer, "weight", None)
        if layer is None or weight is None:
            raise InputError(f"The base has no layer {module}, which the adapter changes.", fix=ANOTHER_BASE)
        if tied and any(layer is end for end in ends):
            raise InputError(f"The adapter is on {module}, which shares its weight: there it acts twice, in peft once.")
        outputs, inputs = weight.shape
        if layer is ends[0] or type(layer).__name__ == "Conv1D":
            outputs, inputs = inputs, outputs
        if a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != (outputs, inputs):
            told = f"{b.shape[0]} x {a.shape[1]}, and the base's {module} is {outputs} x {inputs}"
            raise InputError(f"The adapter changes a matrix of {told}.", fix=ANOTHER_BASE)


def runtime_of(foreign: Foreign) -> tuple[str | None, str]:
    """Return the program an adapter is of with its version, None where it is not here; and what to install then."""
    if foreign.of == TORCHTUNE:
        return None, "torchtune is not run here"
    if foreign.of == GGUF:
        return (llama_cpp.named() if llama_cpp.is_there() else None), to_gguf.NO_RUNTIME
    return (mlx_runtime.named() if mlx_runtime.is_there() else None), to_mlx.NO_RUNTIME


def scores(model: Any, items: Sequence[Item]) -> Scores:
    """Return the log-probabilities of items by the stock forward pass."""
    return {item.name: values_of(model, item.ids, item.targets, None) for item in items}


def prove(file: Path, foreign: Foreign, model: Any, tokenizer: Any, items: Sequence[Item], saved: Path) -> list[Any]:
    """Return the checks of an import, the base without the adapter first; raise ExportFailed where one fails.

    `saved` is the folder in stock peft's layout, which is loaded from the disk. All numbers stay beside it.
    """
    from peft import PeftModel

    base, scratch = scores(model, items), saved / manifest.SCRATCH
    scratch.mkdir()
    answer = _there(scratch, file, foreign, model, tokenizer, items)
    shutil.rmtree(scratch)
    ours = scores(PeftModel.from_pretrained(model, str(saved)).eval(), items)
    for side, numbers in (
        (evidence.MODEL, ours),
        (evidence.EXPORTED, answer["scores"]),
        (evidence.BASE, base),
        (evidence.BASE_THERE, answer["base"]),
    ):
        evidence.save(saved, side, numbers, {})
    alone = equal(base, answer["base"], to_gguf.BASE_MAY if foreign.of == GGUF else to_mlx.BASE_MAY)
    allowed = tolerance_of(alone)
    acts = equal(base, ours, allowed)
    checks = [base_runs(alone), *compared(Questions(items), answer, ours, allowed)]
    checks.append(check("the adapter acts", not acts.holds, f"by {acts.largest:.2g} nats of a token at most"))
    if not all(one["passed"] for one in checks):
        raise ExportFailed(checks)
    return checks


def _there(
    folder: Path, file: Path, foreign: Foreign, model: Any, tokenizer: Any, items: Sequence[Item]
) -> dict[str, Any]:
    """Let the program run the base, and its own file on it."""
    if foreign.of != GGUF:
        to_mlx.write_base(folder, model, dict(model.named_parameters()))
        return mlx_runtime.ask(folder, items, file)
    base, layout, own = folder / "base.gguf", Layout.of(model.config), dict(model.named_parameters())
    values = gguf_file.model_metadata(model.config, tokenizer, [tokenizer.eos_token_id], "base", "f32")
    gguf_file.write(base, values, lambda: layout.tensors(own), "f32")
    alone = llama_cpp.ask(base, items)["scores"]
    return llama_cpp.ask(base, items, lora=file) | {"base": alone}
