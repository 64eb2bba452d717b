"""The page shows the run's own figures, keeps untrusted text as text, loads nothing and stays small."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from reporting_run_folder import classification_run, full_run, generation_run

from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.reporting import write_report
from tunelift.reporting.changes import MOST_SHOWN
from tunelift.reporting.page import FORMS
from tunelift.reporting.wording import verdict_sentence

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


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_run(tmp_path_factory.mktemp("full") / "run")


@pytest.fixture(scope="module")
def full_seen(full: Path) -> tuple[str, Page]:
    return read(full)


def at(comparison: object, pointer: str) -> object:
    """Resolve a JSON Pointer (RFC 6901)."""
    value: Any = comparison
    for part in pointer.split("/")[1:]:
        step = part.replace("~1", "/").replace("~0", "~")
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def shown_figures(html: str) -> dict[str, tuple[float, str]]:
    """Return every figure of the page: its place in comparison.json, its value, its text."""
    found = re.findall(r'<data value="([^"]*)" data-at="([^"]*)">([^<]*)</data>', html)
    assert len(found) == html.count("<data ")
    return {unescape(place): (float(value), unescape(text)) for value, place, text in found}


def test_every_figure_is_the_one_in_the_comparison(full: Path, full_seen: tuple[str, Page]) -> None:
    comparison = files.read_json(full / "comparison.json")
    figures = shown_figures(full_seen[0])
    for place, (value, text) in figures.items():
        assert at(comparison, place) == value, place
        assert text in {form(value) for form in FORMS.values()}, place
    assert len(figures) > 250


def test_every_entry_of_the_comparison_is_on_the_page(full: Path, full_seen: tuple[str, Page]) -> None:
    comparison = files.read_json(full / "comparison.json")
    places = set(shown_figures(full_seen[0]))
    entries = [f"/{kind}/{name}" for kind in ("metrics", "baselines", "forgetting") for name in comparison[kind]]
    entries += ["/slices/source/BBC", "/slices/source/agency | wire", "/slices/source/blogs~1forums"]
    entries += [f"/slices/topic/topic {index}" for index in range(15)] + ["/without_duplicates"]
    wanted = {f"{entry}/{key}" for entry in entries for key in ("base", "tuned", "difference", "interval/0", "p")}
    wanted |= {f"/selection/values/{name}" for name in comparison["selection"]["values"]}
    wanted |= {f"/recipe/{key}/{seed}" for key in ("tuned", "differences") for seed in range(5)}
    wanted |= {"/calibration/base/ece", "/calibration/tuned/ece", "/calibration/difference", "/looks"}
    wanted |= {"/power/curve/1/smallest", "/without_duplicates/removed", "/recipe/interval/1", "/selection/rows"}
    assert wanted <= places


def test_the_verdict_comes_first_and_in_words(finished: Path, seen: tuple[str, Page]) -> None:
    _, page = seen
    sentence = verdict_sentence(files.read_json(finished / "comparison.json"))
    assert sentence in page.text
    assert page.text.index(sentence) < page.text.index("Right to wrong")
    assert "exact unconditional test (Suissa and Shuster)" in page.text


def test_the_verdict_is_against_the_strongest_baseline(full: Path, full_seen: tuple[str, Page]) -> None:
    html, page = full_seen
    comparison = files.read_json(full / "comparison.json")
    assert comparison["headline"]["sentence"] in page.text
    assert 'id="verdict" class="better"' in html
    assert page.text.index("Against the base model itself: better") < page.text.index("Effect")
    assert "The strongest of them on validation is tf-idf" in page.text
    assert "Comparisons against these test items so far: 3" in page.text
    assert "The claim: this tuned model, on items like these. Comparisons" in " ".join(page.text.split())
    assert (
        "Over 5 seeds: better; mean difference +0.241, 95% interval +0.229 to +0.254. The claim: this recipe"
        in page.text
    )


def test_a_verdict_that_a_baseline_spoils_is_not_drawn_as_a_success(tmp_path: Path) -> None:
    folder = full_run(tmp_path / "run", items=30)
    said = "The tuned model beats zero-shot only: it is not shown to be better than tf-idf on accuracy."
    headline = {"metric": "accuracy", "against": "tf-idf", "verdict": "inconclusive", "sentence": said, "reason": "x"}
    change(folder / "comparison.json", headline=headline)
    html, page = read(folder)
    assert 'id="verdict" class="inconclusive"' in html
    assert said in page.text


def test_sections_are_there_only_with_something_in_them(seen: tuple[str, Page], full_seen: tuple[str, Page]) -> None:
    names = {"baselines", "slices", "seeds", "forgetting", "calibration"}
    ids = [{str(a["id"]) for _, a in page.tags if "id" in a} for _, page in (seen, full_seen)]
    always = {"effect", "changes", "training", "data", "proofs", "cost", "reproduce"}
    assert not names & ids[0]
    assert always <= ids[0]
    assert names | always | {"power"} <= ids[1]


def test_a_comparison_of_the_first_release_still_renders(tmp_path: Path) -> None:
    folder = classification_run(tmp_path / "run", items=60)
    kept = ("format", "items", "left_out", "level", "margin", "metrics", "claim", "flips", "notes")
    comparison = files.read_json(folder / "comparison.json")
    old = {key: comparison[key] for key in kept} | {"headline": {"metric": "accuracy", "against": "base"}}
    files.write_json(folder / "comparison.json", old | {"baselines": {}})
    entry = comparison["metrics"]["accuracy"]
    _, page = read(folder)
    sentence = f"The tuned model is better: accuracy rose from {entry['base']:.3f} to {entry['tuned']:.3f}."
    assert sentence in page.text
    assert f"The difference is +{entry['difference']:.3f} (95% interval" in page.text


def test_interval_and_zero_stand_where_the_figures_say(finished: Path, seen: tuple[str, Page]) -> None:
    html, _ = seen
    entry = files.read_json(finished / "comparison.json")["metrics"]["accuracy"]
    drawing = html[html.index('<div class="line better">') :]
    zero = float(re.search(r'class="zero" x1="([\d.]+)%"', drawing)[1])
    low, high = (float(x) for x in re.search(r'class="interval" x1="([\d.]+)%" x2="([\d.]+)%"', drawing).groups())
    point = float(re.search(r'class="point" cx="([\d.]+)%"', drawing)[1])
    per_unit = (point - zero) / entry["difference"]
    assert [low, high] == pytest.approx([zero + per_unit * bound for bound in entry["interval"]], abs=0.05)
    assert 0 < zero < low < point < high < 100


def test_what_differs_is_marked_in_both_answers(tmp_path: Path) -> None:
    folder = classification_run(tmp_path / "run", items=60)
    rewrite(folder, "base", prediction="the answer is <b>twelve</b> apples")
    rewrite(folder, "tuned", prediction="the answer is <b>thirteen</b> apples")
    html, page = read(folder)
    assert "<del>twelve</del>" in html
    assert "<ins>thirteen</ins>" in html
    assert page.named("b") == []


def test_data_and_cost_are_told(full_seen: tuple[str, Page]) -> None:
    text = " ".join(re.sub("<[^>]*>", " ", full_seen[0]).split())
    assert "sport 520 26.0% 52 26.0% 75 25.0%" in text
    assert "Training rows that nearly repeat a test or validation item: 9" in text
    assert "Inputs that stand in the data with more than one label: 2" in text
    assert "the base continues 2 word for word over 20 tokens (items 17, 203)" in text
    assert "3 rows cut at the longest length" in text
    assert "48.2 kJ (13.4 Wh)" in text
    assert "Measuring the baselines 1 min 24 s" in text
    assert "65,120, 131 a second" in text


@pytest.mark.parametrize("which", ["seen", "full_seen"])
def test_html_is_well_formed_with_unique_ids_and_labelled_drawings(which: str, request: pytest.FixtureRequest) -> None:
    _, page = request.getfixturevalue(which)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(drawing.get("aria-label") or drawing.get("aria-hidden") for drawing in page.named("svg"))
    anchors = {a["href"][1:] for a in page.named("a") if (a["href"] or "").startswith("#")}
    assert anchors <= set(ids)
    assert {use["href"][1:] for use in page.named("use") if use["href"]} <= set(ids)


def test_nothing_is_loaded(full_seen: tuple[str, Page]) -> None:
    html, page = full_seen
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


def test_sizes_of_300_and_5000_items(tmp_path: Path) -> None:
    assert write_report(full_run(tmp_path / "full")).stat().st_size < 250_000
    assert write_report(generation_run(tmp_path / "long", items=300)).stat().st_size < 1_000_000
    folder = classification_run(tmp_path / "many", items=5000)
    html, _ = read(folder)
    flips = files.read_json(folder / "comparison.json")["flips"]
    assert len(html) < 1_500_000
    assert html.count('<li class="flip">') == 2 * MOST_SHOWN
    assert html.count('<tr class="flip">') == sum(map(len, flips.values())) - 2 * MOST_SHOWN


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
    partial = {"format": 1, "status": "failed", "seconds": {"load": 2.0}, "train": {"steps": 10}}
    files.write_json(folder / "manifest.json", partial)
    (folder / "comparison.json").unlink()
    html, page = read(folder)
    assert "status: failed" in page.text
    assert "Training and validation loss" in html


def test_numbers_that_do_not_exist(tmp_path: Path) -> None:
    folder = classification_run(tmp_path / "run", items=30)
    comparison = files.read_json(folder / "comparison.json")
    nothing = {"interval": None, "p": None, "test": None, "verdict": "inconclusive", "reason": "there is one item only"}
    comparison["headline"] = {"metric": "accuracy", "against": "base"}
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
