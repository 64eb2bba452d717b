"""A base and its adapters made ready to answer, and shown to answer as they were measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelift.adapters.loading import load_adapters
from tunelift.adapters.store import vocabulary_of
from tunelift.config.load import load_config
from tunelift.config.schema import Config, ModelSection
from tunelift.core import progress
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Scores
from tunelift.data.template import Template
from tunelift.fast.target_model import target_model
from tunelift.models import is_model
from tunelift.pipeline.choices import adapter_facts, with_adapter_facts
from tunelift.pipeline.session import Session
from tunelift.pipeline.stages import from_run_folder
from tunelift.run_files.layout import BASE, TUNED, RunPaths, is_adapter, is_scored
from tunelift.serving.decisions import Measured
from tunelift.serving.engine import Engine, Limits
from tunelift.serving.service import Named
from tunelift.serving.trial import why_alone
from tunelift.serving.worker import Worker
from tunelift.tasks import DEFAULT, TASKS
from tunelift.untrusted.files import read_object


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter to serve: its name, its folder, and the run that measured it, where it is a run's."""

    name: str
    folder: Path
    run: Path | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker that has begun, its models, the base first, and how far two right scores may be apart (nats).

    `session` has a model of its own of the same weights, which nothing is put on.
    """

    worker: Worker
    models: Sequence[Named]
    nats: float
    sources: Mapping[str, Source]
    base: str
    session: Session


def sources_of(given: Sequence[tuple[str | None, str]]) -> list[Source]:
    """Return what is named by (name, folder), a run's or an adapter's; raise InputError for anything else."""
    found = list[Source]()
    for name, folder in given:
        path = Path(folder)
        if RunPaths(path).config.is_file():
            found.append(Source(name or path.resolve().name, from_run_folder(path)[1], path))
        elif is_adapter(path):
            found.append(Source(name or path.resolve().name, path))
        else:
            raise InputError(
                f"{folder} is neither a run's folder nor an adapter's.", fix="Give NAME=FOLDER, or FOLDER."
            )
    names = [source.name for source in found]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InputError(f"Several adapters are called {twice[0]}.", fix="Name them: NAME=FOLDER.")
    if whole := [source for source in found if is_model(source.folder)]:
        raise InputError(
            f"{whole[0].folder} holds a model whose own weights were tuned, and no adapter on a base.",
            fix=f"Serve it as the model: --model {whole[0].folder}",
        )
    return found


def section_for(section: ModelSection, sources: Sequence[Source]) -> ModelSection:
    """Return the model that sources are on: as `section` names it, else as the first says, and as it was measured."""
    runs = [source.run for source in sources if source.run is not None]
    if not section.name and runs:
        said = {key: getattr(section, key) for key in section.model_fields_set - {"name"}}
        section = load_config(RunPaths(runs[0]).config, of_run=True).model.model_copy(update=said)
    elif not section.name:
        named, _ = with_adapter_facts(Config(model=section), str(sources[0].folder) if sources else None)
        section = named.model
    if not section.name:
        raise InputError("No model is named.", fix="Give --model NAME, a run, or an adapter that says what it is on.")
    dtypes = {str(run): read_object(RunPaths(run).manifest).get("dtype") for run in runs}
    known = [dtype for dtype in dict.fromkeys(dtypes.values()) if isinstance(dtype, str)]
    if len(known) > 1:
        raise InputError(f"The runs were measured in different precisions: {listed(known)}.", fix="Serve them apart.")
    if known and section.dtype == "auto":
        section = section.model_copy(update={"dtype": known[0]})
    return section


def measured_of(source: Source, side: str) -> Measured | None:
    """Return how the source's run asked a side to choose among labels; None for what did no such thing.

    Only labels whose score is the sum over their tokens are meant: by their mean other answers would be chosen.
    """
    if source.run is None:
        return None
    paths = RunPaths(source.run)
    data, folder = load_config(paths.config, of_run=True).data, paths.side(side)
    if data.prompt is None or not is_scored(folder):
        return None
    scores = Scores.read(folder)
    made = (scores.info.get("made_with") or {}).get("label_scoring") or {}
    labels = dict.fromkeys(label for row in scores.rows for label in row.get("label_scores") or ())
    if made.get("score") != "sum" or len(labels) != made.get("labels"):
        return None
    compared = read_object(paths.comparison) if paths.comparison.is_file() else {}
    fitted = ((compared.get("calibration") or {}).get(side) or {}).get("temperature")
    temperature = float(fitted) if isinstance(fitted, int | float) and fitted > 0 else None
    return Measured(Template(data.prompt, "data.prompt"), tuple(labels), temperature)


def examined(session: Session, source: Source) -> Any:
    """Return the tokenizer that a source is asked with; raise InputError where it does not fit what is served."""
    task = str(adapter_facts(source.folder)["task"])
    if task in TASKS and not TASKS.get(task).next_token:
        raise InputError(f"The adapter {source.folder} was made for {task}, which continues no text.")
    session.examine(source.folder)
    if vocabulary_of(source.folder):
        raise InputError(
            f"The adapter {source.folder} brings tokens of its own, and what is served has the base's vocabulary.",
            fix="Merge it into a model of its own and serve that: tunelift export RUN --to merged.",
        )
    return session.examined.tokenizer if session.examined else session.base_tokenizer


def with_same_weights(model: Any) -> Any:
    """Return a copy of a model that shares its weights: what is put on one is not on the other."""
    return deepcopy(model, {id(x): x for x in (*model.parameters(), *model.buffers())})


@contextmanager
def ready(section: ModelSection, sources: Sequence[Source], limits: Limits, name: str | None = None) -> Iterator[Ready]:
    """Load a base with its adapters, and let a worker answer with them for a while.

    Raises InputError where an adapter does not fit, or is of a task that continues no text.
    """
    session = Session.open(section_for(section, sources), DEFAULT)
    base = name or Path(session.identity.name).name
    if base in (source.name for source in sources):
        raise InputError(f"An adapter has the base's name, {base}.", fix="Name it otherwise: NAME=FOLDER.")
    tokenizers = [examined(session, source) for source in sources]
    keys = [f"served{number}" for number in range(len(sources))]
    folders = {key: source.folder for key, source in zip(keys, sources, strict=True)}
    nats = target_model(session.model)[0].nats
    served, session.model = session.model, with_same_weights(session.model)
    model = load_adapters(served, folders, session.identity.weights_sha256).eval()
    alone = why_alone(model, session.base_tokenizer, nats)
    engine = Engine(model, session.base_tokenizer, limits, alone)
    engine.tokenizers = dict(zip(keys, tokenizers, strict=True))
    if engine.unmixed and not alone and sources:
        progress.note(f"engine: adapters are asked in turns, a call for each: {engine.unmixed}")
    measured = measured_of(sources[0], BASE) if len(sources) == 1 else None  # of several runs each asks otherwise
    models = [Named(base, None, session.base_tokenizer, model, measured=measured)]
    for source, key, own in zip(sources, keys, tokenizers, strict=True):
        models.append(Named(source.name, key, own, model, measured=measured_of(source, TUNED)))
    with Worker(engine) as worker:
        worker.between(_say_layers)
        yield Ready(worker, models, nats, {source.name: source for source in sources}, base, session)


def _say_layers(engine: Engine) -> None:
    """Say whether layers are computed in one call each, by which answers may come several times as fast."""
    if state := engine.fast_paths.get("decoder_layers"):
        progress.note(f"engine: layers in one call each are {state}")
