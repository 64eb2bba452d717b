"""Files of results by their content: ours, folders, encodings, what is malformed; nothing but InputError comes out."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunelift.comparison import compare
from tunelift.comparison.readers import matched, read_scores
from tunelift.core.errors import InputError
from tunelift.core.records import Scores

DATA = Path(__file__).parent / "data"
OURS = {"id": "1", "input": "in", "reference": " yes", "prediction": " no", "metrics": {"accuracy": 0}, "tokens": 2}


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_our_file_is_read_as_it_is_with_metrics_json_beside_it(tmp_path: Path) -> None:
    rows = [OURS, {"id": 2, "input": "b", "reference": "c", "prediction": "", "unscored": "too long"}]
    info = {"metrics": {"accuracy": {"value": 0.0, "higher_is_better": True, "items": 1}}, "made_with": {"task": "x"}}
    Scores(rows, info).save(tmp_path)
    for path in (tmp_path, tmp_path / "scores.jsonl"):
        scores = read_scores(path)
        assert (scores.rows, scores.info) == (rows, info)
    run = tmp_path / "run"
    Scores(rows, info).save(run / "tuned")
    assert read_scores(run).rows == rows


def test_metrics_json_is_not_taken_for_a_file_of_another_tool(tmp_path: Path) -> None:
    written(tmp_path, "metrics.json", '{"made_with": {"task": "x"}}')
    assert read_scores(written(tmp_path, "other.csv", "id,correct\n1,1\n")).info["made_with"] == {}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_understood(tmp_path: Path, encoding: str) -> None:
    text = "id\tquestion\tcorrect\nä\tgroß?\ttrue\n"
    (row,) = read_scores(written(tmp_path, "a.tsv", text.encode(encoding))).rows
    assert (row["id"], row["input"], row["metrics"]) == ("ä", "groß?", {"correct": 1.0})


def test_the_content_decides_not_the_ending(tmp_path: Path) -> None:
    table = "id,correct\n1,1\n2,0\n"
    lines = '\n{"id": 1, "correct": true}\n\n{"id": 2, "correct": false}\n'
    array = '[\n {"id": 1, "correct": 1},\n {"id": 2.0, "correct": 0}\n]'
    wrapped = '{"data": [{"id": 1, "correct": "C"}, {"id": 2, "correct": "I"}]}'
    for number, content in enumerate((table, lines, array, wrapped)):
        scores = read_scores(written(tmp_path, f"{number}.txt", content))
        assert [(row["id"], row["metrics"]["correct"]) for row in scores.rows] == [("1", 1.0), ("2", 0.0)]
    (row,) = read_scores(written(tmp_path, "one.csv", json.dumps(OURS))).rows
    assert row == OURS


MALFORMED: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "holds no rows"),
    "blank lines": ("\n \n", "holds no rows"),
    "header only": ("id,correct\n", "holds no rows"),
    "empty list": ("[]", "holds no rows"),
    "broken line": ('{"id": 1, "correct": 1}\n{"id": 2, "correct": }\n', "line 2: not valid JSON"),
    "broken first line": ('{"id": tru}\n{"id": 2, "correct": 1}\n', "line 1: not valid JSON"),
    "a list among lines": ('{"id": 1, "correct": 1}\n[1]\n', "line 2: a JSON object is expected, not list"),
    "numbers in the list": ("[1, 2]", "item 1: a JSON object is expected, not int"),
    "unclosed": ('{\n "data": [', "not valid JSON"),
    "deep": ('{"id": 1, "correct": 1, "x": ' + "[" * 200 + "]" * 200 + "}\n{}", "line 1: JSON that is nested more"),
    "very deep": ("[" * 100_000, "JSON that cannot be read|nested more"),
    "huge number": ('{"id": 1, "correct": ' + "9" * 5000 + "}\n{}", "line 1: JSON that cannot be read"),
    "not utf-8": (b"id,correct\n1,1\n\xff,0\n", "line 3: not UTF-8 text: byte 0xff at column 1"),
    "binary": (b"id\0correct\n", "line 1: holds a NUL"),
    "ragged": ("id,correct\n1,1\n2,1,3\n", "line 3: 3 fields for 2 columns"),
    "open quote": ('id,correct\n1,1\n"2,1\n', "line 3: not valid csv"),
    "column twice": ("id,correct,correct\n1,1,1\n", 'line 1: the column name "correct" stands more than once'),
    "no metric": ("id,question\n1,what\n", "no column holds a metric"),
    "id missing": ("id,correct\n1,1\n,0\n", "line 3: the id is missing"),
    "id is a list": ('{"id": [1], "correct": 1}\n{"id": 2, "correct": 1}', r"line 1: the id is \[1\]"),
    "metric in words": ("id,correct\n1,1\n2,maybe\n", "line 3: correct is 'maybe', which is no number"),
    "metrics in words": ('{"id": 1, "metrics": {"a": 1}}\n{"id": 2, "metrics": {"a": "b"}}', "line 2: a is 'b'"),
    "metrics a list": ('{"id": 1, "metrics": {"a": 1}}\n{"id": 2, "metrics": [1]}', 'line 2: "metrics" must be'),
    "slices in words": ('{"id": 1, "correct": 1, "slices": "a"}\n{"id": 2, "correct": 1}', 'line 1: "slices" must be'),
    "ours without reference": (f'{json.dumps(OURS)}\n{{"id": 2, "input": "a"}}', "line 2: lacks reference"),
    "ours with labels in words": (
        f"{json.dumps(OURS)}\n{json.dumps(OURS | {'label_scores': {'a': 'b'}})}",
        "line 2: .*log-l",
    ),
    "ours beyond floats": (f"{json.dumps(OURS)}\n{json.dumps(OURS | {'metrics': {'a': 10**400}})}", "line 2: a in"),
    "ours with metrics in words": (f"{json.dumps(OURS)}\n{json.dumps(OURS | {'metrics': 'a'})}", 'line 2: "metrics"'),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    content, message = MALFORMED[name]
    path = written(tmp_path, "results.any", content)
    with pytest.raises(InputError, match=message) as caught:
        read_scores(path)
    assert str(path) in str(caught.value)


def test_malformed_metrics_json_and_missing_files(tmp_path: Path) -> None:
    path = written(tmp_path, "scores.jsonl", json.dumps(OURS))
    for content in ("[]", '{"metrics": [1]}', '{"metrics": {"a": 1}}', '{"made_with": 3}', "{"):
        written(tmp_path, "metrics.json", content)
        with pytest.raises(InputError, match=r"metrics\.json"):
            read_scores(path)
    with pytest.raises(InputError, match="does not exist"):
        read_scores(tmp_path / "absent.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file of results"):
        read_scores(tmp_path / "empty")


def test_half_a_character_is_replaced_so_that_it_can_be_hashed(tmp_path: Path) -> None:
    lines = '{"id": 1, "input": "a\\ud83d", "correct": 1}\n{"id": 2, "input": "\\ud83d\\ude00", "correct": 0}\n'
    path = written(tmp_path, "a.jsonl", lines)
    assert [row["input"] for row in read_scores(path).rows] == ["a�", "😀"]
    assert compare(path, path).verdict == "inconclusive"


def test_a_folder_with_several_results_lists_them_and_one_task_of_both_sides_is_found(tmp_path: Path) -> None:
    base, tuned = DATA / "lm_eval_a", DATA / "lm_eval_b"
    with pytest.raises(InputError, match=r"holds 4 files of results: samples_tinygen_.*, samples_tinyll") as caught:
        read_scores(base)
    assert caught.value.fix == "Give one of these files."
    assert matched(base, tuned) == (base, tuned), "several tasks are common: not for us to choose"
    one = next(tuned.glob("samples_tinymc_*"))
    assert [path.name[:15] for path in matched(base, one)] == ["samples_tinymc_"] * 2
    assert matched(one, one) == (one, one)
    alone = tmp_path / "model"
    alone.mkdir()
    written(alone, one.name, one.read_bytes())
    written(alone, "results_2026.json", "{}")
    assert len(read_scores(tmp_path).rows) == 4


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["C", "no", "1e5", "nan"]),
)
VALUES = st.recursive(CELLS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
OF_OURS = (
    "id",
    "input",
    "reference",
    "prediction",
    "metrics",
    "unscored",
    "cluster",
    "slices",
    "counts",
    "label_scores",
)
OF_OTHERS = ("question", "label", "correct", "score", "doc_id", "arguments", "resps", "filter", "target", "eval", "x")
NAMES = st.sampled_from(OF_OURS + OF_OTHERS)
FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused_or_equal_to_itself(path: Path) -> bool:
    """Whether a file is refused as wrong input, or compared with itself shows no difference in any metric."""
    try:
        metrics = compare(path, path).to_dict()["metrics"]
    except InputError:
        return True
    return all(not entry["difference"] for entry in metrics.values())


@FUZZ
@given(rows=st.lists(st.dictionaries(NAMES, VALUES, min_size=1, max_size=6), min_size=1, max_size=4))
def test_any_json_rows_are_compared_or_refused(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert refused_or_equal_to_itself(written(tmp_path, "rows.jsonl", "\n".join(map(json.dumps, rows))))
    assert refused_or_equal_to_itself(written(tmp_path, "rows.json", json.dumps(rows)))
    assert refused_or_equal_to_itself(written(tmp_path, "scores.jsonl", "\n".join(map(json.dumps, rows))))


@FUZZ
@given(header=st.lists(NAMES, min_size=1, max_size=5), body=st.text(alphabet='a1.,;"\n\r\t\0ß CI-', max_size=60))
def test_any_table_is_compared_or_refused(tmp_path: Path, header: list[str], body: str) -> None:
    for delimiter in ",;\t":
        assert refused_or_equal_to_itself(written(tmp_path, "table.csv", f"{delimiter.join(header)}\n{body}"))


@FUZZ
@given(content=st.binary(max_size=80))
def test_any_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    assert refused_or_equal_to_itself(written(tmp_path, "bytes", content))
    assert refused_or_equal_to_itself(written(tmp_path, "zip", b"PK\x03\x04" + content))


REAL = [
    "evalplus_eval_results.json",
    "deepeval_test_run.json",
    "promptfoo_base.json",
    "opencompass/results/m1/tiny_3.json",
    "opencompass/predictions/m1/tiny_3.json",
    "helm/run/per_instance_stats.json",
    "helm/run/stats.json",
    "helm/run/scenario_state.json",
    "lighteval/results_tinymc.json",
]


@pytest.mark.parametrize("name", REAL)
@FUZZ
@given(odd=VALUES, place=st.randoms(use_true_random=False))
def test_any_value_of_a_real_file_may_be_another(tmp_path: Path, name: str, odd: Any, place: random.Random) -> None:
    """What stands anywhere in a tool's file replaced by anything: rows, or a refusal."""
    value = json.loads((DATA / name).read_text())
    inside, key, deeper = [value], 0, value
    while isinstance(deeper, dict | list) and deeper and (deeper is value or place.random() < 0.8):
        inside, key = deeper, place.choice(list(deeper) if isinstance(deeper, dict) else range(len(deeper)))
        deeper = inside[key]
    inside[key] = odd
    assert refused_or_equal_to_itself(written(tmp_path, Path(name).name, json.dumps(value)))


