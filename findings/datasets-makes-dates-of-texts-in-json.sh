#!/usr/bin/env bash
# datasets 5.2.0: texts of a JSON file that all look like dates come back as datetime objects, without a word.
# JSON has texts and numbers, and no dates; `load_dataset("json")` guesses all the same. A column in which every text is
# a date, one within "messages" too, becomes timestamp[s]: the answer "2024-05-01" that a model should learn is
# datetime(2024, 5, 1) and, in a template, "2024-05-01 00:00:00". Of "2024-05-01T10:00:00+02:00" the zone is gone and
# the hour another one. To say that it is text (`features`, Value("string")) does not help: it is read as a date first
# and written out again. One row with another text ("unknown") keeps the whole column as it is, so that a train and a
# test file of one task may differ. `Dataset.from_list` with the same rows keeps texts.
# Seen with pyarrow 26.0.1 on 2026-12-01. Fails if that changes.
#
# What tunelift does: it reads JSON by itself, that of data sets of the Hub too unless it lies in an archive, and keeps
# texts as the files have them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1
HF_HUB_OFFLINE=1 HF_HOME="$folder/home" "$folder/env/bin/python" -W ignore - "$folder" <<'PY'
import json
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import datasets

print("datasets", version("datasets"), "pyarrow", version("pyarrow"))
datasets.disable_progress_bars()


def read(name, rows, features=None):
    file = Path(sys.argv[1], f"{name}.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return datasets.load_dataset("json", data_files=str(file), split="train", features=features)


def asked(*answers):
    return [{"text": f"Which day? ({number})", "answer": answer} for number, answer in enumerate(answers)]


train = read("train", asked("2024-05-01", "1999-12-31"))
test = read("test", asked("2024-05-01", "unknown"))
zoned = read("zoned", asked("2024-05-01T10:00:00+02:00", "1999-12-31T10:00:00+02:00"))
talks = read("talks", [{"messages": [{"role": "assistant", "content": row["answer"]}]} for row in asked("2024-05-01")])
for name, rows in (("every answer a date", train), ("one that is none", test), ("with a zone", zoned)):
    print(f"{name}: {rows.features['answer']}, the first one: {rows[0]['answer']!r}")
print("in a template:", "The day is {answer}.".format(**train[0]))
print("within messages:", talks[0]["messages"][0])
assert train[0]["answer"] == datetime(2024, 5, 1), "texts stay texts now"
assert test[0]["answer"] == "2024-05-01", "a row that is no date changes nothing now"
assert zoned[0]["answer"] == datetime(2024, 5, 1, 8), "the zone is kept now"
assert talks[0]["messages"][0]["content"] == datetime(2024, 5, 1), "texts within messages stay texts now"
rows = asked("2024-05-01", "1999-12-31")
texts = datasets.Features({"text": datasets.Value("string"), "answer": datasets.Value("string")})
told = read("told", rows, texts)[0]["answer"]
kept = datasets.Dataset.from_list(rows)[0]["answer"]
print("told that it is text:", repr(told), "by Dataset.from_list:", repr(kept))
assert told == "2024-05-01 00:00:00", "features are heard now"
assert kept == "2024-05-01"
PY
