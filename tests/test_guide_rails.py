"""The rails of the design: small files and functions, rooms that import one way, a light command line, few keys."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tunelift"
FILES = sorted(SOURCE.rglob("*.py"))

# From left to right: a room imports only rooms further right, and no neighbour on its own step.
STEPS = [
    {"cli"},
    {"scale"},
    {"pipeline"},
    {"planning", "reporting", "serving", "exporting"},
    {"training"},
    {"evaluation"},
    {"adapters"},
    {"models"},
    {"tasks"},
    {"fast", "data", "comparison"},
    {"metrics", "model_facts"},
    {"untrusted"},
    {"config"},
    {"wording"},
    {"core"},
    {"run_files"},
]
STEP_OF = {room: step for step, rooms in enumerate(STEPS) for room in rooms}

EXCEPTIONS = {
    "fast/lora.py:forward": "torch.autograd.Function passes every input by position",
    "data/shards.py:state.json": "so datasets calls a file of its own",
}
"""What may break a rail ("file.py", "file.py:function" or "file.py:text"), each with its reason."""

BLOCKS = (ast.For, ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.Lambda, ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


def name_of(file: Path) -> str:
    return str(file.relative_to(SOURCE))


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, FUNCTIONS) and f"{name_of(file)}:{node.name}" not in EXCEPTIONS:
                yield f"{name_of(file)}:{node.name}", node


def depth(node: ast.AST, level: int = 0) -> int:
    """Return how deep blocks are nested below a node; `elif` is no deeper than its `if`."""
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child, level + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        parts = [name.split(".") for name in names]
        rooms |= {part[1] for part in parts if part[0] == "tunelift" and len(part) > 1 and part[1] in STEP_OF}
    return rooms


def test_files_have_at_most_400_lines() -> None:
    lines = {name_of(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {name: n for name, n in lines.items() if n > 400 and name not in EXCEPTIONS} == {}


def test_functions_have_at_most_60_lines() -> None:
    lines = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    assert {name: n for name, n in lines.items() if n > 60} == {}


def test_blocks_are_nested_at_most_3_deep() -> None:
    depths = {name: depth(node) for name, node in functions()}
    assert {name: n for name, n in depths.items() if n > 3} == {}


def test_functions_take_at_most_6_positional_parameters() -> None:
    counts = {}
    for name, node in functions():
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        counts[name] = len([argument for argument in names if argument not in ("self", "cls")])
    assert {name: n for name, n in counts.items() if n > 6} == {}


TAKES_ALL_SETTINGS = {
    "a command, which hands each part its section": {
        *("pipeline/run.py:run", "pipeline/api.py:run", "pipeline/generating.py:generate_stage"),
        *("pipeline/api.py:plan", "pipeline/api.py:_whole"),
        *("pipeline/stages.py:tune_stage", "pipeline/stages.py:evaluate_stage", "pipeline/stages.py:compare_adapter"),
        *("pipeline/stages.py:_to_measure", "pipeline/exporting.py:_made", "pipeline/advising.py:advise"),
        *("pipeline/preparing.py:prepare", "pipeline/planning.py:plan", "pipeline/planning.py:shortened"),
        *(
            f"pipeline/many_plans.py:{name}"
            for name in ("__init__", "bytes_of", "largest", "refuse_others", "_facts_of", "_made")
        ),
    },
    "fills in one section by what another says": {
        *("pipeline/choices.py:task_for", "pipeline/choices.py:settled", "pipeline/choices.py:with_adapter_facts"),
    },
    "a sweep or a leaderboard, which makes whole configs of one": {
        *(
            "scale/sweep.py:candidates",
            "scale/sweep.py:sweep",
            "scale/sweep.py:_swept",
            "scale/leaderboard.py:_ranked",
            "scale/leaderboard.py:_text_of",
            "scale/sweep.py:_made",
            "scale/sweep.py:_bring",
            "scale/sweep.py:_search_of",
            "scale/sweep.py:_search_in",
            "scale/sweep.py:_wrong_seeds",
        ),
        *("scale/candidates.py:with_values", "scale/leaderboard.py:entries", "scale/leaderboard.py:rank"),
        *("scale/leaderboard.py:_problems", "scale/leaderboard.py:_refuse_another", "scale/leaderboard.py:_finals"),
    },
    "a check of what was given, wherever it stands": {"cli/command.py:_missing", "cli/command.py:adapter_problems"},
    "a run's folder, which is named after the whole, holds it, and is refused to another": {
        *("config/load.py:default_output", "config/load.py:dump", "pipeline/tracking.py:settings_of"),
        *("pipeline/sharing.py:tells_its_stages", "pipeline/sharing.py:told"),
        *("pipeline/folder.py:__init__", "pipeline/folder.py:open", "pipeline/folder.py:refuse_another_run"),
    },
}
"""The functions that take a whole Config, by the reason why. Every other one takes the sections that it needs."""


def takes_all_settings(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = [part for part in ast.walk(function.args) if isinstance(part, (ast.Name, ast.Attribute))]
    return any(ast.unparse(name).rpartition(".")[2] == "Config" for name in names)


def test_few_functions_take_the_whole_config() -> None:
    known = set[str]().union(*TAKES_ALL_SETTINGS.values())
    assert {name for name, node in functions() if takes_all_settings(node)} == known


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        *(("a: Config", True), ("*, a: str | Config | None = None", True), ("*a: schema.Config", True)),
        *(("a: LoraConfig, config: TrainSection", False), ("config", False)),
    ],
)
def test_a_whole_config_is_seen(arguments: str, seen: bool) -> None:
    function = ast.parse(f"def f({arguments}) -> Config: pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert takes_all_settings(function) == seen


def test_the_depth_of_blocks_is_counted() -> None:
    code = "def f():\n for a in b:\n  if a:\n   while a:\n    with a: pass\n  elif b: pass\n  elif c: pass\n"
    assert depth(ast.parse(code).body[0]) == 4


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_rooms_import_one_way(file: Path) -> None:
    room = file.relative_to(SOURCE).parts[0]
    if room not in STEP_OF:  # __init__.py and __main__.py stand outside the rooms
        assert room in ("__init__.py", "__main__.py"), f"{room} is no room of the design"
        return
    others = imported_rooms(file) - {room}
    wrong = {other for other in others if STEP_OF[other] <= STEP_OF[room]}
    assert wrong == set(), f"{name_of(file)} may not import {wrong}"


def imports_of(files: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which modules each module imports, anywhere in its code: {name: source} -> {name: names}.

    Imports within functions and for type checkers count. `from package import name` is an import of the submodule,
    where there is one of that name, and of the package otherwise.
    """
    found = {}
    for module, source in files.items():
        names = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                names |= {name if name in files else node.module for name in inner}
        found[module] = {name for name in names if name in files and name != module}
    return found


