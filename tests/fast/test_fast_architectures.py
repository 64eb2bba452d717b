"""Some of every kind of decoder and classifier, against stock; docs/architectures.md has them all."""

from __future__ import annotations

import pytest
import transformers

import architectures
import tunelift.pipeline.stages  # noqa: F401  (once, before processes are copied)
from architectures import CLASSIFIERS, DECODERS, PAGE, TITLES

SOME = {
    DECODERS: "llama mamba rwkv qwen3_next bigbird_pegasus gemma4_unified laguna gpt2",
    CLASSIFIERS: "bert fnet bart",
}


@pytest.mark.parametrize(("checks", "kind"), [(checks, kind) for checks, some in SOME.items() for kind in some.split()])
def test_an_architecture_is_right_or_refused(checks: tuple[str, ...], kind: str) -> None:
    every = architectures.kinds() if checks == DECODERS else architectures.classifiers()
    if kind not in every:
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    found = architectures.in_a_process(kind, checks)
    assert {check: said for check, said in found.items() if not said.startswith(("right", "refused"))} == {}


def test_every_class_is_in_the_table() -> None:
    untested = {
        title: sorted(set(every) - set(architectures.read_page()[title]))
        for title, every in zip(TITLES, (architectures.kinds(), architectures.classifiers()), strict=True)
    }
    if f"transformers {transformers.__version__}." not in PAGE.read_text(encoding="utf-8"):
        pytest.skip(f"the table is of another transformers; untested: {untested}")
    assert untested == {title: [] for title in TITLES}
