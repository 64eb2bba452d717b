"""A tiny model in a folder and small files of rows."""

from tiny_runs import tiny, tiny_encoder

__all__ = ["tiny", "tiny_encoder"]
