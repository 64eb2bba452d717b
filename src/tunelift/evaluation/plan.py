"""What is measured, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunelift.metrics import Metric
from tunelift.tasks import DEFAULT, Task


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how. `labels` are the texts to rank, or the class names of a head.

    `slices` are columns of the data whose values go into the rows, so that a comparison can be made for each. With
    `cache`, what is known of an item from before is taken from there, and what is computed now is kept.
    """

    metrics: Sequence[Metric]
    task: Task = DEFAULT
    labels: Sequence[str] = ()
    label_score: str = "sum"
    max_new_tokens: int = 128
    stop: Sequence[str] = ()
    thinking: str = "strip"
    rows_at_once: int = 16
    max_length: int = 1024
    slices: Sequence[str] = ()
    cache: bool = False
