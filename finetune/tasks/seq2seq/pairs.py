"""Pairs of a source text and a target text from a table of any kind; none is left out without being counted."""

from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from finetune.errors import DataError, listed
from finetune.evaluation.leakage import overlap
from finetune.hub.datasets import PREFIX
from finetune.recipe import Recipe
from finetune.tables.detect import detect_format
from finetune.tables.readers import find_column, usual_column
from finetune.tables.sources import DataSource, sample_source, samples, table_source
from finetune.tables.splits import SPLITS, fold_text, grouped_split, ordered_split, text_keys
from finetune.tables.tables import TableFormat, iterate_table
from finetune.tasks.seq2seq.job import examples, writing_room
from finetune.tokenizer import Tokenizer

USUAL = (("source", "target"), ("src", "tgt"), ("source_text", "target_text"), ("sources", "targets"),
         ("input", "output"), ("inputs", "targets"), ("input_text", "target_text"), ("document", "summary"),
         ("article", "highlights"), ("article", "summary"), ("dialogue", "summary"), ("text", "summary"),
         ("question", "answer"))
PAIR_NAMES = frozenset(chain.from_iterable(USUAL))  # words that only a header holds
MOST_WORDS = 4  # of a column's name
FEWEST = 3  # pairs: one each to train on, to validate with and to test


