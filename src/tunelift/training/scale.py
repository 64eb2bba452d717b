"""By how much the loss is scaled on the way back where float16 computes: most gradients are too small for it.

The rule and its numbers are those of torch.amp.GradScaler (Micikevicius et al., arXiv 1710.03740): a gradient that
became infinite halves the scale, and so many steps without one double it. The step is not lost, as it is there: it is
computed again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tunelift.model_facts.parameters import stored_dtypes

FIRST, LOWEST, HIGHEST = 2.0**16, 1.0, 2.0**24
STEPS_TO_DOUBLE = 2000


@dataclass(slots=True)
class LossScale:
    """The scale in force, a power of two, and how many steps fitted it since it was changed; `fixed` it stays 1."""

    value: float
    fixed: bool
    steps: int = 0

    @classmethod
    def of(cls, model: nn.Module) -> LossScale:
        """Return the scale that a training of this model begins with."""
        fixed = not _computes_in_float16(model)
        return cls(1.0 if fixed else FIRST, fixed)

    def fitted(self) -> None:
        """Count a step whose gradient was finite."""
        self.steps += 1
        if not self.fixed and self.steps >= STEPS_TO_DOUBLE:
            self.value, self.steps = min(2 * self.value, HIGHEST), 0

    def lowered(self) -> bool:
        """Halve the scale after a gradient that was not finite; return whether it could be."""
        if self.value <= LOWEST:
            return False
        self.value, self.steps = self.value / 2, 0
        return True


def _computes_in_float16(model: nn.Module) -> bool:
    """Tell whether float16 has a part in the gradient: in the weights, frozen or not, or by the caller's autocast."""
    kinds = {p.device.type for p in model.parameters()}
    return torch.float16 in stored_dtypes(model) or any(
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16 for kind in kinds
    )
