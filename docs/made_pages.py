"""Pages made when the site is built: from the schema, the registries, the docstrings, and the heads of the findings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
PYTHON = ("load", "evaluate", "tune", "generate", "run", "plan", "compare", "leaderboard")
UNSEARCHED = ("templates.md", "architectures.md", "decisions.md", "reference/changes.md")
BOOSTS = {
    "how-to/": 2.5,
    "tutorial.md": 2.5,
    "tasks.md": 4,
    "reference/settings.md": 2,
    "reference/": 0.3,
    "studies/": 0.5,
}
MORE = (("fast", ("apply", "restore")),)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages (mkdocs calls this; a page's address stands in mkdocs.yml)."""
    from mkdocs.structure.files import File

    for address, make in PAGES.items():
        files.append(File.generated(config, address, content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Keep out of the search what holds every word, and put answers first (mkdocs calls this)."""
    address = page.file.src_uri
    if address in UNSEARCHED:
        page.meta["search"] = {"exclude": True}
    elif boost := next((by for beginning, by in BOOSTS.items() if address.startswith(beginning)), None):
        page.meta["search"] = {"boost": boost}
    return markdown


def settings() -> str:
    """Return every key of the config."""
    from tunelift.cli.options import KNOWN
    from tunelift.config.schema import Config, choices
    from tunelift.config.settings import SECTIONS

    about = "Every key of the config. Each is a flag (`--learning-rate`) and an override (`train.epochs=2`) too."
    parts = ["# Settings", about]
    tops = {name: field for name, field in Config.model_fields.items() if name not in SECTIONS}
    for title, fields in [
        ("Run", tops),
        *((name, section.model_fields) for name, section in SECTIONS.items()),
    ]:
        rows = ["| key | default | |", "|---|---|---|"]
        for name, field in fields.items():
            known = KNOWN.get(name, lambda field=field: choices(field.annotation))
            said = str(field.description).replace("{choices}", ", ".join(f"`{one}`" for one in known()))
            default = field.get_default(call_default_factory=True)
            rows.append(_row(f"`{name}`", "" if default in (None, "") else f"`{default}`", said))
        parts += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(parts)


def commands() -> str:
    """Return the help of every command."""
    from tunelift.cli.main import COMMANDS, cli

    codes = "Exit codes: 0 done, 1 failed while running, 2 wrong usage, config or input, 3 a gate did not pass; 130"
    completion = (
        'Completion: `eval "$(_TUNELIFT_COMPLETE=bash_source tunelift)"` in ~/.bashrc, or with `zsh_source` in '
        "~/.zshrc behind `compinit`; `_TUNELIFT_COMPLETE=fish_source tunelift | source` in fish."
    )
    parts = ["# Commands", f"{codes} interrupted and 143 terminated, both after saving.", completion]
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        if command is None:
            raise KeyError(name)
        context = click.Context(command, info_name=f"tunelift {name}", max_content_width=110, terminal_width=110)
        context.meta["tunelift.keys"] = True
        parts += [f"## {name}", f"```text\n{command.get_help(context)}\n```"]
    return "\n\n".join(parts)


def metrics() -> str:
    """Return the table of metrics."""
    from tunelift.metrics import METRICS

    rows = ["| metric | better | of | what it is |", "|---|---|---|---|"]
    for name in sorted(METRICS):
        one = METRICS.get(name)
        function = one.score or one.from_counts or one.from_items
        said = (inspect.getdoc(function) or "").split("\n\n")[0] if function else ""
        of = {"corpus": "the whole set"}.get(one.kind, "each item")
        rows.append(_row(f"`{name}`", "higher" if one.higher_is_better else "lower", of, said))
    ours = "Your own: `FILE.py:FUNCTION` of the working folder, `json_schema:FILE`, `regex_match:PATTERN`."
    return "\n\n".join(["# Metrics", ours, "\n".join(rows)])


def python() -> str:
    """Return the signatures and docstrings of what is public."""
    import tunelift

    parts = ["# Python", "Stock objects in and out: transformers' models, peft's adapters."]
    parts += [_documented(f"tunelift.{name}", getattr(tunelift, name)) for name in PYTHON]
    for module, names in MORE:
        parts += [_documented(f"tunelift.{module}.{name}", getattr(getattr(tunelift, module), name)) for name in names]
    parts += [
        "## Errors",
        *(_documented(f"tunelift.{e.__name__}", e) for e in (tunelift.InputError, tunelift.TuneliftError)),
    ]
    return "\n\n".join(parts)


def findings() -> str:
    """Return the heads of the scripts in findings/."""
    parts = [
        "# Surprises in real libraries",
        "What real libraries do on valid input that a good engineer would not guess. Each is a script in `findings/` "
        "that installs pinned packages, shows it without tunelift, and fails when it changes.",
    ]
    for script in sorted((ROOT / "findings").glob("*.sh")):
        head = list(_head(script))
        parts.append(f"## {script.stem}\n\n" + "\n".join(line if line else "\n" for line in head))
    return "\n\n".join(parts)


def changes() -> str:
    """Return the changelog."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def _head(script: Path) -> Iterator[str]:
    """Yield the comment that a script begins with, after its first line."""
    for line in script.read_text(encoding="utf-8").splitlines()[1:]:
        if not line.startswith("#"):
            return
        yield line.removeprefix("#").strip()


def _documented(name: str, thing: Any) -> str:
    signature = "" if isinstance(thing, type) else str(inspect.signature(thing)).replace("'", "")
    said = re.sub(r"(?m)^(\w+):$", r"**\1:**", inspect.getdoc(thing) or "")
    return f"### {name}\n\n```python\n{name.rpartition('.')[2]}{signature}\n```\n\n{said}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings,
    "reference/commands.md": commands,
    "reference/metrics.md": metrics,
    "reference/python.md": python,
    "reference/findings.md": findings,
    "reference/changes.md": changes,
}
"""Address of a page: what makes it."""
