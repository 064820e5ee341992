"""The odd tables of test_odd_tables.py, one entry each: what the table is, and what must come of it."""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

TEXTS = [f"{('lunch at home', 'win a prize')[i % 2]} {'x' * (i // 2)}" for i in range(40)]
LABELS = ["ham", "spam"] * 20
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
BLANK = ["" if i % 20 else label for i, label in enumerate(["ham"] * 20 + ["spam"] * 20)]  # merged cells
SPLIT = ["train"] * 30 + ["val"] * 5 + ["test"] * 5


@dataclass(frozen=True)
class Odd:
    """A table, the arguments that go with it, and what ``classify`` and ``data check`` make of it."""

    what: str
    columns: dict[str, list] = field(default_factory=dict)  # of my.csv
    content: bytes | None = None  # of the file, instead of columns
    file: str = "my.csv"
    options: tuple[str, ...] = ()  # of both commands
    training: tuple[str, ...] = ()  # of ``classify`` alone
    status: int = 0  # of ``classify``
    said: tuple[str, ...] = ()  # by ``classify``
    unsaid: tuple[str, ...] = ()
    most_lines: int = 200
    check: int | None = None  # the status of ``data check``; None: not called
    checked: tuple[str, ...] = ()  # among what it says
    rows: list[tuple[str, str]] | None = None  # (text, label) as prepared; None: not compared

    def write(self) -> str:
        """Write the file where the test runs; its name."""
        if self.content is None:
            write(self.file, self.columns)
        else:
            Path(self.file).write_bytes(self.content)
        return self.file


def csv_of(columns: dict[str, list], end: str = "\n", delimiter: str = ",") -> str:
    """The columns as a table with a header."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    return out.getvalue()


def write(name: str, columns: dict[str, list], encoding: str = "utf-8") -> str:
    """A CSV file; its name."""
    Path(name).write_text(csv_of(columns), encoding=encoding, newline="")
    return name


def jsonl(rows: list[dict]) -> bytes:
    """A row a line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def labelled(what: str, one: str, other: str) -> Odd:
    """A table whose two labels must arrive as they are."""
    labels = [one, other] * 20
    return Odd(f"labels: {what}", {"text": TEXTS, "label": labels}, rows=list(zip(TEXTS, labels, strict=True)))


def with_text(what: str, text: str) -> Odd:
    """A table whose first text must arrive as it is."""
    texts = [text, *TEXTS[1:]]
    return Odd(f"a text: {what}", {"text": texts, "label": LABELS}, rows=list(zip(texts, LABELS, strict=True)))


def laid_out(what: str, said: str = "rows: 40", encoding: str = "utf-8", **form: str) -> Odd:
    """A table in another layout, which is said."""
    texts = [*TEXTS[:-1], "naïve"]
    content = csv_of({"text": texts, "label": LABELS}, **form).encode(encoding)
    return Odd(f"layout: {what}", content=content, said=(said,), rows=list(zip(texts, LABELS, strict=True)))


def marked(what: str, mark, *said: str) -> Odd:
    """A table in which a mark of the text gives the label away."""
    texts = [mark(text) if i % 2 else text for i, text in enumerate(TEXTS)]
    return Odd(f"gives the label away: {what}", {"text": texts, "label": LABELS}, check=0, checked=said)


def unsplit(what: str, said: str, *options: str, **columns: list) -> Odd:
    """A table that cannot be divided: training refuses it, and the check says so."""
    table = {"text": TEXTS, "label": LABELS} | columns
    return Odd(what, table, options=options, status=2, said=("too few rows",), check=2, checked=("too few rows", said))


def refused(what: str, *said: str, options: tuple[str, ...] = (), **columns: list) -> Odd:
    """A table, or arguments, that contradict themselves."""
    return Odd(what, {"text": TEXTS, "label": LABELS} | columns, training=options, status=2, said=said)


