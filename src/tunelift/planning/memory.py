"""The bytes that a run takes, part by part, from shapes and rows.

Weights, adapter, gradients and the optimiser's state are counted. Activations are estimated: the outputs of every
linear layer, which is what fused layers keep, times the tokens computed at once, and what passes through one layer.
`benchmarks/plan.py` holds all of it against measured peaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tunelift.evaluation.batching import TOKENS_AT_ONCE, by_length
from tunelift.fast.frozen import FEW_TOKENS, SHARE_OF_MEMORY
from tunelift.fast.head import LIKELY, ROWS_AT_ONCE, TILE
from tunelift.planning.sizes import Sizes, bytes_of_weights
from tunelift.training.batches import Sizes as Costs
from tunelift.training.batches import plan_steps

ALWAYS, EVALUATION, BASELINES, TRAINING = "always", "evaluation", "baselines", "training"
OF_FILES = "of files"
"""How weights are held that lie quantised in a model's own files."""

SINGLE = 4
"""Bytes of a number in fp32."""

BEYOND = 61
"""Numbers in double precision that fitting a regression takes for each that it learns, as seen with scikit-learn 1.x on
banking77: L-BFGS has 25 with ten steps of memory (2mn + 5n in scipy), and what it is given and gives is copied."""

THROUGH = 3
"""What is alive of one layer at once, forward or on the way back, in times of what it keeps: inputs, outputs and their
gradients."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one kind, when they are there (`stage`), and how many of them there are in any case (`certain`)."""

    name: str
    bytes: int
    stage: str = ALWAYS
    certain: int = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens of the rows to train on, of the items to evaluate (the longest row of each), and of their prompts."""

    train: Sequence[int]
    test: Sequence[int]
    prompts: Sequence[int] = ()
    packs: bool = True


@dataclass(frozen=True, slots=True)
class Adapter:
    """What is trained (bytes): its parameters, the gradients, what each optimiser keeps, and copies in fp32 and of the
    best."""

    parameters: int
    gradients: int
    optimiser: Mapping[str, int]
    copies: int
    whole: bool = False
    everywhere: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that decide over memory; each may be changed to see what that gives."""

    itemsize: int
    micro_batch_tokens: int
    max_length: int
    batch_size: int
    rank: int | None
    rows_at_once: int
    new_tokens: int
    quantization: str = "none"
    again: bool = False
    optimizer: str = "adamw"
    epochs: float = 1.0
    steps: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan is made from. `usable` is the memory by which copies of weights are made or not, `process` what
    Python, its libraries, the tokenizer and the rows take, and `planned` the settings that `adapter` was counted with.

    `regression` are the numbers that the baseline on words learns: features times labels. `scale` is what a rehearsal
    found activations to be, in times of what is estimated.
    """

    sizes: Sizes
    rows: Rows
    adapter: Adapter
    planned: Settings
    process: int
    usable: int | None
    weights: int | None = None
    regression: int = 0
    eight: bool = False
    scale: float = 1.0


def parts(facts: Facts, settings: Settings) -> list[Part]:
    """Return the bytes by part with these settings."""
    weights = weights_of(facts, settings)
    found = [
        Part("Python, torch, tokenizer, rows", facts.process, certain=facts.process),
        Part("weights", weights, certain=weights),
        *_of_adapter(facts, settings),
        *_of_copies(facts, settings),
        *_of_training(facts, settings),
        *_of_evaluation(facts, settings),
    ]
    return [part for part in found if part.bytes > 0]


def peak(some: Sequence[Part], *, certain: bool = False) -> int:
    """Return the most that is there at once: what is always there, and the largest of the stages."""
    return max(by_stage(some, certain=certain).values())


def by_stage(some: Sequence[Part], *, certain: bool = False) -> dict[str, int]:
    """Return what is there in each stage, what is always there among it."""
    count = dict.fromkeys((ALWAYS, EVALUATION, BASELINES, TRAINING), 0)
    for part in some:
        count[part.stage] += part.certain if certain else part.bytes
    always = count.pop(ALWAYS)
    return {stage: always + own for stage, own in count.items()}


def of_training(facts: Facts) -> Facts:
    """Return the facts of a training alone, which reads no test row and measures no baseline."""
    return replace(facts, rows=replace(facts.rows, test=(), prompts=()), regression=0)


def weights_of(facts: Facts, settings: Settings) -> int:
    """Return the bytes of the base's weights."""
    if facts.weights is not None and settings.quantization == facts.planned.quantization:
        return facts.weights
    return bytes_of_weights(facts.sizes, settings.itemsize, settings.quantization)


def lengths(facts: Facts, settings: Settings) -> list[int]:
    """Return the tokens of the training rows, cut where the settings cut them."""
    return [min(tokens, settings.max_length) for tokens in facts.rows.train]


def at_once(facts: Facts, settings: Settings) -> int:
    """Return the tokens of the largest micro-batch of the training."""
    rows = lengths(facts, settings)
    costs = Costs(rows, packs=facts.rows.packs)
    epochs = min(1.0, settings.epochs)
    plan = plan_steps(
        costs, settings.batch_size, epochs, settings.steps, settings.seed, settings.micro_batch_tokens
    )  # fmt: skip
    groups = (group for step in plan for group in step)
    if facts.rows.packs:
        return max((sum(rows[i] for i in group) for group in groups), default=0)
    return max((max(rows[i] for i in group) * len(group) for group in groups), default=0)


