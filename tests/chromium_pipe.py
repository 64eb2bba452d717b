"""A headless Chromium spoken to through two pipes (the DevTools protocol), for the tests of the page."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None) if os.name == "posix" else None
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]  # fmt: skip
LONGEST_SECONDS = 60


class Browser:
    """One page in a Chromium of its own: open, evaluate, press keys, photograph; `complaints` is its console."""

    def __init__(self, profile: Path) -> None:
        import fcntl

        assert CHROMIUM is not None
        inward, self._write = os.pipe()
        self._read, outward = os.pipe()
        # Chromium reads the protocol from descriptor 3 and writes it to 4.
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (inward, outward)]
        actions = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(theirs, (3, 4), strict=True)]
        command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", "about:blank"]
        self._process = os.posix_spawn(CHROMIUM, command, os.environ, file_actions=actions)
        for end in (inward, outward, *theirs):
            os.close(end)
        self._buffer, self._number, self._session = b"", 0, None
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Browser:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._write)  # with its pipe closed Chromium ends
        os.waitpid(self._process, 0)
        os.close(self._read)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result; what the page says meanwhile is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        session = {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message | session).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def open(self, page: Path, *, width: int = 1280, dark: bool = False) -> float:
        """Open a page at a width and in a colour scheme; return the seconds until it was loaded."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        began = time.monotonic()
        self.ask("Page.navigate", url=page.as_uri())
        while self.evaluate("document.readyState") != "complete":
            time.sleep(0.02)
        return time.monotonic() - began

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        named = {"key": key, "windowsVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **named)

    def photograph(self, path: Path, *, whole: bool = True) -> None:
        """Write the whole page as a PNG, or what is seen of it."""
        image = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(image))

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], LONGEST_SECONDS)
            part = os.read(self._read, 1 << 20) if ready else b""
            assert part, "Chromium does not answer"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        kind, parameters = message.get("method"), message.get("params", {})
        if kind in ("Runtime.exceptionThrown", "Log.entryAdded") or (
            kind == "Runtime.consoleAPICalled" and parameters.get("type") in ("error", "warning")
        ):
            self.complaints.append(json.dumps(parameters))
        if kind == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
