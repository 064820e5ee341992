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
from finetune.files import read_json, sha256_file, sha256_json, temporary_path
from finetune.pipeline import classify_request, file_run_name, load_pipeline
from finetune.run import Run
from finetune.tables.in_memory import cells_of, is_dataset, read_texts
from finetune.tables.readers import SAMPLE, find_unlabelled_text
from finetune.tables.tables import as_cell
from finetune.tasks.classify.bundle import Predictor, added_columns, open_bundle

FORMS = "a path, a pandas DataFrame, a Dataset or a DatasetDict"


class ClassifierRun:
    """A finished run: `directory` (as the command leaves it), `report`, `bundle`, `evaluation` and ``predict``."""

    def __init__(self, directory: Path):
        self.directory = Run.at(directory).directory
        self.report = self.directory / "report" / "index.html"
        winner = self.directory / "export" / "bundle"  # if it is not the model
        self.bundle = winner if winner.exists() else self.directory / "export" / "hf"

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The content of eval.json: the headline, every metric with its interval, the baselines."""
        found: dict[str, Any] = read_json(self.directory / "eval.json")
        return found

    def predict(self, data: Any, text: str | None = None, overwrite: bool = False) -> Any:
        """As ``finetune.predict``."""
        return _predict(self._loaded, data, text, overwrite)

    @cached_property
    def _loaded(self) -> Predictor:
        return open_bundle(self.directory)


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
    """Run the pipeline ``classify``, like the command, from data to report and bundle.

    data, validation, test: a path or a name, a DataFrame, a Dataset, or for `data` a DatasetDict whose splits are
    kept. text, label, group, split, encoding: as the command's options. settings: any settings of a recipe, such as
    ``{"train": {"epochs": 3}}``. The run is `folder`/`name`; tables in memory are saved in `folder`/tables. The same
    call again resumes a stopped run and returns a finished one.
    """
    named = name or (file_run_name(str(data)) if isinstance(data, str | Path) else "classify")
    Run.named(Path(folder), named)  # refuses an invalid name before anything is written
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


def predict(bundle: str | Path, data: Any, text: str | None = None, overwrite: bool = False) -> Any:
    """The data with the columns predicted, probability and one p_ column per label; empty for rows without text.

    bundle: the directory of a run or a bundle. data: a DataFrame or a Dataset, returned as the same type with all
    columns and rows; or texts, returned as the column "text" of a DataFrame. text: the text column, several as "a,b";
    by default as in training, else inferred from names or content. overwrite: replace columns that have the names of
    added ones. Raises DataError, WeightsError.
    """
    return _predict(open_bundle(Path(bundle)), data, text, overwrite)


def _predict(bundle: Predictor, data: Any, text: str | None, overwrite: bool) -> Any:
    if not (is_dataset(data) or isinstance(data, pd.DataFrame)):
        data = pd.DataFrame({"text": read_texts(data, empty=True)[0]})
    names = _column_names(data)
    added = added_columns(bundle, names, "the data", overwrite)
    wanted = bundle.column("text", text, names)
    chosen = [names[place] for place in find_unlabelled_text(names, _sample(data, names), wanted, "the data")]
    if isinstance(data, pd.DataFrame):
        texts, _ = read_texts(data.iloc[:, [names.index(name) for name in chosen]], empty=True)
    else:
        texts, _ = read_texts(data.select_columns(chosen), empty=True)
    texts = list(map(bundle.folded, texts))
    filled = np.array([bool(own.strip()) for own in texts])
    numbers = np.full(
        (len(texts), len(bundle.labels) + 1), np.nan
    )  # probability of the predicted label, then of each label
    predicted = np.full(len(texts), None, dtype=object)
    if filled.any():
        probabilities = bundle.probabilities(bundle.logits([own for own in texts if own.strip()]))
        labels, sure = bundle.name(probabilities)
        predicted[filled] = labels
        numbers[filled] = np.column_stack([sure, probabilities])
    answers = dict(zip(added, [predicted, *numbers.T], strict=True))
    if isinstance(data, pd.DataFrame):
        return data.assign(**answers)
    data = data.remove_columns([name for name in added if name in names])
    for name, values in answers.items():
        data = data.add_column(name, [None if pd.isna(value) else value for value in values.tolist()])
    return data


def _sample(data: Any, names: list[str]) -> list[list[str]]:
    """The first rows as cells, to infer the columns."""
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
    draft = temporary_path(folder / name)
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
