"""``finetune data check`` on pairs of a source and a target, and on instructions with their answers."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.checkpoints.sources import locate_weights
from finetune.checkpoints.store import read_config
from finetune.console import say
from finetune.errors import DataError
from finetune.tables.card import TokenSpread, token_spread
from finetune.tables.codes import check_muted
from finetune.tables.detect import detect_format
from finetune.tables.findings import Finding, by_severity, quote, without_muted
from finetune.tables.readers import HEADER_NAMES, LABEL_NAMES, TEXT_NAMES, usual_column
from finetune.tables.sources import samples
from finetune.tables.splits import fold_text
from finetune.tables.tables import iterate_table
from finetune.tasks.classify.check import refuse_stops, show_findings
from finetune.tasks.instruct.prompts import question
from finetune.tasks.instruct.records import MOST_LISTED, NAMES, Instruct, locate_instructions, read_instructions
from finetune.tasks.seq2seq.pairs import PAIR_NAMES, USUAL, locate_pairs, read_pairs
from finetune.tokenizer import Tokenizer

CLASSIFY, PAIRS, INSTRUCTIONS = "classify", "seq2seq", "instruct"  # the tasks that the data can be for
WORDS = {PAIRS: ("source", "target"), INSTRUCTIONS: ("question", "answer")}
OFTEN = 0.2  # share of rows with the same target, from which this is a finding
SHOWN = 3  # example rows per finding


@dataclass(frozen=True)
class Example:
    """A source and its target, or a question and its answer. row: its number in the file, from 0."""

    row: int
    source: str
    target: str


@dataclass(frozen=True)
class ExamplesReport:
    """The result of the check. The fields and their order are those of its JSON."""

    schema_version: int
    file: str
    task: str
    columns: list[str]  # of pairs
    rows: int
    dropped: dict[str, int]  # reason -> rows
    tokenizer: str
    context: int
    source_tokens: TokenSpread
    target_tokens: TokenSpread
    different_sources: int
    different_targets: int
    muted: list[str]  # codes of ignored findings
    findings: list[Finding]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; each finding has its code."""
        return asdict(self) | {"findings": [finding.to_json() for finding in self.findings]}


def kind_of(name: str, encoding: str | None) -> str:
    """The task that a file's columns or keys suggest; classify if they suggest none."""
    for folder, kind in (("seq2seq", PAIRS), ("instruct", INSTRUCTIONS)):
        if name in samples(folder=folder):
            return kind
    path = Path(name).expanduser()
    if not path.is_file():
        return CLASSIFY
    try:
        layout = detect_format(path, encoding, HEADER_NAMES | PAIR_NAMES).layout
        first = next(iterate_table(path, layout), None)
    except DataError:  # the check of a labelled table reports it
        return CLASSIFY
    names = [] if first is None else [column.strip().casefold() for column in first[0]]
    if usual_column(names, TEXT_NAMES) is not None and usual_column(names, LABEL_NAMES) is not None:
        return CLASSIFY
    asks, answers = (set(NAMES[part]) & set(names) for part in ("instruction", "output"))
    if "messages" in names or "instruction" in names or (asks and answers and path.suffix in (".json", ".jsonl")):
        return INSTRUCTIONS
    return PAIRS if any(set(pair) <= set(names) for pair in USUAL) else CLASSIFY


def check_examples(name: str, kind: str, weights: str, encoding: str | None, ignore: Sequence[str]) -> ExamplesReport:
    """Check pairs or instructions. Raises DataError for a file that cannot be read, RecipeError for an unknown code."""
    muted, findings = check_muted(ignore), []
    columns: list[str] = []
    if kind == PAIRS:
        data = locate_pairs(name, encoding)
        pairs = read_pairs(data.path, layout=data.layout, fewest=1)
        columns, dropped = list(pairs.columns), pairs.dropped
        examples = [Example(record.row, record.source, record.target) for record in pairs.records]
        for reason, rows in pairs.dropped_rows.items():
            findings.append(
                Finding(
                    "half_rows", "warning", f"{len(rows):,} rows are left out: {reason}", "", len(rows), rows[:SHOWN]
                )
            )
    else:
        data = locate_instructions(name)
        found = read_instructions(data.path, Instruct(malformed_fraction=0.999))
        dropped = {"malformed": len(found.malformed)} if found.malformed else {}
        examples = [Example(record.row, question(record), record.conversation()[1][-1][1]) for record in found.records]
        if found.malformed:
            findings.append(
                Finding(
                    "malformed_records",
                    "stop",
                    f"{len(found.malformed):,} records cannot be read as instructions",
                    "Correct them, or train without them: --set instruct.malformed_fraction=0.01",
                    len(found.malformed),
                    examples=found.malformed[: min(SHOWN, MOST_LISTED)],
                )
            )
    start = locate_weights(weights)
    context = (start.config or read_config(start.directory)).context
    tokenizer = Tokenizer.from_directory(start.directory)
    sources = list(map(len, tokenizer.encode_batch([own.source for own in examples])))
    targets = list(map(len, tokenizer.encode_batch([own.target for own in examples])))
    findings += find_problems(examples, sources, targets, context, WORDS[kind])
    return ExamplesReport(
        1,
        str(data.path),
        kind,
        columns,
        len(examples),
        dropped,
        start.name,
        context,
        token_spread(sources),
        token_spread(targets),
        len({fold_text(own.source) for own in examples}),
        len({fold_text(own.target) for own in examples}),
        muted,
        by_severity(without_muted(findings, muted)),
    )


