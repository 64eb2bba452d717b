"""What to do before a model is tuned: five questions, each answered by what was measured, or not at all.

Every sentence stands beside the figures that it rests on. What nothing was measured of is said to be unknown, and what
was measured without telling two answers apart is said to be so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scipy import special

from tunelift.comparison import advice_figures as figures
from tunelift.comparison import power
from tunelift.comparison.advice_figures import LEVEL, Doubts, Evidence
from tunelift.comparison.results import BASE
from tunelift.core.errors import listed
from tunelift.core.records import ScoreRow
from tunelift.metrics import direction

__all__ = ["Advice", "Doubts", "Evidence", "Finding", "advised"]

SOLVED = 0.9
"""Of a metric between 0 and 1: what is shown to be above this is taken for solved."""
EFFECT = 0.05
"""The difference that is looked for where evaluate.margin names none."""
NOISE = 0.1
"""From so many rows in doubt on, the labels come first."""
LEAST_ROWS = 50
"""Training rows below which little is learned, whatever the power of the test: a rule of thumb, and called one."""
FAR = 2.0
"""So many times the effect must be before it is seen, and there are too few rows; below, they are nearly enough."""
TOLD = 0.1
"""Nats by which a question tells its answer that are next to nothing: ten per cent more likely."""
IN_FORM = 0.5
"""Of wrong answers: from this share on, what is wrong with them is their form."""
SIMPLE = ("tf-idf", "linear-probe", "tf-idf-cosine", "bm25")
FEW_SHOT, MAJORITY = "few-shot", "majority"
SHOWN_ROWS = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to a question: in a word ("unknown" without evidence), in a sentence, and the figures behind it."""

    question: str
    word: str
    text: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Advice:
    """The findings in order, and what follows from them."""

    findings: tuple[Finding, ...]
    word: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        found = {f.question: {"word": f.word, "text": f.text, "shown": list(f.shown)} for f in self.findings}
        return {"advice": self.word, "text": self.text, "findings": found}

    def __str__(self) -> str:
        lines = []
        for finding in self.findings:
            lines += [f"{finding.question}", f"  {finding.text}", *(f"    {line}" for line in finding.shown)]
        return "\n".join([*lines, "", f"Advice: {self.text}"])


KNOWS = "Does the base know this with a few examples?"
LACKS = "Is it form, skill or facts that it lacks?"
SIMPLER = "Does a simple model do it already?"
ENOUGH = "Are there enough rows for the effect looked for?"
CONTRADICT = "Which rows contradict each other?"


def advised(evidence: Evidence) -> Advice:
    """Answer the five questions, and say what follows."""
    knows = _knows(evidence)
    findings = (knows, _lacks(evidence, knows), _simpler(evidence), _enough(evidence), _contradict(evidence))
    return Advice(findings, *_follows({finding.question: finding.word for finding in findings}))


FOLLOWS = (
    (KNOWS, "known", "prompt", "prompt the base; it does this already, and tuning could win little."),
    (ENOUGH, "few", "more rows", "get more rows first: with these neither training nor verdict has much to stand on."),
    (CONTRADICT, "many", "labels", "look at the rows in doubt first: a model tuned on them learns what they say."),
    (SIMPLER, "solved", "simple model", "take the simple model, unless tuning is shown to beat it by what it costs."),
    (
        *(LACKS, "facts", "retrieval"),
        "put the facts into the prompt (retrieval) rather than tune: trained on answers that it cannot know, a model "
        "learns to make them up (Gekhman et al. 2024, arXiv 2405.05904).",
    ),
    (LACKS, "form", "form", "show it the form with examples in the prompt; a short tuning saves their tokens."),
    (LACKS, "skill", "tune", "tune: it lacks a skill, and nothing cheaper here was seen to do it."),
)
"""What an answer to a question leads to, the first that applies: rows and labels to rely on, then whatever is cheaper
than tuning, then tuning."""
UNCLEAR = "what was measured does not say whether tuning is the answer: a run with its verdict would."


def _follows(words: Mapping[str, str]) -> tuple[str, str]:
    found = ((advice, text) for question, word, advice, text in FOLLOWS if words[question] == word)
    return next(found, ("unclear", UNCLEAR))


