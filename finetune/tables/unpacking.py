"""Unpack compressed tables within bounds: a small file that would fill the memory is refused."""

import gzip
import io
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from finetune.errors import DataError

MOST_TIMES = 200  # a table compresses to a tenth, one of copies to a hundredth; a bomb to a thousandth
LEAST_BYTES = 64 << 20  # always allowed


class Unpacked(io.RawIOBase):
    """The content of a gzip file. Reading raises DataError once it is larger than any table of the file's size."""

    def __init__(self, path: Path):
        self.path, self.source = path, gzip.GzipFile(path, "rb")
        self.left = most_bytes(path)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; the number of bytes, 0 at the end."""
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
    """Raise DataError if the members of a zip archive are larger than any table of its size."""
    with ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > most_bytes(path):
            raise expands(path)


def most_bytes(path: Path) -> int:
    """How many bytes a compressed table may unpack to."""
    return max(MOST_TIMES * path.stat().st_size, LEAST_BYTES)


def expands(path: Path) -> DataError:
    """The error for a file that unpacks to too much."""
    return DataError(
        f"{path}: unpacks to far more than a table of its size",
        got=f"more than {most_bytes(path):,} bytes from {path.stat().st_size:,}",
        do="If the file is what you expect, unpack it yourself and name the unpacked file.",
    )
