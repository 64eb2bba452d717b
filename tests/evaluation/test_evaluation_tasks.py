"""Tasks of lm-evaluation-harness that cannot be measured are named before anything is computed."""

from __future__ import annotations

import pytest

from tunelift.config.schema import EvaluateSection
from tunelift.core.errors import InputError
from tunelift.pipeline import forgetting
from tunelift.tasks import TASKS

SETTINGS = EvaluateSection(tasks=["arc_easy"], forgetting=[])


def test_without_the_package_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs lm-evaluation-harness(.|\n)*tunelift\[harness\]"):
        forgetting.forgetting_sets(SETTINGS, TASKS.get("causal-lm"))


def test_a_classification_head_answers_no_task() -> None:
    with pytest.raises(InputError, match=r"evaluate\.tasks measures language models"):
        forgetting.forgetting_sets(SETTINGS, TASKS.get("sequence-classification"))


def test_without_tasks_nothing_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "find_spec", None)
    assert forgetting.forgetting_sets(EvaluateSection(forgetting=[]), TASKS.get("causal-lm")) == {}
