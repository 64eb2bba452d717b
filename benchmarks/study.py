"""One of the documented studies (docs/studies), from data to report, by one command.

    python benchmarks/study.py banking77 DATA_FOLDER
    python benchmarks/study.py gsm8k DATA_FOLDER
    python benchmarks/study.py sst2 DATA_FOLDER
    python benchmarks/study.py sts DATA_FOLDER
    python benchmarks/study.py intent-words DATA_FOLDER
    python benchmarks/study.py xquad DATA_FOLDER
    python benchmarks/study.py xquad-none DATA_FOLDER
    python benchmarks/study.py wnut17 DATA_FOLDER
    python benchmarks/study.py bbc-pairs DATA_FOLDER

DATA_FOLDER holds the public files named below. Each study ends in runs/study-NAME with report.html and report.md, in
under 40 minutes on two cores of an AVX2 processor. What a study makes first, such as rows of its own, lies beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import distilbert

import tunelift
from tunelift.data.sources import read_rows

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
    # The same, and as many questions again that are asked of a passage of another article, which has no answer.
    "xquad-none": {
        "model": "all-minilm-l6-v2",
        "task": "question-answering",
        "data": {"train": "xquad_none.json", "test": 0.2, "max_train": 300, "max_validation": 80, "max_test": 150},
        "adapter": {"r": 16},
        "train": {"learning_rate": 1e-3, "epochs": 2},
    },
    # Names in tweets and comments, of people, places, works and such (WNUT 2017, emerging entities).
    "wnut17": {
        "model": "distilbert",
        "task": "token-classification",
        "data": {
            "train": "wnut17_train.conll",
            "validation": "wnut17_dev.conll",
            "test": "wnut17_test.conll",
            "max_train": 800,
            "max_validation": 200,
            "max_test": 500,
        },
        "train": {"learning_rate": 5e-4, "epochs": 2},
    },
    # Beginnings of articles with their own headline, or with that of another article of the topic (BBC News).
    "bbc-pairs": {
        "model": "all-minilm-l6-v2",
        "task": "sequence-classification",
        "data": {"train": "bbc_pairs.jsonl", "test": 0.3, "max_train": 1000},
        "train": {"learning_rate": 1e-3, "epochs": 2},
    },
}


def xquad_none(data: Path, made: Path) -> dict[str, Any]:
    """Write SQuAD 2's layout: each question twice, once of a passage of another article."""
    draw = random.Random(SEED)
    articles = json.loads((data / "xquad_en.json").read_text(encoding="utf-8"))["data"]
    asked = [(number, qa) for number, one in enumerate(articles) for part in one["paragraphs"] for qa in part["qas"]]
    for number, article in enumerate(articles):
        for paragraph in article["paragraphs"]:
            others = [qa for of, qa in asked if of != number]
            wrong = draw.sample(others, len(paragraph["qas"]))
            none = [{"id": f"{qa['id']} elsewhere", "question": qa["question"], "answers": []} for qa in wrong]
            paragraph["qas"] = [qa | {"is_impossible": False} for qa in paragraph["qas"]]
            paragraph["qas"] += [qa | {"is_impossible": True} for qa in none]
    document = json.dumps({"version": "v2.0", "data": articles}, ensure_ascii=False)
    (made / "xquad_none.json").write_text(document, encoding="utf-8")
    return {"data": {"train": str(made / "xquad_none.json")}}


def bbc_pairs(data: Path, made: Path) -> dict[str, Any]:
    """Write the first forty words of each article with its headline, or with another's of its topic."""
    rows, draw = read_rows("bbc-news").rows, random.Random(SEED)
    with (made / "bbc_pairs.jsonl").open("w", encoding="utf-8") as file:
        for row in draw.sample(rows, len(rows)):
            others = [other["headline"] for other in rows if other["topic"] == row["topic"] and other is not row]
            own, text = draw.random() < 0.5, " ".join(str(row["text"]).split()[:40])
            pair = {"premise": text, "hypothesis": row["headline"] if own else draw.choice(others)}
            file.write(json.dumps(pair | {"label": "its own" if own else "another's"}) + "\n")
    return {"data": {"train": str(made / "bbc_pairs.jsonl")}}


def wnut17(data: Path, made: Path) -> dict[str, Any]:
    """Make the model's folder of the package that ships it."""
    if lacking := distilbert.missing():
        raise SystemExit(f"This study needs {', '.join(lacking)}.\n{distilbert.__doc__}")
    return {"model": str(distilbert.make(made / "distilbert"))}


MAKE = {"xquad-none": xquad_none, "bbc-pairs": bbc_pairs, "wnut17": wnut17}
"""What a study's rows or model are made by."""
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder", type=Path, help="where the data files lie")
    parser.add_argument("--output", type=Path, help="run folder; runs/study-NAME otherwise")
    arguments = parser.parse_args()
    settings, output = dict(STUDIES[arguments.study]), arguments.output or Path("runs") / f"study-{arguments.study}"
    files = {role: str(arguments.folder / settings["data"][role]) for role in ("train", "validation", "test")
             if isinstance(settings["data"].get(role), str)}  # fmt: skip
    settings["data"] = settings["data"] | files
    if arguments.study in MAKE:
        beside = output.with_name(f"{output.name}-made")
        beside.mkdir(parents=True, exist_ok=True)
        made = MAKE[arguments.study](arguments.folder, beside)
        settings |= made | {"data": settings["data"] | made.get("data", {})}
    began = time.monotonic()
    print(tunelift.run(**settings | {"output": str(output)}))
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes; report: {output / 'report.html'}")


if __name__ == "__main__":
    main()
