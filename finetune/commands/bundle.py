"""Dispatch ``predict`` and ``evaluate`` to the task of a bundle: to its ``predict.py`` or ``score_file.py``."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from finetune.errors import RunError, WeightsError
from finetune.files import read_json
from finetune.records import Record
from finetune.tasks import TASKS
from finetune.tasks.classify.bundle import bundle_directory
from finetune.training.sharing import together


@dataclass(frozen=True)
class AnyBundleCard(Record):
    """The fields that the ``bundle.json`` of every task has."""

    schema_version: int
    task: str


def task_module(path: Path, name: str, adapters: Sequence[Path] = ()) -> tuple[ModuleType, Path]:
    """The module `name` of a bundle's task, and the bundle's directory. Raises WeightsError if `path` is not a bundle.

    adapters: directories in PEFT's layout; `path` is then their base weights, not a bundle. All are classifiers.

    predict has ``predict_texts(directory, texts)``, ``predict_table(directory, source, target, text, encoding, header,
    overwrite)``, and ``help_predict(directory)`` for the other processes that share its rows. score_file has
    ``score_file(directory, data, text, label, encoding)``. These return the lines to print.
    """
    if adapters:
        return import_module(f"finetune.tasks.classify.{name}"), path
    directory = bundle_directory(path)
    file = directory / "bundle.json"
    known = [own for own in TASKS if find_spec(f"finetune.tasks.{own}.{name}")]
    try:
        card = AnyBundleCard.from_json(read_json(file), file)
        if card.task not in known:
            raise RunError(
                f"{file}: this command does not support the task", got=f"task: {card.task!r}", known=", ".join(known)
            )
    except RunError as error:
        raise WeightsError(
            f"{file}: not in the format of an export", got=error.got, known=error.known, do="Export the run again."
        ) from error
    return import_module(f"finetune.tasks.{card.task}.{name}"), directory


def score_file(bundle: str, data: str, text: str, label: str, encoding: str) -> list[str]:
    """The metrics of a bundle on a labelled file, as lines; all processes of the command do the same and share it.

    text, label, encoding: as given on the command line, or empty.
    """
    task, directory = task_module(Path(bundle), "score_file")
    with together():
        lines: list[str] = list(task.score_file(directory, Path(data), text or None, label or None, encoding or None))
    return lines
