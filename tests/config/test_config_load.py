from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelift.config import yaml_text
from tunelift.config.load import default_output, dump, load_config
from tunelift.config.schema import Config
from tunelift.core.errors import InputError

BOMB = "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in pairwise("abcdefgh"))


def problems(*arguments: Any, **keywords: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_config(*arguments, **keywords)
    return list(caught.value.problems)


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_nothing_given_is_the_defaults() -> None:
    assert load_config(None) == Config()


def test_flags_win_over_overrides_and_overrides_over_the_file(write) -> None:
    path = write("model: gpt2\ntrain: {epochs: 2, learning_rate: 1e-3, batch_size: 4}\n")
    config = load_config(path, ["train.epochs=3", "train.learning_rate=1e-4"], {"train.epochs": "5"})
    assert (config.train.epochs, config.train.learning_rate, config.train.batch_size) == (5, 1e-4, 4)


def test_an_override_leaves_the_rest_of_its_section_alone(write) -> None:
    config = load_config(write("model: gpt2\n"), ["model.dtype=float32"])
    assert (config.model.name, config.model.dtype) == ("gpt2", "float32")


def test_short_forms(write) -> None:
    config = load_config(write("model: gpt2\ndata: rows.csv\nadapter: lora\n"))
    assert (config.model.name, config.data.train, config.adapter.method) == ("gpt2", "rows.csv", "lora")


def test_a_section_with_nothing_under_it_has_its_defaults(write) -> None:
    assert load_config(write("model: gpt2\ntrain:\n")).train == Config().train


def test_scalars_are_read_as_yaml_1_2_reads_them(write) -> None:
    config = load_config(write("train: {learning_rate: 1e-4}\ndata: {labels: [yes, no, 0, 1.5], id: 12:30}\n"))
    assert config.train.learning_rate == 1e-4
    assert config.data.labels == ["yes", "no", "0", "1.5"]
    assert config.data.id == "12:30"


def test_the_adapter_takes_keys_of_its_own(write) -> None:
    config = load_config(
        write("adapter: {method: lora, r: 4, target_modules: [q, v]}\n"),
        ["adapter.lora_alpha=32", "adapter.rank_pattern={q: 2}", "adapter.alpha_pattern.q=3"],
    )
    own = {"r": 4, "target_modules": ["q", "v"], "lora_alpha": 32, "rank_pattern": {"q": 2}, "alpha_pattern": {"q": 3}}
    assert config.adapter.model_extra == own


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("data.completion= {category} ", "data", "completion", " {category} "),
        ("data.prompt=Message: {text}\\nIntent:", "data", "prompt", "Message: {text}\nIntent:"),
        ("data.prompt=a=b", "data", "prompt", "a=b"),
        ("model.revision=12345e7", "model", "revision", "12345e7"),
        ("model.revision=null", "model", "revision", None),
        ("data.train=C: rows.csv", "data", "train", "C: rows.csv"),
        ("data.test=0.2", "data", "test", 0.2),
        ("data.test=test.csv", "data", "test", "test.csv"),
        ("data.labels=yes, no", "data", "labels", ["yes", "no"]),
        ("data.labels=[a, 'b, c']", "data", "labels", ["a", "b, c"]),
        ("data.labels=7", "data", "labels", ["7"]),
        ("evaluate.stop=\\n", "evaluate", "stop", ["\n"]),
        ("evaluate.stop=a, b", "evaluate", "stop", ["a, b"]),
        ("evaluate.metrics=accuracy,loss", "evaluate", "metrics", ["accuracy", "loss"]),
        ("data.deduplicate=false", "data", "deduplicate", False),
        ("train.epochs=0.5", "train", "epochs", 0.5),
    ],
)
def test_override_values(override: str, section: str, key: str, value: Any) -> None:
    assert getattr(getattr(load_config(None, [override]), section), key) == value


