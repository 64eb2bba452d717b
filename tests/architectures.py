"""Every decoder and every classifier class of transformers, built tiny from its config and tried against stock.

    python tests/architectures.py [--only llama,gpt2] [--write]     writes docs/architectures.md

Each kind is tried in a process of its own, which may crash or hang. For a decoder: log-likelihoods of rows together,
in float32 and in bfloat16; labels ranked; greedy answers of prompts of different lengths; loss and gradients of an
adapter, all against the model's own logits of each row alone, without a cache; `tunelift.tune` for three steps with
every proof; and `fast.apply` against its own `forward(labels=)`. What is asked of a classifier stands in
architectures_classifiers.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import tempfile
from copy import deepcopy
from pathlib import Path
from queue import Empty
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
SECONDS = 240
IN_FLOAT32, OF_GRADIENTS = 1e-5, 1e-3
"""How far numbers may be apart, relative to them or, where they are below one, to one."""

fork = multiprocessing.get_context("fork")
DECODERS = ("likelihoods", "bfloat16", "labels", "answers", "training", "tune", "apply")
CLASSIFIERS = ("probabilities", "training", "tune", "apply")


def kinds(names: str = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES") -> list[str]:
    """Return the model types of one of transformers' mappings, aliases of one class once."""
    from transformers.models.auto import modeling_auto

    mapping = getattr(modeling_auto, names)
    by_length = sorted(mapping.items(), key=lambda item: -len(item[0]))
    return sorted({str(cls): kind for kind, cls in by_length}.values())


def classifiers() -> list[str]:
    return kinds("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES")


def tiny(kind: str, head: str = "AutoModelForCausalLM", special: dict[str, Any] | None = None, seed: int = 0) -> Any:
    """Return a tiny random model of a type, its weights large enough to matter; `special` are further config keys."""
    import torch
    import transformers
    from transformers import AutoConfig

    from tunelift.models.twin import SPECIAL, small_sizes

    auto = getattr(transformers, head)
    own = AutoConfig.for_model(kind).to_dict()
    sizes = small_sizes(own) | SPECIAL.get(kind, {})
    if head != "AutoModelForCausalLM":
        for key in ("is_decoder", "is_encoder_decoder"):
            sizes.pop(key, None)
        sizes |= {"num_labels": 3} | (special or {})
    config = AutoConfig.for_model(kind, **sizes)
    with torch.device("meta"):  # what parts in configs of their own take is seen without taking it
        size = sum(p.numel() for p in auto.from_config(config).parameters())
    if size > 20_000_000:
        raise ValueError("it cannot be built tiny from its config's usual keys")
    torch.manual_seed(seed)
    model = auto.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.1)  # a router of zeros would choose by rounding alone
            if parameter.dim() > 1:
                parameter.mul_(2)
    model.built_as = kind
    return model.eval()


def tried(kind: str, checks: tuple[str, ...] = DECODERS) -> dict[str, str]:
    """Return what becomes of each check: "right", "refused: why", "wrong: how far", or "crashed: what"."""
    from tunelift.core import progress

    progress.quiet = True
    found, names = {}, globals()
    if checks == CLASSIFIERS:
        names = vars(importlib.import_module("architectures_classifiers"))
    try:
        names["_alone"](names["tiny"](kind), names["ROWS"][0])
    except Exception as error:  # stock itself
        return {"built": f"not built: {_line(error)}"}
    for name in checks:
        try:
            found[name] = names[f"_{name}"](names["tiny"](kind))
        except Exception as error:
            how = {"InputError": "refused", "UncompiledError": "refused", "StockError": "refused by stock"}
            found[name] = f"{how.get(type(error).__name__, 'crashed')}: {_line(error)}"
    return found


ROWS = [[5, 6, 7, 8, 9, 10, 11, 12], [20, 21, 22, 23, 24], [5, 6, 7, 8, 9, 10, 30, 31, 32, 33, 34]]


def _alone(model: Any, row: list[int]) -> Any:
    """Return the model's own log-probabilities (T, V) of one row by itself, without a cache."""
    import torch

    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([row]), use_cache=False).logits[0].double(), dim=-1)


