"""Files of strangers who mean harm: folders made from sound ones, each with what it tries and what must be said."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Edit = Callable[[Path], object]

PICKLE_NAMES = (
    *("pytorch_model.bin", "pytorch_model-00001-of-00001.bin", "model.pt", "model.pth", "consolidated.00.pth"),
    *("model.ckpt", "model.pkl", "training_args.bin", "adapter_model.bin", "adapter_model.pt", "tf_model.h5"),
    *("flax_model.msgpack", "rust_model.ot", "vocab.bin", "vocab.pkl", "optimizer.pt", "scheduler.pt", "spk_dict.pt"),
    *("rng_state.pth", "model.joblib", "embeddings.npy", "weights.npz", "saved_model.pb", "model.ckpt.index"),
)
INJECTIONS = {
    "class": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "item": "{{ messages['__class__']['__base__'] }}",
    "filter": "{{ messages | attr('__class__') }}",
    "import": "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
    "include": "{% include '/etc/passwd' %}",
    "frame": "{{ raise_exception.gi_frame.f_globals }}",
    "power": "{{ 'a' * 10 ** 12 }}",
    "number": "{{ 'a'.ljust(99999999999) }}",
    "digits": "{{ " + "9" * 5000 + " }}",
    "large digits": "{{ " + "9" * 4000 + " }}",
}
RENDERED = {
    "hidden item": ("{% set name = '__cla' ~ 'ss__' %}{{ messages[name].x }}", "refuses the messages: .*is unsafe"),
    "hidden call": ("{{ cycler['__in' ~ 'it__'].x }}", "refuses the messages: .*is unsafe"),
    "mutation": ("{{ messages.clear() }}", "refuses the messages: .*is unsafe"),
    "loader": ("{{ self.environment.loader }}", "refuses the messages: .*has no attribute 'environment'"),
    # the sandbox gives nothing for these, and a message that is not in its rendering is missed
    "hidden name": ("{{ messages | attr('__cla' ~ 'ss__') }}", "chat template leaves out the user's message"),
    "format": ("{{ '{0.__class__}'.format(messages) }}", "chat template leaves out the user's message"),
}
"""Injections that are found only when they are rendered, and what is said then."""

ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "gigantic": "{{ 'a' * 999999 * 999999 }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}


class Payload:
    """Creates the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.code = f"open({str(canary)!r}, 'w').close()"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, (self.code,)


@dataclass(frozen=True, slots=True)
class Case:
    """What is opened by which call, and the sentence that must be said; None where it must simply load."""

    name: str
    call: str
    path: str
    said: str | None


class Corpus:
    """Hostile copies of a sound model and a sound adapter, in a folder of their own each."""

    def __init__(self, root: Path, model: Path, adapter: Path) -> None:
        self.root, self.sound = root, {"model": model, "adapter": adapter}
        self.canary, self.secret = root / "CANARY", root / "secret.txt"
        self.secret.write_text("private")
        self.cases: list[Case] = []

    def add(self, name: str, said: str | None, *edits: Edit, call: str = "model") -> None:
        place = self.root / f"{len(self.cases):03d}" / "model"
        shutil.copytree(self.sound["adapter" if call == "adapter" else "model"], place)
        for edit in edits:
            edit(place)
        self.cases.append(Case(name, call, str(place), said))

    def add_file(self, name: str, said: str, file: str, content: bytes, call: str = "model") -> None:
        place = self.root / f"{len(self.cases):03d}" / file
        place.parent.mkdir()
        place.write_bytes(content)
        self.cases.append(Case(name, call, str(place), said))

    def pickled(self, *names: str) -> Edit:
        content = pickle.dumps(Payload(self.canary))
        return lambda folder: [(folder / name).write_bytes(content) for name in names]

    def code(self, name: str) -> Edit:
        """Write a module that creates the canary and defines the class C."""
        text = f"open({str(self.canary)!r}, 'w').close()\nclass C: pass\n"
        return lambda folder: [(folder / name).parent.mkdir(exist_ok=True), (folder / name).write_text(text)]


