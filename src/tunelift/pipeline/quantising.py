"""What holding a base in few bits changed: the same items by the base in full precision, before anything is trained."""

from __future__ import annotations

import gc
import time
from functools import partial

from tunelift.comparison.run_folder import quantising
from tunelift.core import machine, progress
from tunelift.data.splits import Splits
from tunelift.evaluation.plan import Plan
from tunelift.fast.blocks import wide_bytes
from tunelift.model_facts.parameters import compute_dtype, device_of, dtype_name
from tunelift.models.quantized import NF4, OURS
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.session import Session
from tunelift.pipeline.sharing import shared_scores
from tunelift.run_files.layout import is_scored
from tunelift.wording.comparison_text import quantising_lines

SHARE = 0.8
"""Of the memory that this process may use, the base in both forms may take so much; the rest is for its products."""


def measure_full_precision(folder: RunFolder, session: Session, splits: Splits, plan: Plan) -> None:
    """Measure a quantised base in full precision too, where that fits in memory, and say what the bits cost.

    Files that are quantised already, as a GGUF file's blocks, are all there is of that model: nothing finer is there to
    compare with.
    """
    held = session.identity.quantization
    if held not in (NF4, *OURS):
        return
    if not is_scored(folder.paths.wide):
        needed, usable = wide_bytes(session.model), machine.usable_bytes()
        if usable is None or needed > SHARE * usable:
            why = f"in full precision it takes {needed / 1e9:.1f} GB with the one in {held}, which do not fit here"
            folder.happened("what quantising cost was not measured", why)
            progress.note(f"quantising: the base was not measured in full precision: {why}")
            return
        began = time.monotonic()
        here = {"dtype": dtype_name(compute_dtype(session.model)), "device": str(device_of(session.model))}
        section = folder.config.model.model_copy(update={"quantization": "none", **here})
        with progress.silenced():
            wide = Session.open(section, session.task, seed=folder.config.train.seed)
        score = partial(wide.score, splits.test, plan, "base in full precision")
        shared_scores("full_precision", wide, splits.test, plan, score).save(folder.paths.wide)
        del wide
        gc.collect()
        folder.took("quantising", time.monotonic() - began)
    found = {name: result.to_dict() for name, result in quantising(folder.paths).items()}
    for line in quantising_lines(found):
        progress.note(f"quantising to {held}: {line}")
