"""A tiny model in a folder and small files of rows."""

from tiny_runs import tiny

__all__ = ["tiny"]
