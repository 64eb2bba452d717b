"""The one door to a model: Hub id, local folder, .gguf file or bundled name; its device and precision."""

from tunelift.models.loader import LoadedModel, load, load_tokenizer, natural_task, task_of
from tunelift.models.sources import ModelIdentity, is_model

__all__ = ["LoadedModel", "ModelIdentity", "is_model", "load", "load_tokenizer", "natural_task", "task_of"]
