"""Data archives that are wrong: the pinned member or a FetchError, and nothing else on the disk."""

import hashlib
import io
import os
import stat
import zipfile

import pytest

from finetune.errors import FetchError
from finetune.hub import fetch
from finetune.hub.registry import DataRow

MEMBER = b"ham\tsee you at eight\nspam\tcall now\n" * 100


def data_row(hub, content=MEMBER, archive_sha256=None) -> DataRow:
    archive = {"url": f"{hub.url}/plain/messages.zip", "member": "Messages", "sha256": archive_sha256}
    return DataRow(
        name="messages",
        format="tsv",
        archive=archive,
        files={"Messages": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}},
    )


def files_below(folder) -> dict[str, bytes]:
    """The files in a folder, besides the lock for which processes wait in turn."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def zipped(*members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def link_member() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("Messages")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted() -> bytes:
    """A plain zip whose flags say that the member is encrypted, in both headers."""
    content = bytearray(zipped(("Messages", MEMBER)))
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def broken_stream() -> bytes:
    content = bytearray(zipped(("Messages", MEMBER)))
    start = content.index(b"Messages") + len("Messages")
    content[start : start + 20] = b"\xff" * 20
    return bytes(content)


def test_archive_gives_its_one_member(hub, tmp_path, capsys):
    hub.plain["messages.zip"] = zipped(("../../outside", b"x"), ("/absolute", b"x"), ("Messages", MEMBER))
    row = data_row(hub, archive_sha256="0" * 64)
    assert fetch.find_data(row) is None
    path = fetch.get_data(row)
    assert path.read_bytes() == MEMBER and fetch.find_data(row) == path
    assert "not the recorded archive" in capsys.readouterr().err
    assert files_below(tmp_path) == {"Messages": MEMBER}
    before = len(hub.requests)
    assert fetch.get_data(row) == path and len(hub.requests) == before


@pytest.mark.parametrize(
    "content, words",
    [
        (zipped(("../Messages", MEMBER)), "got 0 times"),
        (zipped(("other", b"x")), "got 0 times"),
        (zipped((link_member(), b"/etc/passwd")), "not a plain file"),
        (encrypted(), "encrypted"),
        (zipped(("Messages", bytes(100 * len(MEMBER)))), "is far larger than expected"),
        (zipped(("Messages", MEMBER[:-1] + b"?")), "is not the pinned file"),
        (broken_stream(), "not a readable zip file|is not the pinned file"),
        (b"<html>Log in</html>", "HTML page"),
        (b"", "not a readable zip file"),
    ],
)
def test_wrong_archive(hub, tmp_path, content, words):
    hub.plain["messages.zip"] = content
    with pytest.raises(FetchError, match=words):
        fetch.get_data(data_row(hub))
    assert files_below(tmp_path) == {} and hub.gets("messages.zip") == 2


def test_archive_with_the_member_twice_is_refused(hub, tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        hub.plain["messages.zip"] = zipped(("Messages", MEMBER), ("Messages", b"other"))
    with pytest.raises(FetchError, match="got 2 times"):
        fetch.get_data(data_row(hub))
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize(
    "mode, words",
    [
        (403, "refuses access"),
        (404, "not found"),
        (429, "too many requests"),
        (500, "server error"),
        ("truncated", "no usable response"),
        ("redirect-loop", "messages"),
        ("redirect-file", "messages"),
    ],
)
def test_faulty_archive_server(hub, tmp_path, mode, words):
    hub.plain["messages.zip"] = zipped(("Messages", os.urandom(2000) + MEMBER))
    hub.modes["messages.zip"] = mode
    with pytest.raises(FetchError, match=words):
        fetch.get_data(data_row(hub))
    assert files_below(tmp_path) == {}


def test_archive_without_an_end_is_cut_off(hub, tmp_path):
    hub.plain["messages.zip"], hub.modes["messages.zip"] = b"", "endless"
    with pytest.raises(FetchError, match="far more data than the file has"):
        fetch.get_data(data_row(hub))
    assert files_below(tmp_path) == {}


def test_damaged_data_file_is_replaced(hub, capsys):
    hub.plain["messages.zip"] = zipped(("Messages", MEMBER))
    path = fetch.get_data(data_row(hub))
    path.write_bytes(MEMBER[:-1])
    assert fetch.get_data(data_row(hub)).read_bytes() == MEMBER
    assert "is damaged" in capsys.readouterr().err


def test_unwritable_cache_is_reported(hub, tmp_path):
    (tmp_path / "home").write_text("a file where a directory should be")
    hub.plain["messages.zip"] = zipped(("Messages", MEMBER))
    with pytest.raises(FetchError, match="not writable"):
        fetch.get_data(data_row(hub))
    assert (tmp_path / "home").read_text().startswith("a file")
