"""Proofs on a tune: the adapter on disk is that in memory and acts, the base is what it was, the loss is what it says.

Each proof is {"name", "passed", "detail"}. They are made on a few training rows by the product's own parts, looked at
from outside: what the adapter's file holds, what the labels decode to, what the stock forward pass gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from tunelift.adapters.methods import Method, method_of
from tunelift.adapters.store import read_adapter_config, read_lineage
from tunelift.core import progress, randomness
from tunelift.core.errors import InputError, TuneliftError, listed
from tunelift.core.records import Example
from tunelift.data.render import Renderer
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import NOT_A_NUMBER
from tunelift.fast.target_model import target_model
from tunelift.fast.undo import in_evaluation
from tunelift.fast.unpad import sped_up
from tunelift.model_facts.anatomy import context_length, pad_id
from tunelift.model_facts.parameters import is_wide
from tunelift.pipeline.session import Session
from tunelift.pipeline.whole import saved_model
from tunelift.run_files.layout import ADAPTER_WEIGHTS
from tunelift.tasks.base import Learned, Row
from tunelift.tasks.causal_lm import stops

ITEMS = 8
"""Training rows that the proofs are made on, the shortest: they fit the context wherever any does."""

ROWS_OF_ONE = 3
"""Rows at most of an example that makes several, such as a long document."""

OTHER_WAY = 1e-3
"""Relative rounding between two ways to one loss: rows together through the fast paths, and one by one through the
stock forward pass. In fp32 a trained adapter on 18 layers showed 1.2e-5; a token too many or too few shows 1e-2."""


class ProofFailed(TuneliftError):  # noqa: N818  what it says, as the manifest does
    """A proof failed: the adapter must not be relied on. `proofs` are all of them, passed or not, for the manifest."""

    def __init__(self, proofs: list[dict[str, Any]], folder: Path) -> None:
        self.proofs = proofs
        failed = [f"A proof failed: {p['name']}: {p['detail']}." for p in proofs if not p["passed"]]
        super().__init__(*failed, fix=f"The adapter in {folder} must not be relied on.")


def rows_to_prove_on(examples: Sequence[Example]) -> list[Example]:
    """Return the shortest few examples."""
    return sorted(examples, key=lambda example: len(example.prompt) + len(example.completion))[:ITEMS]


def likelihoods(session: Session, examples: Sequence[Example], max_length: int) -> list[float]:
    """Return the log-likelihood (nats) of each reference, as the session's model gives it now.

    It is NaN where the model gives no number, and 0 where a row has nothing to predict, whatever the model. Raises
    InputError where no row has anything.
    """
    plan = Plan([], task=session.task, labels=session.labels, max_length=max_length)  # values of rows, of metrics none
    with progress.silenced():
        rows = session.score(examples, plan, "prove").rows
    if all(row.get("unscored", NOT_A_NUMBER) != NOT_A_NUMBER for row in rows):
        raise InputError(
            f"The {len(rows)} shortest training rows have nothing to predict, so no adapter can be proved on them.",
            fix="Leave out rows of a single token, and rows that do not fit the context.",
        )
    return [math.nan if row.get("unscored") == NOT_A_NUMBER else row.get("log_likelihood", 0.0) for row in rows]


def prove(
    session: Session, folder: Path, examples: Sequence[Example], before: Sequence[float], max_length: int
) -> list[dict[str, Any]]:
    """Return the proofs, each {"name", "passed", "detail"}; raise ProofFailed, which holds them all, where one fails.

    `before` are the base's log-likelihoods of the same examples, taken before the training; they are not looked at
    where the adapter trains parameters of the base. Of a model whose own weights were trained the base is loaded again.
    """
    memory = likelihoods(session, examples, max_length)
    with session.base():
        base = likelihoods(session, examples, max_length)
    proofs = [
        _model_saved(session, folder) if session.whole else _saved(session, folder),
        _lineage(session, folder),
        _disk_equals_memory(session, folder, examples, memory, max_length),
        _apart_proof("training acts" if session.whole else "adapter acts", _apart(memory, base), 1e-7, at_most=False),
    ]
    if session.whole or not _trains_base(session):
        apart = _apart(base, before)
        proofs.append(_apart_proof("base unchanged by training", apart, _tolerance(session), at_most=True))
    proofs += _proofs_of_the_loss(session, examples, max_length)
    if not all(proof["passed"] for proof in proofs):
        raise ProofFailed(proofs, folder)
    return proofs


def _saved(session: Session, folder: Path) -> dict[str, Any]:
    """The file holds every tensor of the adapter, all finite, and none empty that began at random."""
    name = "adapter saved"
    try:
        read_adapter_config(folder)
        saved = load_file(folder / ADAPTER_WEIGHTS)
    except (InputError, OSError, SafetensorError) as error:
        return _proof(name, False, str(error).splitlines()[0].rstrip("."))
    model = session.model
    expected = get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
    trained = sum(parameter.requires_grad for parameter in model.parameters())
    method = _method(session)
    problems = {
        "missing": [key for key in expected if key not in saved],
        "of another shape": [k for k, t in expected.items() if k in saved and saved[k].shape != t.shape],
        "not finite": [key for key, tensor in saved.items() if not torch.isfinite(tensor).all()],
        "all zero": [k for k, t in saved.items() if _at_random(k, method) and t.numel() and not t.any()],
    }
    found = [f"{problem}: {listed(keys, 3)}" for problem, keys in problems.items() if keys]
    if len(saved) < trained and not method.virtual_tokens:  # of which one tensor is made from all that were trained
        found.append("fewer tensors than were trained")
    if not any(tensor.any() for tensor in saved.values()):
        found.append("every tensor is zero")
    return _proof(name, not found, "; ".join([f"{len(saved)} tensors for {trained} trained ones", *found]))


def _at_random(name: str, method: Method) -> bool:
    return bool({*name.split(".")} & {*method.begins_at_random})


def _model_saved(session: Session, folder: Path) -> dict[str, Any]:
    """A model read back from disk has every parameter of the one in memory, bit for bit, all finite."""
    name, expected = "model saved", dict(session.model.named_parameters())
    try:
        saved = dict(saved_model(folder, session.model, session.task).named_parameters())
    except (InputError, OSError, SafetensorError) as error:
        return _proof(name, False, str(error).splitlines()[0].rstrip("."))
    problems = {
        "missing": [key for key in expected if key not in saved],
        "not as in memory": [k for k, p in expected.items() if k in saved and not torch.equal(saved[k], p)],
        "not finite": [key for key, parameter in saved.items() if not torch.isfinite(parameter).all()],
    }
    found = [f"{problem}: {listed(keys, 3)}" for problem, keys in problems.items() if keys]
    return _proof(name, not found, "; ".join([f"{len(saved)} parameters", *found]))


def _lineage(session: Session, folder: Path) -> dict[str, Any]:
    """The files name the base that they were trained from: its weights by hash, and an adapter's where it is."""
    name, identity = f"{'model' if session.whole else 'adapter'} names its base", session.identity
    try:
        base, path = read_lineage(folder).get("base", {}), identity.path
        if not session.whole:
            path = str(read_adapter_config(folder).get("base_model_name_or_path"))
    except (InputError, OSError, ValueError) as error:
        return _proof(name, False, str(error).splitlines()[0].rstrip("."))
    named, right = base.get("weights_sha256"), identity.weights_sha256
    if named != right:
        return _proof(name, False, f"weights {str(named)[:12]} are named, and it was trained on {str(right)[:12]}")
    if path != identity.path:
        return _proof(name, False, f"adapter_config.json names {path!r}, and it was trained on {identity.path!r}")
    return _proof(name, True, f"weights {right[:12]}" if right else f"{path}, whose weights were given without a hash")


