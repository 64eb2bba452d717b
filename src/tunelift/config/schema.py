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


def _two_prices(prices: list[float]) -> list[float]:
    if prices and (len(prices) != 2 or min(prices) < 0):
        raise ValueError("two prices, of tokens read and of tokens written")
    return prices


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
Prices = Annotated[list[float], BeforeValidator(_listed), AfterValidator(_two_prices)]
Trackers = Annotated[list[Literal["tensorboard", "mlflow", "wandb", "trackio"]], BeforeValidator(_listed)]
Seeds = Annotated[list[int], BeforeValidator(_listed), AfterValidator(_different)]


def setting(default: Any, description: str, **limits: Any) -> Any:
    """Declare a key of a section: its default, one sentence, and limits as pydantic names them (gt, ge, lt, le)."""
    return Field(default, description=description, **limits)


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

    name: str = setting("", "Hub id, local folder, .gguf file, or a bundled name (gemma3-270m, all-minilm-l6-v2).")
    revision: str | None = setting(None, "Branch, tag or commit of the Hub repository.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Precision of the base model; auto measures what is fast here."
    )
    quantization: Literal["none", "nf4", "int8", "int4", "gguf"] = setting(
        "none",
        "Hold the base's linear layers in few bits, where the model is too large; nf4 is by bitsandbytes, gguf has all "
        "as it lies in the .gguf file.",
    )
    device: str = setting("auto", "cuda, cuda:1, mps or cpu; auto takes the first there is.")


class DataSection(Section):
    """Which rows, and how they become prompts and completions."""

    train: Source = setting(
        None, "File, folder, Hub id or bundled name (bbc-news, general-text); csv tsv jsonl json parquet txt conll."
    )
    validation: Split = setting(0.1, "A file, or a fraction taken from train; all selection happens here.")
    test: Split = setting(None, "A file, or a fraction split off train by seed; never read by tune.")
    subset: str | None = setting(None, "Configuration name of a Hub data set, or its folder.")
    columns: Names | None = setting(None, "Column names for files without a header.")
    id: str | None = setting(None, "Column that identifies a row; the row's number otherwise.")
    group: str | None = setting(None, "Column whose equal values stay in one split and form one cluster.")
    prompt: str | None = setting(None, 'Template over the columns, such as "Message: {text}\\nIntent:".')
    completion: str | None = setting(None, 'Template of the answer, such as " {category}".')
    rejected: str | None = setting(None, 'Template of the answer that was liked less, such as "{worse}".')
    text: str | None = setting(None, "Column or template of the text, for plain text and for a classification head.")
    text_pair: str | None = setting(None, "Column or template of a second text, for a head that reads two.")
    choices: str | None = setting(None, "Column of a list of options, or several, one each, with commas between.")
    label: str | None = setting(None, "Column of the label, for a head; of numbers or labels several, with commas.")
    labels: Names | None = setting(None, "All labels, where the data does not show every one.")
    separator: str | None = setting(None, "Text between the labels of a cell, where several may apply.")
    turns: Literal["all", "each", "last"] | None = setting(
        None,
        "Answers of a conversation that are learned: all in one row, each in its own, or the last; "
        "otherwise all where the chat template keeps earlier turns as they were, else each.",
    )
    deduplicate: bool = setting(
        True, "Keep one of equal rows in train, and none that stands in test, exactly or nearly."
    )
    max_train: int | None = setting(None, "At most so many training rows, drawn by seed.", gt=0)
    max_validation: int | None = setting(200, "At most so many validation rows, drawn by seed.", gt=0)
    max_test: int | None = setting(None, "At most so many test rows, drawn by seed.", gt=0)
    seed: int = setting(0, "Seed of the splits and of the rows drawn.")


