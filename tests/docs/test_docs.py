"""The documentation: it builds without a warning, is found by searching, and every snippet in it runs or is checked."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import click
import pytest

import tiny_models
from small_rows import write_rows
from tiny_tokenizers import bert_like
from tunelift.cli.main import cli
from tunelift.config.load import load_config

ROOT = Path(__file__).parents[2]
QUESTIONS = json.loads((Path(__file__).parent / "questions.json").read_text())
PAGES = sorted(
    page for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "examples" / "README.md"]
    if page.name not in ("templates.md", "architectures.md", "decisions.md")
)  # fmt: skip
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMES = {str(page.relative_to(ROOT)): page for page in PAGES}


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site; a link that leads nowhere fails the build."""
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=quiet)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_in_the_menu_and_made_pages_say_something(site: Path) -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert [name for name in pages if name not in menu] == []
    settings = (site / "reference" / "settings" / "index.html").read_text(encoding="utf-8")
    commands = (site / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    assert "micro_batch_tokens" in settings
    assert "tunelift leaderboard" in commands
    python = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    assert all(f"tunelift.{name}" in python for name in ("load", "tune", "evaluate", "compare", "fast.apply"))
    findings = (site / "reference" / "findings" / "index.html").read_text(encoding="utf-8")
    assert all(script.stem in findings for script in (ROOT / "findings").glob("*.sh"))


@pytest.mark.parametrize("script", sorted((ROOT / "findings").glob("*.sh")), ids=lambda path: path.stem)
def test_a_finding_says_of_which_version_it_is_and_what_tunelift_does(script: Path) -> None:
    """The page of findings is made of what stands at the head of each script."""
    text = script.read_text(encoding="utf-8")
    head = " ".join(takewhile(lambda line: line.startswith("#"), text.splitlines()))
    pinned = re.findall(r"\b([A-Za-z0-9_.-]+)==([\d.]+)", text)
    assert pinned and any(version in head for _, version in pinned), head
    assert "What tunelift does" in head


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)"')
    found = {address for page in site.rglob("*.html") for address in loaded.findall(page.read_text(encoding="utf-8"))}
    assert not found


def test_questions_find_their_page(site: Path) -> None:
    lunr = pytest.importorskip("lunr")
    found = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    documents = [
        ({"ref": str(i), "title": doc["title"], "text": doc["text"]}, {"boost": doc.get("boost", 1)})
        for i, doc in enumerate(found["docs"])
    ]
    fields = [{"field_name": "title", "boost": 10}, "text"]
    index = lunr.lunr(ref="ref", fields=fields, documents=documents)
    missed = {}
    for question, page in QUESTIONS.items():
        hits = [found["docs"][int(hit["ref"])]["location"] for hit in index.search(question)]
        pages = list(dict.fromkeys(hit.partition("#")[0] for hit in hits))[:3]
        address = page.removesuffix("index.md").removesuffix("README.md").removesuffix(".md")
        if address.rstrip("/") not in [hit.rstrip("/") for hit in pages]:
            missed[question] = pages
    assert not missed


@pytest.mark.parametrize("name", NAMES)
def test_configs_and_commands_are_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for named in ("my-adapter", "runs/demo", "A", "B"):
        Path(named).mkdir(parents=True)
    for text in blocks(NAMES[name], "yaml"):
        Path("config.yaml").write_text(text, encoding="utf-8")
        load_config("config.yaml")
    for block in blocks(NAMES[name], "bash", ""):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.partition("  #")[0].split(" && "):
                words = shlex.split(part) if part.startswith("tunelift ") else []
                if words[1:]:
                    parse(words[1:])


def parse(words: list[str]) -> None:
    """Read a command line as the command would, and run nothing; an option that is not there raises click's error."""
    context = click.Context(cli, info_name="tunelift")
    name, command, rest = cli.resolve_command(context, words)
    assert command is not None, words
    try:
        command.make_context(name, list(rest), parent=context)
    except click.exceptions.Exit:
        return


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny decoder and encoder, and the files that the snippets name."""
    folder = tmp_path_factory.mktemp("snippets")
    tiny_models.causal(max_position_embeddings=1024).save_pretrained(folder / "decoder")
    tiny_models.tokenizer().save_pretrained(folder / "decoder")
    tiny_models.classifier(["a", "b"]).base_model.save_pretrained(folder / "encoder")
    bert_like().save_pretrained(folder / "encoder")
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["text", "label"])
        table.writerows(
            [[f"{'good' if i % 2 else 'bad'} film number {i}", "good" if i % 2 else "bad"] for i in range(60)]
        )
    write_rows(folder / "train.csv", 40)
    write_rows(folder / "test.csv", 20, start=100)
    return folder


@pytest.mark.parametrize("name", [name for name, page in NAMES.items() if blocks(page, "python")])
def test_python_runs(name: str, prepared: Path, methods: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page in order; an excerpt, which cannot run alone, is a block of `py`."""
    monkeypatch.chdir(prepared)
    code = "\n".join(blocks(NAMES[name], "python")).replace("max_train=160", "max_train=16")
    for given, used in (("gemma3-270m", "decoder"), ("all-minilm-l6-v2", "encoder")):
        code = code.replace(given, str(prepared / used))
    exec(compile(code, name, "exec"), {"__name__": "snippet"})


def test_words_are_spelled_as_they_should_be() -> None:
    pytest.importorskip("codespell_lib")
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", "convertor", *map(str, PAGES)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert checked.stdout == ""
