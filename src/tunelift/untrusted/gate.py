"""The gate before every loader: what a folder's files name is checked before transformers or peft reads them.

Sizes, layers and words in a config are free, known or not. Values that name code, modules, kernels, other files or
addresses must be among those listed here. The keys are those that transformers 5.23 and peft 0.21 follow.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunelift.core import text_files
from tunelift.core.errors import InputError, listed
from tunelift.run_files.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LINEAGE
from tunelift.untrusted import gguf, templates
from tunelift.untrusted.files import INDEX, MAX_JSON_BYTES, SINGLE, inside, read_object, read_text, safetensors_header

ADAPTER = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, LINEAGE)
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", ADAPTER_CONFIG)
PLAIN_JSON = ("added_tokens.json", "vocab.json", INDEX, LINEAGE)
"""JSON that holds tokens, names and hashes; tokenizer.json, which is large, is parsed by `examine` alone."""

PICKLED = re.compile(
    r".*\.(bin|pt|pth|ckpt|pkl|pickle|joblib|dill|h5|hdf5|keras|msgpack|ot|pb|npy|npz|index|data-\d.*)"
)
CODE = re.compile(r".*\.(py|pyc|so|dll|dylib|sh|ipynb)")

ATTENTION = ("eager", "sdpa", "flash_attention_2", "flex_attention")
EXPERTS = ("eager", "batched_mm", "grouped_mm")
QUANTIZATION = (
    *("aqlm", "auto-round", "awq", "bitnet", "bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"),
    *("compressed-tensors", "eetq", "fbgemm_fp8", "fp8", "gptq", "higgs", "hqq", "mxfp4", "quanto", "spqr"),
    *("torchao", "vptq"),
)

CHOICES = {
    "attn_implementation": ATTENTION,
    "experts_implementation": EXPERTS,
    "quant_method": QUANTIZATION,
    "megatron_core": ("megatron.core",),
}
"""Keys that choose code by its name: peft imports megatron_core, and an attention with a slash comes from the Hub."""

REFUSED = {
    "asks for code that comes with it": ("trust_remote_code", "custom_generate", "custom_pipeline", "custom_pipelines"),
    "asks for compiled kernels": ("kernels", "use_kernels", "kernel_config", "hub_kernels", "allow_all_kernels"),
    "names a compiler": ("compile_config",),
    "names another file to read in its place": (
        *("configuration_files", "fast_tokenizer_files", "transformers_weights", "gguf_file", "init_inputs"),
        *("prompt_tuning_init_state_dict_path", "cache_file", "covariance_file", "mecab_option"),
    ),
    "names another model or adapter to fetch": (
        *("backbone", "use_pretrained_backbone", "shadow_model", "adapters", "tokenizer_name_or_path"),
    ),
    "goes to a loader of tokenizers as it is": ("tokenizer_kwargs",),
    "makes peft import a module by name": ("megatron_config",),
}
WHY = {key: why for why, keys in REFUSED.items() for key in keys}

LABELS = ("id2label", "label2id", "added_tokens_decoder")
"""Mappings whose keys are the author's own words, not settings."""

FIX = "Nothing was loaded. Take a model without it, or remove it from a copy of the folder if you know what it is for."


@dataclass(frozen=True, slots=True)
class Finding:
    """What the gate says of one file; `why` is a sentence that names it, `fix` what to do."""

    file: str
    verdict: Literal["ok", "refused", "ignored"]
    why: str = ""
    fix: str = ""


def check(folder: Path, only: Collection[str] | None = None) -> list[str]:
    """Raise InputError with every reason why the files in `folder` (or those of them in `only`) must not be loaded.

    Returns what a user should know of files that may be: code that they name and that is not followed.
    """
    found = [_finding(folder, name, whole=False) for name in _names(folder) if only is None or name in only]
    refused = {finding.why: finding.fix for finding in found if finding.verdict == "refused"}
    if refused:
        raise InputError(*refused, fix=next(iter(refused.values())))
    return [finding.why for finding in found if finding.verdict == "ok" and finding.why]


def examine(path: Path) -> list[Finding]:
    """Return what the gate says of each file of a folder, or of one .gguf or .safetensors file, without loading any.

    A folder that holds neither a model nor an adapter, with its weights as safetensors, has a finding of its own.
    """
    if not path.is_dir():
        return [_finding(path.parent, path.name, whole=True)]
    findings = [_finding(path, name, whole=True) for name in _names(path)]
    kinds = (("config.json", SINGLE), ("config.json", INDEX), ADAPTER[:2])
    if not any((path / config).is_file() and (path / file).is_file() for config, file in kinds):
        why = f"{path} holds neither config.json with model.safetensors nor {ADAPTER_CONFIG} with {ADAPTER_WEIGHTS}."
        findings.append(Finding(".", "refused", why, "Weights are read from safetensors, which cannot run code."))
    return findings


