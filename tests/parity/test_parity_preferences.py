"""Preference losses: the same loss and gradients as TRL's trainers on the same pairs, and as a plain twin elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tiny_models
from tunelift.config.schema import PreferencesSection
from tunelift.core.errors import InputError, TuneliftError
from tunelift.core.records import Example, Liked, Rejected
from tunelift.fast import preferences
from tunelift.fast.preferences import Answers, Strength
from tunelift.fast.target_only import TargetOnly
from tunelift.tasks import TASKS
from tunelift.tasks.base import Row
from tunelift.tasks.preference import Before, Preference, parts_of

PROMPT = "the cat sat on the mat and looked at number"
PAIRS = [
    Example(str(i), f"{PROMPT} {i}:", f" good answer {'x' * (3 * i)}", wanted=Rejected(f" bad {i}")) for i in range(4)
]
SINGLES = [replace(example, wanted=Liked(i % 3 > 0)) for i, example in enumerate(PAIRS)]


def task_of(**settings: Any) -> Preference:
    made = TASKS.get("preference").with_settings(PreferencesSection(**settings))
    assert isinstance(made, Preference)
    return made


def rows_of(task: Preference, examples: list[Example], reference: Any = None, max_length: int = 100) -> list[Row]:
    rows, _ = task.rows(examples, tiny_models.tokenizer(), max_length, [])
    if reference is None:
        return rows
    known = (tuple(float(reference(ids, first)) for ids, first in parts_of(row)) for row in rows)
    return [replace(row, beside=Before(some, True)) for row, some in zip(rows, known, strict=True)]


def plainly(model: Any, ids: list[int], first: int) -> torch.Tensor:
    """Return the log-likelihood of the tokens from `first` on by the model's own logits, in a row of its own."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    return sum(logits[at - 1, ids[at]] for at in range(first, len(ids)))  # type: ignore[return-value]


def by_base(model: Any) -> Any:
    @torch.no_grad()
    def likely(ids: list[int], first: int) -> torch.Tensor:
        with model.disable_adapter():
            return plainly(model, ids, first)

    return likely


def gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    trained = [p for name, p in model.named_parameters() if p.requires_grad and ".ref." not in name]
    return torch.cat([p.grad.flatten() for p in trained])


