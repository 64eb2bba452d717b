"""Pictures and their labels, with a head on an encoder of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.core.records import Example, Picture
from tunelift.data.columns import Reading
from tunelift.data.pictures import choose_pictures, opened
from tunelift.data.render import RenderReport, Tokens
from tunelift.model_facts.parameters import compute_dtype
from tunelift.tasks.base import MADE_UP, TASKS, Batch, Learned, Loss, Row, Shown, Task
from tunelift.tasks.sequence_classification import places_of

COUNTED_AS = 256
"""Tokens as which a picture counts where micro-batches are filled: of 224 pixels, 16 to a patch, there are 196."""


@dataclass(frozen=True, slots=True)
class PictureRow(Row):
    """A picture, decoded when its turn comes: hundreds of thousands of numbers each would fill the memory."""

    picture: Picture | None = None
    processor: Any = None


def pixels(processor: Any, pictures: Sequence[Picture], device: torch.device) -> dict[str, Tensor]:
    """Return pixel_values (B, C, H, W) as the model's own processor makes them."""
    found: Tensor = processor(images=[opened(picture) for picture in pictures], return_tensors="pt")["pixel_values"]
    return {"pixel_values": found.to(device)}


def picture_of(example: Example) -> Picture:
    """Return the picture of an example of this task."""
    assert isinstance(example.given, Picture)
    return example.given


def picture_logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return a model's logits (B, classes)."""
    found: Tensor = model(pixel_values=inputs["pixel_values"].to(compute_dtype(model))).logits
    return found


class ImageClassification(Task):
    name = "image-classification"
    auto_class = "AutoModelForImageClassification"
    mapping = "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"
    peft_type = None
    takes_tokens = False
    pipeline_tag = "image-classification"
    reader = "AutoImageProcessor"
    reading = Reading(choose_pictures, refuse=(), labels=True)
    measures = ("picture-class",)

    def fits(self, config: Any) -> bool:
        """Leave out models that read words as well, such as CLIP, and those that read pixels as words."""
        reads_words = hasattr(config, "vocab_size") or hasattr(config, "text_config")
        return super().fits(config) and not reads_words

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return ["accuracy", "loss"]

    def made_up(self) -> list[Example]:
        some = [Picture(f"{word}-{i}.png", f"{i:064x}") for i, word in enumerate(MADE_UP)]
        return [Example(str(i), one.path, word, one) for i, (word, one) in enumerate(zip(MADE_UP, some, strict=True))]

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        index = places_of(labels, examples)
        rows = list[Row]()
        for example in examples:
            picture = picture_of(example)
            wanted = [index[example.completion], picture.sha256]
            rows.append(PictureRow(range(COUNTED_AS), wanted, picture=picture, processor=tokenizer))
        return rows, RenderReport(rows=len(rows), tokens=COUNTED_AS * len(rows), tokens_in_loss=len(rows))

    def shown(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, most: int
    ) -> tuple[list[str], list[Shown]]:
        return [], [(Tokens([], [], 0), f"{example.prompt} -> {example.completion}") for example in examples[:most]]

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        some = [row for row in rows if isinstance(row, PictureRow)]
        inputs = pixels(some[0].processor, [row.picture for row in some if row.picture], device)
        labels = torch.tensor([row.labels[0] for row in some], device=device)
        return Batch(inputs, labels, len(rows), COUNTED_AS * len(rows), len(rows))

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        return partial(_loss, model), {}

    def plain_loss(self, row: Learned, model: Any) -> float:
        likely = picture_logits(model, row.batch.inputs).double().log_softmax(dim=-1)
        return -float(likely[0, row.batch.labels[0]])

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare the name of the class with the label, and the pixels with those of the file."""
        picture = picture_of(row.example)
        own = pixels(tokenizer, [picture], row.batch.labels.device)["pixel_values"]
        same = torch.equal(own, row.batch.inputs["pixel_values"])
        return same and labels[int(row.batch.labels[0])] == row.example.completion


def _loss(model: Any, batch: Batch) -> Tensor:
    return F.cross_entropy(picture_logits(model, batch.inputs).float(), batch.labels, reduction="sum")


TASKS.add(ImageClassification.name, ImageClassification())