def _scores(model: Any, prompt: list[int], completion: list[int]) -> float:
    found = _alone(model, [*prompt, *completion])
    return sum(float(found[len(prompt) + i - 1, token]) for i, token in enumerate(completion))


def _verdict(found: list[float], expected: list[float], allowed: float = IN_FLOAT32) -> str:
    worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, expected, strict=True))
    return "right" if worst <= allowed else f"wrong: {worst:.1e}"


def _likelihoods(model: Any) -> str:
    import torch

    from tunelift.evaluation.likelihood import log_likelihoods
    from tunelift.fast.target_model import target_model
    from tunelift.fast.unpad import sped_up

    pairs = [(row[:3], row[3:]) for row in ROWS]
    expected = [_scores(model, *pair) for pair in pairs]
    with sped_up(model):
        view, _ = target_model(model)
        found = log_likelihoods(view, pairs, torch.device("cpu"), 8, lambda *_: None)
    return _verdict([value for value, _ in found], expected)


def _labels(model: Any) -> str:
    import torch

    from tunelift.evaluation.ranking import ranker
    from tunelift.fast.target_model import target_model
    from tunelift.fast.unpad import sped_up

    labels = [[40, 41, 2], [40, 2], [50, 51, 52, 2]]
    expected = [_scores(model, row, label) for row in ROWS for label in labels]
    with sped_up(model):
        view, _ = target_model(model)
        rank, _ = ranker(view, torch.device("cpu"), 8, (ROWS[0], labels))
        found = rank.rank(ROWS, [labels] * 3, None, lambda *_: None)
    return _verdict([value for row in found for value in row], expected)


def _answers(model: Any) -> str:
    from tunelift.evaluation.answers import greedy
    from tunelift.evaluation.generation import Decoding
    from tunelift.fast.target_model import target_model
    from tunelift.fast.unpad import sped_up

    expected = []
    for row in ROWS:
        whole = list(row)
        for _ in range(6):
            whole.append(int(_alone(model, whole)[-1].argmax()))
        expected.append(whole[len(row) :])
    with sped_up(model):
        generate, state = greedy(model, None, target_model(model)[0].nats)
        found = [answer.ids for answer in generate(ROWS, Decoding(set(), 6), 8, lambda *_: None)]
    if found == expected and state != "on":
        return "right (one by one)"
    return "right" if found == expected else f"wrong: {sum(a != b for a, b in zip(found, expected, strict=True))} of 3"


def _loss_and_gradients(model: Any, loss: Any) -> list[float]:
    model.zero_grad()
    loss.backward()
    sizes = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
    return [float(loss.detach()), *sizes]


class StockError(Exception):
    """Stock itself cannot do it."""


def _of_stock(model: Any, loss: Any) -> list[float]:
    try:
        return _loss_and_gradients(model, loss())
    except Exception as error:
        raise StockError(_line(error)) from error


def _adapted(model: Any) -> Any:
    from tunelift.adapters.build import attach, peft_config
    from tunelift.adapters.targets import linear_targets

    named = linear_targets(model, "CAUSAL_LM")
    keys = {"r": 4, "target_modules": named[0] if named else "all-linear", "init_lora_weights": False}
    return attach(model, peft_config(keys, "CAUSAL_LM"), seed=0)


def _training(model: Any) -> str:
    import torch
    import torch.nn.functional as F

    from tunelift.fast.target_model import target_model
    from tunelift.fast.unpad import sped_up

    model = _adapted(model)
    parts = [model(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1] for row in ROWS]
    targets = torch.tensor([token for row in ROWS for token in row[1:]])
    expected = _of_stock(model, lambda: F.cross_entropy(torch.cat(parts), targets, reduction="sum"))
    width = max(map(len, ROWS))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ROWS])
    with sped_up(model):
        view, _ = target_model(model)
        if hasattr(view, "frozen"):
            view.frozen.skip_below = 0.0
        labels = ids.masked_fill(mask == 0, -100)
        found = _loss_and_gradients(model, view.loss_sum({"input_ids": ids, "attention_mask": mask}, labels))
    if len(found) != len(expected):
        return f"wrong: {len(found)} gradients of {len(expected)}"
    return _verdict(found, expected, OF_GRADIENTS)


