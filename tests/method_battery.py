"""What every PEFT method must hold on tiny models: one list of checks, for our rows and for anybody's.

A method is a row of `tunelift.adapters.methods.METHODS`; what its record says must be so, no more and no less. What it
is known to fail stands in the record with the reason; it must fail indeed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

import tiny_models
import tunelift
from small_rows import write_rows
from tunelift.adapters.build import count_parameters
from tunelift.adapters.methods import METHODS, method_of
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.splits import load_splits
from tunelift.model_facts.parameters import compute_dtype, dtype_name
from tunelift.pipeline import trying
from tunelift.pipeline.choices import adapter_facts
from tunelift.pipeline.proofs import likelihoods, prove, rows_to_prove_on
from tunelift.pipeline.session import Session
from tunelift.pipeline.trying import Trial, alike, logits
from tunelift.run_files.layout import ADAPTER_WEIGHTS
from tunelift.tasks import TASKS, Task
from tunelift.training.run import train

LABELS = ["sports", "tech"]
KINDS = {"decoder": "causal-lm", "encoder": "sequence-classification"}
"""What every row is held to: a tiny Llama, and a tiny BERT that classifies."""


def acting(session: Session, name: str) -> Any:
    """Attach a method's adapter that changes what the model says, the same for the same name; return the model."""
    session.training = 100, 10
    session.attach({"method": name, **METHODS.get(name).tried_with}, 0)
    torch.manual_seed(0)
    for p in session.model.parameters():
        if p.requires_grad:
            p.data += 0.05 * torch.randn_like(p)
    return session.model.eval()


OTHERS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gemma3_text": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "mamba": {"state_size": 8},
}
"""Other causal models, with changes of their configs; `benchmarks/methods.py` holds every row to them."""
UNBIASED = ("decoder", "gemma3_text", "qwen3_moe", "mamba")
REWRITTEN = {"reads_what_stock_saves": "stock peft saves it for a base that it has rewritten"}
KIN: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "rsLoRA": ({"use_rslora": True}, {}),
    "DoRA": ({"use_dora": True}, {}),
    "QALoRA": ({"use_qalora": True, "qalora_group_size": 4}, {}),
    "aLoRA": ({"alora_invocation_tokens": [202]}, {"merges": "it acts on a part of each row"}),  # of every prompt's
    "biases of B": ({"lora_bias": True}, {f"merges ({kind})": "layers have no bias to add it to" for kind in UNBIASED}),
    "patterns of ranks": ({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 3}}, {}),
    "PiSSA": ({"init_lora_weights": "pissa"}, REWRITTEN),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, REWRITTEN),
    "CorDA": ({"init_lora_weights": "corda"}, REWRITTEN),
    "EVA": ({"init_lora_weights": "eva"}, {}),
    "VeLoRA": ({"velora_config": {"num_groups": 4}}, {}),
    "weights of experts": ({"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}, {}),
}
"""LoRA's kin: settings that make it another method, and the checks that it fails with them, each with the reason."""
ONLY = {"weights of experts": ("qwen3_moe",), "aLoRA": ("decoder", *OTHERS)}
"""Kinds of models that a setting is for; a classifier's rows have no prompt with a token to begin at."""
PROMPTS = ["ball 1", "code and data 12"]
SETTINGS = TrainSection(steps=10, learning_rate=0.02, batch_size=40, save_every=2, products="float32")
"""Whether products in int8 pay is a matter of time, so that on a busy machine two trainings may choose unlike ones."""


RATES = {("tinylora", "mamba"): 0.005, ("corda", "encoder"): 0.002}
"""Learning rates where ten steps at that of the settings overshoot, by method, or LoRA's beginning, and model."""


class CutOffError(Exception):
    """The training ends here."""


@dataclass
class Bench(Trial):
    """A method on a tiny model of a kind, in a folder of its own; what is trained is trained once."""

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)
    """Checks that it is known to fail with these settings, each with the reason."""
    kills: bool = False
    """Whether a training is cut off by a real SIGKILL, in a process that is forked: torch must have one thread then."""

    @property
    def keys(self) -> dict[str, Any]:
        return {**super().keys, **self.settings}

    @property
    def bare(self) -> bool:
        """Tell whether the model has no head, and continues text."""
        return self.kind != "encoder"

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

    def session(self, dtype: str = "float32") -> Session:
        """Return the base, loaded anew."""
        labels = LABELS if self.kind == "encoder" else []
        session = Session.open(ModelSection(name=str(self.base), dtype=dtype), self.task, labels)
        session.will_train(self.rows, SETTINGS)
        session.model.requires_grad_(False)  # with which torch's convolutions round otherwise
        return session

    def train(self, session: Session, checkpoints: Path | None = None, listeners: Any = ()) -> Session:
        called = str(self.settings.get("init_lora_weights", self.name))
        rate = RATES.get((called, self.kind), SETTINGS.learning_rate)
        products = dtype_name(compute_dtype(session.model))
        settings = SETTINGS.model_copy(update={"learning_rate": rate, "products": products})
        train(
            session.model, session.tokenizer, self.task, {"train": self.rows}, settings,
            labels=session.labels, checkpoints=checkpoints, listeners=listeners,
        )  # fmt: skip
        return session

    def stock_base(self, dtype: torch.dtype = torch.float32) -> Any:
        auto = getattr(transformers, self.task.auto_class)
        return auto.from_pretrained(self.base, dtype=dtype, **({} if self.bare else {"num_labels": 2})).eval()


