"""Several LoRA adapters of one base made one: a sum of what they add to the weights, saved as a stock LoRA.

An adapter adds `scale * B A` to a weight, (out, in), with the scale that peft takes: `alpha / r`, or of rsLoRA
`alpha / sqrt(r)`, by the patterns of both. A weighted sum of them has the factors side by side, so that nothing is
rounded but the numbers themselves. TIES (arXiv:2306.01708) and DARE (arXiv:2311.03099) are peft's own functions, given
these products: on the factors, to which peft's `add_weighted_adapter` gives them, they do something else.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelift.adapters.read import BEGINNINGS
from tunelift.adapters.store import read_adapter_config, read_lineage
from tunelift.core import files, randomness
from tunelift.core.errors import InputError, listed
from tunelift.run_files.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LINEAGE, LINEAGE_FORMAT
from tunelift.untrusted import gate

if TYPE_CHECKING:
    from torch import Tensor

HOWS = {
    "weighted": "the weighted sum, exactly: its rank is that of all together",
    "svd": "the weighted sum, cut to a rank by its largest singular values",
    "ties": "TIES: small changes left out, signs elected, the mean of those that agree",
    "dare": "DARE: changes left out at random and the rest enlarged, then the weighted sum",
}
"""How adapters are combined, each in words."""
DENSITY = ("ties", "dare")
"""Those that leave changes out, all but a share of them."""

PLACE = re.compile(r"base_model\.model\.(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")
FOLLOWED = frozenset(
    {
        *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),  # of which the scale is made
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),  # the tensors say where
        *("fan_in_fan_out", "lora_dropout", "peft_type", "task_type", "base_model_name_or_path", "revision"),
        *("inference_mode", "auto_mapping", "peft_version", "megatron_core", "init_lora_weights"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),  # data of how it began
    }
)
"""Settings of a LoRA with which it is nothing but a sum of products; of others only the default is."""
BESIDE = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
)


@dataclass(frozen=True, slots=True)
class Combined:
    """What was written: where, the largest rank of a layer, and which share of the sum the ranks left out.

    The share is that of the Frobenius norm over all layers, 0 where nothing was cut.
    """

    folder: Path
    rank: int
    left_out: float


@dataclass(slots=True)
class _Part:
    """A layer of one adapter: `up` (out, r), with the scale in it, times `down` (r, in) is added to the weight."""

    up: Tensor
    down: Tensor
    embedding: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]


@dataclass(slots=True)
class _Adapter:
    folder: Path
    config: Mapping[str, Any]
    lineage: Mapping[str, Any]
    layers: dict[str, _Part] = field(default_factory=dict)


def combine(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    how: str = "weighted",
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
) -> Combined:
    """Write the combination of LoRA adapters on one base to a new folder, in stock peft's layout.

    `weights` are 1 / number of adapters each where none are given, and 1 of "ties", which takes a mean. `rank` is the
    most that a layer's result may have: by default the ranks of all together, and for "svd" the largest of them.
    `density` is the share of changes that "ties" and "dare" keep, `seed` draws those of DARE. Raises InputError for
    adapters that are not one sum, as of DoRA, with biases or whole modules, or on different bases.
    """
    import torch

    weights = _checked(folders, output, how, weights, rank, density)
    adapters = [_read(Path(folder)) for folder in folders]
    _check_one_base(adapters)
    combinations: dict[str, Callable[[Sequence[tuple[float, _Part]]], tuple[Tensor, Tensor]]] = {
        "weighted": _side_by_side,
        "svd": _side_by_side,
        "ties": partial(_dense, how=_of_peft("ties", density)),
        "dare": partial(_dense, how=_of_peft("dare_linear", density)),
    }
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    kept = whole = 0.0
    with randomness.seeded(seed):
        for name in dict.fromkeys(name for adapter in adapters for name in adapter.layers):
            parts = [(weight, a.layers[name]) for weight, a in zip(weights, adapters, strict=True) if name in a.layers]
            _check_shapes(name, [part for _, part in parts])
            most = max(len(part.down) for _, part in parts) if how == "svd" else sum(len(p.down) for _, p in parts)
            up, down = combinations[how](parts)
            exact = how == "weighted" and (rank is None or len(down) <= rank)
            if not exact:
                up, down, both = _cut(up, down, rank or most)
                kept, whole = kept + both[0], whole + both[1]
            ranks[name] = len(down)
            tensors |= _named(name, up, down, embedding=parts[0][1].embedding)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise InputError("The combination has numbers that are not finite.", fix="Look at the adapters and weights.")
    _write(Path(output), adapters, tensors, ranks)
    left_out = max(0.0, 1 - kept / whole) ** 0.5 if whole else 0.0
    return Combined(Path(output), max(ranks.values()), left_out)


def _checked(
    folders: Sequence[str | Path],
    output: str | Path,
    how: str,
    weights: Sequence[float] | None,
    rank: int | None,
    density: float | None,
) -> Sequence[float]:
    """Return the weights; raise InputError for options that do not go together."""
    problems = []
    if len(folders) < 2:
        problems.append("Give at least two adapters.")
    if how not in HOWS:
        problems.append(f'There is no way "{how}" to combine adapters. Known: {listed(HOWS)}.')
    if weights is not None and len(weights) != len(folders):
        problems.append(f"There are {len(folders)} adapters and {len(weights)} weights.")
    if rank is not None and rank < 1:
        problems.append(f"The rank is {rank}; at least 1 is allowed.")
    if (density is not None) != (how in DENSITY):
        goes = f"a density goes with {listed(DENSITY)}: the share of changes that is kept, such as 0.5"
        problems.append(f"{how} and the density {density}: {goes}.")
    elif density is not None and not 0 < density < 1:
        problems.append(f"The density is {density}; it is more than 0 and less than 1.")
    if Path(output).exists():
        problems.append(f"{output} exists already.")
    if problems:
        raise InputError(*problems)
    each = 1.0 if how == "ties" else 1 / len(folders)  # TIES takes a mean by itself, of those that agree
    return [each] * len(folders) if weights is None else weights


def _read(folder: Path) -> _Adapter:
    """Return an adapter's layers, each with the scale that peft takes for it; raise InputError for what is no sum."""
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key
    from safetensors.torch import load_file

    config = read_adapter_config(folder)
    gate.check(folder)
    if config["peft_type"] != "LORA":
        raise InputError(f"The adapter {folder} is of peft's {config['peft_type']}; LoRA alone is combined.")
    default = vars(LoraConfig())
    odd = [key for key in config if key not in FOLLOWED and config[key] not in (default.get(key), None, False, {}, [])]
    begin = config.get("init_lora_weights", True)
    odd += ["init_lora_weights"] if (begin.lower() if isinstance(begin, str) else begin) not in BEGINNINGS else []
    if odd:
        said = listed(f"{key}: {config[key]}" for key in sorted(odd))
        raise InputError(
            f"The adapter {folder} is more than a sum of products ({said}), so that no sum of adapters is right.",
            fix="Merge it into the base with peft, or leave it out.",
        )
    found = _Adapter(folder, config, read_lineage(folder))
    factors: dict[tuple[str, bool], dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / ADAPTER_WEIGHTS).items():
        place = PLACE.fullmatch(key)
        if place is None or tensor.dim() != 2:
            raise InputError(
                f"The adapter {folder} holds {key}, {tuple(tensor.shape)}, which is no factor of a product."
            )
        factors.setdefault((place[1], bool(place[2])), {})[place[3]] = tensor
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    for (name, embedding), both in factors.items():
        if both.keys() != {"A", "B"} or len(both["A"]) != both["B"].shape[1]:
            raise InputError(f"The adapter {folder} lacks a factor of {name}, or has two that do not fit.")
        rank = ranks.get(get_pattern_key(ranks, name), config["r"])
        if rank != len(both["A"]):
            raise InputError(f"The adapter {folder} has rank {len(both['A'])} at {name}, and {rank} by its config.")
        alpha = alphas.get(get_pattern_key(alphas, name), config["lora_alpha"])
        scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
        found.layers[name] = _Part(both["B"].float() * scale, both["A"].float(), embedding)
    return found


