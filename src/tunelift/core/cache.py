"""Where converted models, scores, compiled kernels and measurements of this machine are kept."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """Return the cache folder: TUNELIFT_CACHE where that is set, the user's cache folder otherwise."""
    import platformdirs

    return Path(os.environ.get("TUNELIFT_CACHE") or platformdirs.user_cache_dir("tunelift"))
