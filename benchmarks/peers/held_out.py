"""Loss of finished adapters on rows that none has seen, by stock transformers and peft in fp32, row by row."""

from __future__ import annotations

from typing import Any

from steps import read_job, read_rows, write_result


def main() -> None:
    import torch
    from peft import PeftModel
    from trainer import load

    job = read_job()
    rows = read_rows(job)
    model, _ = load(rows, job)
    assert isinstance(model, PeftModel)
    losses = {"initial": loss(model.eval(), rows["held_out"])}
    for number, (name, folder) in enumerate(job["adapters"].items()):
        model.load_adapter(folder, adapter_name=str(number))
        model.set_adapter(str(number))
        losses[name] = loss(model.eval(), rows["held_out"])
    write_result(losses=losses, torch=torch.__version__)


def loss(model: Any, rows: list[dict[str, Any]]) -> float:
    """Return the mean negative log-likelihood (nats) per target: a token of a completion, or a row with a head."""
    import torch
    import torch.nn.functional as F

    total, targets = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]  # (T, V), or (classes,)
        if isinstance(row["labels"], int):
            logits, labels = logits[None], torch.tensor([row["labels"]])
        else:
            logits, labels = logits[:-1], torch.tensor(row["labels"][1:])
        total += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
        targets += int((labels != -100).sum())
    return total / targets


if __name__ == "__main__":
    main()
