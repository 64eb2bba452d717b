"""The Hub: which commit a name stands for, and what to say when there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunelift.core.errors import InputError, did_you_mean
from tunelift.models import bundled

TEXTS = ("*.json", "*.jinja", "*.txt", "*.model", "*.spm", "*.bpe", "*.codes", "*.tiktoken")
"""What configs and tokenizers are made of."""


def locate(name: str, revision: str | None) -> tuple[Path, bool]:
    """Return the folder of a model in the Hub's cache, and whether the Hub answered (otherwise only that is left).

    The folder's name is the commit that the model stands for; its config.json is there.
    Raises InputError for a model that does not exist, is gated, or is not cached while the Hub cannot be reached.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    answered = True
    try:
        try:
            get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision))
        except (HfHubHTTPError, HFValidationError):
            raise
        except Exception:  # the client's library for HTTP changes, and its errors with it; retrying would take minutes
            answered = False
        file = hf_hub_download(name, "config.json", revision=revision, local_files_only=not answered)
    except HFValidationError as error:
        raise InputError(f'"{name}" is neither a file here nor a possible name on the Hub.') from error
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise explained(name, revision, error) from error
    return Path(file).parent, answered


def fetch(name: str, commit: str, wanted: Sequence[str]) -> None:
    """Bring the files of the top folder that match one of `wanted`, and chat templates, into the Hub's cache.

    Raises InputError where the Hub refuses. Offline, nothing is done.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    deeper = [f"*/{pattern}" for pattern in wanted if pattern != "*.jinja"]
    try:
        snapshot_download(name, revision=commit, allow_patterns=list(wanted), ignore_patterns=deeper)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise explained(name, commit, error) from error


def explained(name: str, revision: str | None, error: Exception) -> InputError:
    """Say what a failed request to the Hub means for the user."""
    from huggingface_hub import errors, is_offline_mode

    at = f" at revision {revision}" if revision else ""
    unreachable = "offline mode is on (HF_HUB_OFFLINE)" if is_offline_mode() else "the Hub cannot be reached"
    hint = did_you_mean(name, bundled.MODELS)
    cases: list[tuple[type[Exception], str, str]] = [  # the particular before the general, of which it is a subclass
        (
            errors.GatedRepoError,
            f'The model "{name}" is gated: its owner asks you to accept a licence first.',
            f"Accept it at https://huggingface.co/{name}, then log in on this machine: hf auth login",
        ),
        (
            errors.RevisionNotFoundError,
            f'The model "{name}" has no revision "{revision}".',
            "Give a branch, tag or commit that it has.",
        ),
        (
            errors.RepositoryNotFoundError,
            f'There is no model "{name}" on the Hub (or it is private), and no such folder here.{hint}',
            "Check the spelling; for a private model log in: hf auth login",
        ),
        (
            errors.LocalEntryNotFoundError,
            f'The model "{name}"{at} is neither a folder here nor in the local cache, and {unreachable}.{hint}',
            "Fetch it once while online, or give a folder, a .gguf file or a bundled name.",
        ),
        (
            errors.EntryNotFoundError,
            f'"{name}"{at} on the Hub has no config.json, so transformers cannot load it.',
            "Give the id of a transformers model; for an adapter, that of its base.",
        ),
    ]
    for kind, problem, fix in cases:
        if isinstance(error, kind):
            return InputError(problem, fix=fix)
    return InputError(f'The Hub refused "{name}"{at}: {error}')
