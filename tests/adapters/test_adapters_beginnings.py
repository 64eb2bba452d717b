"""PiSSA, OLoRA, LoRA-GA, CorDA and EVA beside an unchanged base: peft's own training, and stock peft reads it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model, initialize_lora_eva_weights, preprocess_loraga
from peft.tuners.lora.corda import preprocess_corda
from torch import nn

import tiny_models
import tunelift
from method_battery import Bench, held
from small_rows import write_rows
from tunelift.adapters.beginnings import held_in
from tunelift.adapters.build import attach, check_keys, count_parameters, switched_off
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.data.splits import load_splits
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS
from tunelift.training.run import train

TASK = TASKS.get("causal-lm")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
STOCK = """
import sys, torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    print(model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10, 11]])).logits.flatten().tolist())
"""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "PiSSA": ("llama", {"init_lora_weights": "pissa"}),
    "OLoRA": ("llama", {"init_lora_weights": "olora"}),
    "PiSSA, rsLoRA": ("llama", {"init_lora_weights": "pissa", "use_rslora": True}),
    "PiSSA, patterns": (
        "llama",
        {"init_lora_weights": "pissa", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    ),
    "PiSSA, DoRA": ("llama", {"init_lora_weights": "pissa", "use_dora": True}),
    "PiSSA on Conv1D": ("gpt2", {"init_lora_weights": "pissa", "target_modules": ["c_attn", "c_proj"]}),
    "LoRA-GA": ("llama", {"init_lora_weights": "lora_ga"}),
    "LoRA-GA on Conv1D, settings": (
        "gpt2",
        {
            **{"init_lora_weights": "lora_ga", "target_modules": ["c_attn", "c_proj"], "use_rslora": True},
            "lora_ga_config": {"direction": "ArBr", "scale": "gd_scale"},
        },
    ),
    "CorDA": ("llama", {"init_lora_weights": "corda"}),
    "CorDA on Conv1D, patterns": (
        "gpt2",
        {
            **{"init_lora_weights": "corda", "target_modules": ["c_attn", "c_proj"], "use_rslora": True},
            "rank_pattern": {"c_attn": 2},
        },
    ),
    "EVA": ("llama", {"init_lora_weights": "eva"}),
}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=IDS).logits[0]
    return found


def base_of(kind: str) -> Any:
    return tiny_models.causal(kind, **(tiny_models.NO_DROPOUT if kind == "gpt2" else {}))


def opened(folder: Path, kind: str = "llama") -> Session:
    base_of(kind).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return Session.open(ModelSection(name=str(folder), dtype="float32"), TASK)


def rows_of(folder: Path) -> Any:
    source = write_rows(folder / "train.csv", 24)
    return load_splits(DataSection(train=str(source)), reading=TASK.reading, roles=("train",)).train


SETTINGS = TrainSection(
    steps=3, batch_size=24, learning_rate=3e-3, schedule="constant", warmup=0.0, epochs=9, weight_decay=0.1,
    products="float32",
)  # fmt: skip


def trained_by_peft(session: Session, rows: Any, kind: str, settings: Mapping[str, Any]) -> tuple[Any, list[float]]:
    """Return stock peft's model, of which the base is rewritten, after three steps of plain torch, and the losses."""
    config, base = LoraConfig(task_type="CAUSAL_LM", **settings), base_of(kind)
    rendered, _ = TASK.rows(rows, session.tokenizer, 128, [])
    batch = TASK.collate(rendered, 1, torch.device("cpu"))
    first = [TASK.collate(rendered[at : at + 8], 1, torch.device("cpu")) for at in range(0, len(rendered), 8)]
    if config.init_lora_weights == "lora_ga":
        config.lora_ga_config = config.lora_ga_config or LoraGAConfig()
        preprocess_loraga(
            base, config, lambda: [base(**part.inputs, labels=part.labels).loss.backward() for part in first]
        )
    if config.init_lora_weights == "corda":
        alone = [TASK.collate([row], 1, torch.device("cpu")) for row in rendered]
        preprocess_corda(base, config, lambda: [base(**row.inputs) for row in alone] and None)
    model = get_peft_model(base, config)
    if config.init_lora_weights == "eva":
        dicts = [{**part.inputs, "labels": part.labels} for part in first]
        initialize_lora_eva_weights(model, dicts, forward_fn=_without_labels, show_progress_bar=False)
    moved = [p for p in model.parameters() if p.requires_grad]
    optimiser, losses = torch.optim.AdamW(moved, lr=3e-3, weight_decay=0.1), []
    model.train()
    for _ in range(3):
        found = model(**batch.inputs).logits
        loss = nn.functional.cross_entropy(found[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(moved, 1.0)
        optimiser.step()
        losses.append(float(loss))
    return model, losses


def _without_labels(model: Any, inputs: Mapping[str, torch.Tensor]) -> Any:
    return model(**{name: value for name, value in inputs.items() if name != "labels"})


def _exactly(matrix: torch.Tensor, q: int = 6, niter: int = 2) -> tuple[torch.Tensor, ...]:
    """Stand in for torch.svd_lowrank, which draws, so that both sides have the same signs."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :q], s[:q], v[:q].T


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_training_of_peft_beside_an_unchanged_base(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, more = CASES[case]
    monkeypatch.setattr(torch, "svd_lowrank", _exactly)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **more}
    session, rows, base = opened(tmp_path / "model", kind), rows_of(tmp_path), base_of(kind)
    weights = {name: p.clone() for name, p in session.model.named_parameters()}
    before = logits(session.model)
    session.will_train(rows, SETTINGS)
    session.attach(settings, 0)
    assert torch.allclose(logits(session.model), before, atol=1e-5)

    losses = list[float]()
    train(
        session.model, session.tokenizer, TASK, {"train": rows}, SETTINGS,
        listeners=[lambda event, **figures: losses.append(figures["loss"]) if event == "train" else None],
    )  # fmt: skip
    peft_model, expected = trained_by_peft(session, rows, kind, settings)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0]
    assert torch.allclose(logits(session.model), logits(peft_model), atol=2e-4, rtol=1e-4)
    assert count_parameters(session.model).trainable == count_parameters(peft_model).trainable

    for one in held_in(session.model):
        assert torch.equal(one.part, one.values)
    for name, parameter in session.model.get_base_model().named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, weights[name.replace(".base_layer", "")])
    with switched_off(session.model):
        assert torch.equal(logits(session.model), logits(base))

    folder = session.save_adapter(tmp_path / "adapter")
    done = subprocess.run(
        [sys.executable, "-c", STOCK, str(folder)], capture_output=True, text=True, check=True, timeout=120
    )
    found = torch.tensor([float(value) for value in done.stdout.strip().strip("[]").split(",")])
    assert torch.allclose(found, logits(session.model).flatten(), atol=1e-5, rtol=1e-5)


def test_a_fast_beginning_is_drawn_by_the_seed(tmp_path: Path) -> None:
    keys = {"init_lora_weights": "pissa_niter_4", "r": 4, "target_modules": ["q_proj"]}
    config = LoraConfig(task_type="CAUSAL_LM", **keys)
    one, same, other = ([held.values for held in held_in(attach(base_of("llama"), config, seed))] for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert check_keys(keys) == []


def test_what_begins_otherwise_does_not_go_on_from_its_checkpoints(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    for how in ("pissa", "olora"):
        model = attach(base_of("llama"), LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=how), 0)
        where = {"checkpoints": tmp_path / "checkpoints"}
        if how == "pissa":
            train(model, tiny_models.tokenizer(), TASK, {"train": rows}, SETTINGS, **where)
        else:
            with pytest.raises(InputError, match="is of another training"):
                train(model, tiny_models.tokenizer(), TASK, {"train": rows}, SETTINGS, **where)


@pytest.mark.parametrize(
    ("kind", "keys", "said"),
    [
        ("llama", {"init_lora_weights": "pissa", "r": 40}, r"q_proj \(32 x 32\) has no pissa of rank 40"),
        (
            "llama",
            {"init_lora_weights": "olora", "target_modules": ["embed_tokens"]},
            r"embed_tokens is no linear layer \(Embedding\)",
        ),
        ("gpt2", {"init_lora_weights": "olora", "target_modules": ["c_attn"]}, "a Conv1D, the wrong way round"),
        ("llama", {"init_lora_weights": "corda", "corda_config": {"corda_method": "kpm"}}, "kpm keeps what other rows"),
    ],
)
def test_what_has_no_such_beginning_is_refused_before(
    kind: str, keys: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        opened(tmp_path / "model", kind).check({"method": "lora", **keys})


@pytest.mark.parametrize("how", ["CorDA", "loftq", "mica", "pissa_niter_0", "PiSSA", "OLoRA"])
def test_other_beginnings_are_refused(how: str) -> None:
    (said,) = check_keys({"init_lora_weights": how})
    assert f"adapter.init_lora_weights: '{how}' is not" in said


def test_what_has_too_little_to_begin_with_is_refused(tmp_path: Path) -> None:
    session, rows = opened(tmp_path / "model"), rows_of(tmp_path)
    session.will_train(rows[:1], SETTINGS)
    keys = {"target_modules": ["q_proj"], "r": 8}
    with pytest.raises(InputError, match="eva looks for 16 vectors"):
        session.attach({**keys, "init_lora_weights": "eva"}, 0)
    with pytest.raises(InputError, match="has no lora_ga of rank 17"):
        session.check({**keys, "init_lora_weights": "lora_ga", "r": 17})
    session.model.lm_head.weight.data.zero_()
    with pytest.raises(InputError, match="no gradient at"):
        session.attach({**keys, "init_lora_weights": "lora_ga"}, 0)


def test_eva_begins_under_a_head_too(tmp_path: Path) -> None:
    """Where a pooler takes a vector a row, and the head stays in the base's precision."""
    bench = Bench("lora", tmp_path / "encoder", "encoder", {"init_lora_weights": "eva"})
    assert held(bench, ["builds", "begins_as_noop", "in_bfloat16"]) == []


def test_eva_is_still_wrong_in_peft() -> None:
    """peft 0.21.2: too few tokens are waited for for ever, and layers of another rank are in the base's precision."""
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"], init_lora_weights="eva", r=4)
    asked = 0

    def forward(model: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        nonlocal asked
        asked += 1
        if asked > 50:
            raise TimeoutError
        _without_labels(model, inputs)

    def begun(ids: torch.Tensor, dtype: torch.dtype) -> Any:
        model = get_peft_model(base_of("llama").to(dtype), config)
        rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        initialize_lora_eva_weights(model, [rows], forward_fn=forward, show_progress_bar=False)
        return model

    with pytest.raises(TimeoutError):
        begun(IDS, torch.float32)
    asked = 0
    torch.manual_seed(0)
    trained = [p for p in begun(torch.randint(3, 60, (4, 30)), torch.bfloat16).parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32, torch.bfloat16}


def test_python_is_given_a_ready_config_too(tmp_path: Path) -> None:
    base_of("llama").save_pretrained(tmp_path / "model")
    tiny_models.tokenizer().save_pretrained(tmp_path / "model")
    model, tokenizer = tunelift.load(str(tmp_path / "model"), dtype="float32")
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa")
    source, out = write_rows(tmp_path / "train.csv", 24), tmp_path / "out"
    tuned = tunelift.tune(model, tokenizer, str(source), adapter=config, output=out, steps=2, learning_rate=0.01)
    again, _ = tunelift.load(str(tmp_path / "model"), adapter=out / "adapter", dtype="float32")
    assert torch.allclose(logits(again), logits(tuned), atol=1e-5)
