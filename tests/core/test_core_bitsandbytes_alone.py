"""bitsandbytes is imported without the package that would fetch compiled code from the Hub; others can use that."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = """
from pathlib import Path


def get_kernel(name, **_):
    Path(__file__).with_name("fetched").write_text(name)
    raise OSError("no network")
"""
AS_IT_DOES = """
import logging

try:
    from kernels import get_kernel

    get_kernel("someone/code")
except Exception as error:
    logging.getLogger("bitsandbytes.backends.cpu.ops").warning("please install kernels: %s", error)
"""


def imported(folder: Path, code: str) -> str:
    """Run code in a Python that finds the folder's packages first; return what it says on stderr."""
    (folder / "kernels.py").write_text(KERNELS, encoding="utf-8")
    path = os.pathsep.join([str(folder), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stderr


@pytest.mark.parametrize("before", ["", "import kernels; "])
def test_nothing_is_fetched_as_it_is_imported(tmp_path: Path, before: str) -> None:
    (tmp_path / "bitsandbytes.py").write_text(AS_IT_DOES, encoding="utf-8")
    call = "from tunelift.core.bitsandbytes_alone import import_bitsandbytes as it; it(); "
    said = imported(tmp_path, f"{before}{call}import sys; assert 'bitsandbytes' in sys.modules; import kernels; "
                              "assert kernels.get_kernel")  # fmt: skip
    assert not said and not (tmp_path / "fetched").exists()
    assert "please install kernels" in imported(tmp_path, "import bitsandbytes")
    assert (tmp_path / "fetched").exists()  # so that this test can see it


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="the extra quantized is not installed")
def test_a_run_fetches_nothing(tmp_path: Path) -> None:
    said = imported(tmp_path, "import tunelift.pipeline, sys; assert 'bitsandbytes' in sys.modules")
    assert "kernels" not in said and not (tmp_path / "fetched").exists()
