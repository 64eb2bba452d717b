"""The demonstration: a real model on real headlines, small enough for two cores."""

from __future__ import annotations

from tunelift.config.keywords import from_keywords
from tunelift.config.schema import Config

PROMPT = "Topics: business, entertainment, politics, sports, tech\nHeadline: {headline}\nTopic:"


def demo_config(output: str | None = None) -> Config:
    """Return the config of `tunelift demo`: Gemma 3 270M tells the topic of BBC News headlines."""
    return from_keywords(
        model="gemma3-270m",
        data={
            "train": "bbc-news",
            "test": 0.2,
            "prompt": PROMPT,
            "completion": " {topic}",
            "max_train": 400,
            "max_validation": 50,
            "max_test": 200,
        },
        adapter={"r": 8, "lora_alpha": 16},
        train={"learning_rate": 5e-4, "batch_size": 8},
        evaluate={"metrics": ["accuracy", "loss"]},
        output=output or "runs/demo",
    )
