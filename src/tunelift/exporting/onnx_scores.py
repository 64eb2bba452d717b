"""ONNX Runtime as a scorer: `python onnx_scores.py REQUEST ANSWER`, which imports nothing of ours and no torch."""

import json
import sys
from pathlib import Path
from typing import Any


def main(asked: str, answered: str) -> None:
    """Load model.onnx and the tokenizer beside it, and answer one request; both files are JSON."""
    import transformers

    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    session = session_of(request["model"], request["threads"])
    items = [(name, ids, segments) for name, ids, segments in request["items"]]
    scores = {name: numbers_of(session, [ids], [segments], 0)[0] for name, ids, segments in items}
    together = [item for item in items if item[0] in request["together"]]
    rows = numbers_of(
        session, [ids for _, ids, _ in together], [one for *_, one in together], request["pad"], request["beyond"]
    )
    scores |= {request["together"][name]: row for (name, _, _), row in zip(together, rows, strict=True)}
    tokenizer = transformers.AutoTokenizer.from_pretrained(request["folder"], local_files_only=True)
    found = {"scores": scores, "texts": [tokenizer(text).input_ids for text in request["texts"]]}
    Path(answered).write_text(json.dumps(found), encoding="utf-8")


def session_of(file: str, threads: int) -> Any:
    """Return a model opened on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def numbers_of(session: Any, rows: Any, segments: Any, pad: int, beyond: int = 0) -> list[list[float]]:
    """Return all numbers that a head gives for each row of ids, which stand in one batch, padded on the right.

    The batch is so many tokens wider than its longest row.
    """
    import numpy as np

    if not rows:
        return []
    width = max(map(len, rows)) + beyond
    given = {
        "input_ids": [[*ids, *[pad] * (width - len(ids))] for ids in rows],
        "attention_mask": [[1] * len(ids) + [0] * (width - len(ids)) for ids in rows],
        "token_type_ids": [[*(own or [0] * len(ids)), *[0] * (width - len(ids))] for ids, own in zip(rows, segments)],  # noqa: B905
    }
    names = [one.name for one in session.get_inputs()]
    outputs = session.run(None, {name: np.array(given[name], dtype=np.int64) for name in names})
    per_token = {one.name for one in session.get_outputs() if one.name in ("start_logits", "end_logits")}
    found = []
    for place, ids in enumerate(rows):
        own = [
            output[place][: len(ids)] if output.ndim == 3 or one.name in per_token else output[place]
            for one, output in zip(session.get_outputs(), outputs)  # noqa: B905
        ]
        found.append([float(number) for one in own for number in one.ravel()])
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
