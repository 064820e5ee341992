"""From the name of a data set to a file on this machine and how it is read."""

from dataclasses import dataclass
from pathlib import Path

from finetune.config import nearest
from finetune.console import warn
from finetune.errors import DataError, FetchError, listed
from finetune.files import sha256_tree
from finetune.hub.assets import asset
from finetune.hub.datasets import PREFIX, get_hub_dataset
from finetune.hub.fetch import find_data, get_data, network_available
from finetune.hub.registry import DataRow, data_registry
from finetune.recipe import Recipe
from finetune.tables.detect import Detected, detect_format
from finetune.tables.pairs import PAIR_NAMES
from finetune.tables.readers import HEADER_NAMES, LabelledTexts, read_labelled
from finetune.tables.tables import TableFormat, format_of, is_saved_dataset, iterate_table

PURPOSES = {"": "to train on", "val": "to validate on", "test": "to test on"}


@dataclass(frozen=True)
class DataSource:
    """A labelled file and what a data card says of it."""

    name: str
    path: Path
    detected: Detected  # how it is laid out, and what is unusual in that
    source: str
    licence: str = ""
    citation: str = ""

    @property
    def layout(self) -> TableFormat:
        """How the file is read."""
        return self.detected.layout


def resolve_data(name: str, fetch: bool = True) -> str:
    """A name that means the same in any directory: a registry's or a sample's, or a file's whole path.

    Where the real set is neither at hand nor to be had, its sample's name. A download is tried here, since the set's
    server can be down where the hub is not; its error is said. Raises DataError for what is neither name nor file.
    fetch: without it nothing is downloaded, and a set that may be had is taken for one that can.
    """
    row = data_registry().get(name)
    if row is None:
        return name if name in _samples() or name.startswith(PREFIX) else str(locate_data(name).path.resolve())
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
    """The table that `name` means. Raises DataError.

    A registry row, a sample (``spam-sample``), ``hf:OWNER/NAME``, a file, or a folder that `datasets` saved.
    encoding: of the user's file, where it is not UTF-8 and does not say itself what it is.
    """
    rows = data_registry()
    if name in rows:
        return _from_row(rows[name], get_data(rows[name]))
    samples = _samples()
    if name in samples:
        return _sample(name)
    if found := _table(name, encoding, HEADER_NAMES):
        return found
    known = [*rows, *samples]
    raise DataError(f"no data {name!r}: no such file and no such name",
                    known=", ".join(known) + (f". {hint}" if (hint := nearest(name, known)) else ""),
                    do="Give a .csv or .tsv file with a header, for example my.csv.")


def _table(name: str, encoding: str | None, header_names: frozenset[str]) -> DataSource | None:
    """A table of the hub, or a file or folder of the user's; none where there is nothing of that name."""
    if name.startswith(PREFIX):
        return DataSource(name, get_hub_dataset(name), Detected(TableFormat(kind="dataset")),
                          "a data set of the Hugging Face hub")
    path = Path(name).expanduser()
    if path.is_file() or is_saved_dataset(path):
        return DataSource(path.name, path, detect_format(path, encoding, header_names), "the user's file")
    if path.is_dir():
        raise DataError(f"{name}: a directory where a file should be",
                        known="a folder is read only where datasets' save_to_disk wrote it")
    return None


def locate_files(recipe: Recipe) -> dict[str, DataSource]:
    """The recipe's table under "", and the further ones for validation and test under the side they are of."""
    named = {"": recipe.data, "val": recipe.validation, "test": recipe.test}
    return {side: locate_data(name, recipe.encoding) for side, name in named.items() if name or not side}


def read_data(recipe: Recipe) -> LabelledTexts:
    """The recipe's labelled rows: its file's, and those of the files for validation and test, each on its side.

    Raises DataError for a further file that is an earlier one or its copy, or has labels that no row to train on has.
    """
    columns, files = recipe.columns, locate_files(recipe)
    data = files.pop("")
    before = [(PURPOSES[""], data)]
    found = read_labelled(data.path, columns.text, columns.label, data.layout, group=columns.group, split=columns.split)
    found.notes[:0] = data.detected.notes
    found.name = data.name
    if files:
        found.notes = [f"{data.name}: {note}" for note in found.notes]
    labels = set(found.labels)
    for side, more in files.items():
        name = recipe.validation if side == "val" else recipe.test
        if found.sides and side in found.sides:
            raise DataError(f"{name}: {data.path.name} says itself which rows are the {side} split",
                            do="Leave the file out, or the split column.")
        _refuse_again(name, more, before)
        before.append((PURPOSES[side], more))
        _refuse_other_header(name, more, data, found)
        read = read_labelled(more.path, found.text_column, found.label_column, more.layout, 1, columns.group)
        unknown = sorted(set(read.labels) - labels)
        if unknown:
            raise DataError(f"{name}: labels that no row of {data.path.name} has", got=listed(unknown),
                            known=listed(sorted(labels)), do="Rename them, or add rows of them to train on.")
        read.name = name if more.name in {found.name, *found.files} else more.name
        found.notes += [f"{read.name}: {note}" for note in (*more.detected.notes, *read.notes)]
        found.extend(read, side)
    return found


