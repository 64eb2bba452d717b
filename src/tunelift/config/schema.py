"""Every setting, declared once: its type, its default and one sentence. Help, checks and docs are made from this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from tunelift.core.registry import known_names


def _listed(value: Any) -> Any:
    """Let one name, or names with commas between, stand for a list: `--metrics accuracy,loss`."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _named(value: Any) -> Any:
    """Let numbers stand for names, as labels such as 0 and 1 do."""
    is_list = isinstance(value, (list, tuple))
    return [str(part) if type(part) in (int, float) else part for part in value] if is_list else value


def _alone(value: Any) -> Any:
    """Let one string stand for a list of one, blanks and commas included."""
    return ([value] if value else []) if isinstance(value, str) else value


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("each seed may stand there once")
    return seeds


def _source_or_fraction(value: Any) -> Any:
    if isinstance(value, (int, float)) and not 0 < value < 1:
        raise ValueError("a fraction is above 0 and below 1")
    return value


@dataclass(frozen=True, slots=True)
class OneOf:
    """The names of a kind of thing that has a package with a file for each, and of those added from outside."""

    kind: str
    package: str

    def names(self) -> list[str]:
        return known_names(self.kind, self.package)

    def check(self, name: str) -> str:
        """Return the name; raise ValueError for one that is not known."""
        if name not in self.names():
            raise ValueError(f"there is no {self.kind} of this name")
        return name


def choices(annotation: Any) -> list[str]:
    """Return the values that an annotation names one by one; none where it does not."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    if get_origin(annotation) is Annotated:
        return [name for known in annotation.__metadata__ if isinstance(known, OneOf) for name in known.names()]
    return [choice for part in get_args(annotation) for choice in choices(part)]


TASKS = OneOf("task", "tunelift.tasks")
TaskName = Annotated[str, TASKS, AfterValidator(TASKS.check)]
# Python functions pass lists of rows and Dataset objects where a file would name a source.
Source = Any
Split = Annotated[Any, BeforeValidator(_source_or_fraction)]
Names = Annotated[list[str], BeforeValidator(_named), BeforeValidator(_listed)]
Texts = Annotated[list[str], BeforeValidator(_alone)]
Metrics = Annotated[list[Any], BeforeValidator(_listed)]
Seeds = Annotated[list[int], BeforeValidator(_listed), AfterValidator(_different)]


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=False, arbitrary_types_allowed=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is wanted: pydantic would read them as 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("true and false are not allowed here")
        return value


class ModelSection(Section):
    """Which model, and how it is held in memory."""

    name: str = Field(
        default="", description="Hub id, local folder, .gguf file, or a bundled name (gemma3-270m, all-minilm-l6-v2)."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of the Hub repository.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Precision of the base model; auto measures what is fast here."
    )
    device: str = Field(default="auto", description="cuda, cuda:1, mps or cpu; auto takes the first there is.")


class DataSection(Section):
    """Which rows, and how they become prompts and completions."""

    train: Source = Field(
        default=None,
        description="File, folder, Hub id or bundled name (bbc-news, general-text); "
        "csv tsv jsonl json parquet txt conll.",
    )
    validation: Split = Field(
        default=0.1, description="A file, or a fraction taken from train; all selection happens here."
    )
    test: Split = Field(default=None, description="A file, or a fraction split off train by seed; never read by tune.")
    subset: str | None = Field(default=None, description="Configuration name of a Hub data set, or its folder.")
    columns: Names | None = Field(default=None, description="Column names for files without a header.")
    id: str | None = Field(default=None, description="Column that identifies a row; the row's number otherwise.")
    group: str | None = Field(
        default=None, description="Column whose equal values stay in one split and form one cluster."
    )
    prompt: str | None = Field(
        default=None, description='Template over the columns, such as "Message: {text}\\nIntent:".'
    )
    completion: str | None = Field(default=None, description='Template of the answer, such as " {category}".')
    text: str | None = Field(
        default=None, description="Column or template of the text, for plain text and for a classification head."
    )
    label: str | None = Field(default=None, description="Column of the label, for a classification head.")
    labels: Names | None = Field(default=None, description="All labels, where the data does not show every one.")
    turns: Literal["all", "each", "last"] | None = Field(
        default=None,
        description="Answers of a conversation that are learned: all in one row, each in its own, or the last; "
        "otherwise all where the chat template keeps earlier turns as they were, else each.",
    )
    deduplicate: bool = Field(
        default=True, description="Keep one of equal rows in train, and none that stands in test, exactly or nearly."
    )
    max_train: int | None = Field(default=None, gt=0, description="At most so many training rows, drawn by seed.")
    max_validation: int | None = Field(default=200, gt=0, description="At most so many validation rows, drawn by seed.")
    max_test: int | None = Field(default=None, gt=0, description="At most so many test rows, drawn by seed.")
    seed: int = Field(default=0, description="Seed of the splits and of the rows drawn.")


class AdapterSection(BaseModel):
    """The PEFT method; every other key goes to that method's own PEFT config."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    method: str = Field(default="lora", description="PEFT method.")
    start_from: str | None = Field(default=None, description="Folder of an adapter to go on from.")