def test_every_problem_is_reported_at_once_with_its_line(write) -> None:
    path = write(
        "model: gpt2\ntask: causal-ml\ntrain:\n  learnig_rate: 1e-4\n  epochs: many\n  batch_size: 8.5\nmodle: x\n"
    )
    found = problems(path, ["train.steps", "evaluate.stopp=x"], {"train.max_length": "0"})
    assert found == [
        '"train.steps" is not an override. Write key=value, such as train.learning_rate=1e-4.',
        f"task ({path}, line 2): 'causal-ml' is not allowed (got text). "
        "Allowed: causal-lm, image-classification, masked-lm, multi-label-classification, multiple-choice, preference, "
        "question-answering, regression, sentence-embedding, sequence-classification, sequence-to-sequence or "
        "token-classification, or null for none.",
        f"train.epochs ({path}, line 5): 'many' is not allowed (got text). Allowed: a number above 0.",
        f"train.batch_size ({path}, line 6): 8.5 is not allowed (got a number). Allowed: a whole number above 0.",
        "train.max_length: 0 is not allowed (got a number). Allowed: a whole number above 1.",
        f'train.learnig_rate ({path}, line 4): there is no such key. Did you mean "learning_rate"?',
        'evaluate.stopp: there is no such key. Did you mean "stop"?',
        f'modle ({path}, line 7): there is no such key. Did you mean "model"?',
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.patience=true", "train.patience: true is not allowed (got true or false). Allowed: a whole number"),
        ("train.learning_rate=.inf", "train.learning_rate: inf is not allowed"),
        ("train.warmup=1", "Allowed: a number from 0 and below 1."),
        ("data.validation=1.5", "data.validation: 1.5 is not allowed (got a number). Allowed: a file, or a fraction"),
        ("data.test=true", "data.test: true is not allowed"),
        ("model.dtype=int8", "Allowed: auto, float32, bfloat16 or float16."),
        ("evaluate=fast", "evaluate: 'fast' is not a section; write its keys below it, such as metrics"),
        ("learning_rate=1e-4", "learning_rate: there is no such key. It belongs to a section: train.learning_rate."),
        ("data.batch_size=3", "It belongs to a section: train.batch_size or evaluate.batch_size."),
        ("model.zzzz=3", "model.zzzz: there is no such key. Allowed: name, revision, dtype, quantization, device."),
        ("trust_remote_code=true", "code from a model repository is never run"),
        ("output=s3://bucket/run", "output: s3://bucket/run is an address, and output is a folder of this machine."),
    ],
)
def test_one_problem(override: str, said: str) -> None:
    (problem,) = problems(None, [override])
    assert said in problem


def test_names_of_other_programs_come_with_one_note(write, capsys) -> None:
    path = write("base_model: gpt2\nsequence_len: 64\nlora_r: 4\nadapter: {lora_alpha: 8}\ntrain: {num_epochs: 2}\n")
    config = load_config(path)
    assert (config.model.name, config.train.max_length, config.train.epochs) == ("gpt2", 64, 2)
    assert config.adapter.model_extra == {"r": 4, "lora_alpha": 8}
    assert capsys.readouterr().err == (
        "Names used here: base_model is model.name; sequence_len is train.max_length; lora_r is adapter.r; "
        "train.num_epochs is train.epochs.\n"
    )


def test_one_key_under_two_names_is_refused(write) -> None:
    (problem,) = problems(write("lora_r: 4\nadapter: {r: 8}\n"))
    assert "adapter.r is given a second time" in problem
    assert "line 1" in problem


def test_accumulation_is_explained(write) -> None:
    (problem,) = problems(write("train: {gradient_accumulation_steps: 4}\n"))
    assert "Set batch_size to per_device_train_batch_size x gradient_accumulation_steps" in problem


