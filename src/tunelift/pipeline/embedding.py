"""A sentence model and its adapters made ready to be asked for vectors, and shown to give those that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunelift.adapters.loading import load_adapters
from tunelift.config.load import load_config
from tunelift.config.schema import ModelSection
from tunelift.core import progress
from tunelift.core.errors import InputError, TuneliftError
from tunelift.core.records import Numbers, Scores
from tunelift.evaluation.measures.base import Measure
from tunelift.evaluation.measures.retrieval import Retrieval
from tunelift.evaluation.measures.similarity import Similarity
from tunelift.evaluation.plan import Plan
from tunelift.metrics.registry import resolve
from tunelift.model_facts.anatomy import context_length
from tunelift.model_facts.parameters import is_wide
from tunelift.model_facts.pooling import pooling_of
from tunelift.pipeline.choices import adapter_facts, splits_to_measure
from tunelift.pipeline.proving import ITEMS
from tunelift.pipeline.served import Source, section_for
from tunelift.pipeline.session import Session
from tunelift.run_files.layout import BASE, TUNED, RunPaths, is_scored
from tunelift.serving.embedding import Embedder, EmbeddingService, Sentences
from tunelift.serving.service import Allowed
from tunelift.tasks import TASKS

TASK = next(task for task in map(TASKS.get, TASKS) if task.contrasts)
"""What makes vectors of texts."""
NEAR, NEAR_IN_HALF = 1e-3, 0.1
"""How far an item's log-likelihood (nats, of cosines times 20) may be from that of the run, by the precision."""


def are_sentences(sources: Sequence[Source]) -> bool:
    """Tell whether sources are of sentence models; raise InputError where only some are."""
    tasks = {adapter_facts(source.folder)["task"] == TASK.name for source in sources}
    if len(tasks) > 1:
        raise InputError("Some adapters make vectors of texts, and others continue them.", fix="Serve them apart.")
    return tasks == {True}


def embedding_service(
    section: ModelSection, sources: Sequence[Source], name: str | None, queue: int, allowed: Allowed
) -> EmbeddingService:
    """Load a sentence model with its adapters, and prove that each gives what its run measured.

    Raises InputError where an adapter does not fit, TuneliftError where vectors are not those that were measured.
    """
    session = Session.open(section_for(section, sources), TASK)
    base = name or Path(session.identity.name).name
    if base in (source.name for source in sources):
        raise InputError(f"An adapter has the base's name, {base}.", fix="Name it otherwise: NAME=FOLDER.")
    longest = pooling_of(session.model).max_length or context_length(session.model, session.base_tokenizer)
    models = [Sentences(base, None, session.base_tokenizer, longest)]
    for number, source in enumerate(sources):
        session.examine(source.folder)
        tokenizer = session.examined.tokenizer if session.examined else session.base_tokenizer
        models.append(Sentences(source.name, f"served{number}", tokenizer, longest))
    folders = {f"served{number}": source.folder for number, source in enumerate(sources)}
    model = load_adapters(session.model, folders, session.identity.weights_sha256).eval()
    embedder = Embedder(model, session.base_tokenizer, queue)
    for source, named in zip(sources, models[1:], strict=True):
        if source.run is None:
            progress.note(f"proof: none of {source.name}, which no run here measured")
            continue
        for side, one in ((BASE, models[0]), (TUNED, named)):
            _prove(embedder, source.run, side, one)
    return EmbeddingService(embedder, models, allowed)


def _prove(embedder: Embedder, run: Path, side: str, named: Sentences) -> None:
    """Raise TuneliftError unless items of a run have the scores that it measured, by vectors that are served."""
    config, folder = load_config(RunPaths(run).config, of_run=True), RunPaths(run).side(side)
    if not is_scored(folder):
        raise InputError(
            f"The run {run} has no scores of {side}, by which vectors could be proved.",
            fix="Serve the adapter alone, which proves nothing.",
        )
    scores = Scores.read(folder)
    rows = {str(row["id"]): row for row in scores.rows if row.get("log_likelihood") is not None}
    examples = splits_to_measure(config.data, TASK).test
    pairs = any(isinstance(example.wanted, Numbers) for example in examples)
    plan = Plan(resolve(TASK.metrics(examples)), task=TASK, max_length=config.train.max_length)
    kind: type[Measure] = Similarity if pairs else Retrieval
    measure = kind(embedder.model, named.tokenizer, examples, plan, side)
    vars(measure)["vectors"] = lambda texts, *_: _served(embedder, named, texts)
    known = [i for i in measure.fitting if examples[i].id in rows]
    some = known[:: max(1, len(known) // ITEMS)][:ITEMS]
    found = measure.prepared()(some, lambda *_, **__: None)
    off = max((abs(found[i].log_likelihood - rows[examples[i].id]["log_likelihood"]) for i in some), default=None)
    near = NEAR if is_wide(embedder.model) else NEAR_IN_HALF
    if off is None or not off <= near:
        raise TuneliftError(
            f"{named.name} gives other vectors than the run measured ({side}): a score is {off} nats off.",
            fix="Nothing is served. Run it again here (tunelift evaluate), or serve the adapter alone.",
        )
    progress.note(f"proof: {named.name}: {len(some)} items of the run score as they were measured ({off:.2g} nats)")


def _served(embedder: Embedder, named: Sentences, texts: Sequence[str]) -> Tensor:
    found: Any = embedder.vectors(named, embedder.texts(named, texts)).double()
    normal: Tensor = torch.nn.functional.normalize(found, dim=1)
    return normal
