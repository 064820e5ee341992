"""Download data sets from the Hugging Face hub and save them as folders with ``datasets``."""

from pathlib import Path

from finetune.console import say
from finetune.errors import FetchError
from finetune.files import home, remove, temporary_path
from finetune.hub.cache import one_at_a_time
from finetune.hub.fetch import network_available

PREFIX = "hf:"


def get_hub_dataset(name: str) -> Path:
    """The folder of ``hf:OWNER/NAME[:CONFIG]`` with all splits, downloaded once and kept.

    Only data files are read (Parquet, CSV, JSON, text); `datasets` refuses a data set that needs its own code.
    Raises FetchError if it cannot be downloaded.
    """
    repo, _, config = name.removeprefix(PREFIX).partition(":")
    folder = home() / "datasets" / name.removeprefix(PREFIX).replace("/", "--").replace(":", "--")
    if folder.exists():
        return folder
    if not repo or not network_available():
        raise FetchError(
            f"the data set {name!r} is not on this machine, and the hub does not answer",
            known=f"{PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME:CONFIG",
            do="Connect to the network, or save it on another machine with datasets' save_to_disk and give that folder.",
        )
    with one_at_a_time(name):
        if not folder.exists():
            _download(name, repo, config, folder)
    return folder


def _download(name: str, repo: str, config: str, folder: Path) -> None:
    """Save a data set of the hub as `folder`, atomically."""
    import datasets

    say(f"downloading the data set {repo} {config}".rstrip())
    try:
        found = datasets.load_dataset(repo, config or None)
    except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as error:
        raise FetchError(
            f"the data set {name!r} cannot be downloaded",
            got=str(error).split("\n")[0][:200],
            known=f"{PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME:CONFIG",
        ) from error
    temporary = temporary_path(folder)
    remove(temporary)
    found.save_to_disk(temporary)
    temporary.rename(folder)