def _disk_equals_memory(
    session: Session, folder: Path, examples: Sequence[Example], memory: Sequence[float], max_length: int
) -> dict[str, Any]:
    """The adapter read back from disk gives the scores of the one in memory."""
    name = f"{'model' if session.whole else 'adapter'} on disk equals memory"
    try:
        disk = _reloaded(session, folder, examples, max_length)
    except (InputError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        return _proof(name, False, f"it cannot be read back: {str(error).splitlines()[0].rstrip('.')}")
    return _apart_proof(name, _apart(disk, memory), _tolerance(session), at_most=True)


def _reloaded(session: Session, folder: Path, examples: Sequence[Example], max_length: int) -> list[float]:
    """Return the log-likelihoods with the adapter read back from disk, beside the one in memory where two can stand."""
    if session.whole:
        with session.instead(saved_model(folder, session.model, session.task)):
            return likelihoods(session, examples, max_length)
    read_adapter_config(folder)  # without these files peft would look for the adapter on the Hub
    if _trains_base(session) or not _method(session).stands_beside:
        weights = load_peft_weights(str(folder), device=str(session.model.device))
        set_peft_model_state_dict(session.model, weights, adapter_name=session.model.active_adapter)
        return likelihoods(session, examples, max_length)
    active = session.model.active_adapter
    trainable = {name for name, parameter in session.model.named_parameters() if parameter.requires_grad}
    try:
        with randomness.seeded(0):  # peft draws weights before it reads those of the file
            session.model.load_adapter(str(folder), adapter_name="from_disk")
        session.model.set_adapter("from_disk")
        return likelihoods(session, examples, max_length)
    finally:
        if "from_disk" in session.model.peft_config:
            session.model.set_adapter(active)  # first: peft warns of deleting the active one
            session.model.delete_adapter("from_disk")
        session.model.set_adapter(active)  # again: where no layer is adapted, deleting leaves none active (peft 0.21)
        for name, parameter in session.model.named_parameters():
            parameter.requires_grad_(name in trainable)


def _proofs_of_the_loss(session: Session, examples: Sequence[Example], max_length: int) -> list[dict[str, Any]]:
    """What the labels say, where they end, and that the loss is taken over them and nothing else."""
    learned, rows = _as_trained(session, examples, max_length)
    if not learned:
        return []  # the shortest rows hold nothing to learn, as single tokens of plain text do
    task, tokenizer = session.task, session.tokenizer
    wrong = [row.example.id for row in learned if not task.says_the_answer(row, tokenizer, session.labels)]
    count = sum(row.targets for row in learned)
    detail = f"{count} labels of {len(learned)} rows" + (f"; wrong in {listed(wrong)}" if wrong else "")
    proofs = [_proof("labels are the answers", not wrong, detail)]
    if task.next_token:
        proofs.append(_ends(learned, tokenizer))
    return [*proofs, _loss(session, learned, rows)]


def _as_trained(session: Session, examples: Sequence[Example], max_length: int) -> tuple[list[Learned], list[Row]]:
    """Render and collate the examples as training does, each in a batch of its own, without those that it drops."""
    task, model, tokenizer = session.task, session.model, session.tokenizer
    longest, pad = min(max_length, context_length(model, tokenizer)), pad_id(model, tokenizer)
    learned, kept = [], []
    if any(example.conversation for example in examples):
        examples = [part for whole in examples for part in Renderer(tokenizer, longest).parts(whole)]
    for example in examples:
        try:
            rows, report = task.rows([example], tokenizer, longest, session.labels)
        except InputError:
            continue
        some = rows[:ROWS_OF_ONE]
        learned.append(Learned(example, task.collate(some, pad, model.device), report.truncated > 0 or some != rows))
        kept += some
    return learned, kept


def _ends(learned: Sequence[Learned], tokenizer: Any) -> dict[str, Any]:
    """Every row that was not cut teaches the model to stop."""
    name, whole = "the end is among the labels", [row for row in learned if not row.truncated]
    cut = f", {len(learned) - len(whole)} were cut" if len(whole) < len(learned) else ""
    if not any(Renderer(tokenizer, 1).stop_ids(row.example) for row in whole):
        return _proof(name, True, f"neither the tokenizer nor a template has an end token{cut}")
    right = sum(stops(row, tokenizer) for row in whole)
    return _proof(name, right == len(whole), f"{right} of {len(whole)} rows end with an end token{cut}")


def _loss(session: Session, learned: Sequence[Learned], rows: Sequence[Row]) -> dict[str, Any]:
    """The loss that training takes, over one batch, is that of the stock forward pass at the labels, row by row."""
    task, model = session.task, session.model
    with in_evaluation(model), torch.no_grad():
        plain = task.plain_losses(learned, model)
        with sped_up(model):
            batch = task.collate(rows, pad_id(model, session.tokenizer), model.device)
            taken = float(task.loss(model)[0](batch))
    allowed = max(OTHER_WAY, _tolerance(session)) * max(1.0, abs(plain))
    if not is_wide(model):
        # Rounded logits put each label's loss off by about as much however small it is, up or down.
        allowed = max(allowed, _tolerance(session) * batch.targets)
        if task.next_token:
            allowed = max(allowed, target_model(model)[0].nats * math.sqrt(batch.targets))
    detail = f"{taken:.6g} nats over {batch.targets} labels, by the stock forward pass {plain:.6g}"
    right = batch.targets == sum(row.targets for row in learned)
    return _proof("the loss is over the labels", right and abs(taken - plain) <= allowed, detail)


def _method(session: Session) -> Method:
    return method_of(session.model.active_peft_config)


def _trains_base(session: Session) -> bool:
    """Tell whether the adapter trains parameters of the base, which are then no longer the base's."""
    return _method(session).trains_base(session.model.active_peft_config)


def _apart(some: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest relative difference of two lists of log-likelihoods, NaN where any of them is."""
    found = [abs(a - b) / max(1.0, abs(b)) for a, b in zip(some, others, strict=True)]
    return math.nan if any(map(math.isnan, found)) else max(found)


def _tolerance(session: Session) -> float:
    """Relative noise of a score: of fp32, or of half precision, in which another batch may round otherwise."""
    return 1e-5 if is_wide(session.model) else 1e-2


def _apart_proof(name: str, apart: float, tolerance: float, *, at_most: bool) -> dict[str, Any]:
    if math.isnan(apart):
        return _proof(name, False, "some log-likelihoods are not numbers")
    passed = apart <= tolerance if at_most else apart > tolerance
    sign = "at most" if at_most else "more than"
    return _proof(name, passed, f"log-likelihoods differ by {apart:.1e}, allowed: {sign} {tolerance:g}")


def _proof(name: str, passed: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "passed": passed, "detail": detail}