def circle_in(imports: Mapping[str, Set[str]]) -> list[str]:
    """Return a circle of modules, each of which imports the next and the last the first; empty where there is none."""
    left = {module: set(names) for module, names in imports.items()}
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    way: list[str] = []  # every module left imports one that is left, so that any way through them closes
    here = min(left, default="")
    while here and here not in way:
        way.append(here)
        here = min(left[here] & left.keys())
    return way[way.index(here) :] if way else []


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {file: ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts) for file in FILES}
    files = {name.removesuffix(".__init__"): file.read_text(encoding="utf-8") for file, name in names.items()}
    assert circle_in(imports_of(files)) == []


def test_a_circle_is_found() -> None:
    files = {
        "house": "",
        "house.cellar": "import json",
        "house.hall": "from house import stairs",
        "house.stairs": "def up():\n from house.attic import roof",
        "house.attic": "if TYPE_CHECKING:\n    from house.hall import door\nimport house.cellar",
        "house.garden": "import house.hall",
    }
    assert circle_in(imports_of(files)) == ["house.attic", "house.hall", "house.stairs"]
    assert circle_in(imports_of(files | {"house.attic": "import house.cellar"})) == []


MADE = {
    "empty",
    "zeros",
    "ones",
    "full",
    "rand",
    "randn",
    "randint",
    "tensor",
    "as_tensor",
    "arange",
    "linspace",
    "eye",
}
"""Functions of torch that take the process's default dtype where none is named."""


def test_fast_makes_no_tensor_of_the_default_dtype() -> None:
    """C writes into such tensors, and a caller may have set another default."""
    nameless = []
    for file in (SOURCE / "fast").glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        made = [c for c in calls if isinstance(c.func, ast.Attribute) and ast.unparse(c.func.value) == "torch"]
        named = [c for c in made if c.func.attr in MADE and "dtype" not in {k.arg for k in c.keywords}]  # type: ignore[attr-defined]
        nameless += [f"{name_of(file)}:{call.lineno}" for call in named]
        assert not [c for c in calls if ast.unparse(c.func) in MADE], "torch's functions are called by torch's name"
    assert nameless == []


