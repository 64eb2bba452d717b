"""The page shows the run's own figures, keeps untrusted text as text, loads nothing and stays small."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reporting_run_folder import classification_run, generation_run

from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.reporting import write_report
from tunelift.reporting.changes import MOST_SHOWN

CHROMIUM = Path("/usr/bin/chromium")
VOID = {"meta", "input", "br", "hr", "img", "link"}
LOADING = {"src", "srcset", "action", "data", "poster", "background"}


class Page(HTMLParser):
    """What the tests ask of a page: its tags, whether they are balanced, its ids and its figures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(folder: Path) -> tuple[str, Page]:
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


def rewrite(folder: Path, side: str, **fields: object) -> None:
    """Give every row of one side these fields."""
    path = folder / side / "scores.jsonl"
    rows = [{**row, **fields} for _, row in files.read_jsonl(path)]
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def change(path: Path, **entries: object) -> None:
    files.write_json(path, {**files.read_json(path), **entries})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classification_run(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def seen(finished: Path) -> tuple[str, Page]:
    return read(finished)


def test_figures_equal_those_of_the_comparison(finished: Path, seen: tuple[str, Page]) -> None:
    _, page = seen
    shown = {float(attributes["value"] or "nan") for attributes in page.named("data")}
    for entry in files.read_json(finished / "comparison.json")["metrics"].values():
        assert {entry["base"], entry["tuned"], entry["difference"], entry["p"]} <= shown


def test_the_verdict_comes_first_and_in_words(finished: Path, seen: tuple[str, Page]) -> None:
    _, page = seen
    entry = files.read_json(finished / "comparison.json")["metrics"]["accuracy"]
    sentence = f"The tuned model is better: accuracy rose from {entry['base']:.3f} to {entry['tuned']:.3f}."
    assert sentence in page.text
    assert page.text.index(sentence) < page.text.index("Right to wrong")
    assert f"+{entry['difference']:.3f} (95% interval +{entry['interval'][0]:.3f} to" in page.text
    assert "McNemar mid-p, p < 0.001" in page.text
    assert "on the same 299 items" in page.text


def test_interval_and_zero_stand_where_the_figures_say(finished: Path, seen: tuple[str, Page]) -> None:
    html, _ = seen
    entry = files.read_json(finished / "comparison.json")["metrics"]["accuracy"]
    drawing = html[html.index('<div class="effect better">') :]
    zero = float(re.search(r'class="zero" x1="([\d.]+)%"', drawing)[1])
    low, high = (float(x) for x in re.search(r'class="interval" x1="([\d.]+)%" x2="([\d.]+)%"', drawing).groups())
    point = float(re.search(r'class="point" cx="([\d.]+)%"', drawing)[1])
    per_unit = (point - zero) / entry["difference"]
    assert [low, high] == pytest.approx([zero + per_unit * bound for bound in entry["interval"]], abs=0.05)
    assert 0 < zero < low < point < high < 100


def test_html_is_well_formed_with_unique_ids_and_labelled_drawings(seen: tuple[str, Page]) -> None:
    _, page = seen
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(drawing.get("aria-label") for drawing in page.named("svg"))
    anchors = {a["href"][1:] for a in page.named("a") if (a["href"] or "").startswith("#")}
    assert anchors <= set(ids)
    assert {use["href"][1:] for use in page.named("use") if use["href"]} <= set(ids)


def test_nothing_is_loaded(seen: tuple[str, Page]) -> None:
    html, page = seen
    assert "http://" not in html
    assert "https://" not in html
    assert not [tag for tag, _ in page.tags if tag in {"link", "img", "iframe", "object", "embed", "base"}]
    assert not [(tag, attributes) for tag, attributes in page.tags if LOADING & set(attributes)]
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_model_outputs_stay_text(tmp_path: Path) -> None:
    folder = classification_run(tmp_path / "run", items=60)
    evil = "</div><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}{% raw %}"
    rewrite(folder, "tuned", prediction=evil)
    rewrite(folder, "base", input=evil, reference="'\"><svg onload=alert(3)>")
    change(folder / "manifest.json", command=evil)
    html, page = read(folder)
    assert len(page.named("script")) == 1
    assert page.named("img") == []
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert evil in page.text
    assert "49{% raw %}" not in html


def test_only_the_pages_own_script_may_run(seen: tuple[str, Page]) -> None:
    _, page = seen
    policy = next(meta["content"] for meta in page.named("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='$", policy)


def test_sizes_of_300_and_5000_items(finished: Path, tmp_path: Path) -> None:
    assert write_report(finished).stat().st_size < 200_000
    assert write_report(generation_run(tmp_path / "long", items=300)).stat().st_size < 1_000_000
    folder = classification_run(tmp_path / "many", items=5000)
    html, page = read(folder)
    assert len(html) < 500_000
    assert html.count('<li class="flip">') == 2 * MOST_SHOWN
    assert page.text.count(f"The worst {MOST_SHOWN} of") == 2


def test_flips_are_lost_first_in_the_order_of_the_comparison(finished: Path, seen: tuple[str, Page]) -> None:
    html, _ = seen
    flips = files.read_json(finished / "comparison.json")["flips"]
    shown = re.findall(r"<h4>Item (\d+)</h4>", html)
    assert shown == flips["lost"][:MOST_SHOWN] + flips["gained"][:MOST_SHOWN]


def test_a_graded_headline_shows_values_and_not_right_or_wrong(tmp_path: Path) -> None:
    _, page = read(generation_run(tmp_path / "run", items=60, metric="loss"))
    base = {row["id"]: row for _, row in files.read_jsonl(tmp_path / "run" / "base" / "scores.jsonl")}
    worst = files.read_json(tmp_path / "run" / "comparison.json")["flips"]["lost"][0]
    assert f"Base {base[worst]['metrics']['loss']:.3f}" in page.text
    assert page.text.index("loss") < page.text.index("accuracy")
    assert page.text.index("Got worse most") < page.text.index("Got better most")
    assert "✗ wrong" not in page.text
    assert "Right to wrong" not in page.text


def test_left_out_rows_come_with_their_reason(seen: tuple[str, Page]) -> None:
    _, page = seen
    assert "Left out: 1" in page.text
    assert "longer than the context" in page.text


@pytest.mark.parametrize(
    "missing", ["config.yaml", "manifest.json", "events.jsonl", "base", "tuned", "comparison.json"]
)
def test_whatever_is_missing_is_left_out(tmp_path: Path, missing: str) -> None:
    folder = classification_run(tmp_path / "run", items=30)
    path = folder / missing
    path.rename(tmp_path / "elsewhere")
    _, page = read(folder)
    assert page.open == []
    assert ("No verdict" in page.text) == (missing == "comparison.json")


def test_a_run_cut_off_while_training(tmp_path: Path) -> None:
    folder = classification_run(tmp_path / "run", items=30)
    events = (folder / "events.jsonl").read_text()
    files.write_text(folder / "events.jsonl", events[: len(events) // 2])
    partial = {"format": 1, "status": "failed", "seconds": {"load": 2.0, "base": None}, "train": {"steps": 10}}
    files.write_json(folder / "manifest.json", partial)
    (folder / "comparison.json").unlink()
    html, page = read(folder)
    assert "status: failed" in page.text
    assert "Training and validation loss" in html


def test_numbers_that_do_not_exist(tmp_path: Path) -> None:
    folder = classification_run(tmp_path / "run", items=30)
    comparison = files.read_json(folder / "comparison.json")
    nothing = {"interval": None, "p": None, "test": None, "verdict": "inconclusive", "reason": "there is one item only"}
    comparison["metrics"]["accuracy"] |= nothing
    comparison["metrics"]["loss"] |= nothing | {"base": None, "tuned": None, "difference": None}
    files.write_json(folder / "comparison.json", comparison)
    _, page = read(folder)
    assert "Inconclusive" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text


def test_a_failed_proof_is_said_at_the_top(tmp_path: Path) -> None:
    folder = classification_run(tmp_path / "run", items=30)
    proofs = [{"name": "adapter acts", "passed": False, "detail": "the logits are those of the base"}]
    change(folder / "manifest.json", proofs=proofs)
    _, page = read(folder)
    assert page.text.index("A proof failed: adapter acts") < page.text.index("accuracy")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_a_browser_runs_the_search_and_nothing_else(tmp_path: Path) -> None:
    folder = classification_run(tmp_path / "run", items=40)
    rewrite(folder, "tuned", prediction="<script>document.title = 'broken'</script>")
    page = write_report(folder)
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [str(CHROMIUM), "--headless", "--no-sandbox", *quiet, "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert '<form role="search"><label' in dom
    assert "<title>gemma3-270m, tuned with LoRA</title>" in dom