def sets(file: str, **values: Any) -> Edit:
    """Return an edit that sets keys of a JSON file, which may not be there yet."""

    def edit(folder: Path) -> None:
        path = folder / file
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | values))

    return edit


def writes(file: str, content: str | bytes) -> Edit:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: [(folder / file).parent.mkdir(exist_ok=True), (folder / file).write_bytes(raw)]


def removes(*files: str) -> Edit:
    return lambda folder: [(folder / file).unlink() for file in files]


def links(file: str, target: Callable[[Path], Path]) -> Edit:
    """Return an edit that puts a symbolic link in the place of a file, whose content is moved to the target."""

    def edit(folder: Path) -> None:
        where = target(folder)
        where.parent.mkdir(parents=True, exist_ok=True)
        if (folder / file).exists():
            (folder / file).rename(where)
        (folder / file).symlink_to(where)

    return edit


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS: dict[str, tuple[bytes, str]] = {
    "no header": (b"", "header too small"),
    "length of 2^63": (safetensors({}, length=2**63), "header too large"),
    "length beyond the file": (safetensors({}, length=100), "invalid header length"),
    "not JSON": (safetensors(b"{{{{"), "invalid JSON in header"),
    "not UTF-8": (safetensors(b"\xff\xfe{}"), "invalid UTF-8 in header"),
    "no object": (safetensors([1]), "invalid JSON in header"),
    "deep": (safetensors(b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"), "invalid JSON in header"),
    "digits": (safetensors(b'{"a": ' + b"9" * 9999 + b"}"), "number out of range"),
    "overlap": (safetensors({"a": tensor(0, 4, [1]), "b": tensor(0, 4, [1])}, bytes(8)), "invalid offset"),
    "gap": (safetensors({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, bytes(12)), "invalid offset"),
    "beyond the end": (safetensors({"a": tensor(0, 400, [100])}, bytes(4)), "not fully covered"),
    "hidden data": (safetensors({"a": tensor(0, 4, [1])}, bytes(64)), "not fully covered"),
    "overflow": (safetensors({"a": tensor(0, 0, [2**62, 4])}), "overflow"),
    "negative": (safetensors({"a": tensor(4, 0, [-1])}, bytes(4)), "invalid value"),
    "unknown type": (safetensors({"a": tensor(0, 4, [1], "OBJECT")}, bytes(4)), "unknown variant"),
    "wrong shape": (safetensors({"a": tensor(0, 4, [2])}, bytes(4)), ""),
}
"""What each says besides naming the file; the reasons are the library's own words."""

IN_CONFIG: list[tuple[str, dict[str, Any], str]] = [
    ("config.json", {"trust_remote_code": True}, "comes with it"),
    ("config.json", {"custom_pipelines": {"x": {"impl": "evil.C"}}}, "comes with it"),
    ("config.json", {"custom_generate": "evil/generate"}, "comes with it"),
    ("config.json", {"use_kernels": True}, "compiled kernels"),
    ("config.json", {"kernel_config": {"RMSNorm": "evil/kernels:RMSNorm"}}, "compiled kernels"),
    ("config.json", {"attn_implementation": "evil/attention"}, "is none of eager, sdpa"),
    ("config.json", {"_attn_implementation": "evil/attention@main:run"}, "is none of eager, sdpa"),
    ("config.json", {"_attn_implementation_internal": "/tmp/evil"}, "is none of eager, sdpa"),
    ("config.json", {"attn_implementation": {"": "sdpa", "text_config": "evil/attention"}}, "is none of eager"),
    ("config.json", {"text_config": {"attn_implementation": "evil/attention"}}, "is none of eager, sdpa"),
    ("config.json", {"attn_implementation": "kernels-community/flash-attn"}, "is none of eager, sdpa"),
    ("config.json", {"attn_implementation": "msa|evil/attention"}, "is none of eager, sdpa"),
    ("config.json", {"_experts_implementation": "sonicmoe"}, "is none of eager, batched_mm"),
    ("config.json", {"quantization_config": {"quant_method": "evil.module"}}, "is none of aqlm"),
    ("config.json", {"quantization_config": {"quant_method": "gptq", "trust_remote_code": True}}, "comes with it"),
    ("config.json", {"quantization_config": {"quant_method": "quark"}}, "is none of aqlm"),
    ("config.json", {"quantization_config": {"quant_method": "torchao", "quant_type": {"_type": "evil.C"}}}, "loaded"),
    ("config.json", {"quantization_config": "evil.C"}, "cannot be used"),
    ("config.json", {"dtype": "os.system"}, "cannot be used"),
    ("config.json", {"model_type": "../evil"}, "cannot be used"),
    ("config.json", {"configuration_files": ["config.9.0.0.json", "../../secret.json"]}, "another file"),
    ("config.json", {"transformers_weights": "../../secret.txt"}, "another file"),
    ("config.json", {"transformers_weights": "pytorch_model.bin"}, "another file"),
    ("config.json", {"backbone": "evil/backbone"}, "another model"),
    ("config.json", {"vision_config": {"backbone": "evil/backbone"}}, "another model"),
    ("config.json", {"tokenizer_class": "AutoModelForCausalLM"}, "is no tokenizer that transformers has"),
    ("config.json", {"auto_map": {"AutoConfig": "evil.C"}, "model_type": "evil"}, "no class of its own"),
    ("generation_config.json", {"custom_generate": "evil/generate"}, "comes with it"),
    ("generation_config.json", {"compile_config": {"backend": "evil"}}, "names a compiler"),
    ("generation_config.json", {"cache_implementation": "evil/cache"}, "cannot be loaded"),
    ("generation_config.json", {"eos_token_id": [1, {"a": 1}]}, "is no token's id"),
    ("tokenizer_config.json", {"auto_map": ["evil.C", "evil.C"], "tokenizer_class": None}, "no class of its own"),
    ("tokenizer_config.json", {"tokenizer_class": "os.system"}, "is no tokenizer that transformers has"),
    ("tokenizer_config.json", {"tokenizer_class": "pipeline"}, "is no tokenizer that transformers has"),
    ("tokenizer_config.json", {"tokenizer_class": "AutoTokenizer"}, "is no tokenizer that transformers has"),
    ("tokenizer_config.json", {"tokenizer_class": "EvilTokenizer"}, "is no tokenizer that transformers has"),
    ("tokenizer_config.json", {"vocab_file": "../../secret.txt"}, "outside the folder"),
    ("tokenizer_config.json", {"merges_file": "/etc/passwd"}, "outside the folder"),
    ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.9.json"]}, "another file"),
    ("tokenizer_config.json", {"gguf_file": "../evil.gguf"}, "another file"),
    ("tokenizer_config.json", {"init_inputs": ["../../secret.txt"]}, "another file"),
    ("tokenizer_config.json", {"trust_remote_code": "yes"}, "comes with it"),
    ("tokenizer_config.json", {"sp_model_kwargs": {"model_file": "../../secret.txt"}}, "outside the folder"),
    ("tokenizer_config.json", {"mecab_kwargs": {"mecab_option": "-r ../../secret.txt"}}, "another file"),
    ("special_tokens_map.json", {"vocab_file": "../../secret.txt"}, "outside the folder"),
    ("special_tokens_map.json", {"tokenizer_file": "/etc/passwd"}, "outside the folder"),
    ("special_tokens_map.json", {"chat_template": "{{ messages.__class__ }}"}, "reaches for Python's insides"),
]
NOT_FOLLOWED: list[tuple[str, dict[str, Any]]] = [
    ("config.json", {"_name_or_path": "evil/model", "architectures": ["os.system"], "processor_class": "evil.C"}),
    ("generation_config.json", {"assistant_model": "evil/model", "auto_map": {"AutoModel": "evil.C"}, "validate": 1}),
    ("tokenizer_config.json", {"name_or_path": "evil/model", "backend": "evil", "processor_class": "evil.C"}),
    ("tokenizer_config.json", {"extra_special_tokens": {"__class__": "evil"}}),
    ("processor_config.json", {"auto_map": {"AutoProcessor": "evil.C"}, "audio_tokenizer": "evil/model"}),
    ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.C"}}),
    ("chat_template.json", {"chat_template": "{{ messages.__class__ }}"}),
]
"""Files and keys that no loader follows here: the model loads as if they were not there."""

IN_ADAPTER: list[tuple[dict[str, Any], str]] = [
    ({"auto_mapping": {"parent_library": "evil", "base_model_class": "C"}}, "peft would import"),
    ({"auto_mapping": {"parent_library": "transformersevil", "base_model_class": "C"}}, "peft would import"),
    ({"auto_mapping": {"parent_library": ["transformers"], "base_model_class": "C"}}, "peft would import"),
    ({"megatron_config": {"a": 1}}, "import a module by name"),
    ({"megatron_core": "evil"}, "is none of megatron.core"),
    ({"tokenizer_kwargs": {"trust_remote_code": True}}, "loader of tokenizers"),
    ({"peft_type": "EVIL"}, "is no PEFT method"),
    ({"peft_type": "XLORA", "adapters": {"a": "evil/adapter"}}, "another model or adapter"),
    ({"peft_type": "SHADOW", "shadow_model": "evil/model"}, "another model or adapter|is no PEFT method"),
    ({"peft_type": "PROMPT_TUNING", "tokenizer_name_or_path": "evil/tokenizer"}, "another model or adapter"),
    ({"arrow_config": {"router_temperature": 1}}, "were not tried here: arrow_config"),
    ({"prompt_tuning_init_state_dict_path": "adapter_model.bin"}, "another file"),
    ({"init_lora_weights": "corda", "corda_config": {"cache_file": "adapter_model.bin"}}, "another file"),
]


def build(root: Path, model: Path, adapter: Path) -> Corpus:
    """Write the whole corpus below `root`."""
    corpus = Corpus(root, model, adapter)
    for part in (_pickles, _configs, _templates, _paths, _headers, _adapters, _others):
        part(corpus)
    return corpus


def _pickles(corpus: Corpus) -> None:
    for name in PICKLE_NAMES:
        corpus.add(f"only {name}", r"has no model\.safetensors", removes("model.safetensors"), corpus.pickled(name))
    corpus.add("pickles beside safetensors", None, corpus.pickled(*PICKLE_NAMES))
    index = json.dumps({"weight_map": {"lm_head.weight": "pytorch_model.bin"}})
    named = (corpus.pickled("pytorch_model.bin"), writes("model.safetensors.index.json", index))
    said = r"names pytorch_model\.bin, which is no safetensors"
    corpus.add("index that names a pickle", said, removes("model.safetensors"), *named)
    corpus.add("index beside the weights", None, *named)
    corpus.add("a pickle named .safetensors", "is not a sound safetensors file", corpus.pickled("model.safetensors"))


def _configs(corpus: Corpus) -> None:
    for file, values, said in IN_CONFIG:
        corpus.add(f"{file} {json.dumps(values)}", said, sets(file, **values), corpus.code("evil.py"))
    maps = {"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": ["evil.C", None]}}
    known = (sets("config.json", **maps), sets("tokenizer_config.json", **maps), corpus.code("evil.py"))
    corpus.add("auto_map of a known model", None, *known)
    corpus.add(
        "auto_map of another repository", None, sets("config.json", auto_map={"AutoConfig": "evil/repo--evil.C"})
    )
    for file, values in NOT_FOLLOWED:
        corpus.add(f"not followed: {file} {json.dumps(values)}", None, sets(file, **values), corpus.code("evil.py"))
    corpus.add("custom_generate in the folder", None, corpus.code("custom_generate/generate.py"))
    corpus.add("code under every name", None, *(corpus.code(n) for n in ("setup.py", "conftest.py", "__init__.py")))
    corpus.add(
        "unknown keys", None, sets("config.json", one_more=3, rope_note={"a": [1, 2]}, id2label={"0": "kernels"})
    )
    left_over = {"tokenizer_file": "/home/someone/tokenizer.json", "special_tokens_map_file": "/home/x/map.json"}
    corpus.add("paths left over", None, sets("tokenizer_config.json", **left_over))
    corpus.add("a key twice", "stands twice", writes("config.json", '{"model_type": "llama", "model_type": "evil"}'))
    corpus.add(
        "deep JSON", "nested more than", writes("generation_config.json", '{"a": ' + "[" * 5000 + "]" * 5000 + "}")
    )
    corpus.add("huge JSON", "at most 67,108,864", lambda folder: os.truncate(folder / "config.json", 2**26 + 1))
    corpus.add("huge tokenizer", "at most 67,108,864", lambda folder: os.truncate(folder / "tokenizer.json", 2**26 + 1))
    corpus.add("model_type", "cannot be used", sets("config.json", model_type=["llama"], auto_map=None))
    corpus.add("no object", "a JSON object is expected", writes("tokenizer_config.json", "[]"))
    corpus.add(
        "broken tokenizer", "tokenizer of .* cannot be loaded", writes("tokenizer.json", '{"model": {"type": "X"}}')
    )
    corpus.add("deep tokenizer", "tokenizer of .* cannot be loaded", writes("tokenizer.json", "[" * 9999 + "]" * 9999))
    corpus.add(
        "wrong sizes", "cannot be (used|loaded)", sets("config.json", hidden_size="evil", num_attention_heads=-1)
    )


def _templates(corpus: Corpus) -> None:
    for name, text in INJECTIONS.items():
        template = text.replace("CANARY", str(corpus.canary))
        said = r"chat_template.* (reaches for|loads another|raises to powers|counts to|counts too far)"
        listed = [{"name": "default", "template": "{{ 1 }}"}, {"name": "tool_use", "template": template}]
        corpus.add(f"{name} in JSON", said, sets("tokenizer_config.json", chat_template=template))
        corpus.add(f"{name} in a list", said, sets("tokenizer_config.json", chat_template=listed))
        corpus.add(f"{name} in jinja", said, writes("chat_template.jinja", template))
        corpus.add(f"{name} beside", said, writes("additional_chat_templates/x.jinja", template))
    corpus.add("huge template", "at most 1,048,576", writes("chat_template.jinja", "a" * (2**20 + 1)))
    corpus.add(
        "deep template", "nested too deep", writes("chat_template.jinja", "{{ " + "(" * 50000 + ")" * 50000 + " }}")
    )
    for name, (text, said) in RENDERED.items():
        corpus.add(f"{name} rendered", said, writes("chat_template.jinja", text), call="chat")


def _paths(corpus: Corpus) -> None:
    said = "leads outside the folder"
    outside: dict[str, Callable[[Path], Path]] = {
        "beside": lambda folder: folder.parent / "elsewhere" / "file",
        "sibling prefix": lambda folder: folder.with_name("model-evil") / "file",
        "absolute": lambda folder: corpus.root / "absolute" / folder.parent.name,
    }
    for name, target in outside.items():
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            corpus.add(f"{file} linked to {name}", said, links(file, target))
    beside = links("additional_chat_templates", lambda folder: folder.with_name("elsewhere"))
    corpus.add("linked templates", "outside the folder", writes("additional_chat_templates/x.jinja", "a"), beside)
    corpus.add("a link to a secret", said, lambda folder: (folder / "vocab.txt").symlink_to(corpus.secret))
    corpus.add("links in a circle", "leads nowhere", lambda folder: (folder / "vocab.txt").symlink_to("vocab.txt"))
    corpus.add("a link inside", None, links("config.json", lambda folder: folder / "real.json"))
    for name in ("../model-evil/model.safetensors", "../../secret.txt", "/etc/passwd"):
        index = writes("model.safetensors.index.json", json.dumps({"weight_map": {"a": name}}))
        corpus.add(f"index that names {name}", "lies outside the folder", removes("model.safetensors"), index)
    corpus.add(
        "a pipe", "no regular file", removes("tokenizer.json"), lambda folder: os.mkfifo(folder / "tokenizer.json")
    )
    corpus.add(
        "an adapter in the model", "holds an adapter", sets("adapter_config.json", base_model_name_or_path="e/e")
    )


def _hub_caches(corpus: Corpus) -> None:
    """Lay snapshots out as the Hub's cache does, with links to blobs/, and one whose links lead to blobs-evil/."""
    for store, said in (("blobs", None), ("blobs-evil", "leads outside the folder")):
        home = corpus.root / f"hub-{store}" / "models--a--b"
        shutil.copytree(corpus.sound["model"], home / store)
        snapshot = home / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        for file in (home / store).iterdir():
            (snapshot / file.name).symlink_to(Path("..", "..", store, file.name))
        corpus.cases.append(Case(f"snapshot linked to {store}", "model", str(snapshot), said))


def _headers(corpus: Corpus) -> None:
    for name, (content, said) in HEADERS.items():
        sentence = f"model.safetensors is not a sound safetensors file: .*{said}"
        corpus.add(f"header: {name}", sentence, writes("model.safetensors", content))
        corpus.add(f"adapter's header: {name}", sentence, writes("adapter_model.safetensors", content), call="adapter")


def _adapters(corpus: Corpus) -> None:
    for values, said in IN_ADAPTER:
        edits = (sets("adapter_config.json", **values), corpus.code("evil.py"), corpus.pickled("adapter_model.bin"))
        corpus.add(f"adapter {json.dumps(values)}", said, *edits, call="adapter")
    only = (removes("adapter_model.safetensors"), corpus.pickled("adapter_model.bin"))
    corpus.add("only adapter_model.bin", r"has no adapter_model\.safetensors", *only, call="adapter")
    corpus.add("pickles beside the adapter", None, corpus.pickled(*PICKLE_NAMES), call="adapter")
    corpus.add("another base", None, sets("adapter_config.json", base_model_name_or_path="evil/base"), call="adapter")
    mapping = {"parent_library": "transformers.models.llama.modeling_llama", "base_model_class": "LlamaForCausalLM"}
    corpus.add("peft's own mapping", None, sets("adapter_config.json", auto_mapping=mapping), call="adapter")
    link = links("adapter_model.safetensors", lambda folder: folder.with_name("model-evil") / "file")
    corpus.add("linked adapter", "leads outside the folder", link, call="adapter")
    for lineage in ("[]", '{"base": ["evil"]}', '{"base": {"name": ["evil"]}}', '{"labels": {"a": 1}}'):
        said = r"tunelift\.json.* (object is expected|are no texts)"
        corpus.add(f"lineage {lineage}", said, writes("tunelift.json", lineage), call="adapter")


def _others(corpus: Corpus) -> None:
    corpus.add_file("an archive as a model", r"is a file, but no \.gguf file", "model.tar.gz", b"\x1f\x8b")
    corpus.add_file("an archive as data", "no known format", "rows.zip", b"PK\x03\x04", call="data")
    corpus.add_file(
        "a pickle as data", "no known format", "rows.pkl", pickle.dumps(Payload(corpus.canary)), call="data"
    )
    corpus.add_file("a script as data", "no known format", "rows.py", b"import evil", call="data")
    script = corpus.root / "data-with-script"
    script.mkdir()
    corpus.code("data-with-script.py")(script)
    corpus.cases.append(Case("a folder with a script", "data", str(script), "holds no split files.*never run"))
    linked = corpus.root / "data-with-link"
    linked.mkdir()
    corpus.secret.with_suffix(".csv").write_text("prompt,completion\na,b\n")
    (linked / "test.csv").symlink_to(corpus.secret.with_suffix(".csv"))
    corpus.cases.append(Case("a folder with a link", "data", str(linked), "leads outside the folder"))
    text = struct.Struct("<Q").pack
    pairs = [(b"general.architecture", b"llama"), (b"tokenizer.chat_template", INJECTIONS["globals"].encode())]
    body = b"".join(text(len(k)) + k + struct.pack("<I", 8) + text(len(v)) + v for k, v in pairs)
    gguf = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body
    corpus.add_file("injection in GGUF", r"tokenizer\.chat_template reaches for", "model.gguf", gguf)
