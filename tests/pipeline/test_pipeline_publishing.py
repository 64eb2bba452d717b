"""A run put on the Hub: huggingface_hub's own code against a server on the loopback that speaks what it asks."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import huggingface_hub
import pytest
import yaml
from click.testing import CliRunner

from tunelift.cli.export import command as export_command
from tunelift.core import files
from tunelift.core.errors import InputError, TuneliftError
from tunelift.pipeline.publishing import publish
from tunelift.pipeline.verifying import verify
from tunelift.pipeline.whole import tuned_hash

FORMATS = Path(__file__).parents[1] / "formats"
TOKEN = "hf_" + "s" * 34
COMMIT = "c" * 40


class Hub:
    """Repositories in memory: whether each is private, and its files."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.fails = ""
        self.damages = ""
        self.address = ""

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        self.asked.append(path)
        if self.fails and self.fails in path:
            return 403, {"error": f"no right to write, {TOKEN}"}
        if path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
            private = said.get("visibility", "private" if said.get("private") else "public") == "private"
            self.repositories[name] = {"private": private, "files": {".gitattributes": b"*"}}
            return 200, {"url": f"{self.address}/{name}", "id": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/large/"):
            self.large[path.removeprefix("/large/")] = body
            return 200, {}
        if ".git/info/lfs/objects/batch" in path:
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.address}/large/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        owner, name, *rest = path.removeprefix("/api/models/").split("/")
        known = self.repositories.get(f"{owner}/{name}")
        return (404, {"error": "RepoNotFound"}) if known is None else self.of(f"{owner}/{name}", known, rest, body)

    def of(self, name: str, known: dict[str, Any], asked: list[str], body: bytes) -> tuple[int, Any]:
        if not asked:
            siblings = [{"rfilename": file} for file in known["files"]]
            return 200, {"id": name, "sha": "a" * 40, "private": known["private"], "siblings": siblings}
        if asked[0] == "preupload":
            kinds = {True: "lfs", False: "regular"}
            said = [
                {"path": one["path"], "uploadMode": kinds[one["path"].endswith(".safetensors")], "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return 200, {"files": said}
        if asked[0] == "commit":
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    known["files"][one["value"]["path"]] = base64.b64decode(one["value"]["content"])
                elif one["key"] == "lfsFile":
                    known["files"][one["value"]["path"]] = self.large[one["value"]["oid"]]
            known["files"].pop(self.damages, None)
            return 200, {"commitUrl": f"{self.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        assert asked == ["paths-info", COMMIT], asked
        paths = [path for path in parse_qs(body.decode())["paths"] if path in known["files"]]
        return 200, [self.told(path, known["files"][path]) for path in paths]

    def told(self, path: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
        more = {"lfs": lfs} if path.endswith(".safetensors") else {}
        return {"type": "file", "path": path, "size": len(content), "oid": oid, **more}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.tokens.add(self.headers["authorization"])
            body = self.rfile.read(int(self.headers["content-length"] or 0))
            status, said = found.answer(self.path.partition("?")[0], body)
            raw = json.dumps(said).encode()
            self.send_response(status)
            if said == {"error": "RepoNotFound"}:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_PUT = do_POST  # noqa: N815  as http.server calls them

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    constants = huggingface_hub.constants
    for name, value in (("ENDPOINT", found.address), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with an adapter, measured on a base of somebody's disk."""
    made = Path(shutil.copytree(FORMATS / "2", tmp_path / "topics"))
    adapter = made / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "base_model_name_or_path": "/home/jane/model"}
    files.write_json(adapter / "adapter_config.json", config)
    (adapter / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)
    base = {"name": "/home/jane/model", "path": "/home/jane/model", "kind": "folder"}
    files.write_json(adapter / "tunelift.json", {"format": 1, "base": base, "task": "causal-lm", "labels": []})
    info = files.read_object(made / "tuned" / "metrics.json")
    info["made_with"]["adapter"] = {"source": str(adapter), "sha256": tuned_hash(adapter)}
    files.write_json(made / "tuned" / "metrics.json", info)
    return made


def command(run: Path, *words: str) -> Any:
    return CliRunner().invoke(export_command, [str(run), "--to", "hub", *words])


def test_what_was_tuned_goes_in_one_commit_into_a_private_repository(hub: Hub, run: Path) -> None:
    done = command(run, "--repository", "me/topics")
    assert done.exit_code == 0, done.output + str(done.exception)
    there = hub.repositories["me/topics"]
    assert there["private"] is True and len([path for path in hub.asked if "/commit/" in path]) == 1
    assert f"Bearer {TOKEN}" in hub.tokens
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors", "tunelift.json", ".gitattributes"}
    assert set(there["files"]) == names
    assert there["files"]["adapter_model.safetensors"] == (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert not [name for name, content in there["files"].items() if b"jane" in content or b"match 1" in content]
    card = there["files"]["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert (
        any(one["name"].endswith("(base)") for one in metrics)
        and 'PeftModel.from_pretrained(base, "me/topics")' in card
    )
    assert TOKEN not in done.output and f"{hub.address}/me/topics/commit/{COMMIT} (private)" in done.output
    kept = run / "exports" / "hub-me-topics"
    assert not verify(kept)[1] and TOKEN not in (kept / "export.json").read_text()


def test_a_dry_run_lists_the_files_and_asks_nobody(hub: Hub, run: Path) -> None:
    done = command(run, "--repository", "me/topics", "--dry-run", "--public")
    assert done.exit_code == 0
    assert "10,240 bytes  adapter_model.safetensors" in done.output and "(public): nothing was written" in done.output
    assert not hub.asked and not (run / "exports").exists()
    assert command(run).exit_code == 2 and "--repository OWNER/NAME" in command(run).output


def test_what_is_not_as_it_should_be_there_is_refused_and_nothing_is_kept(hub: Hub, run: Path) -> None:
    own = {".gitattributes": b"*"}
    hub.repositories = {
        "me/open": {"private": False, "files": dict(own)},
        "me/full": {"private": True, "files": {**own, "model.safetensors": b"another"}},
    }
    for name, said in (("me/open", "is public"), ("me/full", "holds model.safetensors"), ("topics", "no repository")):
        with pytest.raises(InputError, match=said):
            publish(run, name)
    assert not [path for path in hub.asked if "/commit/" in path]
    hub.fails = "/commit/"
    with pytest.raises(InputError, match="was made and is empty") as caught:
        publish(run, "me/new")
    assert TOKEN not in str(caught.value)
    hub.fails, hub.damages = "", "tunelift.json"
    with pytest.raises(TuneliftError, match=r"tunelift\.json is another there, or missing"):
        publish(run, "me/damaged")
    assert not list((run / "exports").iterdir())
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"another")
    with pytest.raises(InputError, match="is not what the run measured"):
        publish(run, "me/other", dry=True)


def test_offline_nothing_is_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="unset HF_HUB_OFFLINE"):
        publish(run, "me/topics")
    assert not list((run / "exports").iterdir())