def ours(model: Any, task: Preference, rows: list[Row], parts: int = 1) -> tuple[float, torch.Tensor]:
    """Return the mean loss and its gradient, over so many micro-batches."""
    loss, fast_paths = task.loss(model)
    assert fast_paths["target_only_head"] == "on"
    step = -(-len(rows) // parts)
    batches = [task.collate(rows[at : at + step], 1, torch.device("cpu")) for at in range(0, len(rows), step)]
    own = loss.over(batches)  # type: ignore[attr-defined]
    total = torch.stack([own(batch) for batch in batches]).sum() / len(rows)
    return float(total), gradients(model, total)


def agree(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    assert float((found[1] - expected[1]).abs().max() / expected[1].abs().max()) < 1e-5


@pytest.fixture
def trained() -> Any:
    """LoRA on linear layers that is no no-op: the same for both sides."""
    return tiny_models.adapted(tiny_models.causal("llama"))


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_loss_and_gradients_are_those_of_trl(name: str, trained: Any, tmp_path: Path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    task = task_of(loss=name, beta=0.2)
    rows = rows_of(task, PAIRS, by_base(trained))
    found = ours(trained, task, rows)

    settings = trl.DPOConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False, beta=0.2,
        loss_type=["sigmoid" if name == "dpo" else name], per_device_train_batch_size=4,
    )  # fmt: skip
    some = [{"prompt": e.prompt, "chosen": e.completion, "rejected": e.wanted.text} for e in PAIRS]  # type: ignore[union-attr]
    config = trained.peft_config["default"]
    base = tiny_models.causal("llama")
    trainer = trl.DPOTrainer(
        model=base, args=settings, train_dataset=datasets.Dataset.from_list(some),
        processing_class=tiny_models.tokenizer(), peft_config=config,
    )  # fmt: skip
    trainer.model.load_state_dict(trained.state_dict())
    batch = trainer.data_collator(list(trainer.train_dataset))
    chosen = [ids for row in rows for ids, _ in parts_of(row)[:1]]
    given = (batch[name].tolist() for name in ("input_ids", "attention_mask"))
    theirs = [ids[: sum(mask)] for ids, mask in zip(*given, strict=True)]
    assert theirs[:4] == chosen, "the same tokens, with BOS and EOS"
    loss = trainer.compute_loss(trainer.model, batch)
    agree(found, (float(loss), gradients(trainer.model, loss)))


def test_kto_is_that_of_trl(trained: Any, tmp_path: Path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    task = task_of(beta=0.2)
    assert task.loss_name(judged=True) == "kto"
    found = ours(trained, task, rows_of(task, SINGLES, by_base(trained)))
    settings = trl.KTOConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False, beta=0.2,
        per_device_train_batch_size=4,
    )  # fmt: skip
    some = [{"prompt": e.prompt, "completion": e.completion, "label": e.wanted.liked} for e in SINGLES]  # type: ignore[union-attr]
    trainer = trl.KTOTrainer(
        model=tiny_models.causal("llama"), args=settings, train_dataset=datasets.Dataset.from_list(some),
        processing_class=tiny_models.tokenizer(), peft_config=trained.peft_config["default"],
    )  # fmt: skip
    trainer.model.load_state_dict(trained.state_dict())
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    agree(found, (float(loss), gradients(trainer.model, loss)))


def test_formulas_without_a_reference_are_those_of_trl() -> None:
    of_cpo = pytest.importorskip("trl.experimental.cpo").CPOTrainer.cpo_loss
    of_orpo = pytest.importorskip("trl.experimental.orpo").ORPOTrainer.odds_ratio_loss
    how, nothing = Strength(beta=0.7, gamma=0.3), torch.zeros(3)
    sides = [
        Answers(torch.tensor([-3.0, -40.0, -0.2]), nothing, torch.tensor([2.0, 30.0, 4.0])),
        Answers(torch.tensor([-5.0, -20.0, -90.0]), nothing, torch.tensor([3.0, 25.0, 60.0])),
    ]
    chosen, rejected = sides
    own = SimpleNamespace(device="cpu")
    usual = {"alpha": 0.0, "beta": how.beta, "simpo_gamma": how.gamma, "label_smoothing": 0.0, "accelerator": own}
    simpo, *_ = of_cpo(SimpleNamespace(**usual, loss_type="simpo"), chosen.mean, rejected.mean)
    assert torch.allclose(preferences.simpo(*sides, how), simpo)
    cpo, *_ = of_cpo(SimpleNamespace(**usual, loss_type="sigmoid"), chosen.own, rejected.own)
    assert torch.allclose(preferences.cpo(*sides, how), cpo - chosen.mean)
    orpo, *_ = of_orpo(SimpleNamespace(beta=how.beta, accelerator=own), chosen.mean, rejected.mean)
    assert torch.allclose(preferences.orpo(*sides, how), -orpo - chosen.mean)


def twin(name: str, row: Row, model: Any, reference: Any, how: tuple[float, float]) -> torch.Tensor:
    """The formulas once more, as the papers write them, from probabilities of the stock forward pass."""
    beta, gamma = how
    (c, first_c), (r, first_r) = parts_of(row)
    own = [plainly(model, c, first_c), plainly(model, r, first_r)]
    ref = [reference(c, first_c), reference(r, first_r)]
    n = [len(c) - first_c, len(r) - first_r]
    p = [(one / count).exp() for one, count in zip(own, n, strict=True)]
    sigmoid = {
        "dpo": beta * (own[0] - ref[0] - own[1] + ref[1]),
        "cpo": beta * (own[0] - own[1]),
        "simpo": beta * (own[0] / n[0] - own[1] / n[1]) - gamma,
        "orpo": (p[0] / (1 - p[0]) / (p[1] / (1 - p[1]))).log(),
    }
    if name == "ipo":
        return ((own[0] - ref[0]) / n[0] - (own[1] - ref[1]) / n[1] - 1 / (2 * beta)) ** 2
    further = -own[0] / n[0] if name in ("cpo", "orpo") else 0.0
    return further - (beta if name == "orpo" else 1.0) * F.logsigmoid(sigmoid[name])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dpo", "gemma3_text"),
        ("ipo", "qwen3"),
        ("cpo", "gpt2"),
        ("simpo", "llama"),
        ("orpo", "gemma2"),
        ("dpo", "bloom"),
    ],
)
def test_loss_and_gradients_are_those_of_a_plain_twin(name: str, kind: str) -> None:
    model = tiny_models.adapted(tiny_models.causal(kind))
    more = {"gamma": 0.4} if name == "simpo" else {}
    task, reference = task_of(loss=name, beta=0.3, **more), by_base(model)
    rows = rows_of(task, PAIRS, reference)
    plain = sum(twin(name, row, model, reference, (0.3, 0.4)) for row in rows) / len(rows)
    expected = float(plain), gradients(model, plain)  # type: ignore[arg-type]
    agree(ours(model, task, rows), expected)
    agree(ours(model, task, rows, parts=3), expected)


