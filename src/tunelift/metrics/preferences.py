"""Metrics of preferences: whether a model finds the answer likelier that people liked, and by how much.

The reference of the row is the answer that was chosen; `scores` of an `Answer` hold the log-likelihoods (nats, summed
over tokens) of both, under "chosen" and "rejected", and how many tokens they have. A tuned model's margin less its
base's is what DPO calls the reward margin, but for the factor beta: a comparison of the two is about that.
"""

from __future__ import annotations

from tunelift.metrics.registry import METRICS, Answer, Metric


def pair_accuracy(answer: Answer) -> float:
    """1 where the chosen answer is likelier than the rejected one, 0 where it is not."""
    return float(answer.scores["chosen"] > answer.scores["rejected"])


def pair_margin(answer: Answer) -> float:
    """Log-likelihood of the chosen answer less that of the rejected one (nats)."""
    return answer.scores["chosen"] - answer.scores["rejected"]


def pair_accuracy_per_token(answer: Answer) -> float:
    """1 where the chosen answer's tokens are likelier on average than the rejected one's: longer ones lose nothing."""
    chosen, rejected = (answer.scores[name] / answer.scores[f"{name}_tokens"] for name in ("chosen", "rejected"))
    return float(chosen > rejected)


def liked_margin(answer: Answer) -> float:
    """Log-likelihood of an answer for each of its tokens (nats), with the sign turned where it was not liked."""
    ((said, likely),) = answer.scores.items()
    return likely / answer.tokens * (1 if said == "liked" else -1)


METRICS.add("pair_accuracy", Metric("pair_accuracy", pair_accuracy, "pair", "binary", bounds=(0.0, 1.0)))
METRICS.add("pair_margin", Metric("pair_margin", pair_margin, "pair"))
METRICS.add(
    "pair_accuracy_per_token",
    Metric("pair_accuracy_per_token", pair_accuracy_per_token, "pair", "binary", bounds=(0.0, 1.0)),
)
METRICS.add("liked_margin", Metric("liked_margin", liked_margin, "judged"))
