"""From what a user calls a model to what stock transformers loads: Hub id, folder, .gguf file or bundled name."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tunelift.core import progress
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.models import bundled, convert, hub, weights
from tunelift.run_files.layout import is_adapter
from tunelift.untrusted import gate
from tunelift.untrusted.files import SINGLE

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model it is.

    `name` is what the user calls it, `path` what stock transformers loads (Hub id or local folder), `commit` the Hub's,
    and `weights_sha256` the hash of the safetensors file (where there are several, of the list of their hashes).
    `quantization` says how the linear layers are held, where that is not as in the file.
    """

    name: str
    kind: Literal["hub", "folder", "gguf", "bundled"]
    path: str
    commit: str | None = None
    weights_sha256: str | None = None
    note: str = ""
    quantization: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as manifests and adapters name it; `commit` is called revision there."""
        return {"revision" if key == "commit" else key: value for key, value in asdict(self).items()}


LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""What every `from_pretrained` gets besides the folder."""


def resolve(name: str, revision: str | None = None, *, narrow: bool = False) -> tuple[ModelIdentity, Path]:
    """Find the model, converting a GGUF file where it is one; return what it is and the folder to load it from.

    A `narrow` one is a GGUF file with its weights as they lie in it.
    The folder has passed the gate; that of a Hub model lies in the Hub's cache, and `weights_of` fetches
    its weights. Raises InputError for a model that does not exist, cannot be read, is gated, or must not be loaded.
    """
    if not name:
        raise InputError(
            "No model is named.", fix=f"Give a Hub id, a folder, a .gguf file, or one of {listed(bundled.MODELS)}."
        )
    path = Path(name).expanduser()
    at_hand = name in bundled.MODELS or path.exists()
    # Some names can only have been meant as files here.
    local = path.suffix.lower() in {".gguf", ".safetensors", ".bin"} or name.startswith((".", "~", "/"))
    if not at_hand and not local and HUB_ID.fullmatch(name):
        return _from_hub(name, revision)
    if revision is not None:
        raise InputError(
            f'model.revision is "{revision}", but {name} is not on the Hub.', fix="Leave the revision out."
        )
    if not at_hand:
        raise _missing(path)
    identity = _at_hand(name, path, narrow)
    folder = Path(identity.path)
    _check_folder(folder)
    weights_of(identity, folder)
    return identity, folder


def weights_of(identity: ModelIdentity, folder: Path) -> list[Path]:
    """Return the safetensors files of a resolved model, fetched and checked; raise InputError where it has none."""
    if identity.kind == "hub" and identity.commit and not (folder / SINGLE).exists():
        hub.fetch(identity.name, identity.commit, weights.wanted(folder))
        gate.check(folder)
    found = weights.safetensors(folder)
    if not found:
        raise InputError(
            f"{identity.name} has no model.safetensors.{_inside(folder)}",
            fix="Weights are read only from safetensors: other formats can run code when they are opened. "
            "Save the model again with model.save_pretrained(folder).",
        )
    return found


def is_model(folder: Path) -> bool:
    """Tell whether a folder holds a model; an adapter may have its base's config beside it."""
    return (folder / "config.json").is_file() and not is_adapter(folder)


def _from_hub(name: str, revision: str | None) -> tuple[ModelIdentity, Path]:
    folder, answered = hub.locate(name, revision)
    if answered:
        hub.fetch(name, folder.name, hub.TEXTS)
    _check_folder(folder)
    return ModelIdentity(name, "hub", name, folder.name), folder


def _at_hand(name: str, path: Path, narrow: bool) -> ModelIdentity:
    if name in bundled.MODELS:
        folder, note = bundled.folder(name, narrow=narrow)
        return ModelIdentity(name, "bundled", str(folder), note=note)
    if path.is_dir():
        return ModelIdentity(name, "folder", str(path))
    if path.suffix.lower() != ".gguf":
        raise InputError(
            f"{path} is a file, but no .gguf file.", fix="Give the folder that holds config.json, or a .gguf file."
        )
    folder = convert.converted(path.stem, weights.file_sha256(path), path, narrow=narrow)
    how = "as they lie in it" if narrow else "dequantised"
    return ModelIdentity(name, "gguf", str(folder), note=f"weights of {path.name}, {how}")


def _check_folder(path: Path) -> None:
    if is_adapter(path):  # transformers would load the base that it names, whatever that is
        raise InputError(
            f"{path} holds an adapter, not a model.",
            fix="Name its base as the model and give this folder as the adapter.",
        )
    if not (path / "config.json").is_file():
        raise InputError(f"{path} has no config.json, so it is no model folder.{_inside(path)}")
    for remark in gate.check(path):
        progress.note_once(remark)


def _inside(path: Path) -> str:
    found = sorted(child.name for child in path.iterdir())
    return f" It holds: {listed(found, 8)}." if found else " It is empty."


def _missing(path: Path) -> InputError:
    parent = path.parent
    near = [str(parent / child.name) for child in parent.iterdir()] if parent.is_dir() else []
    return InputError(
        f"The model {path} does not exist.{did_you_mean(str(path), near)}",
        fix=f"Give a folder, a .gguf file, a Hub id such as Qwen/Qwen3-0.6B, or one of {listed(bundled.MODELS)}.",
    )
