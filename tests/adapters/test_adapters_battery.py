"""Every row of the table of PEFT methods is held to the battery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from method_battery import CHECKS, Bench, cases, hold
from tunelift.adapters.methods import METHODS, Method
from tunelift.core.registry import Registry

_benches: dict[tuple[str, str], Bench] = {}


def _cases() -> Iterator[object]:
    for name in METHODS:
        for kind, check, known in cases(name):
            marks = [] if known is None else [pytest.mark.xfail(reason=known, strict=True)]
            yield pytest.param(name, kind, check, marks=marks, id=f"{name}-{kind}-{check}")


@pytest.mark.parametrize(("name", "kind", "check"), _cases())
def test_a_method_is_what_its_record_says(
    name: str, kind: str, check: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if (name, kind) not in _benches:
        _benches[name, kind] = Bench(name, kind, tmp_path_factory.mktemp(f"{name}-{kind}"))
    CHECKS[check](_benches[name, kind])


PROMPTS = Method(
    "PROMPT_TUNING",
    defaults={"num_virtual_tokens": 4},
    begins_as_noop=False,
    merges=False,
    virtual_tokens=True,
    known_failures={
        "loads_again": "peft does not load prompts to be trained on",
        "switches_off (encoder)": "peft cannot switch prompts off under a head",
        "is_proved (encoder)": "nor can the proofs, which ask the base so",
    },
)


def test_somebody_elses_row_is_held_to_the_battery_in_one_call(methods: Registry[Method], tmp_path: Path) -> None:
    methods.add("prompts", PROMPTS)
    assert hold("prompts", tmp_path) == []


def test_what_a_record_says_wrongly_is_named(methods: Registry[Method], tmp_path: Path) -> None:
    wrong = replace(METHODS.get("lora"), merges=False, begins_as_noop=False, known_failures={"trains": "of old age"})
    methods._entries["lora"] = wrong
    found = "; ".join(hold("lora", tmp_path))
    for named in ("merges (decoder) fails", "begins_as_noop (encoder) fails", "trains (decoder) passes, and is said"):
        assert named in found
    assert found.count("; ") == 5