def builds(bench: Bench) -> None:
    """Its defaults suit the model, as is seen before anything is computed too, and there is something to train."""
    assert bench.session().check(bench.keys).saved > 0
    count = count_parameters(bench.begun().model)
    assert 0 < count.trainable < count.total


def begins_as_noop(bench: Bench) -> None:
    assert trying.begins_as_base(bench) == bench.method.begins_as_noop


def trains(bench: Bench) -> None:
    """Every tensor moves that is trained, and the training rows become likelier."""
    assert not trying.still(bench)
    assert sum(likelihoods(bench.tuned, bench.rows, 1024)) > sum(likelihoods(bench.begun(), bench.rows, 1024))


def is_proved(bench: Bench) -> None:
    some = rows_to_prove_on(bench.rows)
    before = likelihoods(bench.session(), some, 1024)
    assert all(proof["passed"] for proof in prove(bench.tuned, bench.saved, some, before, 1024))


def switches_off(bench: Bench) -> None:
    """Bit for bit, before and after the training."""
    assert trying.switches_off(bench) == bench.method.switches_off


def loads_with_peft(bench: Bench) -> None:
    assert trying.loads_with_peft(bench)


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
    assert trying.merges(bench) == bench.method.merges


def stands_beside(bench: Bench) -> None:
    """Another adapter of its kind, loaded beside it: each acts alone when it is chosen."""
    assert trying.stands_beside(bench) == bench.method.stands_beside


def resumes(bench: Bench) -> None:
    """A training that was cut off between two checkpoints goes on, and ends in the same bytes."""
    checkpoints = bench.folder / "checkpoints"
    (_kill if bench.kills else _cut_off)(bench, checkpoints)
    assert list(checkpoints.iterdir())
    again = bench.train(bench.begun(), checkpoints).save_adapter(bench.folder / "again")
    found, whole = load_file(again / ADAPTER_WEIGHTS), load_file(bench.saved / ADAPTER_WEIGHTS)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def _cut_off(bench: Bench, checkpoints: Path) -> None:
    def cut_off(event: str, **figures: Any) -> None:
        if event == "train" and figures["step"] == 5:
            raise CutOffError

    with pytest.raises(CutOffError):
        bench.train(bench.begun(), checkpoints, [cut_off])


def _kill(bench: Bench, checkpoints: Path) -> None:
    def kill(event: str, **figures: Any) -> None:
        if event == "train" and figures["step"] == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            bench.train(bench.begun(), checkpoints, [kill])
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def answers_as_stock(bench: Bench) -> None:
    tokenizer, stock = bench.tuned.tokenizer, bench.stock()
    answers = tunelift.generate(bench.tuned.model, tokenizer, PROMPTS, max_new_tokens=6)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        said = stock.generate(**asked, max_new_tokens=6, do_sample=False, pad_token_id=1)
        assert answer["tuned"] == tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)


