"""Text and JSON of anybody's making: what is read, what is refused, and how it is said."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tunelift.comparison.readers import read_scores
from tunelift.core import files, parquet_files, text_files
from tunelift.core.errors import InputError
from tunelift.data.formats import read_file
from tunelift.untrusted import gguf
from tunelift.untrusted.files import read_object, safetensors_header


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings_are_read_by_all_readers(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "a.json", '{"a": "grüße"}'.encode(encoding))
    assert files.read_json(path) == {"a": "grüße"}
    assert list(files.read_jsonl(path)) == [(1, {"a": "grüße"})]
    assert text_files.text_of(path) == '{"a": "grüße"}'


@pytest.mark.parametrize(
    ("content", "said", "command"),
    [
        ("a\ngrüße\n".encode("cp1252"), "line 2: not UTF-8 text: byte 0xfc at column 3.*WINDOWS-1252", "WINDOWS-1252"),
        ("a\n".encode("utf-16-be"), "line 1: holds a NUL character.*UTF-16BE", "UTF-16BE"),
        (bytes(range(256)) * 4, "line 2: not UTF-8 text: byte 0x80", None),
        ("日本語のテキスト".encode("shift-jis"), "line 1: not UTF-8 text: byte 0x93", None),
        (b"\xff\xfea\0b", "no sound utf-16 text", None),
    ],
)
def test_other_encodings_are_named_with_the_command_that_converts(
    tmp_path: Path, content: bytes, said: str, command: str | None
) -> None:
    path = write(tmp_path, "my rows.csv", content)
    with pytest.raises(InputError, match=said) as caught:
        list(text_files.lines_of(path))
    fix = str(caught.value.fix)
    if command:
        assert f"iconv -f {command} -t UTF-8 '{path}' > '{path.with_name('my rows-utf8.csv')}'" in fix
    else:
        assert "iconv" not in fix
        assert "UTF-8" in fix


@pytest.mark.parametrize(
    "read",
    [
        text_files.text_of,
        files.read_json,
        read_scores,
        read_file,
        parquet_files.rows_of,
        safetensors_header,
        read_object,
        pytest.param(gguf.read, marks=pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed")),
    ],
)
def test_a_pointer_of_git_lfs_is_called_that_wherever_a_file_is_opened(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n"
    path = write(tmp_path, "rows.csv", pointer)
    with pytest.raises(InputError, match=r"rows\.csv is a pointer of Git LFS") as caught:
        read(path)
    assert "git lfs pull" in str(caught.value.fix)
    prose = write(tmp_path, "prose.txt", pointer + "A text about such pointers.\n" * 100)
    assert text_files.text_of(prose).startswith(pointer)


def test_json_within_its_limits(tmp_path: Path) -> None:
    deep = "[" * 64 + "]" * 64
    assert text_files.json_value(deep, "here") is not None
    assert math.isnan(text_files.json_value("[NaN]", "here")[0])
    assert text_files.json_value('"\\ud83d\\ude00"', "here") == "😀"
    assert text_files.json_value('{"\\ud83d": ["\\ud83d"]}', "here", mend=True) == {"\ufffd": ["\ufffd"]}
    for text, said in {
        f"[{deep}]": "nested more than 64 levels",
        "[" * 100_000: "nested more than 64 levels",
        '{"a": 1, "b": {"c": 1, "c": 2}}': 'the key "c" stands twice in one object',
        "9" * 5000: "a number has thousands of digits",
        '["\\uD83d"]': "half of a character",
        "[1,]": "not valid JSON .*column [34]",  # 3.13 names the comma, those before what stands behind
        "\ufeff[]": "not valid JSON",
    }.items():
        with pytest.raises(InputError, match=f"^here: .*{said}"):
            text_files.json_value(text, "here")
        with pytest.raises(InputError, match=r"a\.json: .*"):
            files.read_json(write(tmp_path, "a.json", "[" if "half" in said or text[0] == "\ufeff" else text))


def test_a_line_that_never_ends_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "LONGEST", 10_000)
    path = write(tmp_path, "a.txt", "a" * 5_000_000)
    tracemalloc.start()
    with pytest.raises(InputError, match="line 1: more than 10,000 characters"):
        next(text_files.lines_of(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


@pytest.mark.parametrize(
    "part",
    [
        '"inputs": 3',
        '"model": "gpt2"',
        '"adapter": {"method": ["lora"]}',
        '"seconds": {"base": "long"}',
        '"proofs": [true]',
        '"happened": {}',
    ],
)
def test_a_manifest_whose_parts_are_something_else_is_refused(tmp_path: Path, part: str) -> None:
    path = write(tmp_path, "manifest.json", f'{{"format": 1, {part}}}')
    with pytest.raises(InputError, match=rf'manifest\.json: "{part.split(chr(34))[1]}" is not what a run writes'):
        files.read_manifest(path)


def test_a_manifest(tmp_path: Path) -> None:
    path = write(tmp_path, "manifest.json", '{"format": 1, "model": {"name": "a"}, "train": null, "task": null}')
    assert files.read_manifest(path) == {"format": 1, "model": {"name": "a"}, "task": None}
    with pytest.raises(InputError, match="a JSON object is expected, not list"):
        files.read_manifest(write(tmp_path, "manifest.json", "[]"))
