"""A whole run where nothing is there that Windows lacks: python without_posix.py FOLDER

The libraries are imported first, as they are. Then the names that Python has on POSIX systems alone are taken away, and
the platform is called win32, before anything of tunelift is imported. Paths stay those of this system.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import datasets  # noqa: F401
import matplotlib.pyplot as plt  # noqa: F401
import peft  # noqa: F401
import sklearn.linear_model
import sklearn.model_selection  # noqa: F401
import torch
import transformers
from transformers import LlamaForCausalLM  # noqa: F401

import tiny_models
from small_rows import write_rows

MODULES = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog")
OF_OS = (
    *("fork", "getuid", "geteuid", "getgid", "getpgid", "setsid", "killpg", "wait", "nice", "sysconf", "getloadavg"),
    *("sched_getaffinity", "sched_setaffinity", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "fchmod", "fchown", "chown"),
    *("pread", "pwrite", "uname", "mkfifo", "register_at_fork"),
)
OF_SIGNAL = (
    "SIGALRM",
    "SIGKILL",
    "SIGHUP",
    "SIGUSR1",
    "SIGUSR2",
    "SIGCHLD",
    "setitimer",
    "getitimer",
    "ITIMER_REAL",
    "alarm",
)


def hide() -> None:
    """Take away what Windows lacks."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    sys.platform = "win32"


def main(folder: Path) -> None:
    """Run, compare and verify there."""
    os.chdir(folder)
    tiny_models.causal("llama").save_pretrained("model")
    tiny_models.tokenizer().save_pretrained("model")
    write_rows(Path("train.csv"), 40)
    write_rows(Path("test.csv"), 20, 100)
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    hide()
    import tunelift
    from tunelift.pipeline.verifying import verify

    comparison = tunelift.run(
        model="model",
        data={"train": "train.csv", "test": "test.csv"},
        train={"steps": 3, "learning_rate": 0.01},
        evaluate={"baselines": ["tf-idf"]},
        dtype="float32",
        output="out",
    )
    right, wrong = verify("out")
    assert not wrong, wrong
    assert any("comparison.json follows" in line for line in right)
    assert tunelift.compare("out/base", "out/tuned").items == comparison.items == 20
    print("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