ARRIVE = [
    labelled("with commas", "a,b", "c,d"),
    labelled("with quotes", 'say "a"', "'b'"),
    labelled("with line breaks", "a\nb", "a b"),
    labelled("of emoji", "\U0001f600", "\U0001f622\u200d\U0001f525"),
    labelled("that are paths", "../../etc/passwd", "/tmp/x"),
    labelled("that are formulas", "=1+1", "@x"),
    labelled("of markup", "[/red]", "<script>"),
    labelled("that are numbers", "0", "1"),
    labelled("that are numbers with a zero in front", "01", "1"),
    labelled("that are words for nothing", "None", "nan"),
    labelled("of mathematics", "$x^$", "\\frac"),
    labelled("of 3,000 characters", "x" * 3000, "y" * 3000),
    labelled("that are truth values", "True", "False"),
    labelled("that run from right to left", "\u202eabc", "\u05d0\u05d1"),
    with_text("of 5 MB", "y" * 5_000_000),
    with_text("with null bytes", "a\0b\0"),
    with_text("with line breaks of three kinds", "a\r\nb\rc\nd"),
    with_text("with doubled quotes", 'he said ""no""'),
    with_text("of emoji", "\U0001f469\u200d\U0001f680"),
    with_text("of one letter", "q"),
    with_text("that is the end-of-text token", "<|endoftext|>"),
    with_text("that is a formula", "=cmd|' /C calc'!A0"),
    with_text("with control characters", "\x1b[31mred\x07"),
    with_text("of private and last code points", "\ue000\U0010ffff"),
    with_text("that is a word for nothing", "NaN"),
    laid_out("line ends of Windows", end="\r\n"),
    laid_out("line ends of an old Mac", end="\r"),
    laid_out("semicolons", "separated by semicolons", delimiter=";"),
    laid_out("tabs", "separated by tabs", delimiter="\t"),
    laid_out("UTF-16", "read as utf-16", "utf-16"),
    laid_out("a byte order mark", "byte order mark", "utf-8-sig"),
]

GIVEN_AWAY = [
    marked("two blanks at the end", lambda text: text + "  ", "ends with white space", "white_space=fold", "FT030"),
    marked("a blank in front", lambda text: " " + text, "begins with white space", "FT030"),
    marked("doubled blanks", lambda text: text.replace(" ", "  "), "two or more spaces", "FT030"),
    marked("a zero-width blank", lambda text: text + "\u200b", "invisible characters", "FT030"),
    marked("line breaks", lambda text: text.replace(" ", "\n"), "has line breaks", "FT030"),
    marked("an exclamation mark", lambda text: text + "!", "ends with an exclamation mark", "FT031"),
    marked("capitals", str.upper, "no capital letter in 100%", "FT031"),
    marked("length", lambda text: text * 9, "characters in", "FT031"),
]

