"""One of the documented studies (docs/studies), from data to report, by one command.

    python benchmarks/study.py banking77 DATA_FOLDER
    python benchmarks/study.py gsm8k DATA_FOLDER
    python benchmarks/study.py sst2 DATA_FOLDER
    python benchmarks/study.py sts DATA_FOLDER
    python benchmarks/study.py intent-words DATA_FOLDER
    python benchmarks/study.py xquad DATA_FOLDER

DATA_FOLDER holds the public files named below. Each study ends in runs/study-NAME with report.html and report.md, in
under 40 minutes on two cores of an AVX2 processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import tunelift

STUDIES: dict[str, dict[str, Any]] = {
    # Customer questions to a bank, 77 intents (PolyAI, task-specific-datasets).
    "banking77": {
        "model": "gemma3-270m",
        "data": {
            "train": "banking77_train.csv",
            "test": "banking77_test.csv",
            "prompt": "Message: {text}\nIntent:",
            "completion": " {category}",
            "max_train": 1000,
            "max_test": 150,
        },
        "train": {"learning_rate": 1e-3},
        "evaluate": {"metrics": ["accuracy", "macro_f1", "loss"]},
    },
    # Grade-school word problems with worked answers (OpenAI, grade-school-math).
    "gsm8k": {
        "model": "gemma3-270m",
        "data": {
            "train": "gsm8k_train.jsonl",
            "test": "gsm8k_test.jsonl",
            "prompt": "Question: {question}\nAnswer:",
            "completion": " {answer}",
            "max_train": 140,
            "max_validation": 20,
            "max_test": 50,
        },
        "train": {"learning_rate": 5e-4},
        "evaluate": {"metrics": ["numeric_match", "loss"], "max_new_tokens": 120, "stop": ["\nQuestion:"]},
    },
    # Film-review sentences, negative or positive (Stanford Sentiment Treebank, binary).
    "sst2": {
        "model": "all-minilm-l6-v2",
        "task": "sequence-classification",
        "data": {
            "train": "sst2_train.tsv",
            "validation": "sst2_dev.tsv",
            "test": "sst2_test.tsv",
            "columns": ["label", "text"],
            "max_train": 2000,
        },
        "adapter": {"r": 16},
        "train": {"learning_rate": 1e-3, "epochs": 2, "seeds": [0, 1, 2, 3, 4]},
        "evaluate": {"metrics": ["accuracy", "loss"], "margin": 0.01},
    },
    # Pairs of headlines and how alike they are, from 0 to 5 (SemEval 2015, semantic textual similarity).
    "sts": {
        "model": "all-minilm-l6-v2",
        "task": "regression",
        "data": {"train": "sts2015_headlines.tsv", "test": 0.3, "columns": ["score", "text1", "text2"]},
        "adapter": {"r": 16},
        "train": {"learning_rate": 5e-4, "epochs": 6},
        "evaluate": {"metrics": ["spearman", "pearson", "rmse", "mae", "r2"]},
    },
    # The same questions to a bank; the words of a question's intent are its labels.
    "intent-words": {
        "model": "all-minilm-l6-v2",
        "task": "multi-label-classification",
        "data": {
            "train": "banking77_train.csv",
            "test": "banking77_test.csv",
            "label": "category",
            "separator": "_",
            "max_train": 1000,
            "max_test": 500,
        },
        "train": {"learning_rate": 2e-3, "epochs": 4},
    },
    # Questions on passages of Wikipedia, answers as parts of them (XQuAD, the English part).
    "xquad": {
        "model": "all-minilm-l6-v2",
        "task": "question-answering",
        "data": {"train": "xquad_en.json", "test": 0.2},
        "adapter": {"r": 16},
        "train": {"learning_rate": 1e-3, "epochs": 4},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder", type=Path, help="where the data files lie")
    parser.add_argument("--output", type=Path, help="run folder; runs/study-NAME otherwise")
    arguments = parser.parse_args()
    settings = dict(STUDIES[arguments.study])
    files = {role: str(arguments.folder / settings["data"][role]) for role in ("train", "validation", "test")
             if isinstance(settings["data"].get(role), str)}  # fmt: skip
    output = arguments.output or Path("runs") / f"study-{arguments.study}"
    began = time.monotonic()
    print(tunelift.run(**settings | {"data": settings["data"] | files, "output": str(output)}))
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes; report: {output / 'report.html'}")


if __name__ == "__main__":
    main()
