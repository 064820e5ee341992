"""The command ``predict``: each task with a ``predict.py`` says there what its bundle makes of texts and tables."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from finetune.errors import WeightsError
from finetune.files import read_json
from finetune.tasks import TASKS
from finetune.tasks.classify.bundle import bundle_directory


def predictor(path: Path) -> tuple[ModuleType, Path]:
    """The ``predict.py`` of a bundle's task, and the bundle's directory. Raises WeightsError for what is no bundle.

    The module has ``predict_texts(directory, texts)`` and ``predict_table(directory, source, target, text, encoding,
    header)``, which yield the lines to print.
    """
    directory = bundle_directory(path)
    card = read_json(directory / "bundle.json")
    task = card.get("task") if isinstance(card, dict) else None
    known = [name for name in TASKS if find_spec(f"finetune.tasks.{name}.predict")]
    if task not in known:
        raise WeightsError(
            f"{directory / 'bundle.json'}: not what an export writes",
            got=f"task: {task!r}",
            known=", ".join(known),
            do="Export the run again.",
        )
    return import_module(f"finetune.tasks.{task}.predict"), directory
