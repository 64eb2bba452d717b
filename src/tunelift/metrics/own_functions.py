"""Metrics of a user's own: a function in a Python file of the folder that a command is given in.

Such a file is run. So it is named without a folder, and lies where the user works; a config that names one must lie
there too (`config/load.py`), since a config that came with somebody's model or run may come with a file beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from tunelift.core import files
from tunelift.core.errors import InputError

NAME = re.compile(r"(?P<file>[A-Za-z_][\w-]*\.py):(?P<function>[A-Za-z_]\w*)")


def is_code(name: Any) -> bool:
    """Tell whether a metric's name is that of a function in a file, well formed or not."""
    return isinstance(name, str) and ".py:" in name


def sha256_of(name: str) -> str:
    """Return the SHA-256 of the file of which a metric is a function."""
    return files.sha256(_file_of(name)[0])


def function_in_file(name: str) -> Callable[..., Any]:
    """Return the function that FILE.py:FUNCTION names; raise InputError for a file elsewhere, or one that fails."""
    path, function = _file_of(name)
    spec = spec_from_file_location(f"tunelift_metric_{path.stem.replace('-', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever is in the file
        raise InputError(f'The metric "{name}": {path.name} fails: {type(error).__name__}: {error}') from error
    found: Any = getattr(module, function, None)
    if not callable(found):
        raise InputError(f'The metric "{name}": {path.name} has no function {function}.')
    return found  # type: ignore[no-any-return]


def _file_of(name: str) -> tuple[Path, str]:
    parts = NAME.fullmatch(name)
    if parts is None:
        raise InputError(
            f'The metric "{name}" is no FILE.py:FUNCTION: a file of the working folder, named without a folder.',
            fix="Put the file into the folder in which you give the command, such as my_metrics.py:score.",
        )
    path = Path.cwd() / parts["file"]
    if path.is_symlink() or not path.is_file():
        raise InputError(
            f'The metric "{name}": there is no file {parts["file"]} in {Path.cwd()}.',
            fix="Put it into the folder in which you give the command; a link is not followed.",
        )
    return path, parts["function"]
