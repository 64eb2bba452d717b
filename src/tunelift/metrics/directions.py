"""Which metrics of anybody's are known by name: whether higher is better, and between what values they lie.

Allow lists: a name that is not told by them has no known direction, and then nobody is told that a model is better.
Names are taken in any case, with blanks or hyphens for underscores, without the filter that lm-evaluation-harness puts
behind ("exact_match (strict-match)", "exact_match,strict-match") and without the scorer that Inspect puts in front
("grader/accuracy").
"""

from __future__ import annotations

import re

HIGHER_IS_BETTER = (
    "correct", "accuracy", "acc", "is_correct", "exact_match", "em", "score", "acc_norm", "f1", "rouge_l", "rouge1",
    "rouge2", "rougel", "bleu", "chrf", "meteor", "bertscore", "win", "reward", "pass", "pass@1", "passed",
    "precision", "recall", "success", "quasi_exact_match", "prefix_exact_match", "win_rate", "pass_rate",
    "success_rate", "mcc", "auc", "auroc", "roc_auc", "average_precision", "mrr", "ndcg", "map", "spearman", "pearson",
    "r2", "macro_f1", "micro_f1", "token_f1", "rouge_lsum", "rougelsum", "sacrebleu", "comet",
    "json_schema", "regex_match",
)  # fmt: skip
"""Well-known names, the most telling first: of several in one table the first is what a verdict is about."""

LOWER_IS_BETTER = frozenset(
    {
        "loss", "log_loss", "nll", "nll_loss", "cross_entropy", "perplexity", "word_perplexity", "byte_perplexity",
        "ppl", "bits_per_byte", "bpb", "brier", "brier_score", "ece", "wer", "cer", "ter", "error", "errors", "mae",
        "mse", "rmse", "edit_distance", "levenshtein", "latency", "cost", "toxicity", "hallucination_rate",
    }
)  # fmt: skip
"""Well-known names."""

_LOWER_ENDS = frozenset({"loss", "error", "errors", "perplexity", "latency", "cost", "distance"})
_FAILURE_RATES = frozenset({"error", "failure", "fail", "hallucination", "toxicity", "timeout", "crash"})
_UNITS = frozenset({"ms", "s", "sec", "secs", "seconds", "usd", "eur", "dollars"})
_TURNED_ROUND = frozenset(
    {"neg", "negative", "minus", "inverse", "inverted", "no", "non", "not", "without", "free", "reduction", "saved",
     "saving", "savings", "improvement", "gain", "recall", "detected", "1"}
)  # fmt: skip
"""Words that turn a name's meaning round, such as scikit-learn's neg_log_loss: nothing is concluded from the rest."""

_IN_UNIT_INTERVAL = frozenset(
    {"correct", "accuracy", "acc", "is_correct", "exact_match", "em", "acc_norm", "f1", "rouge_l", "rouge1", "rouge2",
     "rougel", "rouge_lsum", "rougelsum", "win", "pass", "pass@1", "passed", "success", "quasi_exact_match",
     "prefix_exact_match", "token_f1", "numeric_match", "precision", "recall", "json_schema", "regex_match"}
)  # fmt: skip


_OF_SAMPLES = re.compile(r"pass(@|_at:)[1-9]\d*(_of_[1-9]\d*)?(:\w+)?")
"""How likely one at least of so many answers is right."""


def plain_name(name: str) -> str:
    """Return a metric's name without filter and scorer, in small letters and with underscores."""
    bare = re.sub(r"\s*\([^()]*\)$|,[^,]*$", "", name.strip()).rpartition("/")[2]
    return re.sub(r"[\s-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", bare)).lower()


def known_direction(name: str) -> bool | None:
    """Return whether a higher value is better, by the name alone; None where the name does not tell."""
    plain = plain_name(name)
    if _OF_SAMPLES.fullmatch(plain):
        return True
    if plain in HIGHER_IS_BETTER:
        return True
    if plain in LOWER_IS_BETTER:
        return False
    words = [word for word in plain.split("_") if word]
    if _TURNED_ROUND & set(words):
        return None
    while words and words[-1] in _UNITS:
        words.pop()
    if words[-1:] == ["rate"]:
        return False if words[-2:-1] and words[-2] in _FAILURE_RATES else None
    return False if words and words[-1] in _LOWER_ENDS else None


def known_bounds(name: str) -> tuple[float, float] | None:
    """Return the least and the largest value that a metric can take for an item, by its name; None if not known."""
    plain = plain_name(name)
    return (0.0, 1.0) if plain in _IN_UNIT_INTERVAL or _OF_SAMPLES.fullmatch(plain) else None
