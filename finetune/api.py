"""The pipeline from Python: ``classify`` trains on a table in any form, ``predict`` returns it with predictions."""

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import parquet

from finetune.errors import InputError
from finetune.execution import execute, open_run
from finetune.files import read_json, sha256_file, sha256_json
from finetune.pipeline import classify_request, file_run_name, load_pipeline
from finetune.run import Run
from finetune.tables.in_memory import cells_of, is_dataset, read_texts
from finetune.tables.readers import SAMPLE, find_unlabelled_text
from finetune.tables.tables import as_cell
from finetune.tasks.classify.bundle import Bundle, added_columns

FORMS = "a path, a frame of pandas, a Dataset or a DatasetDict of datasets"


class ClassifierRun:
    """A finished run: `directory` (as the command leaves it), `report`, `bundle`, `evaluation` and ``predict``."""

    def __init__(self, directory: Path):
        self.directory = Run.at(directory).directory
        self.report = self.directory / "report" / "index.html"
        self.bundle = self.directory / "export" / "hf"

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """What eval.json says: the headline, every metric with its interval, the baselines."""
        found: dict[str, Any] = read_json(self.directory / "eval.json")
        return found

    def predict(self, data: Any, text: str | None = None) -> Any:
        """As ``finetune.predict``."""
        return _predict(self._loaded, data, text)

    @cached_property
    def _loaded(self) -> Bundle:
        return Bundle.load(self.directory)


def classify(
    data: Any,
    text: str | None = None,
    label: str | None = None,
    *,
    group: str | None = None,
    split: str | None = None,
    validation: Any = None,
    test: Any = None,
    weights: str | Path | None = None,
    method: str | None = None,
    encoding: str | None = None,
    settings: dict[str, Any] | None = None,
    name: str | None = None,
    folder: str | Path = "runs",
) -> ClassifierRun:
    """Run the pipeline ``classify``, as the command does, from data to report and bundle.

    data, validation, test: a path or a name, a DataFrame, a Dataset, or for `data` a DatasetDict whose own splits are
    kept. text, label, group, split, encoding: as the command's options. settings: any of a recipe, as
    ``{"train": {"epochs": 3}}``. The run stands in `folder` under `name`, and what came as a table beside it in
    `folder`/tables; the same call goes on, or finds that nothing is left to do.
    """
    named = name or (file_run_name(str(data)) if isinstance(data, str | Path) else "classify")
    Run.named(Path(folder), named)  # refuses what is no name, before anything is written
    places = [_as_path(part, Path(folder) / "tables", named) for part in (data, validation, test)]
    request = classify_request(
        places[0],
        text=text,
        label=label,
        group=group,
        split=split,
        validation=places[1],
        test=places[2],
        weights=None if weights is None else str(weights),
        method=method,
        encoding=encoding,
        settings=settings,
    )
    run, recipe = open_run(request, Path(folder), named)
    execute(run, recipe, load_pipeline(request.pipeline).stages)
    return ClassifierRun(run.directory)


def predict(bundle: str | Path, data: Any, text: str | None = None) -> Any:
    """The data with predicted, probability and a p_ column for each label added; rows without text get none.

    bundle: the directory of a run or a bundle. data: a DataFrame or a Dataset, given back as such with every column and
    row in its place; or texts, given back as the column "text" of a frame. text: the column, several as "a,b"; none:
    the one that was learnt, else found by its name or content. Raises DataError, WeightsError.
    """
    return _predict(Bundle.load(Path(bundle)), data, text)


def _predict(bundle: Bundle, data: Any, text: str | None) -> Any:
    if not (is_dataset(data) or isinstance(data, pd.DataFrame)):
        data = pd.DataFrame({"text": read_texts(data, empty=True)[0]})
    names = _column_names(data)
    added = added_columns(bundle, names, "the data")
    wanted = bundle.column("text", text, names)
    chosen = [names[place] for place in find_unlabelled_text(names, _sample(data, names), wanted, "the data")]
    if isinstance(data, pd.DataFrame):
        texts, _ = read_texts(data.iloc[:, [names.index(name) for name in chosen]], empty=True)
    else:
        texts, _ = read_texts(data.select_columns(chosen), empty=True)
    filled = np.array([bool(own.strip()) for own in texts])
    numbers = np.full((len(texts), len(bundle.labels) + 1), np.nan)  # of the predicted label, then of each
    predicted = np.full(len(texts), None, dtype=object)
    if filled.any():
        probabilities = bundle.probabilities(bundle.logits([own for own in texts if own.strip()]))
        labels, sure = bundle.name(probabilities)
        predicted[filled] = labels
        numbers[filled] = np.column_stack([sure, probabilities])
    answers = dict(zip(added, [predicted, *numbers.T], strict=True))
    if isinstance(data, pd.DataFrame):
        return data.assign(**answers)
    for name, values in answers.items():
        data = data.add_column(name, [None if pd.isna(value) else value for value in values.tolist()])
    return data


def _sample(data: Any, names: list[str]) -> list[list[str]]:
    """The first rows as cells, for what they hold."""
    if isinstance(data, pd.DataFrame):
        columns = [cells_of(data.iloc[:SAMPLE, place]) for place in range(len(names))]
    else:
        first = data[:SAMPLE]
        columns = [first[name] for name in names]
    return [[as_cell(value) for value in row] for row in zip(*columns, strict=True)]


def _column_names(data: Any) -> list[str]:
    return list(map(str, data.columns)) if isinstance(data, pd.DataFrame) else list(getattr(data, "column_names", []))


def _as_path(data: Any, folder: Path, name: str) -> str | None:
    """The data's path; data in memory are written to a file named by a hash of their content."""
    if data is None or isinstance(data, str | Path):
        return None if data is None else str(data)
    if not (isinstance(data, pd.DataFrame) or is_dataset(data) or is_dataset(data, "DatasetDict")):
        raise InputError("unsupported type of training data", got=type(data).__name__, known=FORMS)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.draft"
    if isinstance(data, pd.DataFrame):
        ending = ".parquet"
        columns = _column_names(data)
        if len(set(columns)) < len(columns):
            raise InputError("two columns have the same name", got=", ".join(columns), do="Rename one of them.")
        cells = [[as_cell(value) for value in cells_of(data.iloc[:, place])] for place in range(len(columns))]
        parquet.write_table(pyarrow.table(dict(zip(columns, cells, strict=True))), draft)
        digest = sha256_file(draft)
    else:
        ending = ""
        data.save_to_disk(draft)
        digest = sha256_json(
            {file.relative_to(draft).as_posix(): sha256_file(file) for file in sorted(draft.rglob("*.arrow"))}
        )
    final = folder / f"{name}-{digest[:12]}{ending}"
    if not final.exists():
        draft.rename(final)
    elif draft.is_dir():
        shutil.rmtree(draft)
    else:
        draft.unlink()
    return str(final)
