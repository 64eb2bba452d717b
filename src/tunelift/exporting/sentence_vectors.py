"""sentence-transformers as a scorer: `python sentence_vectors.py REQUEST ANSWER`, which imports nothing of ours."""

import json
import sys
from pathlib import Path
from typing import Any


def main(asked: str, answered: str) -> None:
    """Load a folder as anybody would, in 32 bits, and make a vector of each text; both files are JSON."""
    import torch
    from sentence_transformers import SentenceTransformer

    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    torch.set_num_threads(request["threads"])
    model = SentenceTransformer(
        request["model"], device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}
    )
    cut: list[Any] = []
    model[0].register_forward_pre_hook(lambda _, given: cut.append(given[0]["input_ids"]))

    def vector(text: str) -> list[float]:
        found: list[float] = model.encode([text], show_progress_bar=False)[0].tolist()
        return found

    scores = {name: vector(text) for name, text in request["items"]}
    cut.clear()
    for text in request["texts"]:
        vector(text)
    found = {"scores": scores, "texts": [ids[0].tolist() for ids in cut]}
    Path(answered).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
