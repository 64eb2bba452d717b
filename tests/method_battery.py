"""What every PEFT method must hold on tiny models: one list of checks, for our rows and for anybody's.

A method is a row of `tunelift.adapters.methods.METHODS`; what its record says must be so, no more and no less. What it
is known to fail stands in the record with the reason; it must fail indeed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftConfig
from safetensors.torch import load_file
from torch import Tensor

import tiny_models
import tunelift
from small_rows import write_rows
from tunelift.adapters.build import count_parameters
from tunelift.adapters.methods import METHODS, Method, method_of
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.splits import load_splits
from tunelift.pipeline.choices import adapter_facts
from tunelift.pipeline.proofs import likelihoods, prove, rows_to_prove_on
from tunelift.pipeline.session import Session
from tunelift.run_files.layout import ADAPTER_WEIGHTS
from tunelift.tasks import TASKS, Task
from tunelift.training.run import train

LABELS = ["sports", "tech"]
KINDS = {"decoder": "causal-lm", "encoder": "sequence-classification"}
"""What every row is held to: a tiny Llama, and a tiny BERT that classifies."""
OTHERS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gemma3_text": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "mamba": {"state_size": 8},
}
"""Other causal models, with changes of their configs; `benchmarks/methods.py` holds every row to them."""
PROMPTS = ["ball 1", "code and data 12"]
IDS = ([5, 6, 7, 8, 9, 10, 11], [5, 7, 8])
SETTINGS = TrainSection(steps=10, learning_rate=0.02, batch_size=40, save_every=2, products="float32")
"""Whether products in int8 pay is a matter of time, so that on a busy machine two trainings may choose unlike ones."""

GIVEN = {"token_indices": [0, 5, 8]}
"""Keys that some methods need."""


class CutOffError(Exception):
    """The training ends here."""


@dataclass
class Bench:
    """A method on a tiny model of a kind, in a folder of its own; what is trained is trained once."""

    name: str
    kind: str
    folder: Path

    @property
    def method(self) -> Method:
        return METHODS.get(self.name)

    @property
    def keys(self) -> dict[str, Any]:
        return {"method": self.name, **{key: GIVEN[key] for key in self.method.needs}}

    @property
    def rounding(self) -> float:
        """Return how much more than others a kind shows of what is rounded."""
        return 10 if self.kind == "mamba" else 1

    @property
    def task(self) -> Task:
        return TASKS.get(KINDS.get(self.kind, "causal-lm"))

    @cached_property
    def base(self) -> Path:
        """Return the folder of the base: the encoder has no head yet."""
        path = self.folder / "base"
        if self.kind == "encoder":
            model = tiny_models.classifier(LABELS).base_model
            with torch.no_grad():  # all large enough to matter, biases too
                for parameter in model.parameters():
                    parameter.mul_(4) if parameter.dim() > 1 else parameter.add_(
                        torch.randn(parameter.shape), alpha=0.1
                    )
        else:
            model = tiny_models.causal(self.kind if self.kind in OTHERS else "llama", **OTHERS.get(self.kind, {}))
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):  # with an exponent of four times its logarithm Mamba shows rounding alone
                parameter.data.div_(4)
        for key in tiny_models.SIZES:  # peft looks at numbers that a config of this type does not have
            if not hasattr(type(model.config)(), key):
                delattr(model.config, key)
        model.save_pretrained(path)
        tiny_models.tokenizer().save_pretrained(path)
        return path

    @cached_property
    def rows(self) -> list[Example]:
        source = write_rows(self.folder / "train.csv", 40)
        return load_splits(DataSection(train=str(source)), reading=self.task.reading, roles=("train",)).train

    def session(self) -> Session:
        """Return the base, loaded anew."""
        labels = LABELS if self.kind == "encoder" else []
        session = Session.open(ModelSection(name=str(self.base), dtype="float32"), self.task, labels)
        session.will_train(self.rows, SETTINGS)
        session.model.requires_grad_(False)  # with which torch's convolutions round otherwise
        return session

    def begun(self) -> Session:
        """Return the base with a new adapter on."""
        session = self.session()
        session.attach(self.keys, 0)
        session.model.eval()
        return session

    def train(self, session: Session, checkpoints: Path | None = None, listeners: Any = ()) -> Session:
        train(
            session.model, session.tokenizer, self.task, {"train": self.rows}, SETTINGS,
            labels=session.labels, checkpoints=checkpoints, listeners=listeners,
        )  # fmt: skip
        return session

    @cached_property
    def tuned(self) -> Session:
        return self.train(self.begun())

    @cached_property
    def saved(self) -> Path:
        return self.tuned.save_adapter(self.folder / "adapter")

    def stock(self) -> Any:
        """Return the saved adapter as stock peft loads it."""
        if self.kind != "encoder":
            return AutoPeftModelForCausalLM.from_pretrained(self.saved, dtype=torch.float32).eval()
        loaded = AutoPeftModelForSequenceClassification.from_pretrained(self.saved, num_labels=2, dtype=torch.float32)
        return loaded.eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """Return a model's logits of some rows, each by itself, those of virtual tokens left out."""
    found = [model(input_ids=torch.tensor([ids])).logits[0] for ids in IDS]
    return torch.cat([own[-len(ids) :] if own.dim() == 2 else own[None] for own, ids in zip(found, IDS, strict=True)])