def reads_what_stock_saves(bench: Bench) -> None:
    """An adapter that stock peft made and saved gives the same here."""
    config = bench.session()._peft_config(bench.keys)
    model = get_peft_model(bench.stock_base(), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(bench.folder / "stock")
    session = bench.session()
    session.load_adapter(bench.folder / "stock")
    assert alike(logits(session.model), logits(model.eval()), 1e-5 * bench.rounding)


def rows_are_what_they_are_alone(bench: Bench) -> None:
    """Rows and answers of unlike lengths, together and one by one."""
    rows = sorted(bench.rows, key=lambda row: len(row.prompt))
    rows = [*rows[:3], *rows[-3:]]
    alone = [likelihoods(bench.tuned, [row], 1024)[0] for row in rows]
    for one, other in zip(likelihoods(bench.tuned, rows, 1024), alone, strict=True):
        assert abs(one - other) <= 1e-5 * bench.rounding * max(1, abs(other))
    if bench.bare:
        asked = {"max_new_tokens": 6}
        model, tokenizer = bench.tuned.model, bench.tuned.tokenizer
        one_by_one = [tunelift.generate(model, tokenizer, [prompt], **asked)[0]["tuned"] for prompt in PROMPTS]
        assert [one["tuned"] for one in tunelift.generate(model, tokenizer, PROMPTS, **asked)] == one_by_one


def in_bfloat16(bench: Bench) -> None:
    """On a base in bfloat16 the proofs hold, and stock peft gives what the model in memory does, but for rounding."""
    session, some = bench.session("bfloat16"), rows_to_prove_on(bench.rows)
    before = likelihoods(session, some, 1024)
    session.attach(bench.keys, 0)
    bench.train(session)
    folder = session.save_adapter(bench.folder / "bfloat16")
    assert all(proof["passed"] for proof in prove(session, folder, some, before, 1024))
    stock = PeftModel.from_pretrained(bench.stock_base(torch.bfloat16), str(folder)).eval()
    assert alike(logits(stock).float(), logits(session.model.eval()).float(), 2.0**-7)


CHECKS: dict[str, Callable[[Bench], None]] = {
    check.__name__: check
    for check in (
        *(builds, begins_as_noop, trains, is_proved, switches_off, loads_with_peft, loads_again, says_what_it_is),
        *(merges, stands_beside, resumes, answers_as_stock),
    )
}
WHOLE = CHECKS | {
    check.__name__: check for check in (reads_what_stock_saves, rows_are_what_they_are_alone, in_bfloat16)
}
"""What `benchmarks/methods.py` holds every row to, on every kind of model."""
NOT_OF = {"answers_as_stock": "encoder"}
"""Checks that one kind of model cannot be held to."""


def cases(
    name: str, kinds: Iterable[str] = KINDS, checks: Iterable[str] = CHECKS
) -> Iterator[tuple[str, str, str | None]]:
    """Yield each check of a method by its kind of model and its name, with the reason why it is known to fail."""
    known = METHODS.get(name).known_failures
    for kind in kinds:
        if METHODS.get(name).needs_head and kind != "encoder":
            continue
        built = f"builds ({kind})" not in known
        for check in checks if built else ["builds"]:  # what is refused is held to nothing else
            if NOT_OF.get(check) != kind:
                yield kind, check, known.get(f"{check} ({kind})", known.get(check))


def hold(name: str, folder: Path, kinds: Iterable[str] = KINDS) -> list[str]:
    """Hold somebody's row to every check; return what is wrong: each that fails, or passes and is said to fail."""
    return [wrong for kind in kinds for wrong in held(Bench(name, folder / kind, kind))]


def held(bench: Bench, checks: Iterable[str] = CHECKS) -> list[str]:
    """Return the same of one kind of model."""
    bench.folder.mkdir(parents=True, exist_ok=True)
    wrong = []
    for kind, check, of_row in cases(bench.name, [bench.kind], checks):
        known = bench.known.get(f"{check} ({kind})", bench.known.get(check, of_row))
        with progress.silenced():
            try:
                WHOLE[check](bench)
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
    bench.folder.mkdir(parents=True, exist_ok=True)
    try:
        with progress.silenced():
            bench.session().check(bench.keys)
    except InputError as error:
        return str(error).partition("\n")[0]
    return ""
