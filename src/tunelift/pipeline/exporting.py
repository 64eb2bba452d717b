"""A run exported: its model loaded in 32 bits, the test items made into rows, and the export written and proved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunelift.adapters.new_tokens import grown_to
from tunelift.config.schema import Config
from tunelift.core import files, progress
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.exporting import manifest
from tunelift.exporting.checking import Asked
from tunelift.exporting.equality import Item, Scores
from tunelift.exporting.gguf_weights import TYPES
from tunelift.exporting.made import Made, Rows, values
from tunelift.exporting.merging import untied_bytes
from tunelift.exporting.space import alone, check_space
from tunelift.exporting.to_gguf import GGUF_TYPES, check_gguf, check_lora_gguf, to_gguf, to_lora_gguf
from tunelift.exporting.to_mlx import check_mlx, to_mlx_adapter
from tunelift.exporting.to_onnx import TYPES as ONNX_TYPES
from tunelift.exporting.to_onnx import check_onnx, to_onnx
from tunelift.exporting.to_sentence_transformers import check_sentence, to_sentence_transformers
from tunelift.exporting.to_transformers import check_merged, to_merged
from tunelift.fast.targets import IGNORED
from tunelift.fast.undo import in_evaluation
from tunelift.model_facts.anatomy import base_of
from tunelift.pipeline import choices
from tunelift.pipeline.exported_texts import text_rows
from tunelift.pipeline.session import Session
from tunelift.pipeline.stages import from_run_folder
from tunelift.pipeline.whole import tuned_hash
from tunelift.run_files.layout import is_adapter
from tunelift.tasks import TASKS, Task

PROVED = (
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
)
"""The classes of transformers that `stock.values_of` asks as they are trained: one row of tokens in, numbers out."""

PROOF_ITEMS, PROOF_TARGETS = 12, 16
"""Test items that an export is proved on, and tokens of each: half from the beginning, half from the end."""

TEST_TARGETS = 64
"""Tokens of each test item that a rounded file is judged by, from the beginning of what is learned."""

MOST_LABELS = 20
"""With more labels a rounded file is judged by its loss alone."""


@dataclass(frozen=True)
class Kind:
    """One thing to export to: what it refuses before anything is written, how it is written and proved, and how many
    times the weights in 32 bits it needs on the disk meanwhile."""

    check: Callable[[Made, str], Any]
    write: Callable[[Made, Rows, Path, str], None]
    room: float
    types: Sequence[str] = tuple(TYPES)


KINDS = {
    "merged": Kind(check_merged, to_merged, 1),
    "gguf": Kind(check_gguf, to_gguf, 3, GGUF_TYPES),
    "lora-gguf": Kind(check_lora_gguf, to_lora_gguf, 1),
    "mlx": Kind(check_mlx, to_mlx_adapter, 2),
    "onnx": Kind(check_onnx, to_onnx, 3, ONNX_TYPES),
    "sentence-transformers": Kind(check_sentence, to_sentence_transformers, 1),
}


def export_stage(run: str | Path, to: str, output: str | Path | None, kind: str = "f32", items: int = 64) -> Path:
    """Export what a run tuned, prove it on the run's test items where its runtime is here, and return its folder.

    `kind` is the type of the weights. Raises InputError for what cannot be right, before anything is written, and
    ExportFailed where what was written does not do what was measured; then nothing is kept.
    """
    config, tuned = from_run_folder(run)
    config, facts = choices.with_adapter_facts(config, str(tuned))
    if to not in KINDS or kind not in KINDS[to].types:
        types = KINDS[to].types if to in KINDS else TYPES
        raise InputError(f"There is no export to {to} in {kind}.", fix=f"To: {listed(KINDS)}; types: {listed(types)}.")
    held = facts.get("quantization") if config.model.quantization == "none" else config.model.quantization
    if held:
        raise InputError(
            f"The run's base was held in {held}, and the adapter fits those rounded weights.",
            fix="Exports are of whole weights, on which it was not measured: tune it on the base as its file has it.",
        )
    _check_proved(choices.task_for(config), tuned, to)
    row, name = KINDS[to], f"{to}-{kind}" if to in ("gguf", "onnx") else to
    folder = Path(output) if output else Path(run) / "exports" / name
    _check_outside(folder.resolve(), Path(run).resolve())
    with alone(folder):
        made, rows = _made(config, tuned, facts, items)
        with in_evaluation(made.model):
            row.check(made, kind)
            size = sum(4 * parameter.numel() for parameter in made.model.parameters()) + untied_bytes(made.model)
            check_space(folder, int(row.room * size))
            progress.note(f"export: to {to}, proved on {len(rows.asked.items)} test items")
            files.write_folder(folder, lambda staging: row.write(made, rows, staging, kind))
    return folder


def _check_outside(folder: Path, run: Path) -> None:
    """Raise InputError for a folder among a run's own files, whose hashes would no longer be theirs."""
    if folder.is_relative_to(run) and run / "exports" not in folder.parents and folder != run:
        raise InputError(f"{folder} lies among the run's own files.", fix=f"Leave --output out, for {run / 'exports'}.")