def alike(some: Tensor, others: Tensor, apart: float = 1e-5) -> bool:
    return torch.allclose(some, others, atol=apart, rtol=apart)


def builds(bench: Bench) -> None:
    """Its defaults suit the model, as is seen before anything is computed too, and there is something to train."""
    assert bench.session().check(bench.keys).saved > 0
    count = count_parameters(bench.begun().model)
    assert 0 < count.trainable < count.total


def begins_as_noop(bench: Bench) -> None:
    base = logits(bench.session().model)
    assert alike(logits(bench.begun().model), base, 1e-5 * bench.rounding) == bench.method.begins_as_noop


def trains(bench: Bench) -> None:
    """Every tensor moves that is trained, and the training rows become likelier."""
    before = dict(bench.begun().model.named_parameters())
    after = {name: p for name, p in bench.tuned.model.named_parameters() if p.requires_grad}
    still = [name for name, parameter in after.items() if torch.equal(parameter, before[name])]
    assert not still
    assert sum(likelihoods(bench.tuned, bench.rows, 1024)) > sum(likelihoods(bench.begun(), bench.rows, 1024))


def is_proved(bench: Bench) -> None:
    some = rows_to_prove_on(bench.rows)
    before = likelihoods(bench.session(), some, 1024)
    assert all(proof["passed"] for proof in prove(bench.tuned, bench.saved, some, before, 1024))


def switches_off(bench: Bench) -> None:
    """Bit for bit, before and after the training."""
    base, off = logits(bench.session().model), []
    for session in (bench.begun(), bench.tuned):
        with session.base():
            off.append(torch.equal(logits(session.model), base))
    assert all(off) == bench.method.switches_off


def loads_with_peft(bench: Bench) -> None:
    assert alike(logits(bench.stock()), logits(bench.tuned.model))


def loads_again(bench: Bench) -> None:
    """With ours, and to be trained on."""
    for trainable in (False, True):
        session = bench.session()
        session.load_adapter(bench.saved, trainable=trainable)
        assert alike(logits(session.model), logits(bench.tuned.model))


def says_what_it_is(bench: Bench) -> None:
    """The folder says what the adapter was made on and for, and which row it is of."""
    facts = adapter_facts(bench.saved)
    assert (facts["base"], facts["task"]) == (str(bench.base), bench.task.name)
    assert facts["labels"] == (LABELS if bench.kind == "encoder" else [])
    assert method_of(PeftConfig.from_pretrained(str(bench.saved))).peft_type == bench.method.peft_type