SPREADSHEETS = [
    Odd(
        "a total below the table",
        {"text": [*TEXTS, "Total"], "label": [*LABELS, "240"]},
        check=0,
        checked=("1 of 41 rows are left out: total row", "FT034"),
        rows=list(zip(TEXTS, LABELS, strict=True)),
    ),
    Odd(
        "a second header between the rows",
        {"text": [*TEXTS[:9], "text", *TEXTS[9:]], "label": [*LABELS[:9], "label", *LABELS[9:]]},
        check=0,
        checked=("1 of 41 rows are left out: repeated header", "FT033"),
    ),
    Odd(
        "a label with a full stop once",
        {"text": TEXTS, "label": [*LABELS[:-1], "spam."]},
        check=0,
        checked=("1 label is spelled in several ways", "FT020"),
    ),
    Odd(
        "a label with a zero-width blank once",
        {"text": TEXTS, "label": [*LABELS[:-1], "spam\u200b"]},
        check=0,
        checked=("1 label is spelled in several ways; 1 row has a rarer spelling", "1 label has fewer than 10 rows"),
    ),
    Odd(
        "a label with a blank behind it, which is the label",
        {"text": TEXTS, "label": [f"{label} " if i == 5 else label for i, label in enumerate(LABELS)]},
        rows=list(zip(TEXTS, LABELS, strict=True)),
    ),
    Odd(
        "an empty label, which is missing",
        {"text": TEXTS, "label": ["" if i == 5 else label for i, label in enumerate(LABELS)]},
        said=("1 row left out: empty label",),
    ),
    Odd("no text at all", {"text": [""] * 40, "label": LABELS}, status=2, said=("Is 'text' the text column?",)),
    Odd(
        "quotes escaped with a backslash",
        content=b'text,label\n"he said \\"no, never\\" twice",ham\n"plain",spam\n',
        status=2,
        said=("two quotes",),
    ),
    Odd(
        "a note below the table",
        content=(csv_of({"text": TEXTS, "label": LABELS}) + "exported on Friday\n").encode(),
        status=2,
        said=("line 42", "delete it if it is a note"),
    ),
    Odd(
        "one row of a thousand has the other label",
        {"text": [f"{'x' * i}" for i in range(1, 1001)], "label": ["fraud", *["ok"] * 996, *["fraud"] * 3]},
        check=0,
        checked=("99.60% of the rows are 'ok', 0.40% are 'fraud'",),
    ),
    Odd(
        "twelve labels that stand in their texts, said once",
        {"text": [f"{MONTHS[i % 12]} {'x' * (i + 1)}" for i in range(240)], "label": MONTHS * 20},
        check=0,
        checked=("the names of 12 labels occur in their own texts", "and 10 more", "FT023"),
    ),
    Odd(
        "a max_length that no model reads",
        {"text": TEXTS, "label": LABELS},
        training=("--set", "max_length=500000"),
        said=("max_length=500000 is more than the",),
    ),
    Odd(
        "150 labels that stand in their texts, said in few lines",
        {
            "text": [f"topic{i % 150} {'x' * (i + 1)}" for i in range(600)],
            "label": [f"topic{i % 150}" for i in range(600)],
        },
        said=("150 labels have fewer than 10 rows",),
        most_lines=60,
    ),
]