def _knows(evidence: Evidence) -> Finding:
    if BASE not in evidence.scores:
        return _unknown(KNOWS, "the base was not measured on validation rows")
    names = [name for name in (BASE, FEW_SHOT) if name in evidence.scores]
    shown, result = [figures.value(evidence, name) for name in names], None
    if FEW_SHOT in names:
        result = figures.against(evidence, BASE, FEW_SHOT)
        shown.append(figures.difference("examples in the prompt", result))
    if max(figures.low(evidence, name) for name in names) >= SOLVED:
        return Finding(KNOWS, "known", f"Yes: {SOLVED:g} and more is shown.", tuple(shown))
    if result is None:
        return _unknown(KNOWS, "nothing was measured with examples in a prompt, which this model may not read", shown)
    word, text = {
        "better": ("partly", "Examples help it, and it is not there yet."),
        "worse": ("no", "No: with examples it does worse."),
    }.get(result.verdict.word, ("unclear", "Whether examples help it cannot be told from these rows."))
    return Finding(KNOWS, word, text, tuple(shown))


def _lacks(evidence: Evidence, knows: Finding) -> Finding:
    """Look at the form of wrong answers, at whether questions tell answers, and at whether the rows can teach them."""
    if knows.word == "known":
        return Finding(LACKS, "nothing", "Nothing much: see above.")
    form, shown = _form(evidence)
    if form:
        return Finding(LACKS, "form", "Form: most answers that count as wrong hold what is wanted.", tuple(shown))
    if evidence.told is None or len(evidence.told) < 2:
        return _unknown(LACKS, "how much a question tells the base about its answer was not measured", shown)
    low, mean, high = figures.mean(evidence.told)
    shown.append(
        f"its own question makes an answer likelier than another's does by {mean:.2f} nats "
        f"({LEVEL:.0%} interval {low:.2f} to {high:.2f}; {len(evidence.told)} rows)"
    )
    learnable, said = _learnable(evidence)
    word, text = "unclear", "These rows do not tell skill and facts apart."
    if low > TOLD:
        word, text = "skill", "Skill: what is asked tells it something, and not enough."
    elif learnable:
        word, text = "skill", "Skill: the rows tell what is asked, and the base does not see it."
    elif high < TOLD and learnable is False:
        word, text = "facts", "Facts: nothing that it reads tells it the answer."
    return Finding(LACKS, word, text, (*shown, *said))


def _form(evidence: Evidence) -> tuple[bool, list[str]]:
    """Tell whether most of the wrong answers hold the right one; a chosen label has no form that could be wrong."""
    if evidence.labels or BASE not in evidence.scores:
        return False, ["labels are chosen from, so the form of an answer cannot be wrong"] * evidence.labels
    rows = [row for row in evidence.scores[BASE].rows if figures.metric(row, evidence.metric) is not None]
    wrong = [row for row in rows if row.get("prediction") is not None and figures.metric(row, evidence.metric) != 1]
    kind_is_binary = all(figures.metric(row, evidence.metric) in (0, 1) for row in rows)
    if not wrong or not kind_is_binary or direction(evidence.metric) is not True:
        return False, []
    held = sum(_holds(row) for row in wrong)
    low, high = figures.share(held, len(wrong))
    said = f"{held} of {len(wrong)} answers that count as wrong hold the right one ({low:.0%} to {high:.0%})"
    return held >= IN_FORM * len(wrong) and low > IN_FORM / 2, [said]


def _learnable(evidence: Evidence) -> tuple[bool | None, list[str]]:
    """Tell whether the answers can be had from the rows: by a simple model, from the prompt, or from other answers.

    None where nothing tells.
    """
    simple = [name for name in SIMPLE if name in evidence.scores]
    if simple and MAJORITY in evidence.scores:
        results = {name: figures.against(evidence, MAJORITY, name) for name in simple}
        what = "against the most frequent answer"
        said = [figures.difference(f"{name} {what}", result) for name, result in results.items()]
        return any(result.verdict.word == "better" for result in results.values()), said
    rows = evidence.scores[BASE].rows if BASE in evidence.scores else []
    if not rows or evidence.labels:
        return None, []
    known = {_plain(answer) for answer in evidence.answers}
    inside = sum(_plain(row["reference"]) in _plain(row["input"]) for row in rows)
    again = sum(_plain(row["reference"]) in known for row in rows)
    said = [f"of {len(rows)} answers {inside} stand in their question, {again} are answers of training rows too"]
    return (True if max(inside, again) > len(rows) / 2 else False if inside + again < len(rows) / 10 else None), said


def _simpler(evidence: Evidence) -> Finding:
    simple = [name for name in SIMPLE if name in evidence.scores]
    if not simple:
        return _unknown(SIMPLER, "there are no labels, numbers or texts to find that a simple model could give")
    shown = [figures.value(evidence, name) for name in simple]
    if BASE in evidence.scores:
        results = {name: figures.against(evidence, BASE, name) for name in simple}
        shown += [figures.difference(f"{name} against the base", result) for name, result in results.items()]
    solved = [name for name in simple if figures.low(evidence, name) >= SOLVED]
    if solved:
        return Finding(SIMPLER, "solved", f"Yes: {listed(solved)} is shown to reach {SOLVED:g}.", tuple(shown))
    return Finding(SIMPLER, "no", "Not yet: none is shown to solve it. Tuning has to beat them.", tuple(shown))