def test_kto_takes_the_divergence_over_a_whole_step_however_it_is_split(trained: Any) -> None:
    task, reference = task_of(beta=0.3), by_base(trained)
    rows = rows_of(task, SINGLES, reference)
    own = [[plainly(trained, ids, at) - reference(ids, at) for ids, at in parts_of(row)] for row in rows]
    z = torch.stack([other for _, other in own]).mean().clamp(min=0).detach()
    sign = [1 if row.labels.liked else -1 for row in rows]
    losses = [1 - (0.3 * s * (one - z)).sigmoid() for s, (one, _) in zip(sign, own, strict=True)]
    plain = torch.stack(losses).mean()
    expected = float(plain), gradients(trained, plain)
    assert float(z) > 0
    agree(ours(trained, task, rows), expected)
    agree(ours(trained, task, rows, parts=4), expected)


def test_a_rejected_answer_sees_the_prompt_and_not_the_chosen_one(trained: Any) -> None:
    task = task_of()
    loss, _ = task.loss(trained)
    batch = task.collate(rows_of(task, PAIRS), 1, torch.device("cpu"))
    view = loss.view  # type: ignore[attr-defined]
    assert isinstance(view, TargetOnly)
    assert view.packs
    before = loss.likely(batch)  # type: ignore[attr-defined]
    changed = {name: value.clone() for name, value in batch.inputs.items()}
    learned = batch.labels[0] >= 0
    changed["input_ids"][0, learned] = changed["input_ids"][0, learned].flip(0)
    after = loss.likely(replace(batch, inputs=changed))  # type: ignore[attr-defined]
    assert torch.allclose(before[1:], after[1:], rtol=1e-6)
    assert abs(float(before[0] - after[0])) > 1e-3


def test_the_prompt_is_there_once_and_answers_are_cut() -> None:
    task, tokenizer = task_of(), tiny_models.tokenizer()
    row, *_ = rows_of(task, PAIRS)
    (chosen, first), (rejected, _) = parts_of(row)
    assert row.labels.shared == first - 1, "the token that predicts the first one is each answer's own"
    assert len(row.ids) == len(chosen) + len(rejected) - row.labels.shared
    assert tokenizer.decode(rejected).startswith(f"<s>{PROMPT} 0: bad 0")
    rows, report = task.rows(PAIRS, tokenizer, first + 3, [])
    assert report.truncated == len(rows) == 4
    assert all(len(ids) <= first + 3 for one in rows for ids, _ in parts_of(one))
    with pytest.raises(InputError, match="the prompt alone fills max_length"):
        task.rows(PAIRS, tokenizer, first - 2, [])


def test_a_reference_that_is_not_the_start_is_found_out(trained: Any) -> None:
    task = task_of(beta=0.5)
    loss, _ = task.loss(trained)

    def proved(reference: Any, by: Preference = task) -> Any:
        return by.proofs_of_start(trained, loss, by.collate(rows_of(by, PAIRS, reference), 1, torch.device("cpu")))

    with pytest.raises(TuneliftError, match="not what the training starts from"):
        proved(by_base(trained))  # the adapter acts from the start, as others than LoRA may
    assert proved(by_base(trained), task_of(beta=0.5, reference="base"))[0]["passed"]
    with pytest.raises(TuneliftError, match="not what it says"):
        proved(lambda ids, first: plainly(trained, ids, first))  # kept of another model than the base
    with torch.no_grad():
        for parameter_name, parameter in trained.named_parameters():
            if "lora_B" in parameter_name:
                parameter.zero_()
    (proof,) = proved(by_base(trained))
    assert f"{math.log(2):.6f}" in proof["detail"]
    assert proof["name"] == "the reference is the base"


def test_log1mexp_is_right_at_both_ends() -> None:
    x = torch.tensor([-1e-6, -0.1, -0.7, -5.0, -80.0], dtype=torch.float64, requires_grad=True)
    found = preferences.log1mexp(x)
    assert torch.allclose(found, torch.log(-torch.expm1(x)), rtol=1e-9)
    found.sum().backward()
    assert bool(x.grad.isfinite().all())  # type: ignore[union-attr]
    assert bool(preferences.log1mexp(torch.zeros(1)).isfinite().all())
