from __future__ import annotations

from pathlib import Path

import pytest

from tunelift.config.keywords import from_keywords, places, short_names
from tunelift.config.settings import ALIASES, SECTIONS
from tunelift.core.errors import InputError


def test_keys_go_to_their_sections() -> None:
    config = from_keywords(learning_rate=1e-3, metrics=["loss"], max_train=5, output=Path("out"), dtype="float32")
    assert (config.train.learning_rate, config.evaluate.metrics, config.data.max_train) == (1e-3, ["loss"], 5)
    assert (config.output, config.model.dtype) == ("out", "float32")


def test_data_is_the_rows_of_the_stage() -> None:
    rows = [{"text": "a", "label": "b"}]
    assert from_keywords(data=rows).data.train is rows
    assert from_keywords("evaluate", data=rows).data.test is rows
    assert from_keywords(data=Path("rows.csv")).data.train == "rows.csv"


def test_data_may_be_the_section() -> None:
    config = from_keywords("evaluate", data={"test": "test.csv", "prompt": "{text}"})
    assert (config.data.test, config.data.prompt) == ("test.csv", "{text}")


def test_sections_may_be_mappings() -> None:
    config = from_keywords(model="gpt2", adapter={"r": 4}, train={"epochs": 2}, seed=7)
    assert (config.model.name, config.adapter.model_extra, config.train.epochs) == ("gpt2", {"r": 4}, 2)
    assert (config.train.seed, config.data.seed) == (7, 7)


def test_the_stage_decides_whose_batch_size_it_is() -> None:
    tuned, evaluated = from_keywords(batch_size=3), from_keywords("evaluate", batch_size=3)
    assert (tuned.train.batch_size, tuned.evaluate.batch_size) == (3, 16)
    assert (evaluated.train.batch_size, evaluated.evaluate.batch_size) == (8, 3)


def test_objects_are_passed_through() -> None:
    def closeness(prediction: str, reference: str) -> float:
        return 0.0

    assert from_keywords("evaluate", metrics=[closeness]).evaluate.metrics == [closeness]


def test_every_problem_at_once() -> None:
    with pytest.raises(InputError) as caught:
        from_keywords(learnig_rate=1, epochs="many", adapter={"method": 3}, train="rows.csv")
    assert caught.value.problems == (
        'learnig_rate: there is no such keyword. Did you mean "learning_rate"?',
        "adapter.method: 3 is not allowed (got a number). Allowed: text.",
        "train: 'rows.csv' is not a section; write its keys below it, such as epochs, steps, learning_rate.",
    )


@pytest.mark.parametrize("name", short_names())
def test_every_short_name_stands_for_a_key(name: str) -> None:
    for place in places(name):
        section, _, key = place.partition(".")
        assert (key in SECTIONS[section].model_fields) if key else section in short_names()
    assert places(name)


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_stand_for_keys(alias: str) -> None:
    section, _, key = ALIASES[alias].partition(".")
    assert section == "adapter" or (key in SECTIONS[section].model_fields if key else section == "output")
    assert places(alias) == [ALIASES[alias]]
