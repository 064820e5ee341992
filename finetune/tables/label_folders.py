"""Folders of text files with one subfolder per label: reviews/good/1.txt, reviews/bad/2.txt."""

from dataclasses import dataclass
from pathlib import Path

from finetune.errors import DataError

SIDES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


TEXTS = (".txt", ".text", "")  # extensions of files that are read


@dataclass(frozen=True)
class LabelledFile:
    """A text's file, the name of its label's folder, and its split if folders give one."""

    path: Path
    label: str
    split: str = ""


def is_label_folder(path: Path) -> bool:
    """Whether a folder has at least two folders of texts, directly or within a folder for each split."""
    if not path.is_dir():
        return False
    tops = _folders(path)
    return any(sum(1 for folder in folders if _files(folder)) > 1 for folders in (tops, *map(_folders, tops)))


def labelled_files(path: Path) -> list[LabelledFile]:
    """All texts below the folder, sorted by path. Raises DataError for a link; links are never followed."""
    tops = _folders(path)
    sided = bool(tops) and all(top.name.casefold() in SIDES and _folders(top) for top in tops)
    labels = [(folder, top.name) for top in tops for folder in _folders(top)] if sided else [(top, "") for top in tops]
    return [LabelledFile(file, folder.name, split) for folder, split in labels for file in _files(folder)]


def unread_files(path: Path) -> int:
    """The number of files below the folder that are not in a label's folder."""
    files = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
    shown = [file for file in files if not any(_hidden(Path(part)) for part in file.parts)]
    return len(shown) - len(labelled_files(path))


def _folders(path: Path) -> list[Path]:
    return sorted(own for own in path.iterdir() if own.is_dir() and not _hidden(own) and not _is_link(own))


def _files(path: Path) -> list[Path]:
    found = [own for own in path.iterdir() if own.suffix.lower() in TEXTS and not _hidden(own) and not _is_link(own)]
    return sorted(own for own in found if own.is_file())


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__"))


def _is_link(path: Path) -> bool:
    if path.is_symlink():
        raise DataError(f"{path}: a link instead of a file", do="Put a copy of the file in its place.")
    return False