PARAMETERS = SOURCE / "model_facts" / "parameters.py"
DRAWS = {"parameters", "named_parameters"}
HANDS_ON = {"next", "iter", "list", "tuple", "set", "dict", "sorted", "reversed", "enumerate", "zip", "filter"}
"""What gives back some of what it is given."""
CONTAINER = {"values", "items", "get", "pop", "detach"}
"""Methods that do, of a container of parameters or of a parameter."""
MODELS = {"model", "base_model", "base", "adapted", "decoder", "encoder", "get_base_model", "base_of"}
"""How models are called here, or what returns them."""
SECTIONS_OF_CONFIG = {"config.model", "settings.model"}
"""What is called so and is no model."""


def is_drawn(node: ast.AST | None, names: Set[str]) -> bool:
    """Tell whether an expression gives a model's parameters or some of them; `names` are those that hold such."""
    parts: Sequence[ast.AST] = []
    match node:
        case ast.Name() | ast.Attribute() if ast.unparse(node) in names:
            return True
        case ast.Call(func=ast.Attribute(attr=attr, value=owner)):
            return attr in DRAWS or (attr in CONTAINER and is_drawn(owner, names))
        case ast.Call(func=ast.Name(id=name), args=parts) if name not in HANDS_ON:
            parts = []
        case ast.Attribute(attr="data", value=part) | ast.Subscript(value=part):
            parts = [part]
        case ast.Starred(value=part) | ast.NamedExpr(value=part):
            parts = [part]
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts) | ast.BoolOp(values=parts):
            pass
        case ast.IfExp(body=body, orelse=orelse):
            parts = [body, orelse]
        case ast.ListComp(elt=part) | ast.SetComp(elt=part) | ast.GeneratorExp(elt=part) | ast.DictComp(value=part):
            return is_drawn(part, names | bound_in(node, names))
    return any(is_drawn(part, names) for part in parts)


def of_scope(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function or a comprehension that are in none within it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, SCOPES):
            yield from of_scope(node)


def bound_in(scope: ast.AST, names: Set[str]) -> set[str]:
    """Return the names, dotted ones too, that a scope binds to parameters by assignments and loops."""
    found = set[str]()
    for node in [*of_scope(scope)] * 2:  # a loop may bind at its end what is read at its beginning
        value = getattr(node, "iter" if isinstance(node, (ast.For, ast.comprehension)) else "value", None)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if is_drawn(value, names | found):
            parts = [part for target in targets if target for part in ast.walk(target)]
            found |= {ast.unparse(part) for part in parts if isinstance(part, (ast.Name, ast.Attribute))}
    return found


def dtypes_asked(scope: ast.AST, names: Set[str] = frozenset()) -> Iterator[str]:
    """Yield where `.dtype` is asked of a model's parameter, or of a model, as "line:expression".

    A parameter is what `parameters()` or `named_parameters()` of anything give, by way of next, list, a subscript, a
    loop, a comprehension, an assignment, .data or .detach(), within one function and those in it. A model is what is
    called as in MODELS, at the end of a dotted name too. Not seen are a parameter reached by its own name
    (`layer.weight`, which kernels compute with), by an argument, in another method, or by `_parameters`.
    """
    names = names | bound_in(scope, names)
    for node in of_scope(scope):
        if isinstance(node, SCOPES):
            yield from dtypes_asked(node, names)
        elif isinstance(node, ast.Attribute) and node.attr == "dtype":
            called = ast.unparse(node.value.func if isinstance(node.value, ast.Call) else node.value)
            is_model = called.rpartition(".")[2] in MODELS and called not in SECTIONS_OF_CONFIG
            if is_model or is_drawn(node.value, names):
                yield f"{node.lineno}:{ast.unparse(node)}"


def test_no_other_file_asks_a_models_parameter_for_its_dtype() -> None:
    files = [file for file in FILES if file != PARAMETERS]
    asked = {name_of(file): [*dtypes_asked(ast.parse(file.read_text(encoding="utf-8")))] for file in files}
    assert {name: places for name, places in asked.items() if places} == {}
    assert [*dtypes_asked(ast.parse(PARAMETERS.read_text(encoding="utf-8")))]


