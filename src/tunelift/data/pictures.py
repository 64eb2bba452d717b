"""Pictures: files that a column names, or that lie in a folder for each class; they are opened when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example, Picture
from tunelift.data.formats import Columns, Table, TableRow
from tunelift.data.layouts import Said
from tunelift.data.template import as_text

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
IMAGES = ("image", "path", "file", "file_name", "filename", "image_path", "img")
"""What people call a column of paths."""
LABELS = ("label", "class", "category", "labels")
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """A folder with a folder of pictures for each class, called by its name."""

    folder: Path

    def read(self, name: str, columns: Columns) -> Table:
        """Return a row for each picture, in the order of the names."""
        rows: list[TableRow] = [
            {"image": str(path.absolute()), "label": inner.name}
            for inner in _folders(self.folder)
            for path in _pictures(inner)
        ]
        return Table(name, rows, list(range(1, len(rows) + 1)), "picture")


def picture_splits(folder: Path) -> dict[str, PictureFolder]:
    """Return the splits of a folder of pictures: its folders train, validation and test, or itself; none if it is not.

    Each holds a folder of pictures for each class.
    """
    inner = {path.name.lower(): path for path in _folders(folder)}
    found = {role: inner[name] for role, names in SPLITS.items() for name in names if name in inner}
    if found and all(_has_classes(path) for path in found.values()):
        return {role: PictureFolder(path) for role, path in found.items()}
    return {"train": PictureFolder(folder)} if _has_classes(folder) else {}


def _has_classes(folder: Path) -> bool:
    return sum(bool(_pictures(inner)) for inner in _folders(folder)) > 1


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())


@dataclass(frozen=True, slots=True)
class Pictures:
    """A column of paths, from `folder` on where they are relative, and one of labels."""

    image: str
    label: str
    folder: Path

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read."""
        return (self.image, self.label)

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; raise InputError, naming the row, for a file that is missing or no picture."""
        named, label = (as_text(row.get(name), f'{where}, column "{name}"').strip() for name in self.columns)
        if not named or not label:
            return "no label" if named else "no picture"
        path = self.folder / Path(named).expanduser()
        if not path.is_file():
            raise InputError(
                f"{where}: there is no picture {path}.",
                fix="Paths are relative to the folder of the table that names them.",
            )
        check(path, where)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Example("", named, label, Picture(str(path), digest))


def check(path: Path, where: str) -> None:
    """Raise InputError for a file that is no picture, as far as its beginning and its sums say."""
    image = library()
    try:
        with image.open(path) as opened:
            opened.verify()
    except Exception as error:  # whatever a decoder makes of a file that is none of its kind
        raise InputError(f"{where}: {path} is no picture that can be read: {error or type(error).__name__}") from error


def opened(picture: Picture) -> Any:
    """Return a picture in red, green and blue; raise InputError where it cannot be decoded."""
    try:
        with library().open(picture.path) as found:
            return found.convert("RGB")
    except Exception as error:
        raise InputError(f"{picture.path} cannot be decoded: {error or type(error).__name__}") from error


def library() -> Any:
    """Return the module that opens pictures; raise InputError where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            "Pictures are opened by pillow, which is not installed.", fix="pip install 'tunelift[images]'"
        ) from error
    return Image


def choose_pictures(table: Table, section: DataSection) -> Pictures | None:
    """Take the columns that data.text (paths) and data.label name, or those of usual names."""
    if section.prompt is not None or section.completion is not None or section.text_pair is not None:
        raise InputError(
            "data.prompt, data.completion and data.text_pair make texts, and this task has pictures.",
            fix="Name the column of paths with data.text, and that of labels with data.label.",
        )
    image = section.text or next((name for name in IMAGES if name in table.columns), None)
    label = section.label or next((name for name in LABELS if name in table.columns), None)
    if missing := [name for name in (image, label) if name is not None and name not in table.columns]:
        raise InputError(f"{table.name} has no column {listed(missing)}.", fix=f"Its columns: {listed(table.columns)}.")
    if image is None or label is None:
        raise InputError(
            f"{table.name} has the columns {listed(table.columns)}: it is not clear which are paths of pictures, and "
            "which labels.",
            fix="Name them: --text image --label label. Or give a folder with a folder of pictures for each class.",
        )
    return Pictures(image, label, table.path.parent if table.path else Path())
