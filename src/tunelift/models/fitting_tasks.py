"""Which tasks a model can be loaded for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunelift.core.errors import InputError
from tunelift.models import sources
from tunelift.models.sources import ModelIdentity

CAUSAL, CLASSIFICATION = "causal-lm", "sequence-classification"


def read_config(identity: ModelIdentity, folder: Path) -> Any:
    """Return the transformers config in the model's folder; raise InputError for one that transformers cannot use."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, **sources.LOCAL)
    except Exception as error:  # whatever a config's class makes of values that it did not expect
        raise InputError(f"The config.json of {identity.name} cannot be used: {error}") from error


def fitting_tasks(config: Any) -> list[str]:
    """Return the tasks that a model with this transformers config fits, the most natural first; maybe none."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    causal = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not _encoder(config)
    fits = {CAUSAL: causal, CLASSIFICATION: kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES}
    found = [task for task, fit in fits.items() if fit]
    return found[::-1] if is_classifier(config) else found


def is_classifier(config: Any) -> bool:
    """Tell whether a checkpoint was saved with a classification head, as a decoder may be too."""
    saved_as = getattr(config, "architectures", None) or []
    return any(str(name).endswith("ForSequenceClassification") for name in saved_as)


def _encoder(config: Any) -> bool:
    """Tell whether a model reads both ways, though transformers has a causal head for its type (BERT and its kin)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if config.is_encoder_decoder:
        return True
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)


def natural_task(name: str, revision: str | None = None) -> str:
    """Return the task that suits a model best; raise InputError where the model does not exist or fits none."""
    config = read_config(*sources.resolve(name, revision))
    fitting = fitting_tasks(config)
    if not fitting:
        raise InputError(f"{name} (model type {config.model_type}) fits no task that is offered here.")
    return fitting[0]
