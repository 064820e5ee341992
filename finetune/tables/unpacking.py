"""Decompress tables within bounds: a decompression bomb, which would fill the memory, is refused."""

import gzip
import io
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from finetune.errors import DataError

MOST_TIMES = 200  # maximum ratio: tables compress to a tenth, tables of copies to a hundredth, bombs to a thousandth
LEAST_BYTES = 64 << 20  # always allowed


class Unpacked(io.RawIOBase):
    """The content of a gzip file. Reading raises DataError once it exceeds the limit for the file's size."""

    def __init__(self, path: Path):
        self.path, self.source = path, gzip.GzipFile(path, "rb")
        self.left = most_bytes(path)

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer. Returns the number of bytes, 0 at the end."""
        count = self.source.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise expands(self.path)
        return count

    def close(self) -> None:
        """Close the file."""
        self.source.close()
        super().close()


def check_archive(path: Path) -> None:
    """Raise DataError if the members of a zip archive exceed the limit for its size."""
    with ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > most_bytes(path):
            raise expands(path)


def most_bytes(path: Path) -> int:
    """Maximum decompressed size of a table in bytes."""
    return max(MOST_TIMES * path.stat().st_size, LEAST_BYTES)


def expands(path: Path) -> DataError:
    """The error for a file whose content is too large."""
    return DataError(
        f"{path}: unpacks to far more data than a table of its size should",
        got=f"more than {most_bytes(path):,} bytes from a file of {path.stat().st_size:,}",
        do="If the file is what you expect, unpack it yourself and name the unpacked file.",
    )
