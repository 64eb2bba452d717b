"""What `import tunelift` offers, and no more."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

import tunelift

NAMES = {
    "load", "evaluate", "tune", "compare", "leaderboard", "generate", "run", "plan", "Comparison", "Scores", "Example",
    "TuneliftError",
}  # fmt: skip
PACKAGE = Path(tunelift.__file__).parent


def test_public_names_are_exactly_these() -> None:
    assert set(tunelift.__all__) == NAMES | {"InputError", "__version__"}
    assert dir(tunelift) == sorted(tunelift.__all__)


@pytest.mark.parametrize("name", tunelift.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(tunelift, name) is not None


def test_every_public_name_is_known_to_type_checkers() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported | {"__version__"} == set(tunelift.__all__)


def test_no_room_has_the_name_of_a_public_function() -> None:
    taken = [name for name in tunelift.__all__ if importlib.util.find_spec(f"tunelift.{name}")]
    assert taken == []


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_such"):
        tunelift.nothing_such  # noqa: B018
