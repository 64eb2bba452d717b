"""Opens every case of a corpus in this process, which an audit hook watches; prints what was said and what was seen.

Run as: python hostile_probe.py CORPUS_FOLDER SOUND_MODEL SOUND_ADAPTER < cases.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tunelift
from tunelift.core import progress
from tunelift.untrusted.task_files import read_tasks

ROOT, MODEL, ADAPTER = sys.argv[1:4]
OUTSIDE = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "pty.spawn")
OUTSIDE += ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "pickle.find_class")
UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".ot", ".joblib", ".npy", ".npz", ".pb", ".py")
ROW = {"prompt": "the cat", "completion": " sat"}
CHAT = {"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}

seen: list[str] = []
watching = False


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not watching:
        return
    if event in OUTSIDE:
        seen.append(f"{event} {str(arguments)[:200]}")
    elif event == "exec":
        _note_inside(event, getattr(arguments[0], "co_filename", ""))
    elif event in ("compile", "import", "ctypes.dlopen"):
        _note_inside(event, arguments[1] if len(arguments) > 1 else arguments[0])
        if event == "import" and str(arguments[0]).startswith("evil"):
            seen.append(f"import {arguments[0]}")
    elif event == "open" and _inside(arguments[0]) and str(arguments[0]).endswith((*UNSAFE, "secret.txt")):
        seen.append(f"open {arguments[0]}")


def _inside(place: object) -> bool:
    return isinstance(place, str | bytes | Path) and str(place).startswith(ROOT)


def _note_inside(event: str, place: object) -> None:
    if _inside(place):
        seen.append(f"{event} {place!s}")


def opened(call: str, path: str) -> None:
    if call == "model":
        tunelift.load(path, dtype="float32", device="cpu")
    elif call == "adapter":
        tunelift.load(MODEL, adapter=path, dtype="float32", device="cpu")
    elif call == "task":
        read_tasks(Path(path))
    elif call == "data":
        tunelift.evaluate(*SOUND, path)
    else:
        tunelift.evaluate(*tunelift.load(path, dtype="float32", device="cpu"), [CHAT])


def said(call: str, path: str) -> str | None:
    """Return our error's text, None where nothing was refused; any other error is a fault of its own."""
    try:
        opened(call, path)
    except tunelift.TuneliftError as error:
        return str(error)
    except BaseException as error:
        return f"NOT OURS: {type(error).__name__}: {error}"
    return None


progress.quiet = True
SOUND = tunelift.load(MODEL, dtype="float32", device="cpu")
for warm in (("model", MODEL), ("adapter", ADAPTER), ("chat", MODEL)):  # imports everything before the hook watches
    assert said(*warm) is None, said(*warm)
tunelift.evaluate(*SOUND, [ROW])
sys.addaudithook(hook)
answers = []
for case in json.load(sys.stdin):
    seen.clear()
    watching = True
    text = said(case["call"], case["path"])
    watching = False
    answers.append({"said": text, "seen": list(seen)})
print(json.dumps(answers))
