"""The commands ``predict`` and ``evaluate`` ask the task of a bundle: its ``predict.py`` and ``score_file.py``."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from finetune.errors import WeightsError
from finetune.files import read_json
from finetune.tasks import TASKS
from finetune.tasks.classify.bundle import bundle_directory


def task_module(path: Path, name: str) -> tuple[ModuleType, Path]:
    """The module of that name of a bundle's task, and the bundle's directory. Raises WeightsError for no bundle.

    predict: ``predict_texts(directory, texts)`` and ``predict_table(directory, source, target, text, encoding, header)``;
    score_file: ``score_file(directory, data, text, label, encoding)``. All yield the lines to print.
    """
    directory = bundle_directory(path)
    card = read_json(directory / "bundle.json")
    task = card.get("task") if isinstance(card, dict) else None
    known = [own for own in TASKS if find_spec(f"finetune.tasks.{own}.{name}")]
    if task not in known:
        raise WeightsError(
            f"{directory / 'bundle.json'}: not what an export writes",
            got=f"task: {task!r}",
            known=", ".join(known),
            do="Export the run again.",
        )
    return import_module(f"finetune.tasks.{task}.{name}"), directory