def _enough(evidence: Evidence) -> Finding:
    effect, rows, trained = evidence.margin or EFFECT, evidence.test_rows, len(evidence.answers)
    wanted = f"{effect:g}" + ("" if evidence.margin else " (evaluate.margin names no other)")
    shown = [f"{trained} training rows, {rows} test rows; the effect looked for is {wanted}"]
    few = trained < LEAST_ROWS
    shown += [f"fewer than {LEAST_ROWS} training rows, a rule of thumb"] * few
    if not rows:
        return _unknown(ENOUGH, "the number of test rows is not known", shown)
    least, spread = None, figures.spread(evidence)
    if figures.is_binary(evidence):
        changed = power.DISCORDANCES[1]
        least = power.smallest_difference(rows, changed) or math.inf
        shown.append(power.describe(rows))
        shown.append(f"{effect:g} takes {figures.needed(effect)} test rows where {changed:.0%} of the answers change")
    elif spread is not None:
        least = float(special.stdtrit(max(rows - 1, 1), (1 + LEVEL) / 2)) * spread / math.sqrt(rows)
        shown.append(
            f"two models measured here differ from item to item by {spread:.3g} (standard deviation): at that, "
            f"{rows} items give an interval of {least:.2g} to either side"
        )
    if few or (least is not None and least > FAR * effect):
        return Finding(ENOUGH, "few", "No: there is too little to learn from, or to see it by.", tuple(shown))
    if least is None:
        return _unknown(ENOUGH, f"how much {evidence.metric} differs between two models was not measured", shown)
    if least > effect:
        return Finding(ENOUGH, "short", "Not quite: a larger effect would be seen, this one often not.", tuple(shown))
    return Finding(ENOUGH, "enough", "Yes.", tuple(shown))


def _contradict(evidence: Evidence) -> Finding:
    if evidence.conflicts is None and evidence.doubts is None:
        return _unknown(CONTRADICT, "the rows were not compared with each other")
    conflicts = int((evidence.conflicts or {}).get("count") or 0)
    shown = [f"{conflicts} inputs stand there with different answers"]
    for example in ((evidence.conflicts or {}).get("examples") or [])[:3]:
        shown.append(f'"{_short(example["input"])}": {listed(map(_short, example["labels"]))}')
    doubts, many = evidence.doubts, conflicts > NOISE * max(1, len(evidence.answers))
    if doubts is None:
        shown.append("whether rows speak against each other's labels was not measured")
    elif not doubts.rows and doubts.of == 0:
        shown.append("no label stands in enough rows for others to speak against it")
    else:
        low, _ = figures.share(doubts.right, doubts.of)
        with_words = f"a classifier of their words has {doubts.right} of {doubts.of} held-out rows right"
        if low <= doubts.most / doubts.of:
            shown.append(f"{with_words}, no more than the most frequent label: it can speak against none")
        else:
            count = len(doubts.rows)
            shown.append(f"{with_words}; against {count} labels ({count / doubts.of:.0%}) it speaks with confidence")
            for row, own, other, likely in doubts.rows[:SHOWN_ROWS]:
                shown.append(f'row {row}: "{_short(own)}", and by the others "{_short(other)}" ({likely:.0%})')
            many |= figures.share(count, doubts.of)[0] > NOISE
    some = conflicts or (doubts is not None and bool(doubts.rows) and "speaks with" in " ".join(shown))
    if many:
        return Finding(CONTRADICT, "many", f"More than {NOISE:.0%} of the rows are in doubt.", tuple(shown))
    if some:
        return Finding(CONTRADICT, "some", "Some; they are worth a look.", tuple(shown))
    return Finding(CONTRADICT, "none", "None that was found.", tuple(shown))


def _unknown(question: str, why: str, shown: Iterable[str] = ()) -> Finding:
    return Finding(question, "unknown", f"No evidence: {why}.", tuple(shown))


def _holds(row: ScoreRow) -> bool:
    wanted = [_plain(text) for text in row.get("references") or [row["reference"]]]
    said = f" {_plain(row['prediction'])} "
    return any(text and f" {text} " in said for text in wanted)


def _plain(text: Any) -> str:
    return " ".join(re.findall(r"\w+", str(text).casefold()))


def _short(text: Any) -> str:
    folded = " ".join(str(text).split())
    return folded if len(folded) <= 60 else f"{folded[:59]}\N{HORIZONTAL ELLIPSIS}"
