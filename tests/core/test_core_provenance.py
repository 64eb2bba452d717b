from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tunelift
from tunelift.core import provenance


def test_versions_name_what_has_a_part_in_the_numbers() -> None:
    found = provenance.versions()
    assert found["python"] == sys.version.split()[0]
    assert found["tunelift"] == tunelift.__version__
    assert {"torch", "transformers", "peft"} <= found.keys()


def test_peak_memory_is_in_bytes_and_grows() -> None:
    code = (
        "from tunelift.core.provenance import peak_bytes\n"
        "before = peak_bytes(); block = b'1' * 2**26; print(peak_bytes() - before)"
    )
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 2**25 < grown < 2**27


def test_the_commit_of_a_folder(tmp_path: Path) -> None:
    assert provenance.git_commit(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init")
    assert provenance.git_commit(tmp_path) is None
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    assert provenance.git_commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a").write_text("2")
    assert provenance.git_commit(tmp_path) == git("rev-parse", "HEAD") + "+changes"


def test_the_command_line_as_it_is_typed(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tunelift", "run", "data.prompt=a b"])
    assert provenance.command_line() == "tunelift run 'data.prompt=a b'"
    monkeypatch.setattr(sys, "argv", ["/x/tunelift/__main__.py", "doctor"])
    assert provenance.command_line() == "python -m tunelift doctor"
