"""Get weights and data from the mirror, the local caches or the network, in this order.

Only this folder uses the network. A file is used only if its hash is the one in the registry or on the hub.
"""

import functools
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from finetune.console import say, warn
from finetune.errors import FetchError
from finetune.files import home, sha256_file
from finetune.hub import cache
from finetune.hub.archive import WrongContent, extract
from finetune.hub.cache import Expected, expected, mirrored, problem
from finetune.hub.errors import ELSEWHERE, explain, http_status
from finetune.hub.registry import Archive, DataRow, FileSpec, WeightsRow

PROBE_SECONDS = 3.0
T = TypeVar("T")
RETRY_SECONDS = (1, 3)  # waits before retrying a busy or failing hub


@dataclass(frozen=True)
class FileCheck:
    """The result of hashing one file of a row."""

    file: str
    status: str  # ok, wrong, missing or not pinned
    size_bytes: int
    sha256: str  # of the file on this machine


def find_weights(row: WeightsRow) -> Path | None:
    """The directory with all files of a row in the mirror or the Hugging Face cache, or None.

    The content is not checked; `get_weights` does that.
    """
    folder = mirrored(row.name, row.files)
    if folder is None:
        paths = [path for file in row.files if (path := _cached(row.repo, file, row.revision))]
        folder = paths[0].parent if len(paths) == len(row.files) else None
    return folder


def weights_status(row: WeightsRow) -> str:
    """``mirror``, ``in cache`` or ``not here``."""
    if mirrored(row.name, row.files):
        return "mirror"
    return "in cache" if find_weights(row) else "not here"


def verify_weights(row: WeightsRow) -> list[FileCheck]:
    """Hash every file of a row on this machine; nothing is downloaded or deleted."""
    folder = mirrored(row.name, row.files)
    checks = []
    for file, spec in row.files.items():
        path = folder / file if folder else _cached(row.repo, file, row.revision)
        if path is None or not path.is_file():
            checks.append(FileCheck(file, "missing", 0, ""))
            continue
        expect, found = expected(row.repo, row.revision, file, spec), sha256_file(path)
        status = "not pinned" if expect.digest is None else "ok" if found == expect.digest else "wrong"
        checks.append(FileCheck(file, status, path.stat().st_size, found))
    return checks


def get_weights(row: WeightsRow) -> Path:
    """The directory with all files of a row, downloaded if necessary; every file is checked.

    Raises FetchError if a file is wrong, has no known hash, or cannot be downloaded.
    """
    expects = {file: expected(row.repo, row.revision, file, spec) for file, spec in row.files.items()}
    folder = mirrored(row.name, row.files)
    if folder is None:
        return _from_hub(row.name, row.repo, row.revision, expects)
    for file, expect in expects.items():
        if expect.digest is None:
            raise FetchError(
                f"{folder / file}: this file has no pinned sha256",
                do=f"Download {row.name} once without FINETUNE_MIRROR, to record the hub's hash, "
                "or pin the sha256 in a registry file and set FINETUNE_REGISTRY to its path",
            )
        _refuse_wrong_mirror(folder / file, expect)
    return folder


def get_hub_checkpoint(repo: str, revision: str | None = None) -> Path:
    """The directory with config, safetensors weights and tokenizer of any model on the hub (``owner/name``).

    Files are checked against the hub's hashes. Without a network, the cached copy is used.
    """
    revision = revision or "main"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        raise FetchError(f"{repo!r} is not the id of a model on the hub", do="It has the form owner/name")
    if not network_available():
        config = _cached(repo, "config.json", revision)
        if config is None:
            raise _no_network(repo, "it is not in the Hugging Face cache")
        commit, there = config.parent.name, dict.fromkeys(path.name for path in config.parent.iterdir())
    else:
        from huggingface_hub import HfApi

        with said_of_hub(repo):
            info = _ask(
                lambda: HfApi(endpoint=hub_endpoint()).model_info(
                    repo, revision=revision, timeout=10, files_metadata=True
                )
            )
        if not info.sha:
            raise FetchError(f"{repo}: {hub_endpoint()} does not answer like a hub", do="Check HF_ENDPOINT")
        commit, there = info.sha, {file.rfilename: file for file in info.siblings or []}
    expects = {}
    for name in _checkpoint_files(repo, set(there)):
        expects[name], file = expected(repo, commit, name, FileSpec()), there[name]
        if file is not None and expects[name].source == "hub":
            expects[name] = Expected(file.size, file.lfs.sha256 if file.lfs else file.blob_id, "hub")
    folder = _from_hub(repo, repo, commit, expects)
    if network_available():
        from huggingface_hub import hf_hub_download

        with said_of_hub(repo):  # makes the cache remember the branch's commit, for use without a network
            hf_hub_download(repo, "config.json", revision=revision, endpoint=hub_endpoint())
    return folder