@pytest.mark.parametrize(
    "code",
    [
        *(
            "next(m.parameters()).dtype.itemsize",
            "next(iter(self.net.parameters())).dtype",
            "[*m.parameters()][0].dtype",
        ),
        *("next(p for p in m.parameters() if p.is_floating_point()).dtype", "{str(p.dtype) for p in m.parameters()}"),
        *("[q.dtype for n, q in m.named_parameters()]", "dict(m.named_parameters())['a'].data.dtype"),
        *("session.model.dtype", "self.model.dtype.itemsize", "model.get_base_model().dtype", "base_of(x).dtype"),
        "def f(m):\n some = [*m.parameters()]\n return any(p.dtype == 1 for p in some)",
        "def f(m):\n for _, p in m.named_parameters():\n  if p.dtype: pass",
        "def f(m):\n if (w := next(m.parameters())).device: return w.dtype",
        "def f(s, m):\n s.p = {n: p for n, p in m.named_parameters()}\n return [p.dtype for p in s.p.values()]",
        "def f(m):\n p, q = m.parameters()\n return q.dtype",
    ],
)
def test_a_dtype_asked_of_a_parameter_is_seen(code: str) -> None:
    assert [*dtypes_asked(ast.parse(code))]


@pytest.mark.parametrize(
    "code",
    [
        *(
            "x.dtype",
            "layer.weight.dtype",
            "config.model.dtype",
            "loaded.dtype",
            "model(x).logits.dtype",
            "compute_dtype(model)",
        ),
        "def f(m):\n n = sum(p.numel() for p in m.parameters())\n p = g(n)\n return p.dtype",
        "def f(m):\n w = next(m.parameters())\ndef g(w):\n return w.dtype",
        "def f(m):\n device = next(m.parameters()).device\n return torch.ones(3, device=device).dtype",
    ],
)
def test_other_dtypes_are_free(code: str) -> None:
    assert [*dtypes_asked(ast.parse(code))] == []


MACHINE = SOURCE / "core" / "machine.py"
ASKS_THE_MACHINE = re.compile(
    r"/proc/cpuinfo|/proc/meminfo|get_cpu_capability|sched_getaffinity|cpu_count|SC_PHYS_PAGES|platform\.processor|cgroup"
)


def test_no_other_file_asks_what_the_machine_has() -> None:
    asked = {name_of(file): ASKS_THE_MACHINE.findall(file.read_text(encoding="utf-8")) for file in FILES}
    assert asked.pop(name_of(MACHINE))
    assert {name: found for name, found in asked.items() if found} == {}


LAYOUT = SOURCE / "run_files" / "layout.py"
PATH_CALLS = {"Path", "PurePath", "joinpath", "with_name", "glob", "rglob"}