def _check_one_base(adapters: Sequence[_Adapter]) -> None:
    """Raise InputError unless all were made on one base, for one task, and are asked alike."""
    first = adapters[0]
    for other in adapters[1:]:
        hashes = [a.lineage.get("base", {}).get("weights_sha256") for a in (first, other)]
        names = [a.config.get("base_model_name_or_path") for a in (first, other)]
        same = hashes[0] == hashes[1] if all(hashes) else names[0] == names[1]
        if not same:
            raise InputError(
                f"{first.folder} was made on {names[0]}, and {other.folder} on {names[1]}"
                + (", of other weights." if names[0] == names[1] else "."),
                fix="What adapters add can be summed on one base alone.",
            )
        tasks = [a.config.get("task_type") for a in (first, other)]
        if tasks[0] != tasks[1]:
            raise InputError(f"{first.folder} was made for {tasks[0]}, and {other.folder} for {tasks[1]}.")
        for name in BESIDE:
            texts = [(a.folder / name).read_bytes() if (a.folder / name).is_file() else None for a in (first, other)]
            if texts[0] != texts[1]:
                raise InputError(
                    f"{first.folder} and {other.folder} have each another {name}: nobody can say how to ask their sum.",
                    fix="Take it out of copies of the folders, if the base's own is meant.",
                )


