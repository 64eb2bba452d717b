"""General prompts, which the base answers before it is tuned: none of them stands in the bundled general text."""

from __future__ import annotations

import random
from collections.abc import Sequence

TOPICS = (
    "the tides", "baking bread", "Roman roads", "photosynthesis", "writing a polite refusal", "compound interest",
    "how a bicycle stays upright", "the water cycle", "planning a small garden", "prime numbers", "the printing press",
    "keeping a diary", "why leaves change colour", "negotiating a salary", "sorting a list", "the moon landing",
    "first aid for a burn", "learning a second language", "how vaccines work", "choosing a used car", "chess openings",
    "the French Revolution", "recycling glass", "what makes a good question", "sleep and memory",
    "maps and projections",
    "a recipe for lentil soup", "how elections are counted", "the speed of light", "training a puppy",
    "a balance sheet", "earthquakes", "the history of tea", "writing a unit test", "migration of birds",
    "rules of the road", "the structure of a sonnet", "renting a flat", "batteries", "the silk trade",
    "making a budget", "why the sky is blue", "public libraries", "knots for sailing", "the human heart",
    "packing for a week of walking", "how search engines rank pages", "saying sorry",
)  # fmt: skip

ASKED = (
    "Explain {} in a few sentences.",
    "What should a beginner know about {}?",
    "Write a short paragraph about {}.",
    "List three things that people get wrong about {}.",
)
"""Requests, for models that are asked through a chat template."""

BEGUN = (
    "A short introduction to {}.\n\n",
    "Question: What is there to know about {}?\nAnswer:",
    "Notes on {}\n\n1.",
    "Dear reader, this week's column is about {}.",
)
"""Beginnings of texts, for models that go on with what they read."""


def general_prompts(count: int, seed: int, *, asked: bool) -> Sequence[str]:
    """Return so many prompts in an order drawn by seed; when all have been taken they come again."""
    every = [form.format(topic) for form in (ASKED if asked else BEGUN) for topic in TOPICS]
    random.Random(f"replay {seed}").shuffle(every)
    return [every[i % len(every)] for i in range(count)]