def _without_dropout(model: Any) -> Any:
    """Return the model without what is drawn at random, which cannot be compared."""
    for module in model.modules():
        for name in ("dropout", "p", "attention_dropout", "activation_dropout", "attn_pdrop", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def _apply(model: Any) -> str:
    import torch

    from tunelift.fast import apply, restore
    from tunelift.fast.undo import without_cache

    model = _without_dropout(_adapted(model))
    ids = torch.tensor([ROWS[0], ROWS[2][:8]])
    inputs = {"input_ids": ids, "labels": ids, **without_cache(model)}
    expected = _of_stock(model, lambda: model.train()(**inputs).loss)
    states = apply(model)
    found = _loss_and_gradients(model, model(**inputs).loss)
    restore(model)
    if len(found) != len(expected):
        return f"wrong: {len(found)} gradients of {len(expected)}"
    verdict = _verdict(found, expected, OF_GRADIENTS)
    off = states.get("target_only_head", "on")
    return f"{verdict} ({off})" if verdict == "right" and off != "on" else verdict


def _bfloat16(model: Any) -> str:
    """Where a mixture's tokens go to other experts by a rounding, that is chance; what is wrong is wrong again."""
    found = _rounds(model)
    again = [_rounds(tiny(model.built_as, seed=seed)) for seed in (1, 2)] if found.startswith("wrong") else []
    return "right" if again == ["right", "right"] else found


def _rounds(model: Any) -> str:
    import torch

    from tunelift.evaluation.likelihood import log_likelihoods
    from tunelift.fast.rounding import ROUNDINGS
    from tunelift.fast.target_model import target_model
    from tunelift.fast.unpad import sped_up

    model = model.to(torch.bfloat16)
    shared = [5 + 11 * i % 140 for i in range(20)]
    rows = [
        [*shared, *(9 + 13 * i % 140 for i in range(30))],
        [*shared, *(7 + 17 * i % 140 for i in range(30))],
        ROWS[2],
    ]
    pairs = [(row[:end], [row[end]]) for row in rows for end in range(3, len(row))]
    try:
        own = [_scores(model, *pair) for pair in pairs]
    except RuntimeError as error:
        return f"refused by stock: {_line(error)}"
    wide = deepcopy(model).float()
    exact = [_scores(wide, *pair) for pair in pairs]
    with sped_up(model, "forward"):
        view, _ = target_model(model, rows)
        found = [value for value, _ in log_likelihoods(view, pairs, torch.device("cpu"), 8, lambda *_: None)]
    # Of a mixture's tokens a few may go to other experts by a rounding, with either way of computing.
    most = len(exact) * 19 // 20
    ours, plain = (
        torch.tensor([a - b for a, b in zip(some, exact, strict=True)]).abs().sort().values[:most].norm().item()
        for some in (found, own)
    )
    if ours <= max(ROUNDINGS * plain, 2**-8 * most**0.5):  # or what bfloat16 cannot tell apart at one
        return "right"
    return f"wrong: {ours / plain:.1f} times the plain rounding"


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{i}": i for i in range(4, 160)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _tuned(model: Any, again: Any, rows: list[dict[str, str]], task: str, tokenizer: Any) -> str:
    """Train three steps with every proof, and put what was saved on another copy of the model with peft alone."""
    import peft

    import tunelift

    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/run"
        tuned = tunelift.tune(model, tokenizer, rows, task=task, output=out, steps=3, batch_size=4, learning_rate=1e-2)
        loaded = peft.PeftModel.from_pretrained(again, f"{out}/adapter").eval()
        found, expected = (_logits(one.eval(), [*ROWS[2], 2]).flatten().tolist() for one in (loaded, tuned))
    return _verdict(found, expected)


def _logits(model: Any, row: list[int]) -> Any:
    import torch

    from tunelift.fast.undo import without_cache

    with torch.no_grad():
        ids = torch.tensor([row])
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **without_cache(model)).logits[0].double()


