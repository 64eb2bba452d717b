"""Stock transformers as a scorer: `python stock.py REQUEST ANSWER`, which imports nothing of ours."""

import json
import sys
from pathlib import Path
from typing import Any


def main(asked: str, answered: str) -> None:
    """Load a folder as anybody would, in 32 bits, and answer one request; both are JSON files."""
    import torch
    import transformers

    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    torch.set_num_threads(request["threads"])
    kind = getattr(transformers, request["auto_class"])
    model = kind.from_pretrained(request["model"], dtype=torch.float32, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(request["model"], local_files_only=True)
    ends = {tokenizer.eos_token_id}
    if getattr(model, "generation_config", None) is not None:
        named = model.generation_config.eos_token_id
        ends |= set(named) if isinstance(named, list) else {named}
    scores = {name: values_of(model, ids, targets, segments) for name, ids, targets, segments in request["items"]}
    found = {
        "scores": scores,
        "ends": [name for name, ids, _, _ in request["items"] if ids[-1] in ends],
        "texts": [tokenizer(text).input_ids for text in request["texts"]],
        "messages": [
            tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True)
            for one in request["messages"]
        ],
    }
    Path(answered).write_text(json.dumps(found), encoding="utf-8")


def values_of(model: Any, ids: Any, targets: Any, segments: Any = None) -> list[float]:
    """Return the log-probability (nats) of each target behind what is before it, or all numbers that a head gives."""
    import torch

    device = next(model.parameters()).device
    inputs = {"input_ids": torch.tensor([ids], device=device)}
    if segments is not None:
        inputs["token_type_ids"] = torch.tensor([segments], device=device)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        outputs = model(**inputs)
        if targets:
            logits = outputs.logits[0].float()
            return [float(logits[place - 1].log_softmax(-1)[ids[place]]) for place in targets]
        numbers = [outputs[name] for name in outputs.keys() if name.endswith("logits")]  # noqa: SIM118  no mapping
        found: list[float] = torch.cat([one.float().flatten() for one in numbers]).tolist()
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