def _check_shapes(name: str, parts: Sequence[_Part]) -> None:
    if len({(part.shape, part.embedding) for part in parts}) > 1:
        raise InputError(f"{name} has another shape in each adapter: {listed(str(part.shape) for part in parts)}.")


def _side_by_side(parts: Sequence[tuple[float, _Part]]) -> tuple[Tensor, Tensor]:
    """Return the factors of the weighted sum."""
    import torch

    return torch.cat([weight * p.up for weight, p in parts], dim=1), torch.cat([p.down for _, p in parts])


def _dense(
    parts: Sequence[tuple[float, _Part]], how: Callable[[list[Tensor], Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return factors of full rank of what a function makes of the products, each (out, in), and their weights."""
    import torch

    made = how([part.up @ part.down for _, part in parts], torch.tensor([weight for weight, _ in parts]))
    wide = made.shape[0] < made.shape[1]
    return (torch.eye(made.shape[0]), made) if wide else (made, torch.eye(made.shape[1]))


def _of_peft(name: str, density: float | None) -> Callable[[list[Tensor], Tensor], Tensor]:
    from peft.utils import merge_utils

    found: Callable[[list[Tensor], Tensor], Tensor] = partial(getattr(merge_utils, name), density=density)
    return found


def _cut(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Return the factors of the nearest matrix of a rank, and the squared norms of it and of the whole.

    The singular values are those of the small product of both factors' triangles, where these are thin.
    """
    import torch

    left, upper = torch.linalg.qr(up.double())
    right, lower = torch.linalg.qr(down.double().T)
    u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    root = s[:rank].sqrt()
    squared = s.square()
    both = float(squared[:rank].sum()), float(squared.sum())
    return ((left @ u[:, :rank]) * root).float(), (root[:, None] * (v[:rank] @ right.T)).float(), both


def _named(name: str, up: Tensor, down: Tensor, *, embedding: bool) -> dict[str, Tensor]:
    kind, end = ("lora_embedding_", "") if embedding else ("lora_", ".weight")
    factors = {"A": down, "B": up}
    return {f"base_model.model.{name}.{kind}{side}{end}": tensor.contiguous() for side, tensor in factors.items()}


def _write(output: Path, adapters: Sequence[_Adapter], tensors: dict[str, Tensor], ranks: Mapping[str, int]) -> None:
    """Write the folder: every layer by its whole name, its alpha its rank, so that the scale is 1."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    first = adapters[0]
    usual = max(ranks.values(), key=list(ranks.values()).count)
    others = {re.escape(name): rank for name, rank in ranks.items() if rank != usual}
    config = LoraConfig(
        task_type=first.config.get("task_type"),
        base_model_name_or_path=first.config.get("base_model_name_or_path"),
        revision=first.config.get("revision"),
        r=usual, lora_alpha=usual, rank_pattern=others, alpha_pattern=dict(others),
        target_modules=sorted(ranks), fan_in_fan_out=bool(first.config.get("fan_in_fan_out")), inference_mode=True,
    )  # fmt: skip
    known = config.to_dict() | {"target_modules": sorted(ranks)}

    def fill(staging: Path) -> None:
        save_file(tensors, staging / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        files.write_json(staging / ADAPTER_CONFIG, dict(_plain(known)))
        for name in BESIDE:
            if (first.folder / name).is_file():
                shutil.copy(first.folder / name, staging / name)
        if first.lineage:
            labels = sorted({label for adapter in adapters for label in adapter.lineage.get("labels", [])})
            lineage = {key: first.lineage[key] for key in ("base", "task", "conversations") if key in first.lineage}
            files.write_json(staging / LINEAGE, {"format": LINEAGE_FORMAT, **lineage, "labels": labels})

    files.write_folder(output, fill)


def _plain(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield settings as JSON has them: enumerations are their values, sets are lists."""
    for key, value in config.items():
        yield key, sorted(value) if isinstance(value, (set, frozenset)) else getattr(value, "value", value)