class AdapterSection(BaseModel):
    """The PEFT method; every other key goes to that method's own PEFT config."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    method: str = setting("lora", "PEFT method, or full (all weights) or head (a new head alone). One of: {choices}.")
    start_from: str | None = setting(None, "Folder of an adapter to go on from.")
    new_tokens: Names | None = setting(None, "Texts that become tokens of their own, whose embeddings are trained.")


class TrainSection(Section):
    """The training loop."""

    epochs: float = setting(1, "Passes over the training rows; fractions are allowed.", gt=0)
    steps: int | None = setting(None, "Optimiser steps, instead of epochs.", gt=0)
    learning_rate: float = setting(2e-4, "Peak learning rate; some methods have a default of their own.", gt=0)
    optimizer: Literal["adamw", "adamw-8bit", "lora-plus", "adafactor"] = setting(
        "adamw",
        "AdamW; lora-plus has a higher rate for LoRA's B; adamw-8bit (bitsandbytes) and adafactor keep less beside the "
        "parameters.",
    )
    schedule: Literal["cosine", "linear", "constant"] = setting("cosine", "Learning rate after the warm-up.")
    warmup: float = setting(0.05, "Fraction of the steps over which the learning rate rises.", ge=0, lt=1)
    weight_decay: float = setting(0.0, "Weight decay, apart from the gradient.", ge=0)
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm.", gt=0)
    batch_size: int = setting(8, "Rows per optimiser step.", gt=0)
    micro_batch_tokens: int = setting(
        1024, "Tokens computed at once; a step is split into micro-batches of so many, with equal gradients.", gt=0
    )
    max_length: int = setting(1024, "Longer rows are cut, counted and shown (tokens).", gt=1)
    evaluate_every: int | None = setting(None, "Steps between looks at validation; two looks an epoch otherwise.", gt=0)
    patience: int | None = setting(None, "Stop after so many looks at validation without improvement.", gt=0)
    replay: float = setting(
        0, "Rows against forgetting for each training row: the base's own answers to general prompts.", ge=0, le=10
    )
    replay_from: str | None = setting(None, "File or Hub id of rows that are replayed instead: answers, or texts.")
    products: Literal["auto", "float32", "bfloat16", "int8"] = setting(
        "auto",
        "Precision of products with frozen weights; auto takes int8 where it is faster and, on the first rows, learns "
        "the same. Nothing is measured in int8.",
    )
    gradient_checkpointing: bool = setting(
        False, "Compute each layer again on the way back instead of keeping it: slower, far less memory."
    )
    save_every: int = setting(100, "Steps between checkpoints.", gt=0)
    seed: int = setting(0, "Seed of the adapter, of dropout and of the order of rows.")
    seeds: Seeds = Field(
        default_factory=list,
        description="Train once with each of these seeds; with five or more the verdict speaks of the recipe too.",
    )

    def rows_to_replay(self, trained: int) -> int:
        """Return how many rows are replayed beside so many: one at least, where replay is asked for."""
        return max(1, round(self.replay * trained)) if self.replay else 0


class PreferencesSection(Section):
    """How preferences are learned; refused for other tasks."""

    loss: Literal["dpo", "ipo", "kto", "orpo", "simpo", "cpo"] | None = setting(
        None, "Loss of the task preference; dpo for pairs and kto for judged answers otherwise."
    )
    beta: float | None = setting(None, "How strongly it pulls; as its paper has it otherwise.", gt=0)
    gamma: float | None = setting(None, "The margin that simpo asks for; 0.5 otherwise.", ge=0)
    reference: Literal["start", "base"] = setting(
        "start", "What dpo, ipo and kto compare with: the model as the training begins, or the base without adapter."
    )


class EndpointSection(Section):
    """A model behind an OpenAI-compatible address, which is sent texts; nothing is sent unless an address is named."""

    address: str | None = setting(
        None, "OpenAI-compatible address of a larger model, such as https://HOST/v1, that is asked the same items."
    )
    served_model: str = setting("", "Name of the model at that address.")
    key_from: str | None = setting(None, "Environment variable that holds the key of the address; never the key.")
    instructions: str | None = setting(None, "What it is told before the items; by the task otherwise.")
    request: dict[str, Any] = Field(
        default_factory=dict, description="Fields of its requests, such as {temperature: 0}; null leaves one out."
    )
    price: Prices = Field(default_factory=list, description="Of a million tokens it reads and writes: 0.15,0.6.")
    at_once: int = setting(4, "Requests that wait for an answer at once.", gt=0, le=256)
    timeout: float = setting(120, "Seconds after which a request is tried again.", gt=0)
    attempts: int = setting(6, "Times that a request is tried, with longer and longer pauses.", gt=0, le=20)


class EvaluateSection(Section):
    """What is measured, and how."""

    metrics: Metrics | None = setting(None, "{choices}; by the data otherwise.")
    max_new_tokens: int = setting(128, "Longest generated answer (tokens).", gt=0)
    max_answer_tokens: int = setting(30, "Longest part of a passage that answers a question (tokens).", gt=0)
    temperature: float = setting(1.0, "Of answers that are drawn, for metrics of several (pass_at:K:METRIC).", gt=0)
    stop: Texts = Field(default_factory=list, description="Generation stops before any of these strings.")
    thinking: Literal["strip", "keep"] = setting(
        "strip", "What is thought before an answer: no part of it, or scored with it."
    )
    label_score: Literal["sum", "mean"] = setting("sum", "Rank labels by summed or by mean token log-likelihood.")
    batch_size: int = setting(16, "Items computed at once.", gt=0)
    margin: float | None = setting(None, "A difference of the first metric smaller than this does not matter.", gt=0)
    slices: Names = Field(default_factory=list, description="Columns whose values are compared each by itself.")
    baselines: Names | None = setting(None, "{choices}; those that fit the task otherwise, or [] for none.")
    shots: int = setting(4, "Training rows in the prompt of the few-shot baseline.", gt=0)
    forgetting: Names = Field(
        default_factory=lambda: ["general-text"],
        description="Sets on which tuning should change nothing: files besides general-text (bundled); [] for none.",
    )
    tasks: Names = Field(
        default_factory=list,
        description="Tasks of lm-evaluation-harness to measure base and tuned on: names, YAML files, or folders.",
    )
    cache: bool = setting(True, "Keep what is computed for each item, and compute none of it twice.")


class LeaderboardSection(Section):
    """Methods and settings that `tunelift leaderboard` ranks."""

    methods: Metrics = Field(
        default_factory=list,
        description="What is ranked: names of methods, or mappings of a name and keys, {name: big, adapter.r: 64}.",
    )
    tokens: int | None = setting(
        None, "Tokens that the longest training of each may see; train.epochs otherwise.", gt=0
    )
    seconds: float | None = setting(None, "Instead: seconds that it may take, by a few measured steps.", gt=0)
    rates: list[float] = Field(
        default_factory=lambda: [0.3, 1.0, 3.0],
        description="Learning rates that each is tried with on validation, as multiples of its own.",
    )
    finalists: int = setting(
        3, "So many are trained in full, with each of train.seeds, and measured on the test.", gt=0
    )


class Config(Section):
    """A whole run."""

    model: ModelSection = Field(default_factory=ModelSection, description="The pre-trained model.")
    task: TaskName | None = Field(default=None, description="{choices}; what suits the model otherwise.")
    data: DataSection = Field(default_factory=DataSection, description="The data.")
    adapter: AdapterSection = Field(default_factory=AdapterSection, description="The adapter.")
    train: TrainSection = Field(default_factory=TrainSection, description="The training.")
    preferences: PreferencesSection = Field(default_factory=PreferencesSection, description="Preference tuning.")
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection, description="The evaluation.")
    larger_model: EndpointSection = Field(default_factory=EndpointSection, description="A larger model to prompt.")
    leaderboard: LeaderboardSection = Field(default_factory=LeaderboardSection, description="What is ranked.")
    output: str | None = Field(default=None, description="Run folder; runs/MODEL-DATA otherwise.")
    track: Trackers = Field(
        default_factory=list, description="Programs that are told losses and the verdict: {choices}; each is an extra."
    )
    sweep: dict[str, Any] = Field(
        default_factory=dict,
        description="Keys of adapter and train, each with values that `tunelift sweep` tries, or a range to draw from.",
    )

    def trained_with(self, **settings: Any) -> Config:
        """Return the config with other settings of the training."""
        return self.model_copy(update={"train": self.train.model_copy(update=settings)})