@dataclass
class Pairs:
    """Records in file order; each one's "row" is its number in the file, the first data row being 0."""

    columns: tuple[str, str]  # names of the source's and the target's
    notes: list[str]  # how the file was read and its columns were found
    records: list[dict] = field(default_factory=list)  # {"row", "source", "target"}
    dropped_rows: dict[str, list[int]] = field(default_factory=dict)  # reason -> rows

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> how many rows were left out for it."""
        return {reason: len(rows) for reason, rows in self.dropped_rows.items()}


def read_pairs(path: Path, source_column: str | None = None, target_column: str | None = None,
               layout: TableFormat | None = None, fewest: int = FEWEST) -> Pairs:
    """Every row with a source and a target, both as they stand in the file; others are counted under `dropped`.

    Raises DataError for a file that is no table, for columns that cannot be told, and where fewer pairs are found.
    """
    path, notes = Path(path), []
    if layout is None:
        detected = detect_format(path, header_names=PAIR_NAMES)
        layout, notes = detected.layout, list(detected.notes)
    if headless := _without_names(path, layout, (source_column, target_column)):
        layout = headless
        notes.append(f"no header: the first row is data, and the columns are called {', '.join(layout.columns)}")
    table = iterate_table(path, layout)
    first = next(table, None)
    if first is None:
        raise DataError(f"{path}: no rows" if layout.kind != "delimited" else f"{path}: a header and no rows",
                        known="a row for each pair, with a source and a target", do="Add some.")
    names = first[0]
    at, how = find_pair(names, source_column, target_column, path)
    found = Pairs(tuple(names[index] for index in at), notes + how)
    for row, (_, cells) in enumerate(chain([first], table)):
        source, target = (cells[index] for index in at)
        if source.strip() and target.strip():
            found.records.append({"row": row, "source": source, "target": target})
        else:
            reason = "empty target" if source.strip() else "empty source"
            found.dropped_rows.setdefault(reason, []).append(row)
    if len(found.records) < fewest:
        left_out = "; ".join(f"{count} rows left out: {reason}" for reason, count in found.dropped.items())
        raise DataError(f"{path}: too few pairs",
                        got=f"{len(found.records)} with a source in {found.columns[0]!r} and a target in "
                            f"{found.columns[1]!r}" + (f" ({left_out})" if left_out else ""),
                        known=f"at least {fewest}, one each to train on, to validate with and to test",
                        do="Add some, or name other columns.")
    return found


def _without_names(path: Path, layout: TableFormat, wanted: tuple[str | None, str | None]) -> TableFormat | None:
    """The layout of a table whose first row is a pair, not names: a sentence, by its length or its end."""
    first = next(iterate_table(path, layout), None) if layout.kind == "delimited" and layout.header else None
    names = first[0] if first else []
    if len(names) < 2 or set(wanted) & set(names) or _usual_pair(names, None, None) or not any(
            len(name.split()) > MOST_WORDS or name.rstrip().endswith((".", "!", "?", "\N{HORIZONTAL ELLIPSIS}"))
            for name in names):
        return None
    more = (f"column {number}" for number in range(3, len(names) + 1))
    return replace(layout, header=False, columns=("source", "target", *more))


def find_pair(names: list[str], source: str | None, target: str | None,
              path: Path) -> tuple[tuple[int, int], list[str]]:
    """The indices of the two columns, and how those were found that nobody named.

    As they were named, else the first usual pair that is there, else the two columns that are left.
    Raises DataError with the names there are.
    """
    named = {what: None if wanted is None else find_column(names, wanted, (), what, path, _mend(what))
             for what, wanted in (("source", source), ("target", target))}
    at, why = _usual_pair(names, named["source"], named["target"]), "by their names"
    if at is None:
        open_sides = [what for what, index in named.items() if index is None]
        rest = [index for index in range(len(names)) if index not in named.values()]
        if len(rest) != len(open_sides):
            raise DataError(f"{path}: no {' and '.join(open_sides)} column that can be told by its name",
                            got=listed(names), known=", ".join(map("/".join, USUAL)),
                            do=" ".join(map(_mend, open_sides)))
        at = tuple(rest.pop(0) if index is None else index for index in named.values())
        why = "the only ones; the first row is taken for their names"
    for what, index in zip(named, at, strict=True):
        find_column(names, names[index], (), what, path, _mend(what))  # the same name twice is refused
    if at[0] == at[1]:
        raise DataError(f"{path}: one column for source and target", got=repr(names[at[0]]), known=listed(names),
                        do=_mend("target"))
    if None not in named.values():
        return at, []
    return at, [f"source column {names[at[0]]!r}, target column {names[at[1]]!r}: {why}"]


def _usual_pair(names: list[str], source: int | None, target: int | None) -> tuple[int, int] | None:
    """The first usual pair of columns; a side that is given stays, and the other is one that usually goes with it."""
    if source is not None and target is not None:
        return source, target
    for usual in USUAL:
        at = [usual_column(names, (name,)) for name in usual]
        if None not in at and source in (None, at[0]) and target in (None, at[1]):
            return at[0], at[1]
    return None


def _mend(what: str) -> str:
    return f"Name it with --set seq2seq.{what}=NAME."


def locate_pairs(name: str, encoding: str | None = None) -> DataSource:
    """The table of source and target that `name` means. Raises DataError.

    A file, a folder that `datasets` saved, ``hf:OWNER/NAME``, or the bundled ``seq2seq-sample``.
    """
    bundled = samples(folder="seq2seq")
    if name in bundled:
        return sample_source(name)
    if found := table_source(name, encoding, PAIR_NAMES):
        return found
    raise DataError(f"no pairs {name!r}: no such file", known=", ".join([*bundled, f"{PREFIX}OWNER/NAME"]),
                    do="Give a .csv, .tsv, .json, .jsonl or .parquet file, for example --set data=my.tsv")

END = "<|endoftext|>"


def prepare(recipe: Recipe, source: Pairs, tokenizer: Tokenizer, context: int,
            given: dict[str, Pairs] | None = None) -> tuple[dict, dict]:
    """Split the pairs, those of one source together if not by their order alone.

    Sources count as the same if they are after folding case and white space: digits are content here.
    given: val or test as files of their own, which stay whole. Returns (records by split, data card).
    """
    split, family, given = recipe.split, recipe.seq2seq.family, given or {}
    sources = [record["source"] for record in source.records]
    shares = [0.0 if side in given else share for side, share in (("val", split.val_fraction),
                                                                  ("test", split.test_fraction))]
    if split.protocol == "ordered":
        parts = ordered_split(len(sources), *shares)
    else:
        parts = grouped_split(sources, [""] * len(sources), *shares, split.seed, keys=text_keys(sources, fold_text))
    records = {name: [source.records[i] for i in parts[name]] for name in SPLITS}
    records |= {side: table.records for side, table in given.items()}
    if empty := [name for name in SPLITS if not records[name]]:
        raise DataError(f"too few pairs: none for the {empty[0]} split",
                        got=f"{len(set(map(fold_text, sources)))} different sources", do="Add some.")
    for table in given.values():
        for reason, rows in table.dropped_rows.items():
            source.dropped_rows[reason] = source.dropped_rows.get(reason, []) + rows
    max_length = min(recipe.max_length or context, context)
    found = {name: examples(part, tokenizer, family, max_length) for name, part in records.items()}
    for name, part in found.items():
        if not part.rows:
            raise DataError(f"no pair of the {name} split fits into {max_length} tokens",
                            do="Give a larger max_length, or a model with a longer context.")
    cut, left_out = ([row for part in found.values() for row in getattr(part, name)] for name in ("cut", "left_out"))
    both = overlap({name: [record["source"] for record in part] for name, part in records.items()}, fold_text)
    notes = [f"{count} rows left out: {reason}" for reason, count in source.dropped.items()]
    if cut:
        notes.append(f"{len(cut)} sources lost their end, to fit into {max_length} tokens")
    room = writing_room(family, max_length, context, recipe.seq2seq.max_new_tokens)
    if shortened := sum(len(tokenizer.encode(record["source"])) > room for record in records["test"]):
        notes.append(f"{shortened} test sources are read without their end where targets are written")
    if left_out:
        notes.append(f"{len(left_out)} pairs left out: the target alone is longer than {max_length} tokens")
    notes += [f"{counts['normalised']} of {counts['n']} {name.replace('_in_', ' sources stand in ')} too"
              for name, counts in both.items() if counts["normalised"]]
    tokens = {side: _spread([len(getattr(pair, side)) for part in found.values() for pair in part.pairs])
              for side in ("source", "target")}
    card = {"records": sum(map(len, records.values())), "given": sorted(given), "dropped": source.dropped,
            "dropped_rows": source.dropped_rows,
            "columns": list(source.columns), "family": family, "example": _as_read(records["train"][0], family),
            "protocol": split.protocol, "seed": split.seed, "different_sources": len(set(map(fold_text, sources))),
            "splits": {name: {"records": len(records[name]), "used": len(part.rows), "tokens": sum(part.lengths()),
                              "learnt_tokens": sum(part.told())} for name, part in found.items()},
            "tokens": tokens | {"max_length": max_length, "cut": len(cut), "left_out": len(left_out)},
            "cut_rows": sorted(cut), "left_out_rows": sorted(left_out), "overlap": both, "notes": notes}
    return records, card


def _as_read(record: dict, family: str) -> str:
    """A pair with the token that parts and ends, in words."""
    if family == "decoder":
        return f"{record['source']}{END}{record['target']}{END}"
    return f"encoder: {record['source']}\ndecoder: {END}{record['target']}{END}"


def _spread(counts: list[int]) -> dict[str, int]:
    return {"median": int(np.median(counts)), "p95": int(np.percentile(counts, 95)), "max": max(counts)}
