"""What is measured, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunelift.config.schema import EndpointSection, EvaluateSection, TrainSection
from tunelift.metrics import Metric
from tunelift.tasks import DEFAULT, Task

_USUAL, _TRAINED = EvaluateSection(), TrainSection()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how. `labels` are the texts to rank, or the class names of a head.

    `slices` are columns of the data whose values go into the rows, so that a comparison can be made for each.
    `threshold` is the one that was chosen for the model (`metrics/thresholds.py`), None where none was. With `cache`,
    what is known of an item from before is taken from there, and what is computed now is kept. `larger_model`
    is asked as a baseline, where an address was named.
    """

    metrics: Sequence[Metric]
    task: Task = DEFAULT
    labels: Sequence[str] = ()
    label_score: str = _USUAL.label_score
    max_new_tokens: int = _USUAL.max_new_tokens
    max_answer_tokens: int = _USUAL.max_answer_tokens
    stop: Sequence[str] = ()
    temperature: float = _USUAL.temperature
    thinking: str = _USUAL.thinking
    rows_at_once: int = _USUAL.batch_size
    max_length: int = _TRAINED.max_length
    slices: Sequence[str] = ()
    threshold: float | None = None
    cache: bool = False
    larger_model: EndpointSection | None = None

    @property
    def samples(self) -> int:
        """How many answers are drawn for each item: as many as the metrics look at."""
        return max((metric.samples for metric in self.metrics), default=0)
