"""`tunelift advise`: what is measured before a tuning and what follows from it; in a run the same from its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from tunelift.comparison.advice import Advice, Evidence, advised
from tunelift.config.schema import Config
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Scores
from tunelift.data.splits import Splits, load_splits
from tunelift.evaluation.baselines import BASELINES, Baseline, Given, few_shot, suitable
from tunelift.evaluation.baselines.linear_probe import LinearProbe
from tunelift.evaluation.doubts import doubts
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.predicting import misfit
from tunelift.metrics import resolve
from tunelift.pipeline import choices
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.session import Session
from tunelift.run_files.layout import is_scored, validation_of
from tunelift.training import ranks

PROBE = "linear-probe"


def advise(config: Config) -> Advice:
    """Measure the base and what is cheaper than tuning on validation rows, and answer five questions by it.

    Of the test only the number of rows is used. Raises InputError for wrong config or data before anything is computed.
    """
    ranks.refuse_several("tunelift advise")
    choices.check_larger_model(config.larger_model)
    data, evaluate = config.data, config.evaluate
    task = choices.task_for(config)
    splits = load_splits(data, reading=task.reading)
    metrics = choices.metrics_for(evaluate.metrics, task, splits.train)
    choices.check_labels(splits.train, splits.test, data, metrics)
    labels = choices.ranked_labels(task, splits, data)
    plan = choices.evaluation_plan(evaluate, metrics, task, labels, config.train.max_length, config.larger_model)
    names = suitable(plan, splits.train, evaluate.baselines)
    choices.say_data(splits)
    session = Session.open(config.model, task, labels, config.train.seed)
    plan = replace(plan, labels=session.labels or plan.labels)
    rows = splits.validation
    scores, told = dict[str, Scores](), None
    if rows:
        session.choose_threshold(rows, plan, "base on validation")
        try:
            scores["base"] = session.score(rows, plan, "base on validation")
        except InputError as error:  # of few texts none may belong to another
            progress.note(f"the base is not measured: {error}")
        given = Given(
            session.model, session.tokenizer, splits.train, plan, evaluate.shots, data.seed, session.made_with()
        )
        scores |= _baselines(given, names, rows)
        told = _told(given, rows)
    found = doubts(splits.train, data.seed)
    return advised(replace(_evidence(splits, plan, scores, evaluate.margin), told=told, doubts=found))


def say_advice(folder: RunFolder, splits: Splits, plan: Plan, margin: float | None) -> None:
    """Say and note what a run's files tell before it is tuned, on validation rows; nothing more is measured."""
    paths, scores = folder.paths, dict[str, Scores]()
    for path in [paths.base, *paths.baselines()]:
        if is_scored(validation_of(path)):
            scores[path.name] = Scores.read(validation_of(path))
    if "base" not in scores:
        return
    advice = advised(_evidence(splits, plan, scores, margin))
    folder.note(advice=advice.to_dict())
    known = [finding for finding in advice.findings if finding.word not in ("unknown", "nothing")]
    for finding in known:
        progress.note(f"advice: {finding.question} {finding.text} ({'; '.join(finding.shown[-2:])})")
    progress.note(f"advice: {advice.text} (tunelift advise measures what is not known here)")


def _evidence(splits: Splits, plan: Plan, scores: Mapping[str, Scores], margin: float | None) -> Evidence:
    name = plan.metrics[0].name
    return Evidence(
        name,
        {one: own for one, own in scores.items() if own.metrics.get(name) is not None},
        answers=[example.completion for example in splits.train],
        labels=bool(plan.labels) or bool(measure_for(plan).gives & {"label", "label-set", "numbers", "ranks"}),
        test_rows=len(splits.test),
        margin=margin,
        conflicts=splits.report.hygiene.get("conflicts"),
    )


def _baselines(given: Given, names: Sequence[str], rows: Sequence[Example]) -> dict[str, Scores]:
    """Return the scores of the baselines, and of a regression on the base's hidden states where labels are chosen."""
    makers: dict[str, Callable[[], Baseline]] = {name: partial(BASELINES.get(name).make, given) for name in names}
    if given.plan.labels and PROBE not in makers and misfit(given.plan, given.train, likelihoods=True) is None:
        makers[PROBE] = partial(LinearProbe, given)
    found = dict[str, Scores]()
    for name, make in makers.items():
        try:
            found[name] = make().score(rows, f"{name} on validation")
        except InputError as error:  # one that these rows do not suit leaves the others
            progress.note(f"{name} is not measured: {error}")
    return found


def _told(given: Given, rows: Sequence[Example]) -> list[float] | None:
    """Return by how much (nats) each row's own prompt makes its answer likelier than another row's, behind examples.

    None where the model continues no text, or where prompts or answers are no plain texts that differ.
    """
    plan = replace(given.plan, metrics=resolve(["loss"]))
    if not given.plan.task.next_token or few_shot.misfit(plan, given.train) or not all(e.is_text for e in rows):
        return None
    others = [
        next((other for other in [*rows[i + 1 :], *rows[:i]] if other.completion != row.completion), None)
        for i, row in enumerate(rows)
    ]
    asked = [(row, other) for row, other in zip(rows, others, strict=True) if other and row.prompt.strip()]
    if len(asked) < 2:
        return None
    shown = few_shot.FewShot(replace(given, plan=plan))
    own = shown.score([row for row, _ in asked], "answers to their questions")
    crossed = shown.score([replace(row, prompt=other.prompt) for row, other in asked], "answers to other questions")
    pairs = zip(own.rows, crossed.rows, strict=True)
    likely = [(a.get("log_likelihood"), b.get("log_likelihood")) for a, b in pairs]
    return [a - b for a, b in likely if a is not None and b is not None] or None
