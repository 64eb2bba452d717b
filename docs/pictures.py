"""Draw the pictures of the documentation from a run: `python docs/pictures.py runs/demo` (needs Chromium)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "reporting"))

from chromium_pipe import Browser  # noqa: E402


def main() -> None:
    report = Path(sys.argv[1]).resolve() / "report.html"
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        browser.open(report, width=1100)
        browser.evaluate("document.documentElement.style.overflow = 'hidden'")
        browser.photograph(ROOT / "docs" / "images" / "report.png", whole=False)


if __name__ == "__main__":
    main()
