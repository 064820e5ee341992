"""Upload a directory to the Hugging Face hub, and download it again to verify it."""

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from finetune.errors import FetchError
from finetune.files import sha256_file
from finetune.hub.fetch import hub_endpoint, network_available, said_of_hub

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_repo(repo: str) -> None:
    """Raise FetchError for a name that is not OWNER/NAME."""
    if not REPO.fullmatch(repo):
        raise FetchError(f"{repo!r} is not the id of a model on the hub", do="It has the form OWNER/NAME")


def upload(directory: Path, files: Iterable[str], repo: str, private: bool, message: str) -> tuple[str, str]:
    """Upload these files of a directory in one commit. Returns the repository's URL and the commit.

    Creates the repository if it does not exist. Raises FetchError.
    """
    from huggingface_hub import HfApi

    check_repo(repo)
    if not network_available():
        raise FetchError(
            f"{repo}: nothing can be pushed without a network",
            got=f"no answer from {hub_endpoint()}, or HF_HUB_OFFLINE is set",
            do="Connect, then push again",
        )
    api = HfApi(endpoint=hub_endpoint())
    with said_of_hub(repo):
        address = api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=directory, allow_patterns=[*files], commit_message=message)
    return str(address), commit.oid


def differing(directory: Path, files: Iterable[str], repo: str, commit: str) -> list[str]:
    """The files whose content in that commit differs from the local one. Raises FetchError."""
    from huggingface_hub import hf_hub_download

    wrong = []
    with tempfile.TemporaryDirectory() as folder, said_of_hub(repo):
        for name in files:
            got = hf_hub_download(repo, name, revision=commit, endpoint=hub_endpoint(), cache_dir=folder)
            if sha256_file(Path(got)) != sha256_file(directory / name):
                wrong.append(name)
    return wrong