def texts(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Yield every text but docstrings, with its node; what an f-string fills in is {}."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    prose |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node, node.value
        if isinstance(node, ast.JoinedStr):
            yield node, "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def operands(tree: ast.AST) -> set[int]:
    """Return what stands beside a `/`, or is given to a call that makes a path of it, as ids of nodes."""
    found: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            found += [node.left, node.right]
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in PATH_CALLS:
            found += node.args
    return {id(node) for node in found}


def paths_spelled(code: str) -> list[str]:
    """Return the names of a run's files and folders that a file spells.

    Names with a dot are looked for in every text that is no prose, part by part; those without one, which are words
    too ("base", "adapter"), only where a path is made of them.
    """
    tree, names = ast.parse(code), {text for _, text in texts(ast.parse(LAYOUT.read_text(encoding="utf-8")))}
    names, joined = names - {"*", "-"}, operands(tree)
    return [
        text
        for node, text in texts(tree)
        if not any(map(str.isspace, text))
        and any(part in names and ("." in part or id(node) in joined) for part in text.split("/"))
    ]


def test_no_file_outside_run_files_spells_a_path_of_a_run_folder() -> None:
    files = [file for file in FILES if file != LAYOUT]
    spelled = {f"{name_of(file)}:{text}" for file in files for text in paths_spelled(file.read_text(encoding="utf-8"))}
    assert spelled - EXCEPTIONS.keys() == set()


@pytest.mark.parametrize(
    "code",
    [
        *('a / "scores.jsonl"', 'open("tuned/scores.jsonl")', 'f"{folder}/report.html"', 'NAME = "README.md"'),
        *('a / "base"', 'Path(a, "tuned")', 'a / "seeds" / b', 'f"{a}" / f"adapter/{b}"', 'folder.glob("baselines/*")'),
    ],
)
def test_a_path_of_a_run_folder_is_seen(code: str) -> None:
    assert paths_spelled(code)


@pytest.mark.parametrize(
    "code",
    [
        '"""scores.jsonl"""',
        'f"{a}.lock"',
        '"No scores.jsonl in base/."',
        'rows["base"]',
        '("base", "tuned")',
        "a / base",
    ],
)
def test_prose_and_words_are_no_paths(code: str) -> None:
    assert not paths_spelled(code)


def test_no_file_outside_run_files_numbers_a_format() -> None:
    numbered = [
        f"{name_of(file)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "format"
        if isinstance(value, ast.Constant) and isinstance(value.value, int)
    ]
    assert numbered == []


def test_there_is_no_utils() -> None:
    assert [name_of(file) for file in FILES if file.stem in ("utils", "util", "helpers", "common", "misc")] == []


MOST_KEYS = {
    "": 4,
    "model": 6,
    "data": 23,
    "adapter": 3,
    "train": 21,
    "preferences": 5,
    "evaluate": 16,
    "leaderboard": 6,
    "larger_model": 10,
}
"""Keys of a section; "" is the top of the config. Each is one more than there are: a key can be added, and the one
after it is a reason to look whether the section could do with fewer, since every key is one more thing to read about.
Of the adapter only our own keys count; the rest are the fields of peft's configs.
"""


def test_a_section_has_few_keys() -> None:
    from tunelift.config.schema import Config
    from tunelift.config.settings import SECTIONS

    counts = {name: len(section.model_fields) for name, section in SECTIONS.items()}
    counts[""] = len([key for key in Config.model_fields if key not in SECTIONS])
    assert {name: n for name, n in counts.items() if n > MOST_KEYS.get(name, 0)} == {}


LIGHT = {
    "help": "from tunelift.cli.main import cli\ntry: cli.main(['--help'])\nexcept SystemExit as e: assert e.code == 0",
    "import": "import tunelift; dir(tunelift); tunelift.InputError",
    "config": "import tunelift.config.load",
    "core": "import tunelift.core.machine, tunelift.core.provenance",
    "comparison": "import tunelift.comparison",
    "metrics": "import tunelift.metrics",
    "run_files": "import tunelift.run_files.layout",
    "untrusted": "import tunelift.untrusted.gate, tunelift.untrusted.task_files",
    "data": "import tunelift.data.splits, tunelift.data.render, tunelift.data.show",
    "run": "import tunelift.cli.run, tunelift.pipeline.run",
}
HEAVY = {
    "help": {"torch", "transformers", "peft", "pydantic", "numpy", "scipy", "rich"},
    "import": {"torch", "transformers", "peft", "pydantic", "numpy"},
    "config": {"torch", "transformers", "peft", "numpy"},
    "core": {"torch", "transformers", "peft", "pydantic", "numpy"},
    "comparison": {"torch", "transformers", "peft", "pydantic", "pandas", "scipy.stats"},
    "metrics": {"torch", "transformers", "peft"},
    "run_files": {"torch", "transformers", "peft", "pydantic", "numpy", "yaml"},
    "untrusted": {"torch", "transformers", "peft", "lm_eval"},
    "data": {"torch", "transformers", "peft", "datasets", "pyarrow"},
    "run": {
        "sklearn",
        "pandas",
        "datasets",
        "pyarrow",
        "matplotlib",
        "scipy.stats",
        "lm_eval",
        "optuna",
        "ray",
        "gradio",
    },
}


@pytest.mark.parametrize("what", LIGHT)
def test_light_parts_import_nothing_heavy(what: str) -> None:
    code = f"{LIGHT[what]}\nimport sys; print(*sorted(set(sys.modules) & {HEAVY[what]!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_no_file_outside_tasks_names_a_task() -> None:
    """A text that is a task's name is compared with one sooner or later; prose, in which it is a part, is free.

    So is the table of what other trainers' configs mean, which writes a config as a user would.
    """
    from tunelift.tasks import TASKS

    found = []
    for file in FILES:
        if file.relative_to(SOURCE).parts[0] != "tasks" and name_of(file) != "config/dialects.py":
            nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            found += [f"{name_of(file)}:{n.lineno}" for n in nodes if isinstance(n, ast.Constant) and n.value in TASKS]
    assert found == []


def test_a_task_a_measure_a_baseline_and_a_file_have_one_name() -> None:
    """The command line lists tasks and baselines by their files, which it does not import."""
    from tunelift.evaluation.baselines import BASELINES
    from tunelift.evaluation.measures import MEASURES
    from tunelift.tasks import TASKS

    rooms = {"tasks": TASKS, "evaluation/measures": MEASURES, "evaluation/baselines": BASELINES}
    for room, names in rooms.items():
        stems = {file.stem.replace("_", "-") for file in (SOURCE / room).glob("*.py")} - {"--init--", "base"}
        assert stems == set(names)
    assert all(name in MEASURES for task in map(TASKS.get, TASKS) for name in task.measures)