def _checkpoint_files(repo: str, names: set[str]) -> list[str]:
    """The files of a repository that make up a checkpoint: no pickles, nothing from a subdirectory."""
    shards = {
        name for name in names if re.fullmatch(r"model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json", name)
    }
    tensors = {"model.safetensors"} & names or shards
    if not tensors or "config.json" not in names:
        raise FetchError(
            f"{repo} has no config.json with safetensors weights",
            got=", ".join(sorted(names))[:99],
            known="pickles (.bin, .pt, .ckpt) are never read",
            do="Convert it with transformers: save_pretrained(DIRECTORY)",
        )
    return ["config.json", *sorted(tensors), *sorted({"vocab.json", "merges.txt", "tokenizer.json"} & names)]


def _refuse_wrong_mirror(path: Path, expect: Expected) -> None:
    wrong = problem(path, expect)
    if wrong:
        raise FetchError(
            f"{path} does not match the {expect.source} hash", got=wrong, do="Replace it, or unset FINETUNE_MIRROR"
        )


def _from_hub(label: str, repo: str, revision: str, expects: dict[str, Expected]) -> Path:
    """The directory with the files of one commit in the Hugging Face cache.

    Missing or damaged files are downloaded, by one process at a time.
    """
    if _lacking(label, repo, revision, expects):
        with cache.one_at_a_time(label):
            lacking = _lacking(label, repo, revision, expects)
            for file, wrong in lacking.items():
                path = _cached(repo, file, revision) if wrong else None
                if path and not network_available():
                    raise _no_network(label, f"{path} is damaged: {wrong}")
                if path:
                    warn(f"{path} is damaged ({wrong}); downloading it again")
                    _delete_cached(path)
            if lacking:
                _download(label, repo, revision, {file: expects[file] for file in lacking})
    return next(path.parent for file in expects if (path := _cached(repo, file, revision)))


def _lacking(label: str, repo: str, revision: str, expects: dict[str, Expected]) -> dict[str, str]:
    """The missing and damaged files of the Hugging Face cache: what is wrong with each, empty if it is missing."""
    lacking = {}
    for file, expect in expects.items():
        path = _cached(repo, file, revision)
        if path is None:
            lacking[file] = ""
            continue
        if expect.digest is None:
            expect = cache.vouched(path) or hub_value(label, repo, revision, file)
        if wrong := problem(path, expect):
            lacking[file] = wrong
        elif expect.source == "hub":
            cache.record(repo, revision, file, path)
    return lacking


def _download(label: str, repo: str, revision: str, expects: dict[str, Expected]) -> None:
    """Download files into the Hugging Face cache. Each is checked, and downloaded a second time if it is wrong."""
    if not network_available():
        lacks = f"the Hugging Face cache lacks {', '.join(expects)}"
        raise _no_network(label, lacks + cache.mirror_lacks(label, expects))
    from huggingface_hub import constants, hf_hub_download

    address = f"{hub_endpoint()}/{repo}/resolve/{revision}"
    for file, expect in expects.items():
        hub = hub_value(label, repo, revision, file)
        size_differs = expect.size_bytes is not None and hub.size_bytes not in (None, expect.size_bytes)
        if size_differs or len(expect.digest or "") == len(hub.digest or "") and expect.digest != hub.digest:
            raise FetchError(
                f"{label}: {address}/{file} does not match the {expect.source} hash or size",
                got=f"{hub.size_bytes} bytes, hash {hub.digest}{_served(f'{address}/{file}')}",
                known=f"{expect.size_bytes} bytes, hash {expect.digest}",
                do="Check HF_ENDPOINT and the proxy",
            )
        expects[file] = replace(
            expect, size_bytes=expect.size_bytes or hub.size_bytes, digest=expect.digest or hub.digest
        )
    _say_size(
        f"{label}: downloading {', '.join(expects)} from {hub_endpoint()}/{repo}, revision {revision[:8]}",
        sum(expect.size_bytes or 0 for expect in expects.values()),
        Path(constants.HF_HUB_CACHE),
    )
    for file, expect in expects.items():
        for attempt in (1, 2):
            with said_of_hub(f"{label}: {file}", f"{address}/{file}"):
                path = Path(
                    hf_hub_download(
                        repo,
                        file,
                        revision=revision,
                        endpoint=hub_endpoint(),
                        tqdm_class=_bar(f"{label}: {file}", expect.size_bytes),
                    )
                )
            wrong = problem(path, expect)
            if not wrong:
                break
            _delete_cached(path)
            if attempt == 2:
                raise FetchError(
                    f"{label}: two downloads of {file} from {address} failed the check", got=wrong, do=ELSEWHERE
                )
            warn(f"{label}: the download of {file} is wrong ({wrong}); trying again")
        if expect.source == "hub":
            cache.record(repo, revision, file, path)


