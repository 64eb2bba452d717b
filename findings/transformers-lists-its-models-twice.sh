#!/usr/bin/env bash
# transformers 5.23.0: `import transformers` and what it then imports read all 1,600 files of its models twice.
# To know which file has which class, `create_import_structure_from_path` goes through the folder of models. It remembers
# what it found by `functools.lru_cache`, which has 128 places by default, and there are more than 500 folders: they push
# each other out, so that the second walk (for `transformers.models`, behind the one for `transformers`) finds nothing in
# it. Every process that uses a model pays a quarter of a second of processor time for it, as seen here, and a memory of the
# right size, which looks to be there, does nothing.
# Seen on 2026-11-30. Fails if that changes.
#
# What tunelift does: nothing; its own start-up is measured by benchmarks/startup.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet transformers==5.23.0
HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore - <<'PY'
import collections
import sys

read = collections.Counter()
sys.addaudithook(lambda event, given: read.update([str(given[0])]) if event == "open" else None)

import transformers
import transformers.models
from transformers.utils import import_utils

print("transformers", transformers.__version__)
inside = transformers.models.__path__[0]
files = {name: count for name, count in read.items() if name.startswith(inside) and name.endswith(".py")}
times = collections.Counter(files.values())
print(f"files of models that were opened: {len(files)}, of which {times[2]} twice")
memory = import_utils.create_import_structure_from_path.cache_info()
print(f"the memory of what was found: {memory}")
assert len(files) > 1000 and times[2] > 0.9 * len(files), "they are read once now"
assert memory.hits == 0 and memory.maxsize < memory.misses, "what was found is remembered now"
PY