def test_checks_of_other_rooms_are_in_the_same_list() -> None:
    def check(config: Config) -> list[str]:
        return [f"adapter.q: {config.adapter.model_extra} has no q."]

    assert problems(None, ["adapter.q=1", "train.epochs=x"], checks=[check])[1] == "adapter.q: {'q': 1} has no q."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "config.yaml is empty."),
        ("- a\n", "holds a list, not a mapping."),
        ("a: [\n", "config.yaml, line 2, column 1: not valid YAML"),
        ("model: a\ndata: b\nmodel: c\n", 'line 3, column 1: the key "model" is there twice, first in line 1'),
        ("train: {epochs: 1, epochs: 2}\n", 'the key "epochs" is there twice'),
        ("model: !!python/object/apply:os.system ['true']\n", "line 1, column 8: not valid YAML"),
        ("train: {epochs: " + "9" * 5000 + "}\n", "line 1, column 17: not valid YAML ('999"),
        ("model: !!timestamp 2026-99-99\n", "'2026-99-99' is no timestamp"),
        ("model: !!bool maybe\n", "'maybe' is no bool"),
        ("? [a, b]\n: c\n", "found unhashable key"),
        ("model: &a [*a]\n", "more than 10,000 values with aliases written out"),
        ("a: &a [x, x, x, x, x, x, x, x]\n" + BOMB, "more than 10,000 values with aliases written out"),
        ("a: &a {k: v}\n" + BOMB.replace("[", "{<<: [").replace("]", "]}"), "more than 10,000 values"),
        ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 70)), "or 64 levels"),
        ("a: " + "[" * 100_000, "has more than 50,000 bytes"),
        ("a: " + "[" * 40_000, "nested more than 64 levels deep"),
        ("a:\n" + "".join(" " * n + "- \n" for n in range(1, 300)), "or 64 levels"),
        ('model: "\\0"\n', "holds a NUL character"),
        ('model: "\\ud83d"\n', "half of a character"),
    ],
)
def test_files_that_are_no_config(write, text: str, said: str) -> None:
    (problem,) = problems(write(text))
    assert said in problem


def test_encodings_of_a_config(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes("model: grüße\n".encode(encoding))
        assert load_config(path).model.name == "grüße"
    path.write_bytes("model: grüße\n".encode("latin-1"))
    (problem,) = problems(path)
    assert problem.endswith(
        "config.yaml, line 1: not UTF-8 text: byte 0xfc at column 10. The file seems to be WINDOWS-1252."
    )


def test_bytes_of_a_shell_that_are_no_text_are_refused() -> None:
    (problem,) = problems(None, ["adapter.r\udcff=3"])
    assert problem == "'adapter.r\\udcff': its name or value is no valid text (UTF-8)."
    (problem,) = problems(None, ["model=\udcff"])
    assert problem.startswith("'model.name': its name or value is no valid text")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path / "none.yaml")
    assert problem == f"{tmp_path / 'none.yaml'} cannot be read: No such file or directory."


def test_dump_loads_back_equal(write) -> None:
    given = [
        "model=gpt2",
        "data.prompt=a\\nb: {text}",
        "data.id=1e-4",
        "adapter.r=8",
        "adapter.rank_pattern={0: 2, a: 3}",
        "evaluate.stop=\\n",
    ]
    config = load_config(None, [*given, "data.labels=yes,null", "train.learning_rate=1e-5", "model.revision=12:30"])
    assert load_config(write(dump(config))) == config


def test_a_validation_that_nobody_asked_for_stays_unset(write) -> None:
    assert "validation" not in load_config(write(dump(Config()))).data.model_fields_set
    asked = load_config(None, ["data.validation=0.1"])
    assert "validation" in load_config(write(dump(asked))).data.model_fields_set


def test_dump_describes_objects() -> None:
    def closeness(prediction: str, reference: str) -> float:
        return 0.0

    config = Config.model_validate({"data": {"train": [{"text": "a"}]}, "evaluate": {"metrics": [closeness]}})
    written = yaml_text.parse(dump(config))
    assert written["data"]["train"] == "<1 rows, given in Python>"
    assert written["evaluate"]["metrics"] == ["<closeness, given in Python>"]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_survives_a_dump(text: str) -> None:
    assert yaml_text.parse(yaml_text.dump({"a": text})) == {"a": text}


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        (["model=Qwen/Qwen3-0.6B", "data.train=in/my rows.csv"], "runs/Qwen3-0.6B-my-rows"),
        (["model=models/gemma.gguf", "data.train=bbc-news"], "runs/gemma-bbc-news"),
        (["model=gpt2", "data.test=data/test.v2.jsonl"], "runs/gpt2-test.v2"),
        ([], "runs/model-data"),
    ],
)
def test_default_output(overrides: list[str], folder: str) -> None:
    assert default_output(load_config(None, overrides)) == Path(folder)


def test_more_overrides_than_a_config_may_have_are_refused() -> None:
    with pytest.raises(InputError, match="more than 50,000 characters; put them into a file"):
        load_config(None, ["train.epochs=3"] * 4_000)
