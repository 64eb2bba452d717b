"""Opening a stranger's model, adapter or data: nothing of it runs, nothing is connected to, and it is said why.

One process opens the whole corpus (audit hooks cannot be taken off), without a network where the system allows it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hostile_tasks
import pytest
from click.testing import CliRunner
from hostile_corpus import ENDLESS, PICKLE_NAMES, Corpus, build, sets, writes

import tiny_models
from tiny_tokenizers import CHAT, byte_level
from tunelift.adapters.build import check_keys
from tunelift.cli.main import cli
from tunelift.core.errors import InputError
from tunelift.models import load
from tunelift.untrusted.templates import bounded

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model with tokenizer and chat template, and an adapter for it."""
    folder = tmp_path_factory.mktemp("sound")
    model = tiny_models.causal("llama")
    model.save_pretrained(folder / "model")
    byte_level(template=CHAT).save_pretrained(folder / "model")
    tiny_models.adapted(model).save_pretrained(folder / "adapter")
    return folder / "model", folder / "adapter"


@pytest.fixture(scope="module")
def corpus(sound: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    corpus = build(tmp_path_factory.mktemp("strangers"), *sound)
    hostile_tasks.build(corpus)
    return corpus


@pytest.fixture(scope="module")
def answers(corpus: Corpus, sound: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    probe = [sys.executable, str(HERE / "hostile_probe.py"), str(corpus.root), *map(str, sound)]
    alone = ["unshare", "-rn"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        alone = []  # the hook sees what is connected to; here it could even succeed
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS"))}
    own = keep | {
        "TUNELIFT_CACHE": str(tmp_path_factory.mktemp("cache")),
        "HF_HOME": str(tmp_path_factory.mktemp("hf")),
    }
    asked = json.dumps([asdict(case) for case in corpus.cases])
    done = subprocess.run([*alone, *probe], input=asked, capture_output=True, text=True, env=own, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_each_is_refused_with_what_and_why_or_loads(corpus: Corpus, answers: list[dict[str, Any]]) -> None:
    assert len(answers) == len(corpus.cases) > 150
    wrong = {}
    for case, answer in zip(corpus.cases, answers, strict=True):
        said = answer["said"]
        if (case.said is None) != (said is None) or (said and case.said and not re.search(case.said, said, re.DOTALL)):
            wrong[case.name] = said
    assert wrong == {}


def test_nothing_of_them_ran_and_nothing_was_connected_to(corpus: Corpus, answers: list[dict[str, Any]]) -> None:
    seen = {case.name: answer["seen"] for case, answer in zip(corpus.cases, answers, strict=True) if answer["seen"]}
    assert seen == {}
    assert not corpus.canary.exists()


def test_the_canary_and_the_hook_can_fail(corpus: Corpus, sound: tuple[Path, Path], tmp_path: Path) -> None:
    """Were a pickle opened, both would tell."""
    shutil.copytree(sound[0], tmp_path / "own" / "model")
    (tmp_path / "own").rename(tmp_path / "strangers")
    canary = tmp_path / "strangers" / "CANARY"
    own = Corpus(tmp_path / "strangers", *sound)
    own.pickled("evil.bin")(tmp_path / "strangers")
    code = (
        "import sys; sys.argv = ['probe', sys.argv[1], '', '']; import builtins\n"
        f"source = open({str(HERE / 'hostile_probe.py')!r}).read().split('progress.quiet = True')[0]\n"
        "exec(source); sys.addaudithook(hook); watching = True\n"
        "import pickle; pickle.load(open(sys.argv[1] + '/evil.bin', 'rb')); watching = False\n"
        "print(len([event for event in seen if 'find_class' in event]), len([e for e in seen if e.startswith('open')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "strangers")], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["1", "1"], done.stderr
    assert canary.exists()


@pytest.mark.parametrize("name", ENDLESS)
def test_templates_that_never_end_are_stopped(name: str, sound: tuple[Path, Path]) -> None:
    tokenizer = load(sound[0], dtype="float32").tokenizer
    tokenizer.chat_template = ENDLESS[name]
    with pytest.raises(InputError, match=r"^Row 1 (did not end within 0.5 seconds|grew beyond)"), bounded("Row 1", 0.5):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)


def test_transformers_renders_templates_in_the_immutable_sandbox() -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers.utils import chat_template_utils

    compiled = chat_template_utils._compile_jinja_template("{{ messages }}")
    assert isinstance(compiled.environment, ImmutableSandboxedEnvironment)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"megatron_config": {"a": 1}}, r"megatron_config: it is .*, which makes peft import a module by name"),
        ({"megatron_core": "evil"}, r"megatron_core: it is 'evil', which is none of megatron\.core"),
        ({"auto_mapping": {"parent_library": "evil"}}, r"auto_mapping\.parent_library: it is .* peft would import"),
        ({"corda_config": {"cache_file": "evil.pt"}}, r"corda_config\.cache_file: it is .* names another file"),
    ],
)
def test_a_config_of_ones_own_names_no_code_or_pickle_either(keys: dict[str, Any], said: str) -> None:
    """A config is shared like any other file: the keys that an adapter's file must not have are refused in it too."""
    (problem,) = check_keys(keys)
    assert re.match(rf"adapter\.{said}.* Leave it out\.$", problem), problem


def doctor(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["doctor", *arguments])
    return done.exit_code, done.output


def test_doctor_says_of_each_file_what_is_done_with_it(sound: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound[0], folder)
    own = Corpus(tmp_path, *sound)
    own.pickled(*PICKLE_NAMES)(folder)
    own.code("modeling_evil.py")(folder)
    code, text = doctor(str(folder))
    assert code == 0
    assert "ok       config.json" in text
    assert "ignored  modeling_evil.py is code; it is never imported or run." in text
    assert "Safe to load." in text
    for name in PICKLE_NAMES:
        assert f"ignored  {name} can run code when it is opened" in text
    sets("tokenizer_config.json", tokenizer_class="os.system")(folder)
    writes("tokenizer.json", "[" * 9999)(folder)
    code, text = doctor(str(folder), "--json")
    found = {finding["file"]: finding for finding in json.loads(text)["files"] if finding["verdict"] == "refused"}
    assert code == 2
    assert "is no tokenizer that transformers has" in found["tokenizer_config.json"]["why"]
    assert set(found) == {"tokenizer_config.json", "tokenizer.json"}
    assert not own.canary.exists()


def test_doctor_knows_adapters_runs_and_single_files(sound: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copytree(sound[1], tmp_path / "run" / "adapter")
    assert doctor(str(tmp_path / "run"))[0] == doctor(str(sound[1]))[0] == 0
    assert doctor(str(sound[0] / "model.safetensors")) == (0, "ok       model.safetensors\nSafe to load.\n")
    (tmp_path / "bomb.gguf").write_bytes(b"GGUF" + b"\xff" * 20)
    code, text = doctor(str(tmp_path / "bomb.gguf"))
    assert (code, "is not a sound GGUF file" in text) == (2, True)
    (tmp_path / "empty").mkdir()
    code, text = doctor(str(tmp_path / "empty"))
    assert (code, "holds neither config.json with model.safetensors" in text) == (2, True)
    assert doctor("--json")[0] == 2
