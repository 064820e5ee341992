"""Extract one expected member from an untrusted zip file."""

import hashlib
import stat
import zipfile
import zlib
from pathlib import Path

from finetune.errors import FetchError
from finetune.files import atomic_write
from finetune.hub.cache import looks_like
from finetune.hub.registry import DataRow


class WrongContent(FetchError):
    """A downloaded archive with the wrong content; the download is tried again."""


def cap_bytes(row: DataRow) -> int:
    """The maximum size in bytes of a row's archive, and of its unpacked member."""
    return 4 * row.size_bytes


def extract(archive: Path, row: DataRow, target: Path) -> None:
    """Extract the one member that the registry names to `target`, which is created only if the hash is right.

    Paths inside the archive are never used, and no other member is read. Raises WrongContent.
    """
    assert row.archive is not None, "only a row with an archive is downloaded"
    name, what = row.archive.member, f"{row.name}: {row.archive.url}"
    with open(archive, "rb") as file:
        start = file.read(512)
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [member for member in zipped.infolist() if member.filename == name]
            if len(members) != 1:
                raise WrongContent(f"{what} must contain {name} exactly once", got=f"{len(members)} times")
            kind = stat.S_IFMT(members[0].external_attr >> 16)
            if members[0].flag_bits & 1 or kind not in (0, stat.S_IFREG):
                raise WrongContent(f"{what}: {name} is encrypted or not a plain file")
            with zipped.open(members[0]) as source, atomic_write(target, "wb") as out:
                digest, size = hashlib.sha256(), 0
                while block := source.read(65536):
                    size += len(block)
                    if size > cap_bytes(row):
                        raise WrongContent(
                            f"{what}: {name} is far larger than expected",
                            got=f"over {cap_bytes(row):,} bytes",
                            known=f"{row.spec.size_bytes:,} bytes",
                        )
                    digest.update(block)
                    out.write(block)
                if digest.hexdigest() != row.spec.sha256:
                    raise WrongContent(
                        f"{what}: {name} is not the pinned file",
                        got=f"{size:,} bytes, sha256 {digest.hexdigest()}",
                        known=f"sha256 {row.spec.sha256}",
                        do="Put the right file into FINETUNE_MIRROR or use another data set",
                    )
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise WrongContent(f"{what} is not a readable zip file", got=f"{error}{looks_like(start)}") from error