def find_problems(
    examples: list[Example], sources: list[int], targets: list[int], context: int, words: tuple[str, str]
) -> list[Finding]:
    """Findings on lengths, repetitions and copies. sources, targets: numbers of tokens. words: names of the two sides."""
    source, target = words
    found = []
    long = [own for own, size in zip(examples, targets, strict=True) if size + 1 > context]
    if long:
        found.append(
            _finding(
                "long_targets", "warning", f"{len(long):,} {target}s have more than {context:,} tokens", long, target
            )
        )
    both = zip(examples, sources, targets, strict=True)
    cut = [own for own, a, b in both if a + b + 2 > context and b + 1 <= context]
    if cut:
        what = f"{len(cut):,} {source}s do not fit into {context:,} tokens together with their {target}"
        found.append(_finding("cut_sources", "note", what, cut, source))
    by_source: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for own in examples:
        by_source[fold_text(own.source)][fold_text(own.target)].append(own)
    again = [own for group in by_source.values() for same in group.values() for own in same[1:]]
    if again:
        found.append(_finding("repeated_pairs", "note", f"{len(again):,} rows repeat an earlier row", again, source))
    open_questions = [same[0] for group in by_source.values() if len(group) > 1 for same in group.values()]
    if open_questions:
        several = sum(len(group) > 1 for group in by_source.values())
        what = f"{several:,} {source}s have several {target}s"
        found.append(_finding("several_targets", "warning", what, open_questions, source, target))
    copied = [own for own in examples if fold_text(own.source) == fold_text(own.target)]
    if copied:
        what = f"{len(copied):,} {target}s repeat their {source}"
        found.append(_finding("copied_targets", "warning", what, copied, source))
    [(usual, count)] = Counter(fold_text(own.target) for own in examples).most_common(1)
    if count > 1 and count >= OFTEN * len(examples):
        rows = [own for own in examples if fold_text(own.target) == usual]
        what = f"{count:,} of {len(examples):,} rows have the same {target}"
        found.append(_finding("one_target", "warning", what, rows, target))
    return found


def _finding(check: str, level: str, what: str, examples: list[Example], *sides: str) -> Finding:
    """A finding that shows these sides of its first few examples."""
    shown = examples[:SHOWN]
    texts = [
        " \N{RIGHTWARDS ARROW} ".join(
            quote(own.source if side in ("source", "question") else own.target, 40) for side in sides
        )
        for own in shown
    ]
    return Finding(check, level, what, count=len(examples), rows=[own.row for own in shown], examples=texts)


def show_examples(report: ExamplesReport, as_json: bool = False) -> None:
    """Print a report. Raises DataError if it has a finding that prevents training."""
    if as_json:
        print(json.dumps(report.to_json(), ensure_ascii=True, indent=2, allow_nan=False))
    else:
        source, target = WORDS[report.task]
        say(f"file     {report.file}")
        say(
            f"task     {report.task}"
            + (f", columns {' and '.join(map(repr, report.columns))}" if report.columns else "")
        )
        say(
            f"rows     {report.rows:,}"
            + "".join(f"; {count:,} left out: {reason}" for reason, count in report.dropped.items())
            + " (row numbers start at 0)"
        )
        say(
            f"texts    {report.different_sources:,} different {source}s, {report.different_targets:,} different {target}s"
        )
        for name, spread in ((source, report.source_tokens), (target, report.target_tokens)):
            say(f"{name:8} median {spread.median:,} tokens, 95 % within {spread.p95:,}, longest {spread.max:,}")
        say(f"context  {report.context:,} tokens, of {report.tokenizer}")
        show_findings(report.findings)
    refuse_stops(report.file, report.findings)
