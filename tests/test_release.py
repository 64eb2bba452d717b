"""What a release says of itself agrees with itself; `make release-check` looks at what is built."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import tunelift

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_version_changelog_and_citation_agree() -> None:
    newest = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert re.fullmatch(rf"{re.escape(tunelift.__version__)} \((unreleased|\d{{4}}-\d\d-\d\d)\)", newest)
    assert cited["version"] == tunelift.__version__
    assert ("date-released" in cited) == ("unreleased" not in newest)
    assert (cited["license"], cited["type"]) == (PROJECT["license"], "software")


def test_extras_are_pinned_where_they_are_installed_by_make() -> None:
    """What `make` installs is named in constraints.txt, so that a run next year is of the same libraries."""
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=!\[ ]", name)[0].lower().replace("_", "-") for name in needed}
    assert names - pinned == set()