class TrainSection(Section):
    """The training loop."""

    epochs: float = Field(default=1, gt=0, description="Passes over the training rows; fractions are allowed.")
    steps: int | None = Field(default=None, gt=0, description="Optimiser steps, instead of epochs.")
    learning_rate: float = Field(
        default=2e-4, gt=0, description="Peak learning rate of AdamW; some methods have a default of their own."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="Learning rate after the warm-up."
    )
    warmup: float = Field(
        default=0.05, ge=0, lt=1, description="Fraction of the steps over which the learning rate rises."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    batch_size: int = Field(default=8, gt=0, description="Rows per optimiser step.")
    micro_batch_tokens: int = Field(
        default=1024,
        gt=0,
        description="Tokens computed at once; a step is split into micro-batches of so many, with equal gradients.",
    )
    max_length: int = Field(default=1024, gt=1, description="Longer rows are cut, counted and shown (tokens).")
    evaluate_every: int | None = Field(
        default=None, gt=0, description="Steps between looks at validation; two looks an epoch otherwise."
    )
    patience: int | None = Field(
        default=None, gt=0, description="Stop after so many looks at validation without improvement."
    )
    products: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        default="auto",
        description="Precision of products with frozen weights; auto takes int8 where it is faster and, on the first "
        "rows, learns the same. Nothing is measured in int8.",
    )
    save_every: int = Field(default=100, gt=0, description="Steps between checkpoints.")
    seed: int = Field(default=0, description="Seed of the adapter, of dropout and of the order of rows.")
    seeds: Seeds = Field(
        default_factory=list,
        description="Train once with each of these seeds; with five or more the verdict speaks of the recipe too.",
    )


class EvaluateSection(Section):
    """What is measured, and how."""

    metrics: Metrics | None = Field(
        default=None,
        description="accuracy macro_f1 exact_match numeric_match f1 rouge_l bleu chrf loss perplexity bits_per_byte; "
        "by the data otherwise.",
    )
    max_new_tokens: int = Field(default=128, gt=0, description="Longest generated answer (tokens).")
    stop: Texts = Field(default_factory=list, description="Generation stops before any of these strings.")
    thinking: Literal["strip", "keep"] = Field(
        default="strip", description="What is thought before an answer: no part of it, or scored with it."
    )
    label_score: Literal["sum", "mean"] = Field(
        default="sum", description="Rank labels by summed or by mean token log-likelihood."
    )
    batch_size: int = Field(default=16, gt=0, description="Items computed at once.")
    margin: float | None = Field(
        default=None, gt=0, description="A difference of the first metric smaller than this does not matter."
    )
    slices: Names = Field(default_factory=list, description="Columns whose values are compared each by itself.")
    baselines: Names | None = Field(
        default=None,
        description="few-shot majority tf-idf linear-probe; those that fit the task otherwise, or [] for none.",
    )
    shots: int = Field(default=4, gt=0, description="Training rows in the prompt of the few-shot baseline.")
    forgetting: Names = Field(
        default_factory=lambda: ["general-text"],
        description="Sets on which tuning should change nothing: files besides general-text (bundled); [] for none.",
    )
    tasks: Names = Field(
        default_factory=list,
        description="Tasks of lm-evaluation-harness to measure base and tuned on: names, YAML files, or folders.",
    )
    cache: bool = Field(default=True, description="Keep what is computed for each item, and compute none of it twice.")


class Config(Section):
    """A whole run."""

    model: ModelSection = Field(default_factory=ModelSection, description="The pre-trained model.")
    task: TaskName | None = Field(default=None, description="{choices}; what suits the model otherwise.")
    data: DataSection = Field(default_factory=DataSection, description="The data.")
    adapter: AdapterSection = Field(default_factory=AdapterSection, description="The adapter.")
    train: TrainSection = Field(default_factory=TrainSection, description="The training.")
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection, description="The evaluation.")
    output: str | None = Field(default=None, description="Run folder; runs/MODEL-DATA otherwise.")

    def trained_with(self, **settings: Any) -> Config:
        """Return the config with other settings of the training."""
        return self.model_copy(update={"train": self.train.model_copy(update=settings)})