def _cached(repo: str, file: str, revision: str) -> Path | None:
    """A file in the Hugging Face cache, or None. A branch means the commit that it had when last downloaded."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _delete_cached(path: Path | None) -> None:
    """Delete a damaged file from the Hugging Face cache, both link and blob; never anything outside the cache."""
    from huggingface_hub import constants

    inside = Path(constants.HF_HUB_CACHE).resolve()
    while path is not None:
        target = Path(os.path.normpath(path.parent / os.readlink(path))) if path.is_symlink() else None
        if path.parent.resolve().is_relative_to(inside):
            path.unlink(missing_ok=True)
        path = target


def find_data(row: DataRow) -> Path | None:
    """The data file of a row in the mirror or our own cache, or None; its content is not checked."""
    folder = mirrored(row.name, row.files)
    path = (folder or home() / "data" / row.name) / row.file
    return path if path.exists() else None


def get_data(row: DataRow) -> Path:
    """The data file of a row, checked and downloaded if necessary. Raises FetchError."""
    expect = Expected(row.spec.size_bytes, row.spec.sha256, "pinned")
    folder = mirrored(row.name, row.files)
    if folder:
        _refuse_wrong_mirror(folder / row.file, expect)
        return folder / row.file
    path = home() / "data" / row.name / row.file
    if not problem(path, expect):
        return path
    with cache.one_at_a_time(row.name):
        _fetch_data(row, path, expect)
    return path


def _fetch_data(row: DataRow, path: Path, expect: Expected) -> None:
    """Download the data file of a row to `path`, unless another process has done so meanwhile."""
    wrong = problem(path, expect)
    if not wrong:
        return
    if path.exists():
        warn(f"{path} is damaged ({wrong}); replacing it")
    if row.archive is None or not network_available():
        raise _no_network(row.name, f"{path}: {wrong}{cache.mirror_lacks(row.name, row.files)}")
    say(f"{row.name}: downloading {row.archive.url}: {row.size_bytes / 1e6:.1f} MB ({row.licence})")
    for attempt in (1, 2):
        try:
            _fetch_member(row, row.archive, path)
            break
        except WrongContent as error:
            if attempt == 2:
                raise
            warn(f"{error}; trying again")


def _fetch_member(row: DataRow, source: Archive, target: Path) -> None:
    """Download the archive of a row into a temporary directory, and write its one member to `target`."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    downloads = home() / "downloads"
    with said_of_hub(row.name, source.url):
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as folder:
            bar = _bar(row.name, row.spec.size_bytes)(unit="B", unit_scale=True, desc=row.name, disable=None)
            loader = pooch.HTTPDownloader(progressbar=bar, chunk_size=65536, timeout=(10, 30))
            archive = Path(pooch.retrieve(source.url, None, "archive.zip", folder, downloader=loader))
            unlike = source.sha256 and sha256_file(archive) != source.sha256
            extract(archive, row, target)
    if unlike:
        warn(f"{source.url} is not the recorded archive, but {row.file} in it is the pinned file")


def hub_endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _offline() -> str:
    """The name of the environment variable that forbids network access, or an empty string."""
    names, yes = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), {"1", "ON", "YES", "TRUE"}
    return next((name for name in names if os.environ.get(name, "").upper() in yes), "")


