"""The check of a labelled table: everything that is found in it, for a person or for a program."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from finetune.checkpoints.sources import locate_weights
from finetune.checkpoints.store import read_config
from finetune.console import clean, say
from finetune.errors import DataError, shorten
from finetune.tables.checks import (
    LEVELS,
    Finding,
    by_severity,
    check_rows,
    letter_counts,
    places,
    sample_of,
    without_muted,
)
from finetune.tables.codes import GUIDE, check_muted
from finetune.tables.column_checks import check_table
from finetune.tables.detect import Detected, detect_format
from finetune.tables.near_duplicates import find_near_duplicates
from finetune.tables.readers import HEADER_NAMES, read_labelled
from finetune.tables.sources import locate_data
from finetune.tables.splits import text_keys
from finetune.tables.tables import is_utf8, look_at_bytes
from finetune.tokenizer import Tokenizer
from finetune.training.token_rows import encode

COLOURS = dict(zip(LEVELS, ("red", "yellow", ""), strict=True))


def check_file(
    name: str,
    text: str | None = None,
    label: str | None = None,
    weights: str = "mini",
    encoding: str | None = None,
    ignore: Sequence[str] = (),
) -> dict:
    """Check the table that `name` means, a file or a registry's row; findings with the codes in `ignore` are muted.

    Raises DataError where the table cannot be read, RecipeError for a code that cannot be muted.

    Returns, for JSON, with stable keys: schema_version; file; format {kind, delimiter, encoding, header, quoting,
    notes, lost_by_quoting}; columns {text, label}; rows; dropped {reason: rows}; labels {label: rows};
    lengths {tokenizer, context, characters and tokens {median, p95, max}, cut_rows}; duplicates {exact_rows,
    near_rows}; letters {counted, other_alphabet}; muted [code]; findings [{code, check, level, what, do, count, rows,
    examples, files}], level being stop, warning or note, and rows being numbers of rows in the file, the first data
    row 0, with the file of each in files where there are several.
    """
    muted = check_muted(ignore)
    data = locate_data(name, encoding)
    detected = detect_format(data.path, encoding, HEADER_NAMES)
    if detected.layout != data.layout:  # the registry says how its files are read
        detected = Detected(data.layout, (), 0 if data.layout.quoting else detected.lost_by_quoting)
    layout, findings = detected.layout, []
    if layout.encoding == "utf-8-sig" and data.path.is_file() and layout.kind != "parquet" and not is_utf8(data.path):
        odd = look_at_bytes(data.path)
        layout = replace(layout, encoding=odd.guess)
        detected = replace(detected, layout=layout)
        findings.append(
            Finding(
                "encoding",
                "stop",
                f"the file is not UTF-8: line {odd.line} is the first that is not; "
                f"{odd.share()}. It is checked as {odd.guess}, a guess, which reads {odd.sample}",
                odd.fix(),
                examples=[odd.sample],
            )
        )
    source = read_labelled(data.path, text, label, layout)
    found = locate_weights(weights)
    context = (found.config or read_config(found.directory)).context
    tokens = encode(Tokenizer.from_directory(found.directory), source.texts, show="counting tokens")
    lengths = np.array(tokens.lengths())
    keys = text_keys(source.texts)
    near = find_near_duplicates(source.texts, keys)
    findings += check_table(data.path, detected, source) + [Finding("columns", "note", note) for note in source.notes]
    findings += check_rows(source, keys, near, lengths, context)
    characters = np.array([len(own) for own in source.texts])
    letters, foreign = letter_counts([source.texts[at] for at in sample_of(source)])
    return {
        "schema_version": 1,
        "file": str(data.path),
        "format": {
            "kind": layout.kind,
            "delimiter": layout.delimiter,
            "encoding": layout.encoding,
            "header": layout.header,
            "quoting": layout.quoting,
            "notes": list(detected.notes),
            "lost_by_quoting": detected.lost_by_quoting,
        },
        "columns": {"text": source.text_column, "label": source.label_column},
        "rows": len(source.rows),
        "dropped": source.dropped,
        "labels": dict(Counter(source.labels).most_common()),
        "lengths": {
            "tokenizer": found.name,
            "context": context,
            "characters": _spread(characters),
            "tokens": _spread(lengths),
            "cut_rows": int((lengths > context).sum()),
        },
        "duplicates": {"exact_rows": len(keys) - len(np.unique(keys)), "near_rows": len(near.rows())},
        "letters": {"counted": letters, "other_alphabet": foreign},
        "muted": muted,
        "findings": [finding.as_dict() for finding in by_severity(without_muted(findings, muted))],
    }


def _spread(numbers: np.ndarray) -> dict[str, int]:
    return {"median": int(np.median(numbers)), "p95": int(np.percentile(numbers, 95)), "max": int(numbers.max())}


def show(report: dict, as_json: bool = False) -> None:
    """Print a check. Raises DataError where training on this file would mean nothing or be refused."""
    if as_json:
        print(json.dumps(report, ensure_ascii=True, indent=2, allow_nan=False))
    else:
        _show_lines(report)
        _show_findings(report["findings"])
    for finding in report["findings"]:
        if finding["level"] == "stop":
            raise DataError(f"{report['file']}: {finding['what']} [{finding['code']}]", do=finding["do"])


def _show_lines(report: dict) -> None:
    layout, lengths, labels = report["format"], report["lengths"], report["labels"]
    how = (
        layout["kind"]
        if layout["kind"] != "delimited"
        else (
            f"fields parted by {layout['delimiter']!r}, {'a header' if layout['header'] else 'no header'}, "
            f"{'quotes' if layout['quoting'] else 'no quoting'}, {layout['encoding'].removesuffix('-sig')}"
        )
    )
    say(f"file     {report['file']}")
    say(f"format   {how}")
    say(f"columns  text {report['columns']['text']!r}, label {report['columns']['label']!r}")
    say(
        f"rows     {report['rows']:,}, counted from 0"
        + "".join(f"; {count:,} left out: {reason}" for reason, count in report["dropped"].items())
    )
    shown = [f"{shorten(label)} {count:,} ({count / report['rows']:.0%})" for label, count in list(labels.items())[:8]]
    say(f"labels   {', '.join(shown)}" + (f" and {len(labels) - 8:,} more" if len(labels) > 8 else ""))
    for unit in ("characters", "tokens"):
        spread = lengths[unit]
        say(
            f"{'lengths' if unit == 'characters' else '':8} median {spread['median']:,} {unit}, 95 % within "
            f"{spread['p95']:,}, longest {spread['max']:,}"
            + (f"; {lengths['tokenizer']} reads {lengths['context']:,}" if unit == "tokens" else "")
        )
    if report["muted"]:
        say(f"muted    {', '.join(report['muted'])}")


def _show_findings(findings: list[dict]) -> None:
    """A row for each finding; what comes from the file is shown as plain text, never as markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not findings:
        say("no problems found")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("code", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("what is there", ratio=5)
    table.add_column("what to do", ratio=3)
    for finding in findings:
        what = Text(clean(finding["what"]))
        for at, example in zip_longest(places(finding), finding["examples"], fillvalue=""):
            what.append(clean("\n  " + ": ".join(filter(None, (at, example)))), style="dim")
        level = Text(finding["level"], style=COLOURS[finding["level"]])
        table.add_row(finding["code"], level, what, Text(clean(finding["do"])))
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, width=120)
    console.print(table)
    say(f"{GUIDE} explains each code; --ignore CODE mutes one")
