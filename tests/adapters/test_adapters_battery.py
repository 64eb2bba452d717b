"""Every row of the table of PEFT methods is held to the battery."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from peft import PeftType

from method_battery import CHECKS, KIN, KINDS, ONLY, WHOLE, Bench, cases, held, hold, refusal
from tunelift.adapters.build import check_keys, peft_config
from tunelift.adapters.methods import METHODS, REFUSED, Method
from tunelift.config.schema import TrainSection
from tunelift.core.errors import InputError
from tunelift.core.registry import Registry

_benches: dict[tuple[str, str], Bench] = {}


ENCODERS = ("lora", "ia3", "adalora", "frod", "ln-tuning", "beft", "head")
"""Rows of unlike kinds, which are tried on a BERT too, and held to all; `benchmarks/methods.py` holds every row so."""


INSTALLED = {kind.value for kind in PeftType}


def _cases() -> Iterator[object]:
    for name in METHODS:
        if METHODS.get(name).peft_type not in INSTALLED:
            continue  # a later peft has it, or none of peft's is put on
        checks = WHOLE if name in ENCODERS else CHECKS
        for kind, check, known in cases(name, KINDS if name in ENCODERS else ["decoder"], checks):
            marks = [] if known is None else [pytest.mark.xfail(reason=known, strict=True)]
            yield pytest.param(name, kind, check, marks=marks, id=f"{name}-{kind}-{check}")


@pytest.mark.parametrize(("name", "kind", "check"), _cases())
def test_a_method_is_what_its_record_says(
    name: str, kind: str, check: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if (name, kind) not in _benches:
        _benches[name, kind] = Bench(name, tmp_path_factory.mktemp(f"{name}-{kind}"), kind)
    WHOLE[check](_benches[name, kind])


@pytest.mark.parametrize("kin", KIN)
def test_what_is_a_setting_of_lora_holds_too(kin: str, tmp_path: Path) -> None:
    """On one model, to a few checks; `benchmarks/methods.py` holds it to all on every model."""
    keys, known = KIN[kin]
    bench = Bench("lora", tmp_path / "kin", ONLY.get(kin, ["decoder"])[0], keys, known)
    assert refusal(bench) == ""
    assert held(bench, ("trains", "loads_with_peft", "merges")) == []


PROMPTS = Method(
    "PROMPT_TUNING",
    defaults={"num_virtual_tokens": 4},
    begins_as_noop=False,
    merges=False,
    virtual_tokens=True,
    known_failures={
        "loads_again": "peft does not load prompts to be trained on",
        "builds (encoder)": "peft cannot switch prompts off under a head",
    },
)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS.get(name).virtual_tokens])
def test_prompts_are_refused_under_a_head(name: str, tmp_path: Path) -> None:
    assert "peft cannot switch it off under a head" in refusal(Bench(name, tmp_path, "encoder"))


@pytest.mark.parametrize("name", ["adaption-prompt", "trainable-tokens"])
def test_what_saves_no_head_is_refused_under_one(name: str, tmp_path: Path) -> None:
    assert "peft saves no head with it" in refusal(Bench(name, tmp_path, "encoder"))


def test_every_method_of_peft_has_a_row_or_a_reason() -> None:
    """A type that a new peft brings is named here: hold it to the battery, and add a row or a reason."""
    rows = {METHODS.get(name).peft_type for name in METHODS if not METHODS.get(name).whole}
    assert INSTALLED - rows - REFUSED.keys() == set()
    assert not rows & REFUSED.keys()


@pytest.mark.parametrize("peft_type", REFUSED)
def test_a_refused_method_says_why(peft_type: str) -> None:
    title, reason = REFUSED[peft_type]
    for name in (peft_type.lower(), peft_type.lower().replace("_", "-")):
        with pytest.raises(InputError, match=re.escape(f"adapter.method: {title} is refused")) as error:
            peft_config({"method": name}, "CAUSAL_LM")
        assert reason in str(error.value)


def test_a_method_that_the_installed_peft_lacks_is_named(methods: Registry[Method]) -> None:
    methods.add("newer", Method("NEWER", title="Newer", defaults={}))
    with pytest.raises(InputError, match=r"peft [\d.]+ has no Newer\."):
        peft_config({"method": "newer"}, "CAUSAL_LM")


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS.get(name).needs])
def test_what_a_method_needs_is_asked_for(name: str) -> None:
    for key, what in METHODS.get(name).needs.items():
        assert f"adapter.{key}: {METHODS.get(name).title} needs {what}." in check_keys({"method": name})
        assert check_keys({"method": name, **METHODS.get(name).tried_with}) == []


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


def test_the_whole_battery_is_one_command_that_goes_on(tmp_path: Path) -> None:
    """It kills a training, reads what was saved in another process, and writes the table; the second time it knows."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- made by benchmarks/methods.py --><!-- until here -->\nbehind\n")
    command = [sys.executable, "benchmarks/methods.py", "--methods", "lora,oft", "--models", "gpt2"]
    command += ["--kept", str(tmp_path / "kept.json"), "--write", str(page)]
    for times in (2, 0):
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("GPT-2, ") == times
        assert "| `lora` (LoRA) | right | yes |\n| `oft` (OFT) | refused (1) | yes |" in page.read_text()
    assert page.read_text().startswith("before\n") and page.read_text().endswith("\nbehind\n")


def test_the_docs_have_each_rows_rate() -> None:
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    said: dict[str, float] = {}
    under_heads: dict[str, float] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`([a-z0-9-]+)`", cells[0])
        if len(cells) == 4 and names:
            usually, _, under_head = cells[2].partition("; under a head ")
            rates = [float(rate) for rate in usually.split(", ")]
            under_heads |= {name: float(under_head) for name in names if under_head}
            said |= dict(zip(names, rates * (len(names) if len(rates) == 1 else 1), strict=True))
    usual = TrainSection.model_fields["learning_rate"].default
    assert said == {name: METHODS.get(name).learning_rate or usual for name in METHODS}
    of_heads = {name: METHODS.get(name).learning_rate_for_head for name in METHODS}
    assert under_heads == {name: rate for name, rate in of_heads.items() if rate}
