"""mlx-lm's own training on a CPU, from the initial adapter in its names; what it made is saved in peft's names."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps import StepClock, read_job, read_rows, write_result

PEFT, SIDES = "base_model.model.", {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b"}


def main() -> None:
    import mlx.core as mx
    from mlx_lm.tuner.trainer import TrainingArgs, train

    mx.set_default_device(mx.cpu)
    job = read_job()
    rows = read_rows(job)
    model = load(rows)
    clock = StepClock(job["limit_seconds"])
    with tempfile.TemporaryDirectory() as scratch:
        args = TrainingArgs(
            batch_size=job["batch_size"], iters=len(rows["train"]) // job["batch_size"], steps_per_report=1,
            max_seq_length=1024, adapter_file=f"{scratch}/adapters.safetensors",
        )  # fmt: skip
        clock.begin()
        train(
            model, optimizer(job), [in_their_form(row) for row in rows["train"]], args=args,
            iterate_batches=in_the_order_given, training_callback=clocked(clock, rows["train"], job["batch_size"]),
        )  # fmt: skip
    write_result(**clock.figures(), device=str(mx.default_device()))
    save(model, Path(rows["adapter"]), Path(job["out"]))


def load(rows: dict[str, Any]) -> Any:
    """Return the model with the initial adapter on it, the adapter alone trainable."""
    import mlx.core as mx
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(rows["model"]))
    model.freeze()
    said = json.loads((Path(rows["adapter"]) / "adapter_config.json").read_text(encoding="utf-8"))
    config = {"rank": said["r"], "scale": said["lora_alpha"] / said["r"], "dropout": said["lora_dropout"]}
    linear_to_lora_layers(model, len(model.layers), config)
    first = mx.load(str(Path(rows["adapter"]) / "adapter_model.safetensors"))
    model.load_weights([(theirs(name), factor.T) for name, factor in first.items()], strict=False)
    if set(map(theirs, first)) != set(trained(model)):
        raise SystemExit("mlx-lm adapts other layers than the initial adapter")
    return model


def theirs(name: str) -> str:
    for ours, side in SIDES.items():
        name = name.replace(ours, side)
    return name.removeprefix(PEFT)


def trained(model: Any) -> dict[str, Any]:
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.trainable_parameters()))


def optimizer(job: dict[str, Any]) -> Any:
    """AdamW as torch has it, behind the clipping that mlx-lm's training has no setting for."""
    from mlx.optimizers import AdamW, clip_grad_norm

    class Clipped(AdamW):  # type: ignore[misc]
        def update(self, model: Any, gradients: Any) -> None:
            super().update(model, clip_grad_norm(gradients, 1.0)[0])

    return Clipped(job["learning_rate"], weight_decay=0.0, bias_correction=True)


def in_their_form(row: dict[str, Any]) -> tuple[list[int], int]:
    """Return the ids of a row and where its completion begins."""
    return row["input_ids"], next(at for at, label in enumerate(row["labels"]) if label != -100)


def in_the_order_given(dataset: Any, batch_size: int, max_seq_length: int, **_: Any) -> Iterator[Any]:
    """Yield mlx-lm's batches, padded as it pads them, but in the order of the rows.

    Its loss is taken up to the place that the second of the lengths names, which is padding for all but the longest
    rows: one less leaves the loss on the completion and its end.
    """
    import mlx.core as mx
    from mlx_lm.tuner.trainer import iterate_batches

    for start in range(0, len(dataset), batch_size):
        for batch, lengths in iterate_batches(dataset[start : start + batch_size], batch_size, max_seq_length):
            yield batch, lengths - mx.array([[0, 1]])


def clocked(clock: StepClock, rows: list[dict[str, Any]], batch_size: int) -> Any:
    """Return what mlx-lm calls after every step."""
    from mlx_lm.tuner.callbacks import TrainingCallback

    class Clocked(TrainingCallback):  # type: ignore[misc]
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            start = (info["iteration"] - 1) * batch_size
            tokens = sum(len(row["input_ids"]) for row in rows[start : start + batch_size])
            clock.step(rows=batch_size, tokens=tokens, loss=info["train_loss"])

    return Clocked()


def save(model: Any, initial: Path, folder: Path) -> None:
    """Save the adapter as stock peft loads it, with the config of the one it began with."""
    import mlx.core as mx

    folder.mkdir(parents=True)
    names = {side: ours for ours, side in SIDES.items()}
    made = {}
    for name, factor in trained(model).items():
        layer, _, side = name.rpartition(".")
        made[f"{PEFT}{layer}.{names[side]}"] = mx.contiguous(factor.T)
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), made, {"format": "pt"})
    shutil.copyfile(initial / "adapter_config.json", folder / "adapter_config.json")


if __name__ == "__main__":
    main()
