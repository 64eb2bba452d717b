"""Unsloth on a CPU: its own loading, with the initial adapter on it, and TRL's SFTTrainer as Unsloth changes it.

Which of its settings are on, the environment says. It keeps frozen weights in bfloat16 only where the checkpoint's
config names that type, as the published ones do; ours is a converted file of float32, so that it gets such a config.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from steps import StepClock, read_job, read_rows, write_result
from trainer import common_arguments, data_set, train_timed


def main() -> None:
    import unsloth  # first of all: it changes transformers, TRL and peft

    job = read_job()
    rows = read_rows(job)
    clock = StepClock(job["limit_seconds"])
    with tempfile.TemporaryDirectory() as scratch:
        frozen_in_bfloat16 = "UNSLOTH_CPU_FROZEN_BF16" in os.environ
        adapter = adapter_of_bfloat16(rows, Path(scratch)) if frozen_in_bfloat16 else rows["adapter"]
        model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
            str(adapter),
            dtype=job.get("dtype"),
            max_seq_length=1024,
            load_in_4bit=False,
            use_gradient_checkpointing=False,  # it costs time, and these models need little memory
        )
        train_timed(trainer(model, tokenizer, data_set(rows["train"]), job), clock)
        write_result(**clock.figures(), **what_it_did(model))
        model.save_pretrained(job["out"])


def adapter_of_bfloat16(rows: dict[str, Any], folder: Path) -> Path:
    """Return the initial adapter on a checkpoint whose config says bfloat16; its files are links to the other's."""
    for name, source in (("model", Path(rows["model"])), ("adapter", Path(rows["adapter"]))):
        (folder / name).mkdir()
        for file in source.iterdir():
            (folder / name / file.name).symlink_to(file.resolve())
    changes = {"model/config.json": {"dtype": "bfloat16"}}
    changes["adapter/adapter_config.json"] = {"base_model_name_or_path": str(folder / "model")}
    for name, keys in changes.items():
        said = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(said | keys), encoding="utf-8")
    return folder / "adapter"


def trainer(model: Any, tokenizer: Any, train_dataset: Any, job: dict[str, Any]) -> Any:
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(**common_arguments(job), gradient_checkpointing=False, **job.get("sft", {}))
    return SFTTrainer(model=model, args=args, train_dataset=train_dataset, processing_class=tokenizer)


def what_it_did(model: Any) -> dict[str, Any]:
    """Return what shows that a setting was in effect, since Unsloth leaves one out with a printed line alone."""
    base = model.get_base_model()
    kinds = sorted({str(weight.dtype) for weight in base.parameters() if not weight.requires_grad})
    return {
        "frozen": kinds,
        "compiled": any(getattr(module, "_compiled_call_impl", None) is not None for module in base.modules()),
        "chunked_loss": bool(getattr(base, "_unsloth_cpu_chunked_ce", False)),
    }


if __name__ == "__main__":
    main()
