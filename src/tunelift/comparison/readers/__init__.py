"""Result files of any tool to rows of the scores.jsonl contract: ours, those of known tools, tables."""

from tunelift.comparison.readers.files_of import matched
from tunelift.comparison.readers.reading import read_info, read_scores

__all__ = ["matched", "read_info", "read_scores"]
