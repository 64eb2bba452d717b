"""An OpenAI-compatible server of this process, on the loopback: what it answers is the test's to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = Mapping[str, Any]
Answer = Callable[[Body], "str | bytes | tuple[int, Any] | tuple[int, Any, dict[str, str]]"]
"""From a request's body to an answer's text, a raw body, or a status with a body and headers."""


@dataclass
class Loopback:
    """What a server was asked, and at which address it is."""

    address: str
    asked: list[Body] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def served(answer: Answer) -> Iterator[Loopback]:
    """Serve answers until the end."""
    lock, now = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                now[0] += 1
                found.most_at_once = max(found.most_at_once, now[0])
                found.asked.append(body | {"path": self.path})
                found.headers.append({name.lower(): value for name, value in self.headers.items()})
            try:
                said = answer(body)
            finally:
                with lock:
                    now[0] -= 1
            status, sent, headers = (*said, {})[:3] if isinstance(said, tuple) else (200, said, {})
            if status == 200 and isinstance(sent, str):
                sent = completion(sent, body["messages"])
            raw = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Loopback(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text: str, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return an answer in OpenAI's form; its tokens are words."""
    usage = {"prompt_tokens": sum(len(m["content"].split()) for m in messages), "completion_tokens": len(text.split())}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"object": "chat.completion", "choices": [choice], "usage": usage}