def _refuse_again(name: str, more: DataSource, before: list[tuple[str, DataSource]]) -> None:
    """Raise DataError for a file that is one of those before it, or a copy of one."""
    for purpose, known in before:
        same = more.path.resolve() == known.path.resolve()
        if same or sha256_tree(more.path) == sha256_tree(known.path):
            raise DataError(f"{name}: the table {purpose}, given again",
                            got="" if same else f"a copy of {known.path.name}",
                            do="Leave it out: a part is held out. Or give other rows.")


def _refuse_other_header(name: str, more: DataSource, data: DataSource, found: LabelledTexts) -> None:
    """Raise DataError where one of two files has a header and the other has none."""
    first = next(iterate_table(more.path, more.layout), None)
    wanted = {*found.text_column.split(","), found.text_column, found.label_column}
    if first is None or more.layout.kind != "delimited" or wanted & set(first[0]):
        return
    raise DataError(f"{name}: no header was found that names the columns of {data.path.name}"
                    if data.layout.header else f"{data.path.name}: no header was found, and {name} seems to have one",
                    got=f"the first row of {more.path.name}: {listed(first[0])}" if more.layout.header else
                    f"columns called {listed(first[0])}",
                    known=f"columns {found.text_column!r} and {found.label_column!r}",
                    do="Give both files the same header as their first line.")


def _samples(ending: str = "*", folder: str = "*") -> dict[str, Path]:
    """The bundled samples by name: ``spam-sample`` is data/spam/sample.tsv."""
    return {f"{path.parent.name}-sample": path for path in sorted(asset("data").glob(f"{folder}/sample.{ending}"))}


def _sample(name: str) -> DataSource:
    path = _samples()[name]
    layout = format_of(path) if path.suffix == ".tsv" else TableFormat()
    return DataSource(name, path, Detected(layout), "written for this project, bundled", "CC0 1.0")


def _from_row(row: DataRow, path: Path) -> DataSource:
    delimiter = {"tsv": "\t", "csv": ","}[row.format]
    layout = TableFormat(delimiter, row.header, row.quoting, tuple(row.columns))
    source = f"{row.description}; doi {row.doi}" if row.doi else row.description
    return DataSource(row.name, path, Detected(layout), source, row.licence, row.citation)


def resolve_text(name: str) -> str:
    """A text's path made absolute, so that the run finds it from anywhere; other names stay."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def locate_text(name: str) -> DataSource:
    """The plain text that `name` means. Raises DataError.

    A file, a folder of text files or one that `datasets` saved, ``hf:OWNER/NAME``, or the bundled ``text-sample``.
    """
    samples = _samples("txt")
    if name in samples:
        return _sample(name)
    if name.startswith(PREFIX):
        return DataSource(name, get_hub_dataset(name), Detected(TableFormat()), "a data set of the Hugging Face hub")
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(f"no text {name!r}: no such file or folder", known=", ".join([*samples, f"{PREFIX}OWNER/NAME"]),
                        do="Give a text file or a folder, for example --set data=my.txt")
    return DataSource(path.name, path, Detected(TableFormat()), "the user's text")


def locate_instructions(name: str) -> DataSource:
    """The file of instruction records that `name` means, or the bundled ``instruct-sample``. Raises DataError."""
    samples = _samples("jsonl")
    if name in samples:
        return _sample(name)
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"no records {name!r}: no such file", known=", ".join(samples),
                        do="Give a .json, .jsonl or .csv file, for example --set data=my.jsonl")
    return DataSource(path.name, path, Detected(TableFormat()), "the user's file")


def locate_pairs(name: str, encoding: str | None = None) -> DataSource:
    """The table of source and target that `name` means. Raises DataError.

    A file, a folder that `datasets` saved, ``hf:OWNER/NAME``, or the bundled ``seq2seq-sample``.
    """
    samples = _samples(folder="seq2seq")
    if name in samples:
        return _sample(name)
    if found := _table(name, encoding, PAIR_NAMES):
        return found
    raise DataError(f"no pairs {name!r}: no such file", known=", ".join([*samples, f"{PREFIX}OWNER/NAME"]),
                    do="Give a .csv, .tsv, .json, .jsonl or .parquet file, for example --set data=my.tsv")
