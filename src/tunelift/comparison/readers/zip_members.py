"""Members of a zip file, each read whole within bounds; Zstandard, which newer logs use, included."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Self

from tunelift.core.errors import InputError

LARGEST = 256 * 2**20
"""Bytes of one unpacked member."""

FREE, RATIO = 2**30, 200
"""Bytes that a file may always unpack to, and how many times its own size beyond that."""

ZSTANDARD = 93
"""The method's number in the zip format (APPNOTE 6.3.7, 4.4.5), which zipfile knows only from Python 3.14 on."""

_DAMAGED = (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, struct.error)
"""What reading a damaged or encrypted zip file raises."""


class Container(zipfile.ZipFile):
    """A zip file opened for reading. Raises InputError where it is damaged or unpacks to too much."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            super().__init__(path)
        except _DAMAGED as error:
            raise InputError(f"{path} is no zip file that can be read ({error}).") from error

    def unpacked(self, name: str) -> bytes:
        """Return one member, unpacked."""
        member = self.getinfo(name)
        try:
            if member.compress_type == ZSTANDARD:
                return self._zstandard(member)
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile(f"method {member.compress_type} is not one that Inspect uses")
            with self.open(member) as file:
                return file.read(LARGEST)
        except _DAMAGED as error:
            raise InputError(f"{self.path}, {name}: cannot be unpacked ({error}).") from error

    def _zstandard(self, member: zipfile.ZipInfo) -> bytes:
        try:
            import pyarrow
        except ImportError as error:
            convert = f"inspect log convert --to json --output-dir json {self.path.name}"
            raise InputError(
                f"{self.path} is packed with Zstandard, which needs pyarrow.",
                fix=f"pip install 'tunelift[data]', or convert it: {convert}",
            ) from error
        with self.path.open("rb") as file:
            file.seek(member.header_offset)  # packed bytes stand behind a local header (APPNOTE, 4.3.7)
            name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))[1:]
            file.seek(name_length + extra_length, io.SEEK_CUR)
            packed = pyarrow.BufferReader(file.read(member.compress_size))
        content: bytes = pyarrow.CompressedInputStream(packed, "zstd").read(member.file_size + 1)
        if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
            raise zipfile.BadZipFile("its size or checksum is wrong")
        return content

    def _check_sizes(self) -> None:
        whole = sum(member.file_size for member in self.infolist())
        if whole > max(FREE, RATIO * self.path.stat().st_size):
            raise InputError(f"{self.path} unpacks to {whole:,} bytes, more than {RATIO} times its size.")
        for member in self.infolist():
            if member.file_size > LARGEST:
                where = f"{self.path}, {member.filename}"
                raise InputError(f"{where}: {member.file_size:,} bytes; at most {LARGEST:,} are read.")

    def __enter__(self) -> Self:
        try:
            self._check_sizes()
        except BaseException:
            self.close()
            raise
        return self
