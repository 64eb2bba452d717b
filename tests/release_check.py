"""`make release-check`: what a user gets, built and tried as a user gets it, in an environment without extras.

Builds the sdist and from it the wheel, looks at what is in them, installs the wheel in an empty environment, and runs
`--help`, a whole run, `compare` and what needs an extra there. The time of `--help` is printed and fails nothing: it is
the machine's too. Exits with 1 where anything else does not hold.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from missing_extras import CASES, ROOT, RUN, UNPROVED, Case, prepare

HELP_SECONDS = 0.3
NOT_SHIPPED = (".ci/", ".gitignore")
"""What a source distribution may lack of what git tracks."""


def main() -> int:
    """Run every check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the empty environment")
    python = parser.parse_args().python
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        wrong = [f"{name}: {problem}" for name, problem in checks(place, python)]
    for problem in wrong:
        print(f"WRONG  {problem}")
    print("release-check:", f"{len(wrong)} wrong" if wrong else "all holds")
    return 1 if wrong else 0


def checks(place: Path, python: str) -> Iterator[tuple[str, str]]:
    """Yield what does not hold: the name of the check, and the problem."""
    run(sys.executable, "-m", "build", "--outdir", str(place / "dist"), str(ROOT))  # the wheel is built from the sdist
    wheel, sdist = next((place / "dist").glob("*.whl")), next((place / "dist").glob("*.tar.gz"))
    yield from (("contents", problem) for problem in lacking(wheel, sdist))
    yield from failed("metadata", [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)])
    print("an empty environment: torch and what else the wheel names, without extras", flush=True)
    run(python, "-m", "venv", str(place / "env"))
    binaries = place / "env" / ("Scripts" if os.name == "nt" else "bin")
    run(str(binaries / "pip"), "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    yield from failed("pip check", [str(binaries / "pip"), "check"])
    yield from in_environment(str(binaries / "tunelift"), str(binaries / "python"), place)


def in_environment(tunelift: str, python: str, place: Path) -> Iterator[tuple[str, str]]:
    """Yield what does not hold of the installed command."""
    folder = place / "work"
    folder.mkdir()
    prepare(folder)
    fastest = min(seconds([tunelift, "--help"]) for _ in range(5))
    print(f"tunelift --help: {fastest:.2f} s, the fastest of 5 (aim: {HELP_SECONDS} s)", flush=True)
    yield from failed("a whole run", [tunelift, *RUN], folder)
    runs = [folder / "run", *sorted((ROOT / "tests" / "formats").glob("*/")), ROOT / "runs" / "demo"]
    for found in runs:
        if (found / "comparison.json").is_file():
            yield from failed(f"compare {found.name}", [tunelift, "compare", str(found)], folder)
    for case in CASES:
        yield from names_its_extra(case, tunelift, python, folder)


def names_its_extra(case: Case, tunelift: str, python: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what is wrong where a command that needs an extra runs without it."""
    name = f"{case.extra}: tunelift {' '.join(case.words)}"
    there = [one for one in case.packages if not ran([python, "-c", f"import {one}"], folder).returncode]
    if there or case.extra == "llama-cpp":  # which is asked for only where gguf is there
        print(
            f"skipped  {name}: {', '.join(there) or 'gguf'} {'comes with other packages' if there else 'comes first'}"
        )
        return
    done = ran([tunelift, *case.words], folder)
    expected = 0 if case.extra in UNPROVED else 2
    if done.returncode != expected or f"pip install 'tunelift[{case.extra}]'" not in done.stdout + done.stderr:
        yield name, f"exit code {done.returncode}, and it said: {done.stderr[-600:]}"
    else:
        print(f"ok  {name}", flush=True)


def lacking(wheel: Path, sdist: Path) -> Iterator[str]:
    """Yield what git tracks and a distribution lacks: all files in the sdist, the package's in the wheel."""
    tracked = run("git", "-C", str(ROOT), "ls-files").splitlines()
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        installed = {f"src/{name}" for name in archive.namelist()}
    for name in tracked:
        if not name.startswith(NOT_SHIPPED) and name not in packed:
            yield f"{sdist.name} lacks {name}"
        if name.startswith("src/") and name not in installed:
            yield f"{wheel.name} lacks {name}"
    print(f"{sdist.name}: {len(packed)} files; {wheel.name}: {len(installed)} files", flush=True)


def failed(name: str, command: list[str], folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """Run a command; yield a problem if it fails."""
    done = ran(command, folder)
    if done.returncode:
        yield name, f"exit code {done.returncode}: {(done.stdout + done.stderr)[-1200:]}"
    else:
        print(f"ok  {name}", flush=True)


def seconds(command: list[str]) -> float:
    """Return how long a command takes."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=alone())
    return time.perf_counter() - begun


def ran(command: list[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, away from this checkout."""
    return subprocess.run(command, cwd=folder, env=alone(), capture_output=True, text=True, check=False)


def alone() -> dict[str, str]:
    """Return the environment without what leads to this checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(*command: str) -> str:
    """Run a command that must succeed; return what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