def test_parquet_tables_are_read_like_others(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"id": ["a", "b"], "correct": [True, False], "when": [datetime(2026, 1, 1)] * 2, "raw": [b"x", None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    scores = read_scores(tmp_path / "a.parquet")
    assert [(row["id"], row["metrics"]["correct"]) for row in scores.rows] == [("a", 1.0), ("b", 0.0)]
    scores.save(tmp_path / "saved")
    parquet.write_table(pyarrow.table({"id": []}), tmp_path / "none.parquet")
    with pytest.raises(InputError, match="holds no rows"):
        read_scores(tmp_path / "none.parquet")


AVERAGES = {
    "mteb": {"task_name": "STS12", "mteb_version": "1.38.0", "scores": {"test": []}, "evaluation_time": 1.0},
    "lm-evaluation-harness": {"results": {}, "versions": {}, "config": {}, "n-shot": {}},
    "lighteval": {"config_general": {}, "results": {}, "versions": {}},
}


@pytest.mark.parametrize("tool", AVERAGES)
def test_averages_are_refused_by_the_name_of_their_tool(tmp_path: Path, tool: str) -> None:
    path = written(tmp_path, "results.json", json.dumps(AVERAGES[tool]))
    with pytest.raises(InputError, match=f"holds {tool}'s averages, no single items") as caught:
        read_scores(path)
    assert caught.value.fix


def test_events_of_openai_s_evals_and_opencompass_s_averages_are_refused(tmp_path: Path) -> None:
    events = [{"spec": {"eval_name": "test.dev", "run_id": "1"}}, {"run_id": "1", "event_id": 0, "type": "match"}]
    path = written(tmp_path, "log.jsonl", "\n".join(map(json.dumps, events)))
    with pytest.raises(InputError, match="the events of OpenAI's evals"):
        read_scores(path)
    (tmp_path / "results" / "model").mkdir(parents=True)
    path = written(tmp_path / "results" / "model", "gsm8k.json", '{"accuracy": 62.5}')
    summary = written(tmp_path, "summary.csv", "dataset,version,metric,mode,m1\ngsm8k,a1,accuracy,gen,62.5\n")
    for averages in (path, summary):
        with pytest.raises(InputError, match="OpenCompass's averages"):
            read_scores(averages)


def test_a_run_s_folder_of_another_tool_is_read_by_the_names_of_its_files(tmp_path: Path) -> None:
    for name, source in (("s_eval_results.json", REAL[0]), ("test_run_20261128_185406.json", REAL[1])):
        folder = tmp_path / Path(name).stem
        folder.mkdir()
        written(folder, name, (DATA / source).read_bytes())
        written(folder, "config.json", "{}")
        assert read_scores(folder).rows == read_scores(DATA / source).rows


def test_reading_plain_files_imports_nothing_heavy(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "id,correct\n1,1\n")
    code = (
        "import sys; from pathlib import Path; from tunelift.comparison.readers import read_scores; "
        f"read_scores(Path({str(path)!r})); "
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'scipy', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
    assert "pyarrow" not in done.stdout
    assert "pandas" not in done.stdout