NESTED = [
    Odd(
        "lists of tokens in cells",
        {"text": [json.dumps(text.split()) for text in TEXTS], "label": LABELS},
        check=0,
        checked=("column 'text' has lists, not texts", "Join the tokens", "FT032"),
    ),
    Odd(
        "lists of tokens in JSON",
        content=jsonl([{"text": text.split(), "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]),
        file="my.jsonl",
        check=0,
        checked=("has lists, not texts", "FT032"),
    ),
    Odd(
        "objects with the text in a field",
        content=jsonl([{"content": {"text": text}, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]),
        file="my.jsonl",
        options=("--text", "content.text"),
        rows=list(zip(TEXTS, LABELS, strict=True)),
    ),
    Odd(
        "several labels joined in a cell",
        {"text": TEXTS, "label": ["billing;refund" if i % 5 == 0 else ("billing", "refund")[i % 2] for i in range(40)]},
        status=2,
        said=("labels joined with ';'", "--set classify.labels=many", "FT036"),
        check=2,
    ),
    Odd(
        "lists of labels",
        content=jsonl([{"text": text, "label": ["a", "b"][: 1 + i % 2]} for i, text in enumerate(TEXTS)]),
        file="my.jsonl",
        status=2,
        said=("--set classify.labels=many", "FT036"),
        check=2,
    ),
    Odd(
        "several labels joined in a cell, asked for",
        {"text": TEXTS, "label": ["billing;refund" if i % 5 == 0 else ("billing", "refund")[i % 2] for i in range(40)]},
        training=("--set", "classify.labels=many"),
        said=("labels joined with ';' in 8 rows",),
    ),
]

UNDIVIDED = [
    unsplit(
        "merged cells, of which only the first has the label", "38 of 40 rows are left out: empty label", label=BLANK
    ),
    unsplit("numbers for texts", "1 different text in 40 rows", text=[f"{100000 + i}" for i in range(40)]),
    unsplit("dates for texts", "1 different text", text=[f"2025-01-{1 + i % 28:02}" for i in range(40)]),
    unsplit(
        "one sentence in Arabic with a number that changes",
        "1 different text in 40 rows",
        text=[f"\u0645\u0631\u062d\u0628\u0627 {10 + i}" for i in range(40)],
    ),
    unsplit(
        "one sentence in Hebrew with a number that changes",
        "1 different text in 40 rows",
        text=[f"\u05e9\u05dc\u05d5\u05dd {10 + i}" for i in range(40)],
    ),
    unsplit("one group", "1 group in column 'who'", "--group", "who", who=["a"] * 40),
]

SAID = [
    Odd(
        "texts that differ in a number and in their labels, which do not contradict each other",
        {"text": [f"order number {i}" if i < 4 else text for i, text in enumerate(TEXTS)], "label": LABELS},
        unsaid=("FT025",),
    ),
    Odd(
        "the same text with two labels, which contradict each other",
        {"text": ["Order  number 1", "order number 1", *TEXTS[2:]], "label": LABELS},
        check=0,
        checked=("1 text has more than one label",),
    ),
    Odd(
        "columns called as those of a prediction",
        {"row": list(range(100, 140)), "predicted": ["x"] * 40, "text": TEXTS, "p_0": [0.5] * 40, "label": LABELS},
        check=0,
        checked=("predicted, p_0",),
        rows=list(zip(TEXTS, LABELS, strict=True)),
    ),
    Odd(
        "a column that predicts the label, as part of the text",
        {"text": TEXTS, "kind": ["one", "two"] * 20, "label": LABELS},
        options=("--text", "text,kind"),
        said=("note: column 'kind' predicts the label in 100.0% of the rows",),
    ),
    Odd(
        "a group on two sides of a given split",
        {
            "text": TEXTS,
            "label": LABELS,
            "who": [f"p{i // 4}" for i in range(40)],
            "part": ["train"] * 26 + ["val"] * 6 + ["test"] * 8,
        },
        options=("--group", "who", "--split", "part"),
        said=("note: 2 of 6 val rows have a group that is also in train. ",),
    ),
    Odd(
        "a column of splits",
        {"text": TEXTS, "label": LABELS, "at": SPLIT},
        options=("--split", "at"),
        said=("train 30 / val 5 / test 5",),
        check=0,
    ),
]

REFUSED = [
    refused(
        "a label for each row",
        "'label' has 500 different values in 500 rows",
        "--label NAME",
        text=[f"{'a' * i}" for i in range(1, 501)],
        label=[f"k{i}" for i in range(500)],
    ),
    refused(
        "swapped columns",
        "'label' has 40 different values in 80 rows",
        "swapped: --text label --label text",
        label=TEXTS * 2,
        text=LABELS * 2,
    ),
    refused("one text for all rows", "the same text in all 40 rows", "--text NAME", text=["the same"] * 40),
    refused("no label at all", "needs at least two labels; got none", label=[""] * 40),
    refused("one column for both", "the same column for text and label", options=("--text", "label")),
    refused("a group column that is not there", "no column 'who'", "--group NAME", options=("--group", "who")),
    refused(
        "a split column of something else",
        "unknown split in column 'label'; got 'ham'",
        "train, training",
        options=("--split", "label"),
    ),
    refused("an encoding that is none", "unknown encoding 'utf9'", options=("--set", "encoding=utf9")),
    refused("the table itself to test on", "given again", options=("--test", "my.csv")),
    refused(
        "a test table that is not there",
        "'t.csv' is neither a file nor the name of a data set",
        options=("--test", "t.csv"),
    ),
    refused("a set of the hub out of reach", "hf:no/set", "Connect", options=("--validation", "hf:no/set")),
    refused(
        "groups in a balanced split",
        "balanced needs a single table",
        "protocol=grouped",
        options=("--group", "label", "--set", "split.protocol=balanced"),
    ),
    refused(
        "a time column that is not read",
        "columns.time is used only by split.protocol=time",
        options=("--set", "columns.time=day"),
        day=LABELS,
    ),
    refused(
        "times that are none", "column 'day': 40 cells are not times", "'ham'", options=("--time", "day"), day=LABELS
    ),
]

CASES = [*ARRIVE, *GIVEN_AWAY, *SPREADSHEETS, *NESTED, *UNDIVIDED, *SAID, *REFUSED]
