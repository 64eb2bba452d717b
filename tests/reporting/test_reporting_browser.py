"""The page in a browser: quiet, loading nothing, within its width, usable by keyboard, smooth with many items."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from reporting_run_folder import classification_run, full_run, generation_run

from chromium_pipe import CHROMIUM, Browser
from tunelift.core import files
from tunelift.reporting import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the path of a POSIX system")

TAB = ("Tab", 9)
FOCUSABLE = "main a, input, summary, [tabindex='0']"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(full_run(tmp_path_factory.mktemp("page") / "run"))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_its_width_and_says_nothing_on_the_console(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.requests.clear()
    browser.open(page, width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    assert set(browser.requests) == {page.as_uri()}


def test_light_and_dark_have_text_that_stands_out(browser: Browser, page: Path) -> None:
    grey = "getComputedStyle(document.body).{}.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + part / 3, 0)"
    for dark in (False, True):
        browser.open(page, dark=dark)
        ink, paper = (browser.evaluate(grey.format(name)) for name in ("color", "backgroundColor"))
        assert abs(ink - paper) > 150
        assert (ink > paper) == dark


def test_the_keyboard_reaches_everything(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press(*TAB)
    assert browser.evaluate("document.activeElement.className") == "skip"
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for _ in range(browser.evaluate(f"document.querySelectorAll(`{FOCUSABLE}`).length")):
        browser.press(*TAB)
        browser.evaluate("document.activeElement.dataset.visited = 'yes'")
    left = "[...document.querySelectorAll(`{}`)].filter((e) => e.checkVisibility() && !e.dataset.visited).length"
    assert browser.evaluate("document.querySelectorAll('[data-visited]').length") > 20
    assert browser.evaluate(left.format(FOCUSABLE)) == 0


def test_a_folded_part_opens_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.evaluate("document.querySelector('details.more > summary').focus()")
    browser.press("Enter", 13, "\r")
    assert browser.evaluate("document.querySelector('details.more').open")


def test_the_search_finds_items_in_folded_parts(browser: Browser, page: Path) -> None:
    browser.open(page)
    item = files.read_json(page.parent / "comparison.json")["flips"]["gained"][-1]
    browser.evaluate("document.getElementById('search').focus()")
    browser.ask("Input.insertText", text=f"item {item}\n".strip())
    wait = "new Promise((done) => setTimeout(done, 400))"
    browser.evaluate(wait)
    shown = browser.evaluate("[...document.querySelectorAll('.flip')].filter((e) => e.checkVisibility()).length")
    assert 1 <= shown < 20
    assert browser.evaluate("document.getElementById('found').textContent").startswith(f"{shown} of ")
    browser.evaluate("document.getElementById('search').value = ''")
    browser.evaluate("document.getElementById('search').dispatchEvent(new Event('input'))")
    browser.evaluate(wait)
    assert browser.evaluate("document.getElementById('found').textContent") == ""


def test_outputs_that_look_like_scripts_do_nothing(browser: Browser, tmp_path: Path) -> None:
    folder = classification_run(tmp_path / "run", items=40)
    scores = (folder / "tuned" / "scores.jsonl").read_text().replace('" sport"', '"<script>document.title=1</script>"')
    files.write_text(folder / "tuned" / "scores.jsonl", scores)
    browser.open(write_report(folder))
    assert browser.evaluate("document.title") == "gemma3-270m, tuned with LoRA"
    assert browser.complaints == []


def test_five_thousand_items_open_at_once(browser: Browser, tmp_path: Path) -> None:
    page = write_report(classification_run(tmp_path / "run", items=5000))
    assert browser.open(page) < 5
    began = browser.evaluate("performance.now()")
    browser.evaluate("document.getElementById('search').value = 'item 1'")
    browser.evaluate("document.getElementById('search').dispatchEvent(new Event('input'))")
    browser.evaluate("new Promise((done) => setTimeout(() => requestAnimationFrame(done), 150))")
    assert browser.evaluate("performance.now()") - began < 5000
    assert browser.evaluate("document.getElementById('found').textContent") != ""


def test_it_prints(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_report(generation_run(tmp_path / "run", items=60)))
    assert len(browser.ask("Page.printToPDF")["data"]) > 20_000
    assert browser.complaints == []
