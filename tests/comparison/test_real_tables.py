"""Tables as people have them: no word that the numbers do not carry. Each test is a kind of table that misled once."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelift.cli.main import cli
from tunelift.comparison import compare
from tunelift.comparison.leaderboard import leaderboard
from tunelift.comparison.run_folder import compare_run
from tunelift.core.errors import InputError
from tunelift.core.records import Scores

Row = dict[str, Any]


def rows(values: Sequence[float | None], name: str = "accuracy", **more: Any) -> list[Row]:
    made: list[Row] = []
    for index, value in enumerate(values):
        row: Row = {"id": str(index), "input": f"text {index}", "reference": "yes", "prediction": f"{value}", **more}
        made.append(row | ({"unscored": "it failed"} if value is None else {"metrics": {name: value}}))
    return made


def table(path: Path, columns: dict[str, Sequence[Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


def pair_of_tables(folder: Path, base: dict[str, Sequence[Any]], tuned: dict[str, Sequence[Any]]) -> tuple[str, str]:
    return table(folder / "base.csv", base), table(folder / "tuned.csv", tuned)


def tunelift(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["compare", *arguments])
    assert result.exit_code == code, result.output
    return result


def noisy(mean: float, count: int = 40) -> list[float]:
    return [mean + (index * 7 % 11 - 5) / 100 for index in range(count)]


# Directions and headlines


@pytest.mark.parametrize("metric", ["warmth", "tokens_used", "refusal_rate", "neg_log_loss"])
def test_a_metric_of_unknown_direction_is_called_neither_better_nor_worse(tmp_path: Path, metric: str) -> None:
    ids = range(40)
    files = pair_of_tables(tmp_path, {"id": ids, metric: noisy(0.31)}, {"id": ids, metric: noisy(0.21)[::-1]})
    found = compare(*files)
    assert found.verdict == "different"
    assert "better is not known" in str(found).splitlines()[0]
    assert f'--lower-better "{metric}"' in found.judged.verdict.reason
    for gate in (["--require-better", metric], ["--require-no-worse", metric, "--margin", "0.5"]):
        assert "cannot be checked" in tunelift(*files, *gate, code=2).output
    assert compare(*files, lower_better=[metric]).verdict == "better"
    assert compare(*files, higher_better=[metric]).verdict == "worse"
    tunelift(*files, "--require-better", metric, "--lower-better", metric)
    with pytest.raises(InputError, match="Nothing can be ranked by"):
        leaderboard(files[0], {"one": files[0], "two": files[1]})


@pytest.mark.parametrize("metric", ["latency", "latency_ms", "p95_latency", "cost_usd", "toxicity", "eval_loss", "WER"])
def test_less_of_what_nobody_wants_is_better(tmp_path: Path, metric: str) -> None:
    ids = range(40)
    files = pair_of_tables(tmp_path, {"id": ids, metric: noisy(0.31)}, {"id": ids, metric: noisy(0.21)[::-1]})
    assert compare(*files).verdict == "better"
    assert compare(*files[::-1]).verdict == "worse"
    assert tunelift(*files[::-1], "--require-better", metric, code=3)


def test_an_unknown_direction_is_still_equivalent_or_inconclusive_by_the_numbers() -> None:
    one, other = rows(noisy(0.5), "warmth"), rows(noisy(0.5)[::-1], "warmth")
    assert compare(one, other).verdict == "inconclusive"
    assert compare(one, other, margin=0.2).verdict == "equivalent"
    assert compare(one, other, margin=0.2).judged.verdict.no_worse is True


def test_the_first_number_of_a_table_is_no_headline(tmp_path: Path) -> None:
    ids = range(40)
    both = {"id": ids, "year": noisy(3), "warmth": noisy(1)}
    files = pair_of_tables(tmp_path, both, both | {"warmth": noisy(2)[::-1]})
    with pytest.raises(
        InputError, match=r"Which metric the verdict should be about is not known. There are: year, war"
    ):
        compare(*files)
    assert compare(*files, metric="warmth", higher_better=["warmth"]).verdict == "better"
    known = both | {"accuracy": [0, 1] * 20}
    assert compare(*pair_of_tables(tmp_path, known, known)).headline == "accuracy"


def test_directions_that_name_nothing_or_both_are_refused(tmp_path: Path) -> None:
    side = rows([0, 1], "warmth")
    with pytest.raises(InputError, match=r'"warmt" is not compared.*Did you mean "warmth"'):
        compare(side, side, lower_better=["warmt"])
    with pytest.raises(InputError, match="cannot be better both"):
        compare(side, side, lower_better=["warmth"], higher_better=["warmth"])


def test_columns_are_named_by_what_they_were_taken_for(tmp_path: Path) -> None:
    ids = range(20)
    base = {"qid": ids, "question": [f"q{i}" for i in ids], "answer": [f"a{i}" for i in ids], "correct": [0, 1] * 10}
    tuned = base | {"answer": [f"b{i}" for i in ids]}
    files = pair_of_tables(tmp_path, base, tuned)
    with pytest.raises(InputError, match=r"another input or reference \('question', 'answer'\).*\n.*prediction=NAME"):
        compare(*files)
    columns = {"reference": "", "prediction": "answer"}
    found = compare(*files, columns=columns)
    assert found.flips == [] and found.items == 20
    assert any('"answer" is the prediction' in note and '"question" is the input' in note for note in found.notes)
    shown = tunelift(*files, "--columns", "prediction=answer,reference=").output
    assert '"qid" is the id' in shown
    assert (
        'no column "anwer" to be the prediction. Did you mean "answer"?'
        in tunelift(*files, "--columns", "prediction=anwer", code=2).output
    )
    assert "takes ROLE=NAME" in tunelift(*files, "--columns", "answer", code=2).output
    with pytest.raises(InputError, match="no table whose columns"):
        compare(rows([0]), rows([1]), columns={"id": "id"})


def test_a_group_with_few_values_says_which_column_it_was(tmp_path: Path) -> None:
    ids = range(30)
    side = {"id": ids, "question": [f"q{i}" for i in ids], "group": [i % 3 for i in ids], "correct": [0] * 30}
    files = pair_of_tables(tmp_path, side, side | {"correct": [1] * 20 + [0] * 10})
    found = compare(*files)
    assert "come from 3 clusters" in found.judged.verdict.reason
    assert compare(*files, columns={"group": ""}).verdict == "better"
    renamed = [{("passage" if name == "group" else name): values for name, values in side.items()}] * 2
    assert any('"passage" is the group' in note for note in compare(*pair_of_tables(tmp_path, *renamed)).notes)


# Scores that are missing


@pytest.mark.parametrize("value", [None, math.inf, math.nan])
def test_half_of_the_items_lost_by_tuned_is_not_better(value: float | None) -> None:
    base, tuned = rows([0, 1] * 20), rows([1] * 20 + [value] * 20)
    found = compare(base, tuned)
    assert found.verdict == "inconclusive"
    assert "20 of 40 items scored on both sides" in str(found).splitlines()[0]
    assert found.to_dict()["metrics"]["accuracy"]["one_sided"] == 20
    low, high = found.judged.effect.interval or (0.0, 0.0)
    assert low < 0  # wrong on all 20
    assert high > 0.5  # right on all 20


def test_a_few_lost_items_leave_a_verdict_that_holds_whatever_they_were() -> None:
    found = compare(rows([0, 1] * 20), rows([1] * 38 + [None] * 2))
    assert found.verdict == "better"
    assert "whatever the 2 missing scores could have been" in found.judged.verdict.reason
    worst = compare(rows([0, 1] * 20), rows([1] * 38 + [0] * 2)).judged.effect
    assert found.judged.effect.p == worst.p
    assert (found.judged.effect.interval or (0,))[0] == (worst.interval or (0,))[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([(0, 1), (1, 1), (0, 0), (1, 0), (0, None), (1, None), (None, 1), (None, 0)]),
                min_size=4, max_size=40), st.data())  # fmt: skip
def test_a_verdict_with_gaps_holds_for_any_way_to_fill_them(items: list[tuple[Any, Any]], data: st.DataObject) -> None:
    base, tuned = ([pair[side] for pair in items] for side in range(2))
    if not any(None not in pair for pair in items):
        return
    verdict = compare(rows(base), rows(tuned)).verdict
    filled = [
        rows([data.draw(st.integers(0, 1)) if value is None else value for value in side]) for side in (base, tuned)
    ]
    if verdict != "inconclusive":
        assert compare(*filled).verdict == verdict


def test_a_graded_verdict_with_gaps_holds_for_the_ends_of_the_scale() -> None:
    base, tuned = noisy(0.3), [*noisy(0.6)[::-1][:36], None, None, None, None]
    found = compare(rows(base, "f1"), rows(tuned, "f1"))
    assert found.verdict == "better"
    for fill in (0.0, 1.0):
        filled = [fill if value is None else value for value in tuned]
        low, high = compare(rows(base, "f1"), rows(filled, "f1")).judged.effect.interval or (0, 0)
        assert (found.judged.effect.interval or (1, 0))[0] <= low < high <= (found.judged.effect.interval or (0, 0))[1]


def test_infinite_losses_are_worse_than_any_number_and_no_mean_is_made_of_them() -> None:
    base = rows([2.0 + index % 3 for index in range(40)], "loss")
    mostly = compare(base, rows([1.0] * 4 + [math.inf] * 36, "loss"))
    assert (mostly.verdict, mostly.judged.effect.interval) == ("worse", None)
    assert "4 of 40 items are scored on both sides" in mostly.judged.verdict.reason
    assert mostly.judged.discordant == {"gained": 4, "lost": 36}
    assert compare(base, rows([1.0] * 20 + [math.inf] * 20, "loss")).verdict == "inconclusive"
    assert compare(base, rows([1.0] * 36 + [math.inf] * 4, "loss")).verdict == "better"
    missing = compare(base, rows([1.0] * 20 + [None] * 20, "loss"))
    assert missing.verdict == "inconclusive"
    assert "20 missing scores" in missing.judged.verdict.reason
    assert compare(base, rows([1.0] * 36 + [None] * 4, "loss")).verdict == "better"


def test_gates_and_slices_do_not_pass_over_gaps(tmp_path: Path) -> None:
    for name, values in (("base", [0, 1] * 20), ("tuned", [1] * 20 + [None] * 20)):
        Scores([row | {"slices": {"kind": "all"}} for row in rows(values)]).save(tmp_path / name)
    sides = str(tmp_path / "base"), str(tmp_path / "tuned")
    assert "failed: better on accuracy" in tunelift(*sides, "--require-better", "accuracy", code=3).output
    no_worse = ["--require-no-worse", "accuracy", "--margin", "0.01"]
    assert "failed: no worse" in tunelift(*sides, *no_worse, code=3).output
    found = compare(*sides)
    assert found.slices["kind"]["all"].verdict.word == "inconclusive"
    assert "20 of 40" in str(found).split("kind")[1]


def test_what_neither_side_scored_is_left_out_and_counted() -> None:
    found = compare(rows([0] * 20 + [None] * 5), rows([1] * 20 + [None] * 5))
    assert (found.verdict, found.items, len(found.left_out)) == ("better", 20, 5)
    assert found.judged.effect.one_sided == 0


# Items that are one


def test_one_question_many_times_is_one_item() -> None:
    def side(right: Sequence[int]) -> list[Row]:
        return [
            {
                "id": f"{i}-{time}",
                "input": f"q{i}",
                "reference": "yes",
                "prediction": "",
                "metrics": {"accuracy": value},
            }
            for i, value in enumerate(right)
            for time in range(20)
        ]

    found = compare(side([0] * 10), side([1] * 3 + [0] * 7))
    assert (found.items, found.verdict) == (10, "inconclusive")
    assert (found.judged.effect.p or 0) > 0.1
    assert found.judged.effect.difference == pytest.approx(0.3)
    assert any("200 rows are 10 items" in note for note in found.notes)
    assert compare(side([0] * 10), side([1] * 9 + [0])).verdict == "better"


def test_repeats_of_unequal_number_weigh_as_one_each() -> None:
    base = [row | {"input": f"q{min(i, 9)}"} for i, row in enumerate(rows([0.0] * 60, "f1"))]
    tuned = [row | {"metrics": {"f1": (0.9 if i >= 9 else 0.1 * (i % 3))}} for i, row in enumerate(base)]
    found = compare(base, tuned)
    assert found.items == 10
    assert found.judged.tuned == pytest.approx((0.9 + sum(0.1 * (i % 3) for i in range(9))) / 10)


def test_an_item_that_lacks_one_of_its_rows_is_not_scored_on_both_sides() -> None:
    base = [row | {"input": f"q{i // 2}"} for i, row in enumerate(rows([0.4, 0.6] * 10, "loss"))]
    tuned = [row | {"metrics": {"loss": math.inf if i == 3 else 0.1}} for i, row in enumerate(base)]
    found = compare(base, tuned)
    assert (found.items, found.judged.effect.one_sided, found.judged.effect.interval) == (9, 1, None)


def test_clusters_that_share_an_item_are_one() -> None:
    base = [row | {"cluster": f"c{i}"} for i, row in enumerate(rows([0, 1] * 10))]
    base[1] |= {"input": base[0]["input"]}
    tuned = [row | {"metrics": {"accuracy": 1}} for row in base]
    assert compare(base, tuned).items == 19
    assert compare(base, tuned).judged.effect.clusters is None
    base[1] |= {"cluster": "c2"}
    tuned[1] |= {"cluster": "c2"}
    assert compare(base, tuned).judged.effect.clusters == 18


def test_rows_known_by_id_alone_are_not_taken_for_one(tmp_path: Path) -> None:
    side = {"id": range(40), "correct": [0] * 40}
    found = compare(*pair_of_tables(tmp_path, side, side | {"correct": [1] * 40}))
    assert (found.items, found.looks) == (40, None)


# Right or wrong at any number of items


@pytest.mark.parametrize(
    ("gained", "lost", "same", "verdict"),
    [(4, 0, 0, "inconclusive"), (5, 0, 0, "inconclusive"), (6, 0, 0, "better"), (6, 15, 79, "inconclusive")],
)
def test_few_items_are_judged_as_strictly_as_many(gained: int, lost: int, same: int, verdict: str) -> None:
    base = rows([0] * gained + [1] * lost + [1] * same)
    found = compare(base, rows([1] * gained + [0] * lost + [1] * same))
    assert found.verdict == verdict
    low, high = found.judged.effect.interval or (0, 0)
    assert ((low > 0) or (high < 0)) == ((found.judged.effect.p or 0) < 0.05) == (verdict != "inconclusive")


# Ratios


def test_a_perplexity_of_the_harness_is_judged_as_the_harness_makes_it(tmp_path: Path) -> None:
    # Many short documents get better, one long one worse: by words the perplexity rises, the mean over documents falls.
    def samples(name: str, nats_by_word: Sequence[float]) -> str:
        path = tmp_path / name
        lengths = [10] * (len(nats_by_word) - 1) + [3000]
        lines = [
            {"doc_id": i, "doc": f"text {i}", "target": f"text {i}", "arguments": [[f"text {i}"]], "resps": [[[0.0]]],
             "filtered_resps": [0.0], "word_perplexity": [-nats * words, words]}
            for i, (nats, words) in enumerate(zip(nats_by_word, lengths, strict=True))
        ]  # fmt: skip
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path)

    base = samples("a.jsonl", [3.0 + i % 5 / 10 for i in range(40)] + [2.99])
    tuned = samples("b.jsonl", [2.8 + i % 4 / 10 for i in range(40)] + [3.12])
    found = compare(base, tuned).metrics["word_perplexity"]
    weighed = [(sum(3.0 + i % 5 / 10 for i in range(40)) * 10 + 2.99 * 3000) / 3400,
               (sum(2.8 + i % 4 / 10 for i in range(40)) * 10 + 3.12 * 3000) / 3400]  # fmt: skip
    assert (found.base, found.tuned) == pytest.approx([math.exp(nats) for nats in weighed])
    assert found.tuned > found.base
    assert found.verdict.word != "better"


def test_our_loss_is_that_of_all_tokens() -> None:
    def side(losses: Sequence[float]) -> list[Row]:
        return [
            row | {"metrics": {"loss": loss, "perplexity": math.exp(loss)}, "tokens": tokens,
                   "log_likelihood": -loss * tokens}
            for row, loss, tokens in zip(rows([0] * 30), losses, [2] * 29 + [500], strict=True)
        ]  # fmt: skip

    base, tuned = side([3.0 + i % 3 / 9 for i in range(30)]), side([2.5 + i % 4 / 9 for i in range(29)] + [3.5])
    loss, perplexity = (compare(base, tuned, metric=name).judged for name in ("loss", "perplexity"))
    assert loss.tuned == pytest.approx((sum(2.5 + i % 4 / 9 for i in range(29)) * 2 + 3.5 * 500) / 558)
    assert perplexity.tuned == pytest.approx(math.exp(loss.tuned))
    assert loss.effect.difference > 0
    assert loss.verdict.word == "inconclusive"
    assert perplexity.effect.p == pytest.approx(loss.effect.p)
    wide = compare(base, [row | {"metrics": {"loss": row["metrics"]["loss"]}} for row in tuned])
    assert wide.metrics["loss"].effect.test.startswith("t and bootstrap of a ratio")
    plain = [{key: value for key, value in row.items() if key != "tokens"} for row in base]
    assert compare(plain, plain).metrics["loss"].base == pytest.approx(np.mean([r["metrics"]["loss"] for r in base]))


# Words that were lost


def test_one_file_given_twice_and_equal_answers_are_said() -> None:
    side = rows([0, 1] * 10)
    assert any("one file given twice" in note for note in compare(side, side).notes)
    answered = [row | {"prediction": "the same"} for row in side]
    other = [row | {"metrics": {"accuracy": 1}} for row in answered]
    assert any("the same answer to every item" in note for note in compare(answered, other).notes)


def test_other_fast_paths_are_said() -> None:
    def side(packing: str) -> Scores:
        return Scores(rows([0, 1] * 10), {"made_with": {"fast_paths": {"packing": packing, "head": "on"}}})

    notes = compare(side("on"), side("off: it differs")).notes
    assert any("packing: on for base, off: it differs for tuned" in note for note in notes)
    assert not any("different ways" in note for note in compare(side("on"), side("on")).notes)


@pytest.mark.parametrize("word", ["NA", "n/a", "null", "None", "-", "#N/A", ""])
def test_a_cell_without_a_value_does_not_move_the_headline(tmp_path: Path, word: str) -> None:
    ids = range(20)
    side = {"id": ids, "question": [f"q{i}" for i in ids], "helpful": [0, 1] * 10, "clarity": [1, 0] * 10}
    files = pair_of_tables(tmp_path, side, side | {"helpful": [word, *[1] * 19]})
    found = compare(*files, metric="helpful", higher_better=["helpful"])
    assert (found.items, found.judged.effect.one_sided) == (19, 1)


def test_a_word_among_numbers_is_named(tmp_path: Path) -> None:
    side = {"id": range(20), "correct": [0, 1] * 10, "clarity": [1] * 19 + ["good"]}
    notes = compare(*pair_of_tables(tmp_path, side, side)).notes
    assert any('"clarity" is not compared: ' in note and "line 21 holds 'good'" in note for note in notes)


def test_files_without_scores_are_said_to_have_none() -> None:
    side = [{"id": str(i), "input": f"q{i}", "reference": "a", "unscored": "no judge"} for i in range(5)]
    with pytest.raises(InputError, match="No item has a score on either side; the first is unscored, base: no judge"):
        compare(side, side)


def test_tables_known_by_id_alone_do_not_count_as_uses_of_one_test_set(tmp_path: Path) -> None:
    for number in range(3):
        side = {"id": range(20), "correct": [number % 2] * 20}
        assert compare(*pair_of_tables(tmp_path, side, side)).looks is None
    told = side | {"question": [f"q{i}" for i in range(20)]}
    assert compare(*pair_of_tables(tmp_path, told, told)).looks == 1


@pytest.mark.parametrize(
    "damage",
    ["", "[]", "3", '{"metrics": [1]}', '{"metrics": {"accuracy": 5}}', '{"metrics": {"accuracy": {"value": "x"}}}',
     '{"made_with": []}', '{"made_with": {"baseline": "x"}}', '{"metrics": {"accuracy": {"higher_is_better": "yes"}}}',
     '{"notes": "x"}', '{"items": "x"}', '{"metrics"', '{"made_with": {"seed": "x"}}'],
)  # fmt: skip
def test_a_damaged_metrics_json_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    for part in (
        "base",
        "tuned",
        "base/validation",
        "baselines/tf-idf",
        "baselines/tf-idf/validation",
        "seeds/1/tuned",
    ):
        Scores(
            rows([0, 1] * 10), {"metrics": {"accuracy": {"value": 0.5, "higher_is_better": True}}, "items": 20}
        ).save(tmp_path / part)
    compare_run(tmp_path)
    for part in (
        "base",
        "tuned",
        "base/validation",
        "baselines/tf-idf",
        "baselines/tf-idf/validation",
        "seeds/1/tuned",
    ):
        file = tmp_path / part / "metrics.json"
        whole = file.read_text()
        file.write_text(damage)
        with pytest.raises(InputError) as caught:
            compare_run(tmp_path)
        assert str(file) in str(caught.value)
        file.write_text(whole)


# Anything at all


CELLS = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 0.5, math.inf, -math.inf, math.nan]), st.floats(-1e6, 1e6))


TABLES = st.tuples(
    st.lists(st.tuples(CELLS, CELLS, st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=40),
    st.sampled_from(["accuracy", "f1", "loss", "warmth"]),
    st.booleans(),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)


@settings(max_examples=300, deadline=None)
@given(TABLES)
def test_interval_p_and_word_agree(made: tuple[list[tuple[Any, Any, int, int]], str, bool, float]) -> None:
    assert agreed(*made)


@pytest.mark.e2e
@settings(max_examples=10_000, deadline=None)
@given(TABLES)
def test_interval_p_and_word_agree_on_10000_tables(
    made: tuple[list[tuple[Any, Any, int, int]], str, bool, float],
) -> None:
    assert agreed(*made)


def agreed(items: list[tuple[Any, Any, int, int]], metric: str, clustered: bool, level: float) -> bool:
    sides: list[list[Row]] = [[], []]
    for number, (*values, item, cluster) in enumerate(items):
        for side, value in zip(sides, values, strict=True):
            row: Row = {"id": str(number), "input": f"q{item}", "reference": "a", "prediction": "p"}
            row |= {"unscored": "failed"} if value is None else {"metrics": {metric: value}}
            side.append(row | ({"cluster": str(cluster)} if clustered else {}))
    try:
        found = compare(*sides, level=level)
    except InputError:
        return True
    json.dumps(found.to_dict(), allow_nan=False)
    effect, word = found.judged.effect, found.verdict
    shown = word not in ("inconclusive", "equivalent")
    if metric == "warmth" and word in ("better", "worse"):
        return False
    if effect.p is None:
        return effect.interval is None and not shown
    if effect.interval is None:
        return (effect.p < 1 - level and effect.sign != 0) == shown
    low, high = effect.interval
    return low <= high and ((low > 0) or (high < 0)) == (effect.p < 1 - level) == shown
