"""Combined adapters add to the weights what peft's own layers say each adds, summed; what is no sum is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import merge_utils
from torch import Tensor

import tiny_models
from tunelift.adapters.combining import combine
from tunelift.adapters.loading import check_fits
from tunelift.cli.merge import command
from tunelift.core.errors import InputError
from tunelift.core.randomness import seeded

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "rsLoRA": {"r": 8, "lora_alpha": 8, "use_rslora": True, "target_modules": "all-linear"},
    "patterns": {
        **{"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
        **{"rank_pattern": {"q_proj": 2, r"layers\.1\..*v_proj": 6}, "alpha_pattern": {"layers.2.self_attn.q_proj": 7}},
    },
}


def saved(folder: Path, seed: int = 0, kind: str = "llama", **settings: Any) -> Path:
    """Return the folder of an adapter that does something, saved by stock peft."""
    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", **settings)
    model = get_peft_model(tiny_models.causal(kind), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def added(folder: Path, kind: str = "llama") -> dict[str, Tensor]:
    """Return what stock peft adds to each weight."""
    model = PeftModel.from_pretrained(tiny_models.causal(kind), folder)
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    return {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}


def assert_added(folder: Path, expected: dict[str, Tensor], kind: str = "llama") -> None:
    found = added(folder, kind)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-5, rtol=1e-5) for name in expected)


def summed(folders: Sequence[Path], weights: Sequence[float], kind: str = "llama") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for folder, weight in zip(folders, weights, strict=True):
        for name, tensor in added(folder, kind).items():
            found[name] = found.get(name, torch.zeros_like(tensor)) + weight * tensor
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("three")
    return [saved(folder / name, seed, **settings) for seed, (name, settings) in enumerate(CONFIGS.items())]


def test_a_weighted_sum_adds_the_sum_of_what_each_adds(three: list[Path], tmp_path: Path) -> None:
    made = combine(three, tmp_path / "sum", weights=[0.5, -1.5, 2.0])
    assert made.left_out == 0
    assert_added(tmp_path / "sum", summed(three, [0.5, -1.5, 2.0]))
    base = tiny_models.causal("llama")
    assert check_fits(base, tmp_path / "sum", None) == []


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_it_is_that_of_other_layers_too(kind: str, tmp_path: Path) -> None:
    targets = ["c_attn", "wte"] if kind == "gpt2" else ["q_proj", "up_proj"]
    targets = targets[:1] if kind == "gpt2" else targets
    own = [saved(tmp_path / str(seed), seed, kind, target_modules=targets, r=seed + 2) for seed in range(2)]
    combine(own, tmp_path / "sum")
    assert_added(tmp_path / "sum", summed(own, [0.5, 0.5], kind), kind)


def test_a_sum_cut_to_a_rank_is_the_nearest_of_that_rank(three: list[Path], tmp_path: Path) -> None:
    made = combine(three, tmp_path / "cut", how="svd", rank=3)
    whole = summed(three, [1 / 3] * 3)
    nearest, lost = {}, 0.0
    for name, tensor in whole.items():
        u, s, v = torch.linalg.svd(tensor.double(), full_matrices=False)
        nearest[name] = ((u[:, :3] * s[:3]) @ v[:3]).float()
        lost += float(s[3:].square().sum())
    assert_added(tmp_path / "cut", nearest)
    norm = sum(float(tensor.double().square().sum()) for tensor in whole.values())
    assert made.rank == 3
    assert made.left_out == pytest.approx((lost / norm) ** 0.5, rel=1e-4)
    assert combine(three, tmp_path / "whole", how="svd", rank=64).left_out == pytest.approx(0, abs=1e-6)
    assert_added(tmp_path / "whole", whole)


def test_ties_is_that_of_the_weights_and_not_of_the_factors(three: list[Path], tmp_path: Path) -> None:
    two, weights = three[:2], [0.7, 0.6]
    combine(two, tmp_path / "ties", how="ties", weights=weights, density=0.4, rank=64)
    each, expected = [added(folder) for folder in two], {}
    for name in {**each[0], **each[1]}:
        own = [(tensors[name], weight) for tensors, weight in zip(each, weights, strict=True) if name in tensors]
        by = torch.tensor([weight for _, weight in own])
        expected[name] = merge_utils.ties([tensor for tensor, _ in own], by, density=0.4)
    assert_added(tmp_path / "ties", expected)


def test_ties_of_one_adapter_and_itself_is_what_it_keeps_of_it(three: list[Path], tmp_path: Path) -> None:
    """TIES takes the mean of those that agree: without weights nothing is halved."""
    combine([three[0], three[0]], tmp_path / "ties", how="ties", density=0.5, rank=64)
    kept = {name: merge_utils.prune(tensor, 0.5, method="magnitude") for name, tensor in added(three[0]).items()}
    assert_added(tmp_path / "ties", kept)


def test_dare_is_that_of_the_weights_drawn_by_the_seed(tmp_path: Path) -> None:
    only: dict[str, Any] = {"target_modules": r".*layers\.1\.self_attn\.q_proj"}
    two = [saved(tmp_path / str(seed), seed, r=3 + seed, **only) for seed in range(2)]
    made = combine(two, tmp_path / "dare", how="dare", weights=[0.7, 0.6], density=0.4, rank=64, seed=3)
    each = [added(folder) for folder in two]
    [name] = each[0]
    with seeded(3):
        expected = merge_utils.dare_linear([tensors[name] for tensors in each], torch.tensor([0.7, 0.6]), density=0.4)
    assert_added(tmp_path / "dare", {name: expected})
    assert made.left_out == pytest.approx(0, abs=1e-6)
    combine(two, tmp_path / "cut", how="dare", weights=[0.7, 0.6], density=0.4, seed=4)
    assert not torch.allclose(added(tmp_path / "cut")[name], expected, atol=1e-2)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "use_dora: True"),
    "biases of B": ({"lora_bias": True}, "lora_bias: True"),
    "biases": ({"bias": "lora_only"}, "bias: lora_only"),
    "a head": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "tokens": ({"trainable_token_indices": [5]}, "trainable_token_indices"),
    "aLoRA": ({"alora_invocation_tokens": [7]}, "alora_invocation_tokens"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sum_of_products_is_refused(case: str, tmp_path: Path) -> None:
    settings, named = REFUSED[case]
    plain = saved(tmp_path / "plain", target_modules=["q_proj"])
    other = saved(tmp_path / "other", target_modules=["q_proj"], **settings)
    with pytest.raises(InputError, match=f"more than a sum of products .*{named}"):
        combine([plain, other], tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


def test_other_bases_tasks_shapes_and_options_are_refused(tmp_path: Path) -> None:
    one, two = (saved(tmp_path / str(seed), seed, target_modules=["q_proj"]) for seed in range(2))

    def changed(**changes: Any) -> Path:
        file = two / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return two

    for wrong, said in [
        ({"how": "linear"}, 'no way "linear"'),
        ({"weights": [1.0]}, "2 adapters and 1 weights"),
        ({"rank": 0}, "rank is 0"),
        ({"density": 0.5}, "a density goes with ties, dare"),
        ({"how": "ties"}, "a density goes with ties, dare"),
        ({"how": "dare", "density": 1.0}, "more than 0 and less than 1"),
    ]:
        with pytest.raises(InputError, match=said):
            combine([one, two], tmp_path / "sum", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least two"):
        combine([one], tmp_path / "sum")
    with pytest.raises(InputError, match=r"rank 8 at .*, and 3 by its config"):
        combine([one, changed(r=3)], tmp_path / "sum")
    with pytest.raises(InputError, match=r"made on .* and .* on other"):
        combine([one, changed(r=8, base_model_name_or_path="other")], tmp_path / "sum")
    with pytest.raises(InputError, match=r"made for CAUSAL_LM, and .* for SEQ_CLS"):
        named = json.loads((one / "adapter_config.json").read_text())["base_model_name_or_path"]
        combine([one, changed(base_model_name_or_path=named, task_type="SEQ_CLS")], tmp_path / "sum")
    (one / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(InputError, match=r"another chat_template\.jinja"):
        combine([one, changed(task_type="CAUSAL_LM")], tmp_path / "sum")


def test_the_command_combines_what_runs_made(tmp_path: Path) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    for seed, run in enumerate(runs):
        saved(run / "adapter", seed, target_modules=["q_proj"])
    done = CliRunner().invoke(command, [*map(str, runs), "--weights", "1,2", "--output", str(tmp_path / "merged")])
    assert done.exit_code == 0, done.output
    assert f"Adapter: {tmp_path / 'merged'} (rank 16)" in done.output
    assert_added(tmp_path / "merged", summed([run / "adapter" for run in runs], [1, 2]))
    wrong = CliRunner().invoke(command, [*map(str, runs), "--weights", "1,b", "--output", str(tmp_path / "x")])
    assert "numbers with commas" in wrong.output