def merges(bench: Bench) -> None:
    model = bench.stock()
    adapted = logits(model)
    try:
        merged = alike(logits(model.merge_and_unload()), adapted, 1e-4 * bench.rounding)
    except Exception:  # whatever a method that cannot says
        merged = False
    assert merged == bench.method.merges


def stands_beside(bench: Bench) -> None:
    """Another adapter of its kind, loaded beside it: each acts alone when it is chosen."""
    other = bench.begun()
    model, alone, wanted = bench.stock(), logits(bench.tuned.model), logits(other.model)
    try:
        model.load_adapter(str(other.save_adapter(bench.folder / "other")), adapter_name="other")
        first = logits(model)
        model.set_adapter("other")
        second = logits(model)
        model.set_adapter("default")
        beside = alike(first, alone) and alike(second, wanted) and alike(logits(model), alone)
    except Exception:  # whatever a method that cannot says
        beside = False
    assert beside == bench.method.stands_beside


def resumes(bench: Bench) -> None:
    """A training that was cut off between two checkpoints goes on, and ends in the same bytes."""

    def cut_off(event: str, **figures: Any) -> None:
        if event == "train" and figures["step"] == 5:
            raise CutOffError

    checkpoints = bench.folder / "checkpoints"
    with pytest.raises(CutOffError):
        bench.train(bench.begun(), checkpoints, [cut_off])
    assert list(checkpoints.iterdir())
    again = bench.train(bench.begun(), checkpoints).save_adapter(bench.folder / "again")
    found, whole = load_file(again / ADAPTER_WEIGHTS), load_file(bench.saved / ADAPTER_WEIGHTS)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def answers_as_stock(bench: Bench) -> None:
    tokenizer, stock = bench.tuned.tokenizer, bench.stock()
    answers = tunelift.generate(bench.tuned.model, tokenizer, PROMPTS, max_new_tokens=6)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        said = stock.generate(**asked, max_new_tokens=6, do_sample=False, pad_token_id=1)
        assert answer["tuned"] == tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)


CHECKS: dict[str, Callable[[Bench], None]] = {
    check.__name__: check
    for check in (
        *(builds, begins_as_noop, trains, is_proved, switches_off, loads_with_peft, loads_again, says_what_it_is),
        *(merges, stands_beside, resumes, answers_as_stock),
    )
}
NOT_OF = {"answers_as_stock": "encoder"}
"""Checks that one kind of model cannot be held to."""


def cases(name: str, kinds: Iterable[str] = KINDS) -> Iterator[tuple[str, str, str | None]]:
    """Yield each check of a method by its kind of model and its name, with the reason why it is known to fail."""
    known = METHODS.get(name).known_failures
    for kind in kinds:
        if METHODS.get(name).needs_head and kind != "encoder":
            continue
        built = f"builds ({kind})" not in known
        for check in CHECKS if built else ["builds"]:  # what is refused is held to nothing else
            if NOT_OF.get(check) != kind:
                yield kind, check, known.get(f"{check} ({kind})", known.get(check))


def hold(name: str, folder: Path, kinds: Iterable[str] = KINDS) -> list[str]:
    """Hold somebody's row to every check; return what is wrong: each that fails, or passes and is said to fail."""
    benches = {kind: Bench(name, kind, folder / kind) for kind in kinds}
    wrong = []
    for kind, check, known in cases(name, kinds):
        benches[kind].folder.mkdir(exist_ok=True)
        with progress.silenced():
            try:
                CHECKS[check](benches[kind])
                failed = ""
            except Exception as error:  # every check says its own
                failed = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if failed and known is None:
            wrong.append(f"{check} ({kind}) fails: {failed}")
        if known is not None and not failed:
            wrong.append(f"{check} ({kind}) passes, and is said to fail: {known}")
    return wrong


def refusal(bench: Bench) -> str:
    """Return why a row is refused for a model before anything is computed, nothing where it is not."""
    bench.folder.mkdir(exist_ok=True)
    try:
        with progress.silenced():
            bench.session().check(bench.keys)
    except InputError as error:
        return str(error).partition("\n")[0]
    return ""