def _of_adapter(facts: Facts, settings: Settings) -> list[Part]:
    own = facts.adapter
    if own.whole:
        times = 1.0
    else:
        planned = facts.planned.rank
        times = settings.rank / planned if settings.rank and planned else 1.0
    moments = int(own.optimiser[settings.optimizer] * times)
    parameters, gradients = int(own.parameters * times), int(own.gradients * times)
    return [
        Part("adapter", 0 if own.whole else parameters, certain=0 if own.whole else parameters),
        Part("gradients", gradients, TRAINING, certain=gradients),
        Part("optimiser", moments, TRAINING, certain=moments),
        Part("best values, copies in fp32", int(own.copies * times), TRAINING),
        Part("base, loaded again to be proved", weights_of(facts, settings) if own.whole else 0),
    ]


def _of_copies(facts: Facts, settings: Settings) -> list[Part]:
    """Return copies of weights in the order of the fast products, made where an eighth of the memory holds them."""
    sizes, share = facts.sizes, SHARE_OF_MEMORY * (facts.usable or 0)
    narrow = settings.quantization != "none"
    copy = 0 if narrow or facts.adapter.whole else sizes.linear * settings.itemsize
    forward = copy if copy <= share else 0
    if facts.eight and not narrow:
        training = 2 * (sizes.linear + sizes.head)
    else:
        training = 2 * copy if at_once(facts, settings) <= FEW_TOKENS and 2 * copy <= share else 0
    narrowed_here = narrow and settings.quantization not in ("gguf", OF_FILES)
    wide = bytes_of_weights(sizes, settings.itemsize, "none") if narrowed_here else 0
    both, room = wide + weights_of(facts, settings), 0.8 * (facts.usable or 0)
    return [
        Part("weights in the order of fast products", forward, EVALUATION),
        Part("weights in the order of fast products ", training, TRAINING),
        Part("base in full precision, beside", wide if facts.rows.test and both <= room else 0, EVALUATION),
    ]


def _of_training(facts: Facts, settings: Settings) -> list[Part]:
    sizes, tokens = facts.sizes, at_once(facts, settings)
    row = tokens * settings.itemsize
    through = THROUGH * sizes.widest
    kept = sizes.layers * sizes.hidden + sizes.widest if settings.again else sizes.kept
    least = tokens * sizes.layers * sizes.hidden * settings.itemsize if facts.adapter.everywhere else 0
    return [
        Part("activations of training", int(facts.scale * row * (kept + through)), TRAINING, certain=least),
        Part("logits of training", of_head(sizes, tokens, settings), TRAINING),
    ]


def of_head(sizes: Sizes, tokens: int, settings: Settings) -> int:
    """Return the bytes that the head takes for so many targets: tiles of the vocabulary, or all logits at once."""
    if not sizes.outputs:
        return 0
    if not sizes.tiled:
        return tokens * sizes.outputs * (2 * SINGLE + settings.itemsize)
    tile = min(tokens, ROWS_AT_ONCE) * min(TILE, sizes.outputs) * (SINGLE + 2 * settings.itemsize)
    likely = LIKELY * sizes.hidden * settings.itemsize if sizes.outputs > LIKELY else 0
    return tile + likely + 2 * tokens * sizes.hidden * SINGLE


def _of_evaluation(facts: Facts, settings: Settings) -> list[Part]:
    sizes, size = facts.sizes, settings.itemsize
    tokens = evaluated_at_once(facts, settings)
    found = [
        Part("activations of evaluation", int(tokens * size * (THROUGH * sizes.widest + 2 * sizes.hidden)), EVALUATION),
        Part("logits of evaluation", of_head(sizes, tokens, settings), EVALUATION),
        Part("regression on words", BEYOND * 2 * SINGLE * facts.regression, BASELINES),
    ]
    if facts.rows.prompts and settings.new_tokens:
        longest = sorted(facts.rows.prompts, reverse=True)[: settings.rows_at_once]
        places = len(longest) * (longest[0] + settings.new_tokens)
        logits = len(longest) * sizes.outputs * (size + SINGLE)
        one = places * sizes.keys // sizes.layers * size  # a layer's is copied to grow
        found.append(Part("keys and values of answers", places * sizes.keys * size + 2 * one, EVALUATION))
        found.append(Part("logits of answers", logits, EVALUATION))
    return found


def evaluated_at_once(facts: Facts, settings: Settings) -> int:
    """Return the most tokens, padding included, that are scored or read at once."""
    several = 256 if facts.rows.packs else settings.rows_at_once
    most = 0
    groups = [(facts.rows.test, several, TOKENS_AT_ONCE), (facts.rows.prompts, settings.rows_at_once, 2**16)]
    for rows, count, tokens in groups:
        for group in by_length(rows, count, tokens):
            widest = rows[group[0]] * len(group)
            most = max(most, widest if not facts.rows.packs else sum(rows[i] for i in group))
    return most


def changed(settings: Settings, **changes: object) -> Settings:
    """Return the settings with others."""
    return replace(settings, **changes)  # type: ignore[arg-type]