def _tune(model: Any) -> str:
    rows = [{"prompt": f"w{5 + i} w{7 + i}", "completion": f" w{20 + i} w{21 + i} w{9 + i}"} for i in range(16)]
    return _tuned(model, tiny(model.built_as), rows, "causal-lm", _tokenizer())


def _line(error: Exception) -> str:
    return " ".join((str(error) or repr(error)).split())[:160].replace("|", "/")


def _in_one_thread(kind: str, checks: tuple[str, ...]) -> dict[str, str]:
    import torch

    torch.set_num_threads(1)
    return tried(kind, checks)


def in_a_process(kind: str, checks: tuple[str, ...]) -> dict[str, str]:
    """Try a kind in a copy of this process, in which torch and transformers are loaded already."""
    queue = fork.Queue()
    process = fork.Process(target=lambda: queue.put(_in_one_thread(kind, checks)))
    process.start()
    try:
        found: dict[str, str] = queue.get(timeout=SECONDS)
    except Empty:
        process.kill()
        return {"built": f"crashed: not done after {SECONDS} s, or ended"}
    process.join()
    return found


def page(found: dict[str, dict[str, dict[str, str]]]) -> str:
    import transformers

    lines = [
        "# Every decoder and every classifier",
        "",
        f"Written by `python tests/architectures.py --write` with transformers {transformers.__version__}. What the",
        "columns are stands at the head of that file. Models are tiny ones with random weights, from their configs.",
        "What is right is what transformers computes there, on a CPU: of MRA that is a model without attention",
        "(`findings/transformers-mra-attends-to-nothing-on-a-cpu.sh`).",
    ]
    for title, checks in TITLES.items():
        results = found[title]
        built = {kind: r for kind, r in results.items() if "built" not in r}
        whole = sum(all(r[c].startswith(("right", "refused")) for c in checks) for r in built.values())
        lines += [
            "",
            f"## {title}",
            "",
            f"{len(results)} classes, {len(built)} of them built; {whole} of these are right, or ",
        ]
        lines[-1] += "refused before anything is computed, in every column."
        lines += ["", f"| model type | {' | '.join(checks)} |", "|---" * (1 + len(checks)) + "|"]
        for kind, result in sorted(results.items()):
            lines.append(f"| {kind} | {' | '.join(result.get(c, result.get('built', '')) for c in checks)} |")
    return "\n".join(lines) + "\n"


TITLES = {"Decoders": DECODERS, "Classifiers": CLASSIFIERS}


def read_page() -> dict[str, dict[str, dict[str, str]]]:
    """Return what the page says: by title and model type, each check's cell."""
    found: dict[str, dict[str, dict[str, str]]] = {title: {} for title in TITLES}
    title = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else ():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("## "):
            title = line[3:]
        elif line.startswith("| ") and not line.startswith("| model type"):
            checks = dict(zip(TITLES[title], cells[1:], strict=True))
            found[title][cells[0]] = {"built": cells[1]} if cells[1].startswith("not built") else checks
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="model types, separated by commas")
    parser.add_argument("--title", choices=TITLES, help="decoders alone, or classifiers")
    parser.add_argument("--write", action="store_true", help="write the page; what was not tried now stays as it is")
    options = parser.parse_args()
    import peft  # noqa: F401  (before processes are copied)
    import torch
    import transformers.generation.utils  # noqa: F401

    import tunelift.pipeline.stages  # noqa: F401

    torch.set_num_threads(1)
    found = read_page()
    for title, checks in TITLES.items():
        every = kinds() if title == "Decoders" else classifiers()
        wanted = [kind for kind in every if kind in options.only.split(",") or not options.only]
        for kind in wanted if options.title in (None, title) else ():
            found[title][kind] = in_a_process(kind, checks)
            print(kind, json.dumps(found[title][kind]), flush=True)
            if options.write:
                PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