def wrong_settings(settings: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    """Return (key, "is VALUE, which ...") for each setting, at any depth, that a file called `name` must not have."""
    found = ((key, value, _wrong(key, value, name)) for key, value in _settings(settings))
    return [(key, f"is {str(value)[:80]!r}, which {why}") for key, value, why in found if why]


def check_gguf(file: gguf.GgufFile) -> None:
    """Raise InputError for a chat template in a GGUF file that must not be rendered."""
    templates.check(str(file.metadata.get("tokenizer.chat_template", "")), f"{file.path}: tokenizer.chat_template")


def _names(folder: Path) -> list[str]:
    more = [f"additional_chat_templates/{file.name}" for file in folder.glob("additional_chat_templates/*.jinja")]
    return sorted([file.name for file in folder.iterdir() if not file.is_dir()] + more)


def _finding(folder: Path, name: str, *, whole: bool) -> Finding:
    """Judge one file; `whole` parses tokenizer.json too, which takes a second and which the loader does again."""
    try:
        remarks = _remarks(inside(folder, name), whole)
    except InputError as error:
        return Finding(name, "refused", error.problems[0], error.fix or FIX)
    if remarks is not None:
        return Finding(name, "ok", " ".join(remarks))
    if PICKLED.fullmatch(name):
        why = f"{name} can run code when it is opened; weights are read only from safetensors."
    else:
        why = f"{name} is {'code; it is never imported or run' if CODE.fullmatch(name) else 'given to no loader'}."
    return Finding(name, "ignored", why)


def _remarks(path: Path, whole: bool) -> list[str] | None:
    """Return what is not followed in a file, None for a file that no loader is given; raise InputError to refuse it."""
    if path.name in CONFIGS:
        return _check_config(path)
    if path.name in PLAIN_JSON or (path.name == "tokenizer.json" and whole):
        read_object(path)
    elif path.suffix == ".safetensors":
        safetensors_header(path)
    elif path.suffix == ".gguf" and whole:
        check_gguf(gguf.read(path))
    elif path.suffix == ".jinja":
        templates.check(read_text(path), str(path))
    elif path.name == "tokenizer.json" or path.suffix in (".model", ".spm", ".tiktoken", ".bpe", ".codes", ".txt"):
        text_files.check_size(path, MAX_JSON_BYTES)
    else:
        return None
    return []


def _check_config(path: Path) -> list[str]:
    """Return what is not followed in a config; raise InputError for its first value that must not be."""
    config = read_object(path)
    for key, why in wrong_settings(config, path.name):
        raise InputError(f'{path}: "{key}" {why}.')
    for _, text in _settings({"": config.get("chat_template")}):
        if isinstance(text, str):
            templates.check(text, f"{path}: chat_template")
    return _own_code(path, config)


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every (key, value) of a config that is set, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if inner and key not in LABELS:
                yield key, inner
                yield from _settings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _settings(inner)


def _wrong(key: str, value: Any, name: str) -> str | None:
    """Return why a setting must not be followed, None where it may."""
    if key in WHY and (key != "adapters" or name == ADAPTER_CONFIG):
        return WHY[key]
    if allowed := CHOICES.get(key.removeprefix("_").removesuffix("_internal")):
        named = value.values() if isinstance(value, dict) else [value]
        return None if all(one in allowed for one in named if one) else f"is none of {listed(allowed)}"
    if key.endswith("_file") and name in ("tokenizer_config.json", "special_tokens_map.json"):
        # transformers replaces these paths by the folder's files; not those of special_tokens_map.json, read last.
        replaced = name == "tokenizer_config.json" and key in ("tokenizer_file", "special_tokens_map_file")
        plain = isinstance(value, str) and value == Path(value).name
        return None if replaced or plain else "names a file outside the folder"
    return _unknown(key, value)


def _unknown(key: str, value: Any) -> str | None:
    """Return why a value is none that its key may have, None for keys that take any."""
    if key == "tokenizer_class":
        return None if _is_tokenizer(value) else "is no tokenizer that transformers has here"
    if key == "peft_type":
        from peft import PeftType

        return None if value in list(PeftType) else "is no PEFT method that peft knows"
    if key == "parent_library":
        known = isinstance(value, str) and (value == "transformers" or value.startswith("transformers.models."))
        return None if known else "is a module that peft would import; only transformers is allowed"
    # Answers would go on to their limit, or stop nothing, where the ids that end them are none.
    ids = (value if isinstance(value, list) else [value]) if key == "eos_token_id" else []
    return None if all(isinstance(token, int) for token in ids) else "is no token's id, nor a list of them"


def _is_tokenizer(value: Any) -> bool:
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    try:
        found = tokenizer_class_from_name(value) if isinstance(value, str) and value.isidentifier() else None
    except ImportError:  # a class of transformers whose own requirements are not installed
        found = None
    known = isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)
    # Mistral's needs a package of theirs, and transformers takes its own instead where that is missing.
    return known or value == "MistralCommonBackend"


def _own_code(path: Path, config: Mapping[str, Any]) -> list[str]:
    """Return a remark on `auto_map`, which names code; raise InputError where transformers has no class of its own.

    Many models that transformers knows by now keep the key from before; with trust_remote_code off it is not followed.
    """
    if not config.get("auto_map"):
        return []
    if path.name == "config.json":
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES as KNOWN

        known = str(config.get("model_type")) in KNOWN
    else:
        known = path.name != "tokenizer_config.json" or bool(config.get("tokenizer_class"))
    what = f'{path}: "auto_map" names code that comes with the model ({str(config["auto_map"])[:80]}); '
    if not known:
        raise InputError(f"{what}transformers has no class of its own for it, and foreign code is never run.")
    return [f"{what}it is not run, transformers' own class is used."]