@functools.cache
def network_available() -> bool:
    """Whether the hub answers; asked once per process, for at most `PROBE_SECONDS`.

    The request goes through the client that will download, with the same proxies and certificates. The client is
    created before the clock starts, because that takes seconds on a busy machine. The thread limits what the client's
    timeout does not: the DNS lookup, and several addresses tried in turn.
    """
    if _offline():
        return False
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import get_session

    answers = []
    session = get_session()

    def ask() -> None:
        try:
            status = session.head(hub_endpoint(), timeout=PROBE_SECONDS).status_code
            answers.append(status < 500 and status != 407)  # 407: a proxy asks for a password
        except (OSError, HTTPError, ValueError, RuntimeError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answers == [True]


def _no_network(label: str, known: str) -> FetchError:
    why = f"{_offline()} is set" if _offline() else f"{hub_endpoint()} does not answer"
    return FetchError(f"{label} cannot be downloaded without a network", got=why, known=known, do=ELSEWHERE)


def hub_value(label: str, repo: str, revision: str, file: str) -> Expected:
    """The size and digest of a file according to the hub."""
    if not network_available():
        raise _no_network(label, f"{file} has no pinned sha256, so its hash must come from the hub")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, file, revision=revision, endpoint=hub_endpoint())
    with said_of_hub(f"{label}: {file}", url):
        answer = _ask(lambda: get_hf_file_metadata(url, timeout=10))
    if answer.commit_hash is None or not cache.DIGEST.fullmatch(answer.etag or ""):
        raise FetchError(
            f"{label}: {hub_endpoint()} does not answer like a Hugging Face hub",
            got=f"no commit or hash for {file}{_served(url)}",
            do="Check HF_ENDPOINT and the proxy",
        )
    return Expected(answer.size, answer.etag, "hub")


def _ask(question: Callable[[], T]) -> T:
    """Ask the hub, with retries if it is busy or fails; its client does not retry."""
    for wait in RETRY_SECONDS:
        try:
            return question()
        except OSError as error:
            status = http_status(error)
            if status is None or status != 429 and status < 500:
                raise
            time.sleep(wait)
    return question()


def _served(url: str) -> str:
    """What the server sends instead of the file, judging by its first bytes; may be empty."""
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=10) as response:
            return cache.looks_like(response.read(512))
    except (OSError, ValueError):
        return ""


@contextmanager
def said_of_hub(label: str, url: str = "") -> Iterator[None]:
    """Turn any error of the download clients into a FetchError with advice."""
    from huggingface_hub.errors import HTTPError  # base class of the errors of the hub's HTTP client

    try:
        yield
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        cut_off = "Consistency check failed" in str(error)
        raise explain(error, label, url or hub_endpoint(), _served(url) if cut_off else "") from error


def _say_size(what: str, size_bytes: int, folder: Path) -> None:
    """Print the size of a download before it starts. Raises FetchError if it does not fit on the disk."""
    say(f"{what}: {size_bytes / 1e6:,.1f} MB")
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size_bytes * 1.02:
        raise FetchError(
            f"{what}: the disk is too full",
            got=f"{free / 1e6:,.0f} MB free in {folder}",
            known=f"the download is {size_bytes / 1e6:,.0f} MB",
            do="Free some space, or set HF_HOME to another disk",
        )


def _bar(label: str, size_bytes: int | None) -> type[Any]:
    """A tqdm class for one download that stops a server which never stops sending.

    Without a terminal, where tqdm shows nothing, it prints a line every few seconds.
    """
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        received, said = 0, time.monotonic()

        def __bool__(self) -> bool:  # tqdm's is false without a total, and then pooch does not update it
            return True

        def update(self, n: int | None = 1) -> bool | None:
            self.received += max(n or 0, 0)
            if size_bytes is not None and self.received > 3 * size_bytes + 1_000_000:
                raise FetchError(
                    f"{label}: the server sends far more data than the file has",
                    got=f"{self.received:,} bytes",
                    known=f"{size_bytes:,} bytes",
                    do="Try again later or from another network",
                )
            if self.disable and time.monotonic() - self.said > 10:
                self.said = time.monotonic()
                say(f"{label}: {self.received / 1e6:,.0f} MB so far")
            return super().update(n)

    return Bar
