"""Resolve the name of a data set to a local file and its layout."""

from dataclasses import dataclass
from pathlib import Path

from finetune.config import nearest
from finetune.console import warn
from finetune.errors import DataError, FetchError
from finetune.hub.assets import asset
from finetune.hub.datasets import PREFIX, get_hub_dataset
from finetune.hub.fetch import find_data, get_data, network_available
from finetune.hub.registry import DataRow, data_registry
from finetune.tables.detect import Detected, detect_format
from finetune.tables.label_folders import is_label_folder
from finetune.tables.readers import HEADER_NAMES
from finetune.tables.tables import TableFormat, format_of, is_saved_dataset


@dataclass(frozen=True)
class DataSource:
    """A labelled file and its description for the data card."""

    name: str
    path: Path
    detected: Detected  # its layout and notes on it
    source: str
    licence: str = ""
    citation: str = ""

    @property
    def layout(self) -> TableFormat:
        """How the file is read."""
        return self.detected.layout


def resolve_data(name: str, fetch: bool = True) -> str:
    """A name that means the same in any directory: that of a registered set or a sample, or a file's absolute path.

    If the full set is not available, returns the name of its bundled sample. To find out, the set is downloaded; if
    that fails, the error is shown as a warning. Without `fetch` nothing is downloaded, and a set counts as available
    if the network is. Raises DataError if there is neither a set nor a file of that name.
    """
    row = data_registry().get(name)
    if row is None:
        return name if name in samples() or name.startswith(PREFIX) else str(locate_data(name).path.resolve())
    if row.fallback is None or find_data(row):
        return name
    if network_available():
        try:
            if fetch:
                get_data(row)
            return name
        except FetchError as error:
            warn(str(error))
    return row.fallback


def locate_data(name: str, encoding: str | None = None) -> DataSource:
    """The table called `name`. Raises DataError.

    name: a registered set, a sample (``spam-sample``), ``hf:OWNER/NAME``, a file, or a folder saved by `datasets`.
    encoding: of the user's file, if it is neither UTF-8 nor marked with a BOM.
    """
    rows = data_registry()
    if name in rows:
        return _from_row(rows[name], get_data(rows[name]))
    bundled = samples()
    if name in bundled:
        return sample_source(name)
    if found := table_source(name, encoding, HEADER_NAMES):
        return found
    known = [*rows, *bundled]
    raise DataError(
        f"{name!r} is neither a file nor the name of a data set",
        known=", ".join(known) + (f". {hint}" if (hint := nearest(name, known)) else ""),
        do="Give a .csv or .tsv file with a header, for example my.csv.",
    )


def table_source(name: str, encoding: str | None, header_names: frozenset[str]) -> DataSource | None:
    """A table from the hub, or the user's file or folder; None if there is nothing of that name."""
    if name.startswith(PREFIX):
        return DataSource(
            name, get_hub_dataset(name), Detected(TableFormat(kind="dataset")), "a data set from the Hugging Face hub"
        )
    path = Path(name).expanduser()
    if path.is_file() or is_saved_dataset(path) or is_label_folder(path):
        return DataSource(path.name, path, detect_format(path, encoding, header_names), "the user's file")
    if path.is_dir():
        raise DataError(
            f"{name}: a directory instead of a file",
            known="a folder is read if it has one folder of texts per label, or was written by datasets' save_to_disk",
        )
    return None


def samples(ending: str = "*", folder: str = "*") -> dict[str, Path]:
    """The bundled samples by name: ``spam-sample`` is data/spam/sample.tsv."""
    return {f"{path.parent.name}-sample": path for path in sorted(asset("data").glob(f"{folder}/sample.{ending}"))}


def sample_source(name: str) -> DataSource:
    """The bundled sample of that name."""
    path = samples()[name]
    layout = format_of(path) if path.suffix == ".tsv" else TableFormat()
    return DataSource(name, path, Detected(layout), "written for this project, bundled", "CC0 1.0")


def _from_row(row: DataRow, path: Path) -> DataSource:
    delimiter = {"tsv": "\t", "csv": ","}[row.format]
    layout = TableFormat(delimiter, row.header, row.quoting, tuple(row.columns))
    source = f"{row.description}; doi {row.doi}" if row.doi else row.description
    return DataSource(row.name, path, Detected(layout), source, row.licence, row.citation)


def resolve_path(name: str) -> str:
    """The absolute path of an existing file, so that the run finds it from any directory; other names unchanged."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
