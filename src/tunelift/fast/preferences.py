"""Losses of preference tuning: one function each, from the log-probabilities of answers to a loss for each row.

They know nothing of models or of how log-probabilities are computed. Signs and normalisations are those of the papers
named at each; where a paper leaves something open it says what is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to so many prompts, each (B,): log-probabilities summed over the answer's tokens (nats), and these.

    `own` is by the model that is trained, `reference` by the one that it is compared with.
    """

    own: Tensor
    reference: Tensor
    tokens: Tensor

    @property
    def ratio(self) -> Tensor:
        """log π(y|x) - log π_ref(y|x)."""
        return self.own - self.reference

    @property
    def mean(self) -> Tensor:
        """log π(y|x) for each token of y."""
        return self.own / self.tokens


@dataclass(frozen=True, slots=True)
class Strength:
    """`beta` is how strongly a loss pulls, as its paper names it; `gamma` the margin that SimPO asks for."""

    beta: float
    gamma: float


PairLoss = Callable[[Answers, Answers, Strength], Tensor]
"""From chosen and rejected answers to losses (B,)."""


def dpo(chosen: Answers, rejected: Answers, how: Strength) -> Tensor:
    """Direct Preference Optimization, equation 7 (Rafailov et al., arXiv 2305.18290)."""
    return -F.logsigmoid(how.beta * (chosen.ratio - rejected.ratio))


def ipo(chosen: Answers, rejected: Answers, how: Strength) -> Tensor:
    """Identity Preference Optimization, equation 17 (Azar et al., arXiv 2310.12036); its tau is `beta`.

    Log-ratios are taken for each token, as in TRL, whose authors report it as what the paper's results were made with.
    """
    apart = chosen.ratio / chosen.tokens - rejected.ratio / rejected.tokens
    return (apart - 1 / (2 * how.beta)) ** 2


def cpo(chosen: Answers, rejected: Answers, how: Strength) -> Tensor:
    """Contrastive Preference Optimization, equation 6 (Xu et al., arXiv 2401.08417), without a reference.

    The likelihood of the chosen answer that is added is for each token of it, as in TRL, so that long answers do not
    outweigh the preference.
    """
    return -F.logsigmoid(how.beta * (chosen.own - rejected.own)) - chosen.mean


def simpo(chosen: Answers, rejected: Answers, how: Strength) -> Tensor:
    """Simple Preference Optimization, equation 6 (Meng et al., arXiv 2405.14734), without a reference."""
    return -F.logsigmoid(how.beta * (chosen.mean - rejected.mean) - how.gamma)


def orpo(chosen: Answers, rejected: Answers, how: Strength) -> Tensor:
    """Odds Ratio Preference Optimization, equations 4 to 7 (Hong et al., arXiv 2403.07691); its lambda is `beta`.

    P(y|x) is for each token; what is learned besides is the chosen answer, without the prompt.
    """
    odds = chosen.mean - rejected.mean - (log1mexp(chosen.mean) - log1mexp(rejected.mean))
    return -chosen.mean - how.beta * F.logsigmoid(odds)


def kto(answers: Answers, liked: Tensor, divergence: Tensor, how: Strength) -> Tensor:
    """Kahneman-Tversky Optimization, equation 8 (Ethayarajh et al., arXiv 2402.01306), both kinds weighed alike.

    `liked` (B,) tells the answers apart. `divergence` () is the paper's z0, no gradient through it: the mean log-ratio
    of answers to other prompts, at least 0.
    """
    apart = answers.ratio - divergence
    return 1 - (how.beta * apart * (2 * liked.to(apart.dtype) - 1)).sigmoid()


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - exp(x)) for x < 0 without cancellation (Mächler, "Accurately computing log(1 - exp(-|a|))")."""
    x = x.clamp(max=-1e-7)  # a model that is certain of an answer has no odds
    near = x > -0.6931471805599453
    by_expm1 = (-x.where(near, x.new_tensor(-0.5)).expm1()).log()
    return by_expm1.where(near, (-x.where(~near, x.new_tensor(-1.0)).exp()).log1p())


PAIR_LOSSES: Mapping[str, PairLoss] = {"dpo": dpo, "ipo": ipo, "cpo": cpo, "simpo": simpo, "orpo": orpo}

KTO = "kto"

BETAS = {"dpo": 0.1, "ipo": 0.1, "cpo": 0.1, "simpo": 2.0, "orpo": 0.1, KTO: 0.1}
"""What each takes where nobody sets a beta: what its paper used, or what it is near."""

WITH_REFERENCE = ("dpo", "ipo", KTO)
"""Losses that compare with a reference."""

TAKES = {name: ("loss", "beta", *(("reference",) if name in WITH_REFERENCE else ())) for name in BETAS}
TAKES["simpo"] += ("gamma",)
"""Which of the settings of preference tuning each loss looks at."""
