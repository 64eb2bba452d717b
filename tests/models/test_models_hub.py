"""Loading from the Hub, against a stand-in server on the loopback that speaks the few requests the client makes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

COMMITS = {"main": "a" * 40, "v1": "b" * 40}

ASK = """
import json, sys
from tunelift.core.errors import InputError
from tunelift.models import load, load_tokenizer
answers = []
for name, revision in json.loads(sys.argv[1]):
    try:
        loaded = load(name, revision=revision, dtype="float32")
        total = sum(float(weights.double().sum()) for weights in loaded.model.parameters())
        ids = load_tokenizer(name, revision)("good film").input_ids
        identity = loaded.identity
        answers.append([identity.kind, identity.path, identity.commit, identity.weights_sha256, round(total, 6), ids])
    except InputError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


class StandIn(BaseHTTPRequestHandler):
    """Serves `/ORG/NAME/resolve/REVISION/FILE` from folders by revision, and the Hub's refusals."""

    repositories: ClassVar[dict[str, dict[str, Path]]] = {}

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        if self.path.startswith("/api/models/"):
            return self.listing()
        name, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        revision = next((branch for branch, commit in COMMITS.items() if commit == revision), revision)
        if name == "org/gated":
            return self.refuse(403, "GatedRepo")
        if name not in self.repositories:
            return self.refuse(404, "RepoNotFound")
        if revision not in self.repositories[name]:
            return self.refuse(404, "RevisionNotFound")
        path = self.repositories[name][revision] / file
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", revision)
        return self.send(path.read_bytes(), revision, file.endswith(".safetensors") and with_body is False, with_body)

    def listing(self) -> None:
        """Answer `/api/models/ORG/NAME/tree/COMMIT`, the list of a repository's files.

        Older clients ask `/api/models/ORG/NAME/revision/BRANCH`.
        """
        org, name, asked, last = self.path.removeprefix("/api/models/").partition("?")[0].split("/")
        revision = next(branch for branch, commit in COMMITS.items() if last in (branch, commit))
        top = self.repositories[f"{org}/{name}"][revision]
        files = {str(file.relative_to(top)): file.stat().st_size for file in sorted(top.rglob("*.*"))}
        told: Any = [{"type": "file", "path": path, "size": size, "oid": "0"} for path, size in files.items()]
        if asked == "revision":
            siblings = [{"rfilename": path} for path in files]
            told = {"id": f"{org}/{name}", "sha": COMMITS[revision], "siblings": siblings}
        self.send(json.dumps(told).encode(), revision, large=False, with_body=True)

    def refuse(self, status: int, code: str, revision: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"stand-in: {code}")
        if revision:
            self.send_header("X-Repo-Commit", COMMITS[revision])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, body: bytes, revision: str, large: bool, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMITS[revision])
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        if large:  # large files are named by the hash of their content
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(body)))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub(saved: Callable[[str], Path], tmp_path: Path) -> Iterator[str]:
    """A running stand-in with org/tiny in two revisions and org/unsafe without safetensors; yields its address."""
    import torch
    from transformers import AutoModelForCausalLM

    main = saved("llama")
    model = AutoModelForCausalLM.from_pretrained(main)
    with torch.no_grad():
        model.model.norm.weight.add_(1)
    older = tmp_path / "older"
    model.save_pretrained(older)
    unsafe = tmp_path / "unsafe"
    unsafe.mkdir()
    for file in main.iterdir():
        (older / file.name).exists() or (older / file.name).write_bytes(file.read_bytes())
        file.suffix == ".safetensors" or (unsafe / file.name).write_bytes(file.read_bytes())
    (unsafe / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "bare").mkdir()
    StandIn.repositories = {
        "org/tiny": {"main": main, "v1": older},
        "org/unsafe": {"main": unsafe},
        "org/bare": {"main": tmp_path / "bare"},
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(questions: list[tuple[str, str | None]], tmp_path: Path, address: str, offline: bool = False) -> list[Any]:
    """Load the models in a process of its own: the client reads its address when it is imported."""
    keep = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE", "TRANSFORMERS"))
    }
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": str(int(offline))}
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(questions)],
        env=keep | settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_the_hub_online_offline_and_refusing(hub: str, tmp_path: Path) -> None:
    questions: list[tuple[str, str | None]] = [
        ("org/tiny", None),
        ("org/tiny", "v1"),
        ("org/tiny", "v9"),
        ("org/missing", None),
        ("gemma3-270", None),
        ("org/gated", None),
        ("org/unsafe", None),
        ("org/bare", None),
    ]
    main, older, revision, missing, near, gated, unsafe, bare = ask(questions, tmp_path, hub)
    folders = StandIn.repositories["org/tiny"]
    for answer, name in ((main, "main"), (older, "v1")):
        digest = hashlib.sha256((folders[name] / "model.safetensors").read_bytes()).hexdigest()
        assert answer[:4] == ["hub", "org/tiny", COMMITS[name], digest]
        assert answer[5] == [3, 5]
    assert older[4] == pytest.approx(main[4] + 16, abs=1e-4)  # the revision's own weights: 16 norms larger by one
    assert 'no revision "v9"' in revision
    assert 'no model "org/missing" on the Hub' in missing
    assert 'Did you mean "gemma3-270m"?' in near
    assert "is gated" in gated
    assert "hf auth login" in gated
    assert "only from safetensors" in unsafe
    assert "no config.json" in bare

    cached, absent = ask([("org/tiny", None), ("org/missing", None)], tmp_path, hub, offline=True)
    assert cached == main
    assert "offline mode is on" in absent
    unplugged, unreachable = ask([("org/tiny", None), ("org/missing", None)], tmp_path, "http://127.0.0.1:9")
    assert unplugged == main
    assert "the Hub cannot be reached" in unreachable
