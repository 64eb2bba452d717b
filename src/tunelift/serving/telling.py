"""What the server tells of itself: counts and times in Prometheus' text form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class Histogram:
    """How many values are at most each of SECONDS, how many there are, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * len(SECONDS))
    count: int = 0
    sum: float = 0.0

    def add(self, value: float) -> None:
        self.count, self.sum = self.count + 1, self.sum + value
        for n, limit in enumerate(SECONDS):
            self.counts[n] += value <= limit


@dataclass(slots=True)
class Telling:
    """Counts since the start: what was asked, computed, refused, and how long it took."""

    steps: int = 0
    prompt: int = 0
    known: int = 0
    generated: int = 0
    refused: int = 0
    late: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    to_first: Histogram = field(default_factory=Histogram)
    to_last: Histogram = field(default_factory=Histogram)

    def first(self, seconds: float, prompt: int, known: int) -> None:
        """Know of a request that its answer began so many seconds after it came."""
        self.to_first.add(seconds)
        self.prompt += prompt
        self.known += known

    def ended(self, finish: str, seconds: float) -> None:
        """Know that a request ended so, so many seconds after it came."""
        self.finished[finish] += 1
        self.to_last.add(seconds)

    def text(self, gauges: Iterable[tuple[str, str, float]]) -> str:
        """Return everything, with gauges (name, help, value) of what is now."""
        return "\n".join([*self._lines(gauges), ""])

    def _lines(self, gauges: Iterable[tuple[str, str, float]]) -> Iterator[str]:
        counters = (
            ("steps", "Calls of the model.", self.steps),
            ("prompt_tokens", "Tokens of the prompts of answers that began.", self.prompt),
            ("known_prompt_tokens", "Of them those that were known and not computed.", self.known),
            ("generated_tokens", "Tokens of answers.", self.generated),
            ("refused_requests", "Requests for which there was no room in the queue.", self.refused),
            ("late_requests", "Requests that were ended because their time was over.", self.late),
        )
        for name, about, value in counters:
            yield from _head(f"{name}_total", about, "counter")
            yield f"tunelift_{name}_total {value}"
        yield from _head("requests_total", "Requests that ended, by how.", "counter")
        yield from (f'tunelift_requests_total{{finish="{how}"}} {n}' for how, n in sorted(self.finished.items()))
        yield from _head("http_answers_total", "Answers of the server, by route and status.", "counter")
        for (route, status), n in sorted(self.answers.items()):
            yield f'tunelift_http_answers_total{{route="{route}",status="{status}"}} {n}'
        for name, about, now in gauges:
            yield from _head(name, about, "gauge")
            yield f"tunelift_{name} {now:g}"
        yield from _histogram("first_token_seconds", "From a request to its first token.", self.to_first)
        yield from _histogram("request_seconds", "From a request to its end.", self.to_last)


def _head(name: str, about: str, kind: str) -> Iterator[str]:
    yield f"# HELP tunelift_{name} {about}"
    yield f"# TYPE tunelift_{name} {kind}"


def _histogram(name: str, about: str, values: Histogram) -> Iterator[str]:
    yield from _head(name, about, "histogram")
    for limit, count in zip(SECONDS, values.counts, strict=True):
        yield f'tunelift_{name}_bucket{{le="{limit:g}"}} {count}'
    yield f'tunelift_{name}_bucket{{le="+Inf"}} {values.count}'
    yield f"tunelift_{name}_sum {values.sum:.6f}"
    yield f"tunelift_{name}_count {values.count}"
