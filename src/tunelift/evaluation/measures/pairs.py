"""How likely a language model finds the answers that people liked, and those that they did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tunelift.core.errors import InputError
from tunelift.core.progress import Advance
from tunelift.core.records import Liked, Rejected
from tunelift.data.prompted import both_answers, one_answer
from tunelift.evaluation.likelihood import of_groups
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure
from tunelift.evaluation.rows import Found, answered
from tunelift.fast.target_model import target_model
from tunelift.fast.targets import TargetModel
from tunelift.metrics import Answer, score_answer


class Preferences(Measure):
    """Both answers of each item, their prompt computed once; of a judged item its only one.

    The likelihood of an item is that of the answer that was chosen, or judged.
    """

    gives = frozenset({"pair", "judged", "likelihood", "text-likelihood"})
    compares = True

    def begin(self) -> None:
        pairs = all(isinstance(example.wanted, Rejected) for example in self.examples)
        needs = "judged" if pairs else "pair"
        if wrong := [metric.name for metric in self.plan.metrics if metric.needs == needs]:
            what = "pairs of answers" if pairs else "one judged answer each"
            raise InputError(
                f"The metric {wrong[0]} is not of such rows: they have {what}.",
                fix="Take liked_margin for judged answers, pair_accuracy and pair_margin for pairs.",
            )
        read = both_answers if pairs else one_answer
        self.answers = read(self.examples, self.renderer)
        self.fitting = [i for i in range(len(self.examples)) if self.length(i) <= self.context]

    def length(self, i: int) -> int:
        return max(len(prompt) + len(answer) for prompt, answer in self.answers[i])

    def key(self, i: int) -> Any:
        return self.answers[i]

    def how(self) -> Mapping[str, Any]:
        return {"max_length": self.whole}

    def prompt(self) -> Any:
        return [[prompt for prompt, _ in some] for some in self.answers]

    def prepared(self) -> Compute:
        rows = [[*prompt, *answer] for i in self.fitting for prompt, answer in self.answers[i]]
        view, _ = target_model(self.model, rows)
        self.fast_paths |= view.fast_paths
        return partial(self._likely, view)

    def _likely(self, view: TargetModel, some: Sequence[int], advance: Advance) -> dict[int, Found]:
        groups = [self.answers[i] for i in some]
        likely = of_groups(view, groups, self.model.device, self.plan.rows_at_once, advance)
        found = {}
        for i, sides in zip(some, likely, strict=True):
            example, (total, tokens) = self.examples[i], sides[0]
            found[i] = Found(None, total, tokens)
            if isinstance(example.wanted, Rejected):
                other, length = sides[1]
                found[i].prediction = example.completion if total > other else example.wanted.text
                found[i].beside = {"rejected_log_likelihood": other, "rejected_tokens": length}
        return found

    def row(self, i: int, found: Found | None) -> dict[str, Any]:
        """Say what the rejected answer was, or whether the only one was liked, and score the item."""
        example, wanted = self.examples[i], self.examples[i].wanted
        row = answered(example, found, [])
        row |= {"rejected": wanted.text} if isinstance(wanted, Rejected) else {}
        row |= {"liked": wanted.liked} if isinstance(wanted, Liked) else {}
        if "unscored" in row or found is None or found.log_likelihood is None:
            return row
        scores = {"chosen": found.log_likelihood, "chosen_tokens": found.tokens}
        if isinstance(wanted, Rejected):
            of_other = ("rejected_log_likelihood", "rejected_tokens")
            scores |= {"rejected": found.beside[of_other[0]], "rejected_tokens": found.beside[of_other[1]]}
        elif isinstance(wanted, Liked):
            scores = {"liked" if wanted.liked else "not liked": found.log_likelihood}
        likely = found.log_likelihood, found.tokens
        answer = Answer(found.prediction or "", example.completion, *likely, example.row, scores)
        return row | score_answer(answer, self.plan.metrics)


MEASURES.add("pairs", Preferences)
