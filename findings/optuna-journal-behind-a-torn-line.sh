#!/usr/bin/env bash
# optuna 5.0.0: a journal whose last line was cut off is read without a word, and is lost with the next thing written.
# JournalFileBackend is the storage for many processes and shared disks, and a process killed while it writes leaves a
# part of a line. A reader leaves that part out, so the study opens with all its trials; the next record is put right
# behind the part, on the same line, and from then on every reader raises JSONDecodeError, the writer itself first.
# So a search that was killed once in a bad moment looks sound, and going on is what makes it unreadable.
# Seen on 2026-11-30. Fails if that changes.
#
# What tunelift does: a sweep keeps no journal; drawn settings and results are files of their own, written whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet optuna==5.0.0
"$folder/env/bin/python" -W ignore - "$folder/journal.log" <<'PY'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

print("optuna", version("optuna"))
optuna.logging.set_verbosity(optuna.logging.ERROR)
path = Path(sys.argv[1])


def opened():
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(storage=storage, study_name="search", load_if_exists=True)


def trial(trial):
    return trial.suggest_float("x", 0, 1)


opened().optimize(trial, n_trials=3)
path.write_bytes(path.read_bytes()[:-20])  # as much as had reached the disk when the process was killed
storage = JournalStorage(JournalFileBackend(str(path)))
states = [one.state.name for one in optuna.load_study(study_name="search", storage=storage).trials]
print("read behind the cut:", states)
failed = []
for what in ("going on", "reading again"):
    try:
        study = opened()
        study.optimize(trial, n_trials=1)
    except json.JSONDecodeError as error:
        failed.append(what)
        print(f"{what}: JSONDecodeError: {error}")
assert failed == ["going on", "reading again"], "it goes on behind a torn line now"
PY
