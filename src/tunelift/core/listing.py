"""What transformers lists of its models as it is imported, read once instead of twice: a quarter of a second.

To know which file has which class, transformers reads the 1,600 files of its models for `transformers` and again for
`transformers.models`. Its memory of them has 128 places for 549 folders, so that nothing is in it when it is asked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LISTS = "create_import_structure_from_path"
"""The function of transformers 5 that reads a folder. It keeps what it was asked for last, which is the models'."""


@contextmanager
def listed_once() -> Iterator[None]:
    """Import transformers, and let `transformers.models` take what that has just read where it is imported inside.

    Where transformers has no such function, or is imported already with its models, nothing is done.
    """
    import transformers
    from transformers.utils import import_utils

    own: Any = getattr(import_utils, LISTS, None)
    if own is None or "transformers.models" in sys.modules:
        yield
        return
    models = Path(str(transformers.__file__)).parent / "models"
    again = str(models / "__init__.py")

    def listed(path: Any) -> Any:
        return own(models if str(path) == again else path)

    setattr(import_utils, LISTS, listed)
    try:
        yield
    finally:
        if getattr(import_utils, LISTS) is listed:
            setattr(import_utils, LISTS, own)
