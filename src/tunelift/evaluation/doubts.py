"""Training rows whose labels the others speak against (confident learning: Northcutt et al. 2021, arXiv 1911.00068).

A row is in doubt where a classifier that has not seen it finds another label as likely as it finds that label, on
average, for the rows that have it. On a task that words do not tell, this says little: how often the classifier is
right stands beside.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunelift.comparison.advice import Doubts
from tunelift.core import progress, randomness
from tunelift.core.records import Example
from tunelift.data.examples import looks_like_labels
from tunelift.evaluation.features import WordFeatures

FOLDS = 5
MOST_ROWS = 5000
CLEARLY = 2.0
"""How many times as likely as its own the other label must be: on a hard task many labels are nearly as likely."""
STRENGTH = 1.0
"""C of the regression: with a weaker penalty it learns the wrong labels too."""


def doubts(train: Sequence[Example], seed: int) -> Doubts | None:
    """Return the rows in doubt, the least likely labels first; None where the rows have no labels of one text."""
    if not looks_like_labels(train) or not all(example.prompt.strip() for example in train):
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    counts = Counter(example.completion for example in train)
    some = [example for example in train if counts[example.completion] >= FOLDS]
    some = randomness.sample(some, MOST_ROWS, f"{seed} doubts")
    labels = np.array([example.completion for example in some])
    classes = sorted(set(labels.tolist()))
    if len(classes) < 2 or len({example.prompt for example in some}) < 2:
        return Doubts([], 0, 0, 0)
    features, likely = WordFeatures(some)(some), np.zeros((len(some), len(classes)))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with progress.bar("rows against each other", FOLDS) as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label in few rows; a fit that ran out of steps
        for fit, held_out in folds.split(labels, labels):
            model = LogisticRegression(C=STRENGTH, max_iter=200).fit(features[fit], labels[fit])
            places = np.searchsorted(classes, model.classes_)
            likely[np.ix_(held_out, places)] = model.predict_proba(features[held_out])
            advance(1)
    own = np.searchsorted(classes, labels)
    usual = np.array([likely[own == i, i].mean() for i in range(len(classes))])
    confident = np.where(likely >= usual, likely, -1.0)
    other = confident.argmax(axis=1)
    every = np.arange(len(some))
    clear = likely[every, other] >= CLEARLY * likely[every, own]
    found = [int(i) for i in every if confident[i].max() >= 0 and other[i] != own[i] and clear[i]]
    found.sort(key=lambda i: (likely[i, own[i]] - likely[i, other[i]], some[i].id))
    rows = [(some[i].id, str(labels[i]), classes[other[i]], float(likely[i, other[i]])) for i in found]
    right = int((likely.argmax(axis=1) == own).sum())
    return Doubts(rows, right, max(Counter(labels.tolist()).values()), len(some))
