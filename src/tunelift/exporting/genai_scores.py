"""ONNX Runtime GenAI as a scorer: `python genai_scores.py REQUEST ANSWER`, which imports nothing of ours."""

import json
import sys
from pathlib import Path
from typing import Any


def main(asked: str, answered: str) -> None:
    """Load a folder that the model builder wrote, and answer one request; both files are JSON."""
    import onnxruntime_genai

    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    config = onnxruntime_genai.Config(request["model"])
    model = onnxruntime_genai.Model(config)
    scores = {name: scored(onnxruntime_genai, model, ids, targets) for name, ids, targets in request["items"]}
    tokenizer = onnxruntime_genai.Tokenizer(model)
    tokenizer.update_options(add_special_tokens="true")  # it leaves out what begins a text, unless it is told
    texts = [[int(one) for one in tokenizer.encode(text)] for text in request["texts"]]
    shown = [tokenizer.apply_chat_template(json.dumps(one), add_generation_prompt=True) for one in request["messages"]]
    said = json.loads(Path(request["model"], "genai_config.json").read_text(encoding="utf-8"))["model"]["eos_token_id"]
    stops = said if isinstance(said, list) else [said]
    ends = [name for name, ids, targets in request["items"] if targets and ids[targets[-1]] in stops]
    found = {"scores": scores, "texts": texts, "messages": shown, "ends": ends}
    Path(answered).write_text(json.dumps(found), encoding="utf-8")


def scored(runtime: Any, model: Any, ids: list[int], targets: list[int]) -> list[float]:
    """Return the log-probability (nats) of each target behind all before it, by the cache of answers."""
    import numpy as np

    params = runtime.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + 1)
    generator, found, at = runtime.Generator(model, params), [], 0
    for place in targets:
        generator.append_tokens(np.array(ids[at:place], dtype=np.int32))
        at = place
        logits = np.asarray(generator.get_logits(), dtype=np.float64)[0, -1]  # (1, tokens, vocabulary)
        top = logits.max()
        found.append(float(logits[ids[place]] - top - np.log(np.exp(logits - top).sum())))
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
