"""The one door to a model: Hub id, local folder, .gguf file or bundled name; its device and precision."""

from tunelift.models.loader import LoadedModel, load, load_tokenizer, natural_task, task_of
from tunelift.models.sources import ModelIdentity

__all__ = ["LoadedModel", "ModelIdentity", "load", "load_tokenizer", "natural_task", "task_of"]
