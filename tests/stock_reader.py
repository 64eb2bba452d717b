"""A process that knows stock transformers and peft alone: saved adapters are read and compared.

    python tests/stock_reader.py JOBS.json

Each job has "base" and "adapter" (folders), "auto_class", "options" of from_pretrained, "rows" of token ids, and
"expected", a safetensors file with the "logits" of all rows in one. Prints for each adapter the largest difference,
relative to the number or to one, or what went wrong.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any


def main() -> int:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps({job["adapter"]: difference(job) for job in jobs}))
    assert not [name for name in sys.modules if name.startswith("tunelift")]
    return 0


def difference(job: dict[str, Any]) -> float | str:
    import torch
    import transformers
    from peft import PeftModel
    from safetensors.torch import load_file

    expected = load_file(job["expected"])["logits"]
    try:
        auto = getattr(transformers, job["auto_class"])
        base = auto.from_pretrained(job["base"], dtype=torch.float32, **job["options"])
        model = PeftModel.from_pretrained(base, job["adapter"]).eval()
        with torch.no_grad():
            found = [model(input_ids=torch.tensor([ids])).logits[0] for ids in job["rows"]]
    except Exception as error:  # whatever stock says
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    flat = torch.cat([own[-len(ids) :].flatten() for own, ids in zip(found, job["rows"], strict=True)])
    return float(((flat - expected).abs() / expected.abs().clamp_min(1)).max())


if __name__ == "__main__":
    sys.exit(main())
