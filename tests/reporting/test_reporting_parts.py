"""Numbers in words, the axis of an effect, the thinning of a curve, the cutting of long texts."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reporting_run_folder import classification_run

from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.reporting import wording, write_markdown, write_report
from tunelift.reporting.axis import Mark, differences, values
from tunelift.reporting.changes import BRIEF_CHARACTERS, MOST_SHOWN, TEXT_BYTES, changes, cut_answers, left_out
from tunelift.reporting.difference import difference, excerpt
from tunelift.reporting.hygiene import label_bars, stages, used_columns
from tunelift.reporting.page import Figures, pointer
from tunelift.reporting.plots import loss_curve, loss_points, power_curve, reliability_diagram, thinned
from tunelift.reporting.run_contents import RunContents
from tunelift.reporting.wording import DASH, MINUS


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.6134, "0.613"), (0, "0.000"), (-0.25, f"{MINUS}0.250"), (31.4159, "31.42"), (12345.6, "12,346"),
     (2e-5, "2.0e-05"), (None, DASH), (math.nan, DASH)],
)  # fmt: skip
def test_number(value: float | None, text: str) -> None:
    assert wording.number(value) == text


def test_amounts_with_their_units() -> None:
    assert wording.duration(2.51) == "2.5 s"
    assert wording.duration(200) == "3 min 20 s"
    assert wording.duration(3840) == "1 h 4 min"
    assert wording.size(999) == "999 B"
    assert wording.size(2_910_000_000) == "2.9 GB"
    assert wording.p_figure(3e-30) == "< 0.0001"


@pytest.mark.parametrize(
    ("verdict", "base", "tuned", "sentence"),
    [
        ("better", 2.0, 1.0, "The tuned model is better: loss fell from 2.000 to 1.000."),
        ("worse", 1.0, 2.0, "The tuned model is worse: loss rose from 1.000 to 2.000."),
        ("inconclusive", 1.0, 1.0, "whether the tuned model is better: loss stayed at 1.000."),
        ("equivalent", 1.0, 1.0, "as good as the base, within the margin: loss stayed at 1.000."),
    ],
)
def test_verdict_sentence(verdict: str, base: float, tuned: float, sentence: str) -> None:
    comparison = {"metrics": {"loss": {"verdict": verdict, "base": base, "tuned": tuned}}}
    assert wording.verdict_sentence(comparison).endswith(sentence)


small = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-9)


@given(st.lists(st.tuples(small, small, small), min_size=1, max_size=5))
def test_differences_stay_on_their_axis_whatever_the_units(rows: list[tuple[float, float, float]]) -> None:
    drawn = differences([Mark("loss", [value], sorted(bounds)) for value, *bounds in rows])
    places = [drawn.compared, *(place for place, _ in drawn.ticks)]
    places += [place for line in drawn.lines for place in (*line.points, line.low, line.high)]
    assert all(0 <= place <= 100 for place in places)
    assert 2 <= len(drawn.ticks) <= 7
    assert "0" in [label for _, label in drawn.ticks]


def test_a_difference_without_interval_at_zero() -> None:
    drawn = differences([Mark("accuracy", [0.0])])
    assert (drawn.lines[0].low, drawn.lines[0].high) == (None, None)
    assert drawn.lines[0].points == [drawn.compared]


def test_values_are_drawn_from_zero_beside_the_one_they_are_compared_with() -> None:
    drawn = values([Mark("a", [0.6]), Mark("tuned", [0.8])], 0.8)
    zero = next(place for place, label in drawn.ticks if label == "0")
    assert 0 < zero < drawn.lines[0].points[0] < drawn.lines[1].points[0] == drawn.compared
    assert (drawn.lines[0].points[0] - zero) / (drawn.compared - zero) == pytest.approx(0.75, abs=0.001)
    assert not [label for _, label in drawn.ticks if label.startswith("+")]


def test_thinned_keeps_the_mean_and_the_last_step() -> None:
    points = [(float(step), float(step % 7)) for step in range(1, 1001)]
    few, width = thinned(points, most=100)
    assert (len(few), width, few[-1][0]) == (100, 10, 1000)
    assert sum(loss for _, loss in few) / 100 == pytest.approx(sum(loss for _, loss in points) / 1000)
    assert thinned(points[:50], most=100) == (points[:50], 1)


def test_losses_that_are_no_numbers_are_not_drawn() -> None:
    events = [
        {"event": "train", "step": 1, "loss": math.nan},
        {"event": "train", "step": 2, "loss": 0.5},
        {"event": "x"},
    ]
    assert loss_points(events, "train") == [(2, 0.5)]


def test_curve_is_themed_text_and_draws_the_same_twice() -> None:
    train, validation = [(1.0, 2.0), (2.0, 1.0)], [(2.0, 1.5)]
    drawing = loss_curve(train, validation, validation)
    assert drawing == loss_curve(train, validation, validation)
    assert ">validation</text>" in drawing
    assert "var(--train)" in drawing
    assert "#0" not in drawing
    assert "<style" not in drawing
    assert loss_curve([], validation, []).startswith("<svg")


def test_long_texts_share_the_room() -> None:
    rows = [{"id": str(i), "input": "ü" * 9000, "reference": "r", "prediction": "p" * 9000} for i in range(40)]
    run = _run(rows, {"lost": [row["id"] for row in rows], "gained": []})
    lost, _ = changes(run)
    assert sum(len(change.input.encode()) + len(change.tuned) for change in lost.shown) < 2 * TEXT_BYTES
    assert "more characters in scores.jsonl" in lost.shown[0].input
    assert lost.shown[0].reference == "r"


def test_flips_that_no_row_explains_are_counted_only() -> None:
    lost, gained = changes(_run([{"id": 1, "input": "a", "reference": None}], {"lost": ["1", "2"], "gained": []}))
    assert (len(lost.shown), lost.total, gained.total) == (1, 2, 0)
    assert lost.shown[0].reference == ""


def test_half_characters_of_broken_outputs_do_not_stop_the_page() -> None:
    lost, _ = changes(_run([{"id": "1", "prediction": "a\ud800"}], {"lost": ["1"]}))
    assert lost.shown[0].tuned == "a?"


def test_reasons_are_merged_over_both_sides() -> None:
    rows = [{"id": "1", "unscored": "too long"}, {"id": "2", "unscored": "empty"}, {"id": "3", "unscored": "too long"}]
    assert left_out(_run(rows, {})) == [("too long", ["1", "3"]), ("empty", ["2"])]


def test_cut_answers_are_counted_for_each_side() -> None:
    row = {"id": "1", "metrics": {"exact_match": 0}}
    assert cut_answers(_run([row], {})) == ""
    assert "2 of the base, 2 tuned" in cut_answers(_run([row | {"cut": True}, row | {"id": "2", "cut": True}, row], {}))


words = st.lists(st.sampled_from(["a", "b", "c.", "d ", "\n", "é", "12"]), max_size=40).map(" ".join)


@given(words, words)
def test_marked_pieces_are_the_texts_and_the_rest_is_common(base: str, tuned: str) -> None:
    found = difference(base, tuned)
    assert "".join(text for text, _ in found.base) == base
    assert "".join(text for text, _ in found.tuned) == tuned
    common = [" ".join("".join(t for t, own in side if not own).split()) for side in (found.base, found.tuned)]
    assert found.unlike or common[0].replace(" ", "") == common[1].replace(" ", "")


def test_only_what_differs_is_marked() -> None:
    found = difference("She sold 48 clips.\n#### 72", "She sold 48 clips.\n#### 27")
    assert [text for text, own in found.base if own] == ["72"]
    assert [text for text, own in found.tuned if own] == ["27"]
    assert difference("sport", "tech").base == [("sport", True)]
    assert difference("same", "same").base == [("same", False)]
    assert difference("", "new").tuned == [("new", True)]


def test_long_answers_without_anything_in_common_are_not_covered_with_marks() -> None:
    found = difference("one two three four five six seven", "eight nine ten")
    assert found.unlike
    assert found.base == [("one two three four five six seven", False)]


def test_an_excerpt_keeps_what_is_marked() -> None:
    found = difference("x " * 300 + "72" + " y" * 300, "x " * 300 + "27" + " y" * 300)
    short = excerpt(found.base)
    assert ("72", True) in short
    assert sum(len(text) for text, _ in short) < 300


def test_items_beyond_the_first_take_a_line_each() -> None:
    rows = [{"id": str(i), "input": "long\ntext " * 50, "reference": "r", "prediction": "p"} for i in range(150)]
    lost, _ = changes(_run(rows, {"lost": [row["id"] for row in rows], "gained": []}))
    assert (len(lost.shown), len(lost.brief), lost.total) == (MOST_SHOWN, 50, 150)
    assert "\n" not in lost.brief[0].input
    assert len(lost.brief[0].input) <= BRIEF_CHARACTERS + 1


def test_a_figure_is_looked_up_with_its_place() -> None:
    figure = Figures({"a/b": [{"~": 0.25}], "none": None, "interval": [-0.1, 0.2]})
    assert figure(["a/b", 0, "~"], "signed") == '<data value="0.25" data-at="/a~1b/0/~0">+0.250</data>'
    assert figure(["none"]) == figure(["elsewhere", "x"]) == DASH
    assert f">{MINUS}0.100</data> to <data" in figure.interval(["interval"])
    assert figure.interval(["none"]) == DASH
    assert pointer(["slices", "a<b"]) == "/slices/a<b"


def test_bars_are_shares_of_their_split() -> None:
    bars = dict(label_bars({"test": {"b": 1, "a": 1}, "train": {"a": 30, "b": 10}}))
    assert list(bars) == ["a", "b"]
    assert [(bar.count, bar.share, bar.length) for bar in bars["a"]] == [(30, "75.0%", 100.0), (1, "50.0%", 66.7)]
    assert label_bars({}) == []


def test_stages_come_in_the_order_of_the_run() -> None:
    named = stages({"train": 30.0, "other": 10.0, "load": 0.0, "total": 40.0, "tuned": None})
    assert [stage.name for stage in named] == ["Loading", "Training", "other"]
    assert [stage.bar.length for stage in named] == [0.0, 100.0, 33.3]
    assert stages({}) == []
    assert used_columns([{"a": 0, "b": 2}], {"a": "A", "b": "B"}) == {"b": "B"}


def test_a_power_curve_without_a_visible_difference_is_not_drawn() -> None:
    nothing = {"curve": [{"discordance": 0.1, "smallest": None}]}
    assert power_curve(nothing) == power_curve({}) == ""
    drawing = power_curve({"curve": [*nothing["curve"], {"discordance": 0.4, "smallest": 0.2}]})
    assert "share of answers that change (assumed)</text>" in drawing


def test_reliability_diagrams_keep_their_ids_apart_and_skip_empty_bins() -> None:
    bins = [
        {"confidence": 0.5, "accuracy": 0.4, "items": 9, "interval": [0.1, 0.7]},
        {"confidence": 0.9, "accuracy": None, "items": 0, "interval": None},
    ]
    one, other = reliability_diagram(bins, "base"), reliability_diagram(bins, "tuned")
    ids = [set(re.findall('id="([^"]*)"', drawing)) for drawing in (one, other)]
    assert not ids[0] & ids[1]
    assert "share right</text>" in one


def test_the_sentence_of_the_comparison_is_taken_and_only_the_test_added() -> None:
    entry = {
        "verdict": "better",
        "base": 0.7,
        "tuned": 0.8,
        "difference": 0.1,
        "p": 0.002,
        "test": "exact unconditional test (Suissa and Shuster)",
    }
    comparison = {
        "metrics": {"accuracy": entry | {"base": 0.4, "difference": 0.4}},
        "baselines": {"tf-idf": entry},
        "headline": {"metric": "accuracy", "against": "tf-idf", "verdict": "better", "sentence": "It is better."},
    }
    assert wording.verdict_sentence(comparison) == "It is better."
    assert wording.evidence_sentence(comparison) == "p = 0.002; exact unconditional test (Suissa and Shuster)."
    assert wording.base_sentence(comparison).startswith("Against the base model itself: better; accuracy rose from")
    assert wording.judged(comparison)[0] == ("baselines", "tf-idf")


def test_what_a_verdict_rests_on_is_told_where_it_is_known() -> None:
    entry = {"test": "paired t", "clusters": 30, "p_exact": 0.01, "no_worse": False}
    entry |= {"discordant": {"gained": 5, "lost": 2}}
    said = "paired t; 5 gained, 2 lost; 30 clusters; exact p = 0.01; no worse than the margin allows: not shown"
    assert wording.grounds(entry) == said
    assert wording.energy(7200) == "7.2 kJ (2.0 Wh)"


def _run(rows: list[dict[str, object]], flips: dict[str, list[str]]) -> RunContents:
    return RunContents(Path(), base=Scores(rows), tuned=Scores(rows), comparison={"flips": flips})


ADVICE = {
    "advice": "tune",
    "text": "tune: it lacks a <skill>.",
    "findings": {
        "Does the base know this?": {
            "word": "partly",
            "text": "Examples help.",
            "shown": ["base: 0.400", "few: 0.500"],
        },
        "Is it form?": {"word": "unknown", "text": "No evidence: nothing was measured.", "shown": []},
    },
}
JUDGED = {
    **{"by": "a judge", "what": "win rate", "level": 0.95, "nothing": 0.5, "items": 90, "equal": 3, "labels": 30},
    **{"value": 0.7, "interval": [0.6, 0.8], "weight": 0.5, "verdict": "better", "replies_without_a_word": 2},
    "labels_alone": {"value": 0.72, "interval": [0.55, 0.88], "weight": 0.0},
    "judge_alone": 0.9,
    "agreement": {"same": 0.8, "interval": [0.6, 0.9], "by_chance": 0.5, "labels": 30},
    "length": {"longer_wins_more_than_the_person_says": {"value": 0.1, "interval": [0.02, 0.2]}, "labels": 28},
    "position": {"first_wins_more": {"value": 0.05, "interval": [-0.01, 0.1]}, "changed_by_swapping": 0.2},
}


def test_advice_and_judged_answers_stand_in_both_reports(tmp_path: Path) -> None:
    run = classification_run(tmp_path / "run")
    assert "Advice before the tuning" not in write_report(run).read_text()
    manifest = files.read_json(run / "manifest.json")
    files.write_json(run / "manifest.json", manifest | {"advice": ADVICE})
    files.write_json(run / "judged.json", JUDGED)
    page, text = write_report(run).read_text(), write_markdown(run).read_text()
    assert 'href="#advice"' in page
    assert 'href="#judged"' in page
    for report in (page, text):
        for said in ("Advice before the tuning", "Does the base know this?", "base: 0.400", "Judged answers"):
            assert said in report
        assert "nothing was measured" not in report  # what is not known is no advice
        assert "80% of 30 labels" in report
    assert "a &lt;skill&gt;" in page
    assert "<skill>" not in page
    for broken in ({"advice": {"findings": [1]}}, {"advice": {"text": "x", "findings": {"a": 3}}}):
        files.write_json(run / "manifest.json", manifest | broken)
        write_report(run)
    files.write_json(run / "judged.json", {"by": "a judge"})
    with pytest.raises(InputError, match="is not what tunelift judge writes"):
        write_report(run)