def _check_proved(task: Task, tuned: Path, to: str) -> None:
    if to == "sentence-transformers":  # which says itself what it takes
        return
    if task.reads_states:
        raise InputError(
            f"The task is {task.name}: its vectors are made of a model's states by files that {to} does not have.",
            fix="Export it with --to sentence-transformers.",
        )
    if task.auto_class not in PROVED:
        reads = "peft" if is_adapter(tuned) else "transformers"
        raise InputError(
            f"The task is {task.name}: how its models are asked elsewhere is not known here, so that no export of one "
            "can be proved.",
            fix=f"Stock {reads} reads {tuned} as it lies; the run's README.md says how.",
        )


def _made(config: Config, tuned: Path, facts: dict[str, Any], count: int) -> tuple[Made, Rows]:
    """Load base and adapter in 32 bits on the CPU, and make the test items into rows."""
    task = choices.task_for(config)
    splits = choices.splits_to_measure(config.data, task)
    labels = (facts["labels"] if task.has_head else []) or choices.ranked_labels(
        task, splits, config.data, facts["labels"]
    )
    section = config.model.model_copy(update={"dtype": "float32", "device": "cpu"})
    asked_as = TASKS.get(task.learns)  # of two answers the better one is an answer
    session = Session.open(section, asked_as, labels, config.train.seed, ordered=bool(facts["labels"]))
    session.load_adapter(str(tuned))
    metrics = choices.metrics_for(config.evaluate.metrics, task, splits.train or splits.test)
    plan = choices.evaluation_plan(config.evaluate, metrics, task, session.labels or labels, config.train.max_length)
    ranked = list(labels) if task.next_token and measure_for(plan).ranks and len(labels) <= MOST_LABELS else []
    if task.reads_states:
        rows = text_rows(session, splits.test, config.train.max_length, count)
    else:
        rows = _rows(session, splits.test, ranked, config.train.max_length, count)
    made = Made(
        session.model,
        session.tokenizer,
        task,
        f"{Path(config.model.name).name or 'model'} tuned ({tuned.parent.name})",
        tuned,
        _ends(session, rows),
        facts["conversations"] or bool(splits.test and splits.test[0].conversation),
        {
            "made_of": {"model": session.identity.to_dict(), "tuned": {"sha256": tuned_hash(tuned)}},
            "task": task.name,
            "labels": list(session.labels) if task.has_head else ranked,
        },
        lambda items: _base_scores(session, items),
        lambda use: _with_base(session, use),
        lambda model: _measured(session, model, splits.test[:: max(1, len(splits.test) // count)][:count], plan),
    )
    return made, rows


def _base_scores(session: Session, items: Sequence[Item]) -> Scores:
    """Ask the base for the items that it can be asked: it has no tokens that an adapter brought."""
    with session.base():
        own = base_of(session.model).config.vocab_size if grown_to(session.model) else math.inf
        return values(session.task, session.model, [one for one in items if max(one.ids) < own])


def _with_base(session: Session, use: Callable[[Any], None]) -> None:
    with session.base():
        use(base_of(session.model))


def _measured(session: Session, model: Any, test: Sequence[Example], plan: Plan) -> Any:
    with session.instead(model):
        return session.score(test, replace(plan, cache=False), "export")


def _ends(session: Session, rows: Rows) -> list[int]:
    """Return the ids that end an answer: EOS, those of the model's generation config, and those that were learned."""
    named = getattr(getattr(session.model, "generation_config", None), "eos_token_id", None)
    named = named if isinstance(named, list) else [named]
    learned = {item.ids[-1] for item in rows.asked.items if item.name in rows.asked.ended}
    found = [session.tokenizer.eos_token_id, *named, *sorted(learned)]
    return [index for index in dict.fromkeys(found) if index is not None]


def _rows(session: Session, test: Sequence[Example], labels: Sequence[str], max_length: int, count: int) -> Rows:
    """Take test items evenly from the whole of them."""
    step = max(1, len(test) // max(1, count))
    chosen = list(test[::step][:count])
    proof, judged, about, ended, names = (
        list[Item](),
        list[Item](),
        dict[str, tuple[str, str]](),
        list[str](),
        list[str](),
    )
    special = set(session.tokenizer.all_special_ids)
    for example in chosen:
        row = _row(session, example, max_length)
        if row is None or (labels and example.completion not in labels):
            continue
        ids, targets, segments = row
        if not session.task.has_head and not targets:
            continue
        name = example.id
        names.append(name)
        about[name] = (example.prompt, example.completion)
        if len(proof) < PROOF_ITEMS:
            half = PROOF_TARGETS // 2
            few = targets if len(targets) <= PROOF_TARGETS else targets[:half] + targets[-half:]
            proof.append(Item(name, ids, few, segments))
            if few and few[-1] == len(ids) - 1 and ids[-1] in special:
                ended.append(name)
        if not labels:
            judged.append(Item(name, ids, targets[:TEST_TARGETS], segments))
        for index, label in enumerate(labels):
            other = _row(session, _answered_with(example, label), max_length)
            if other is not None:
                judged.append(Item(f"{name}/{index}", other[0], other[1], None))
    if not proof:
        raise InputError("No test item has anything to score, so that no export can be proved.", fix="Name data.test.")
    asked = Asked(proof, _texts(session, chosen), _conversations(session, chosen), ended)
    return Rows(asked, judged, names, labels, about)


def _answered_with(example: Example, label: str) -> Example:
    return replace(example, completion=label)


def _row(
    session: Session, example: Example, max_length: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None] | None:
    """Return ids, places of targets and token types of an example; None where it has nothing to score."""
    try:
        made, _ = session.rows([example], max_length)
    except InputError:
        return None
    if not made:
        return None
    row = made[0]
    targets: tuple[int, ...] = ()
    if session.task.next_token:
        targets = tuple(place for place, label in enumerate(row.labels) if label != IGNORED and place)
    return tuple(row.ids), targets, None if row.segments is None else tuple(row.segments)


def _texts(session: Session, examples: Sequence[Example]) -> list[tuple[str, list[int]]]:
    """Return texts to cut, each with its tokens: prompts, with whatever begins and ends a text."""
    texts = [example.prompt for example in examples[:PROOF_ITEMS] if example.is_text and example.prompt]
    return [(text, list(session.tokenizer(text).input_ids)) for text in texts]


def _conversations(session: Session, examples: Sequence[Example]) -> list[tuple[list[dict[str, str]], str]]:
    """Return conversations to write, each as the chat template writes it: those of the data, or one of our own.

    They end with what a model is to answer: llama.cpp leaves a last answer open, to be gone on with.
    """
    if not getattr(session.tokenizer, "chat_template", None):
        return []
    found: list[list[dict[str, str]]] = []
    for example in examples:
        plain = [dict(message) for message in example.messages or ()]
        while plain and plain[-1].get("role") == "assistant":
            plain.pop()
        if plain and all(set(one) == {"role", "content"} and isinstance(one["content"], str) for one in plain):
            found.append([{key: str(value) for key, value in one.items()} for one in plain])
    found = found[:4] or [[{"role": "user", "content": "Hello"}]]
    written = []
    for one in found:
        try:
            text = session.tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True)
        except Exception:  # whatever a template raises of a conversation that ends otherwise
            continue
        written.append((one, text))
    return written


def status_of(folder: Path) -> dict[str, Any]:
    """Return what an export says of itself."""
    return files.read_object(folder / manifest.NAME)
