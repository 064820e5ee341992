"""Odd but honest tables: every row arrives as it is, or is counted as left out; what contradicts itself stops."""

import csv
import json
from pathlib import Path

import pytest

TRAIN = ["--weights", "random-bytes", "--until", "prepare"]
TEXTS = [f"{('lunch at home', 'win a prize')[i % 2]} {'x' * (i // 2)}" for i in range(40)]
LABELS = ["ham", "spam"] * 20


def records() -> dict[int, tuple[str, str]]:
    """Each row of the one run here: number -> (text, label)."""
    rows = [
        json.loads(line)
        for name in ("train", "val", "test")
        for line in next(Path("runs").iterdir()).joinpath("data", f"{name}.jsonl").open(encoding="utf-8")
    ]
    assert len({row["row"] for row in rows}) == len(rows)
    return {row["row"]: (row["text"], row["label"]) for row in rows}


def write(name: str, columns: dict[str, list], end: str = "\n", encoding: str = "utf-8", delimiter: str = ",") -> str:
    with open(name, "w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
        writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    return name


ODD_LABELS = {
    "commas": ["a,b", "c,d"],
    "quotes": ['say "a"', "'b'"],
    "line breaks": ["a\nb", "a b"],
    "emoji": ["\U0001f600", "\U0001f622\u200d\U0001f525"],
    "paths": ["../../etc/passwd", "/tmp/x"],
    "formulas": ["=1+1", "@x"],
    "markup": ["[/red]", "<script>"],
    "numbers": ["0", "1"],
    "padded numbers": ["01", "1"],
    "words for nothing": ["None", "nan"],
    "math": ["$x^$", "\\frac"],
    "long": ["x" * 3000, "y" * 3000],
    "booleans": ["True", "False"],
    "right to left": ["\u202eabc", "\u05d0\u05d1"],
}


@pytest.mark.parametrize("kind", ODD_LABELS)
def test_labels_arrive_as_they_are(kind, ran):
    labels = ODD_LABELS[kind] * 20
    status, shown = ran("classify", write("my.csv", {"text": TEXTS, "label": labels}), *TRAIN)
    assert status == 0, shown
    assert records() == {i: pair for i, pair in enumerate(zip(TEXTS, labels, strict=True))}


ODD_TEXTS = {
    "5 MB": "y" * 5_000_000,
    "null bytes": "a\0b\0",
    "line breaks": "a\r\nb\rc\nd",
    "quotes": 'he said ""no""',
    "emoji": "\U0001f469\u200d\U0001f680",
    "one letter": "q",
    "end of text": "<|endoftext|>",
    "formula": "=cmd|' /C calc'!A0",
    "controls": "\x1b[31mred\x07",
    "private use": "\ue000\U0010ffff",
    "word for nothing": "NaN",
}


@pytest.mark.parametrize("kind", ODD_TEXTS)
def test_texts_arrive_as_they_are(kind, ran):
    texts = [ODD_TEXTS[kind], *TEXTS[1:]]
    status, shown = ran("classify", write("my.csv", {"text": texts, "label": LABELS}), *TRAIN)
    assert status == 0, shown
    assert records()[0] == (ODD_TEXTS[kind], "ham") and len(records()) == 40


LAYOUTS = {
    "windows line ends": {"end": "\r\n"},
    "old mac line ends": {"end": "\r"},
    "semicolons": {"delimiter": ";"},
    "tabs": {"delimiter": "\t"},
    "utf-16": {"encoding": "utf-16"},
    "byte order mark": {"encoding": "utf-8-sig"},
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layouts_are_detected_and_reported(kind, ran):
    columns = {"text": [*TEXTS[:-1], "naïve"], "label": LABELS}
    status, shown = ran("classify", write("my.csv", columns, **LAYOUTS[kind]), *TRAIN)
    assert status == 0, shown
    assert records() == {i: pair for i, pair in enumerate(zip(columns["text"], LABELS, strict=True))}
    said = {
        "semicolons": "separated by semicolons",
        "tabs": "separated by tabs",
        "utf-16": "read as utf-16",
        "byte order mark": "byte order mark",
    }
    assert said.get(kind, "rows: 40") in shown


def test_mixed_line_ends_are_read(ran):
    lines = ["text,label", *(f"{text},{label}" for text, label in zip(TEXTS, LABELS, strict=True))]
    ends = ["\n", "\r\n", "\r"]
    Path("my.csv").write_bytes("".join(line + ends[i % 3] for i, line in enumerate(lines)).encode())
    assert ran("classify", "my.csv", *TRAIN)[0] == 0 and len(records()) == 40


def test_another_encoding_is_read_when_asked_for(ran):
    write("my.csv", {"text": [*TEXTS[:-1], "café"], "label": LABELS}, encoding="latin-1")
    assert ran("classify", "my.csv", *TRAIN, "--set", "encoding=cp1252")[0] == 0 and records()[39][0] == "café"


def test_another_encoding_is_that_of_the_files_which_need_it(ran):
    write("my.csv", {"text": [*TEXTS[:-1], "café"], "label": LABELS})
    write("test.csv", {"text": [*TEXTS[:3], "thé"], "label": LABELS[:4]}, encoding="latin-1")
    further = ["--test", "test.csv", "--encoding", "cp1252", "--name", "one"]
    status, shown = ran("classify", "my.csv", *further, *TRAIN)
    assert status == 0 and "my.csv: read as utf-8-sig, because it is valid UTF-8" in shown
    assert "test.csv: read as cp1252, as requested" in shown
    texts = [json.loads(line)["text"] for path in Path("runs/one/data").glob("*.jsonl") for line in path.open()]
    assert len(texts) == 44 and {"café", "thé"} <= set(texts)


def test_the_check_names_an_option_that_it_has(ran):
    write("my.csv", {"text": [*TEXTS[:-1], "café"], "label": LABELS}, encoding="latin-1")
    status, shown = ran("data", "check", "my.csv")
    assert status == 2 and "--encoding cp1252" in shown and "--set" not in shown
    assert ran("data", "check", "my.csv", "--encoding", "cp1252")[0] == 0
    status, shown = ran("data", "check", "nothing.csv")
    assert status == 2 and "--set" not in shown


@pytest.mark.parametrize("name", ["my.jsonl", "my.json", "my.parquet"])
def test_missing_labels_and_other_types_are_counted_or_written_out(name, ran):
    rows = [{"text": text, "label": i % 2 == 0} for i, text in enumerate(TEXTS)]
    rows += [{"text": "no label", "label": None}, {"text": None, "label": True}, {"text": " ", "label": False}]
    if name == "my.parquet":
        import pandas

        pandas.DataFrame(rows).to_parquet(name)
    else:
        lines = [json.dumps(row) for row in rows]
        Path(name).write_text("\n".join(lines) if name == "my.jsonl" else f"[{','.join(lines)}]")
    status, shown = ran("classify", name, *TRAIN)
    assert status == 0 and "2 rows left out: empty text" in shown and "1 row left out: empty label" in shown
    assert {label for _, label in records().values()} == {"true", "false"} and len(records()) == 40


def test_a_nan_label_is_a_missing_label(ran):
    Path("my.jsonl").write_text(
        "".join(f'{{"text": "{text}", "label": {("NaN" if i == 7 else i % 2)}}}\n' for i, text in enumerate(TEXTS))
    )
    status, shown = ran("classify", "my.jsonl", *TRAIN)
    assert status == 0 and "1 row left out: empty label" in shown
    assert 7 not in records() and {label for _, label in records().values()} == {"0", "1"}


def test_columns_called_as_ours_are_kept_apart(ran):
    columns = {"row": range(100, 140), "predicted": ["x"] * 40, "text": TEXTS, "p_0": [0.5] * 40, "label": LABELS}
    status, shown = ran("classify", write("my.csv", columns), *TRAIN)
    assert status == 0, shown
    assert records()[5] == (TEXTS[5], "spam")
    assert "predicted, p_0" in ran("data", "check", "my.csv")[1]


REFUSED = {
    "a label a row": (
        {"text": [f"{'a' * i}" for i in range(1, 501)], "label": [f"k{i}" for i in range(500)]},
        [],
        ["'label' has 500 different values in 500 rows", "--label NAME"],
    ),
    "swapped columns": (
        {"label": TEXTS * 2, "text": LABELS * 2},
        [],
        ["'label' has 40 different values in 80 rows", "swapped: --text label --label text"],
    ),
    "one text": ({"text": ["the same"] * 40, "label": LABELS}, [], ["the same text in all 40 rows", "--text NAME"]),
    "no label": ({"text": TEXTS, "label": [""] * 40}, [], ["needs at least two labels; got none"]),
    "one column for both": (
        {"text": TEXTS, "label": LABELS},
        ["--text", "label"],
        ["the same column for text and label"],
    ),
    "no group column": ({"text": TEXTS, "label": LABELS}, ["--group", "who"], ["no column 'who'", "--group NAME"]),
    "no split column": (
        {"text": TEXTS, "label": LABELS},
        ["--split", "label"],
        ["unknown split in column 'label'; got 'ham'", "train, training"],
    ),
    "no encoding": ({"text": TEXTS, "label": LABELS}, ["--set", "encoding=utf9"], ["unknown encoding 'utf9'"]),
    "the same file to test": ({"text": TEXTS, "label": LABELS}, ["--test", "my.csv"], ["given again"]),
    "no such file to test": ({"text": TEXTS, "label": LABELS}, ["--test", "t.csv"], ["no data 't.csv'"]),
    "a set that is not there": (
        {"text": TEXTS, "label": LABELS},
        ["--validation", "hf:no/set"],
        ["hf:no/set", "Connect"],
    ),
    "balanced groups": (
        {"text": TEXTS, "label": LABELS},
        ["--group", "label", "--set", "split.protocol=balanced"],
        ["balanced draws from one table", "protocol=grouped"],
    ),
    "a time column that is not read": (
        {"text": TEXTS, "label": LABELS, "day": LABELS},
        ["--set", "columns.time=day"],
        ["columns.time is read only by split.protocol=time"],
    ),
    "times that are none": (
        {"text": TEXTS, "label": LABELS, "day": LABELS},
        ["--time", "day"],
        ["column 'day': 40 cells are not a time", "'ham'"],
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_contradicts_is_refused(kind, ran):
    columns, arguments, fragments = REFUSED[kind]
    status, shown = ran("classify", write("my.csv", columns), *TRAIN, *arguments)
    assert status == 2 and [part for part in fragments if part not in shown] == [], shown


def test_a_split_by_time_tests_on_the_newest_rows(ran):
    days = [f"2025-{1 + i % 12:02}-{1 + i // 12:02}" for i in range(40)]
    write("my.csv", {"text": TEXTS, "label": LABELS, "sent": days})
    status, shown = ran("classify", "my.csv", "--time", "sent", *TRAIN)
    assert status == 0 and "time split: train 28 / val 4 / test 8" in shown, shown
    run = next(Path("runs").iterdir())
    rows = {
        name: [days[json.loads(line)["row"]] for line in (run / "data" / f"{name}.jsonl").open()]
        for name in ("train", "val", "test")
    }
    assert max(rows["train"]) < min(rows["val"]) and max(rows["val"]) < min(rows["test"])
    notes = json.loads((run / "data" / "card.json").read_text())["notes"]
    assert f"test {min(rows['test'])} to {max(rows['test'])}" in " ".join(notes)


def test_files_of_the_person_keep_their_side(ran):
    write("my.csv", {"text": TEXTS, "label": LABELS})
    write("test.csv", {"text": ["a new one", TEXTS[0].upper(), "b"], "label": ["spam", "ham", "ham"]})
    status, shown = ran("classify", "my.csv", "--test", "test.csv", *TRAIN)
    assert status == 0, shown
    run = next(Path("runs").iterdir())
    tested = [json.loads(line)["text"] for line in (run / "data" / "test.jsonl").open()]
    assert tested == ["a new one", TEXTS[0].upper(), "b"]
    card = json.loads((run / "data" / "card.json").read_text())
    assert any(note.startswith("1 of 3 test rows have a text") for note in card["notes"])
    write("test.csv", {"text": ["a"], "label": ["eggs"]})
    status, shown = ran("classify", "my.csv", "--test", "test.csv", "--name", "other", *TRAIN)
    assert status == 2 and "labels that no row of my.csv has; got eggs; known: ham, spam" in shown


def test_a_split_column_is_used_if_named_and_reported_if_not(ran):
    sides = (["Train"] * 6 + ["dev", "dev", "test", "test"]) * 4
    write("my.csv", {"text": TEXTS, "label": LABELS, "Split": sides})
    status, shown = ran("classify", "my.csv", "--name", "one", *TRAIN)
    said = (
        "column 'Split' gives the split of each row (test, train, val) but is not used. To use that split, add "
        "--split Split [FT006]\n"
    )
    assert status == 0 and shown.count(said) == 1
    assert "To use that split, add --split Split" in ran("data", "check", "my.csv", "--json")[1]
    write("test.csv", {"text": TEXTS[::-1], "label": LABELS[::-1], "Split": ["test"] * 40})
    sides = [own.replace("test", "train") for own in sides]
    write("more.csv", {"text": TEXTS, "label": LABELS, "Split": sides})
    for arguments, sizes in (
        (["my.csv"], "train 24 / val 8 / test 8"),
        (["more.csv", "--test", "test.csv"], "train 32 / val 8 / test 40"),
    ):
        status, shown = ran("classify", *arguments, "--split", "Split", "--name", f"of-{len(arguments)}", *TRAIN)
        assert status == 0 and sizes in shown and "is not used" not in shown, shown
    write("my.csv", {"text": TEXTS, "label": LABELS, "split": ["train", "left"] * 20})
    assert "is not used" not in ran("data", "check", "my.csv")[1]


def test_a_label_of_megabytes_is_shown_by_its_beginning(ran):
    labels = ["x" * 5_000_000 if i in (3, 30) else label for i, label in enumerate(LABELS)]
    write("my.csv", {"text": TEXTS, "label": labels})
    for command in (
        ["data", "check", "my.csv"],
        ["classify", "my.csv", *TRAIN],
        ["classify", "my.csv", "--set", "evaluate.metric=f1"],
    ):
        shown = ran(*command)[1]
        assert "xxxx..." in shown and len(shown) < 8000, len(shown)


def test_a_divided_group_is_reported_before_training(ran):
    columns = {
        "text": TEXTS,
        "label": LABELS,
        "who": [f"p{i // 4}" for i in range(40)],
        "part": ["train"] * 26 + ["val"] * 6 + ["test"] * 8,
    }
    status, shown = ran("classify", write("my.csv", columns), "--group", "who", "--split", "part", *TRAIN)
    assert status == 0 and shown.count("note: 2 of 6 val rows have a group that is also in train. ") == 1


def test_rows_are_named_with_their_file_where_there_are_several(ran):
    write("my.csv", {"text": TEXTS, "label": LABELS})
    write("test.csv", {"text": ["", "caf\u00c3\u00a9"] + TEXTS[5:8], "label": LABELS[:5]})
    status, shown = ran("classify", "my.csv", "--test", "test.csv", *TRAIN)
    assert status == 0 and "note: test.csv: 1 row left out: empty text (row 0) [FT011]\n" in shown
    assert "1 of 44 texts contain wrongly decoded characters (test.csv row 1)" in shown
    assert shown.count("row numbers start at 0") == 1
    shown = ran("data", "check", "test.csv")[1]
    assert "rows     4; 1 left out" in shown and "row 1: 'caf" in shown and "  row 0" in shown


def test_another_test_file_is_another_run(ran):
    write("my.csv", {"text": TEXTS, "label": LABELS})
    for word in ("one", "two"):
        write("test.csv", {"text": [word], "label": ["ham"]})
        status, shown = ran("classify", "my.csv", "--test", "test.csv", *TRAIN)
        assert status == 0, shown
    assert "the test file's content" in shown and len(list(Path("runs").iterdir())) == 2


def test_a_run_of_odd_labels_goes_to_its_end_and_predicts_them(ran):
    labels = ['=a,"b"\n../', "\U0001f600"] * 20
    write("my.csv", {"title": TEXTS, "body": ["x"] * 40, "label": labels})
    status, shown = ran(
        "classify",
        "my.csv",
        "--weights",
        "random-bytes",
        "--text",
        "title,body",
        "--set",
        "train.max_steps=2",
        "--set",
        "max_length=16",
        "--set",
        "evaluate.resamples=100",
    )
    assert status == 0, shown
    status, shown = ran(
        "predict", next(Path("runs").iterdir()), "--csv", "my.csv", "--text", "title,body", "--out", "out.csv"
    )
    assert status == 0, shown
    from finetune.tables.cells import unescape_formula

    rows = list(csv.DictReader(open("out.csv", newline="", encoding="utf-8")))  # noqa: SIM115
    assert [unescape_formula(row["label"]) for row in rows] == labels
    assert {unescape_formula(row["predicted"]) for row in rows} <= set(labels)


def swallowing(name: str) -> str:
    """A table of 60 rows of which a quote, opened in row 10 and closed in row 14, swallows four."""
    lines = [f'"{TEXTS[i % 40]}, {i}",{LABELS[i % 40]}' for i in range(60)]
    lines[10] = f'"{TEXTS[10]} 10,ham'
    lines[11:14] = [f"{TEXTS[i]} {i},{LABELS[i]}" for i in (11, 12, 13)]
    lines[14] = f'{TEXTS[14]} 14",ham'
    Path(name).write_text("\n".join(["text,label", *lines]) + "\n")
    return name


def test_rows_swallowed_by_a_quote_are_reported_before_training(ran):
    said = (
        "1 row looks like several rows joined by an unclosed quote, from line 12; it "
        "holds 4 further lines, each a lost row"
    )
    assert said in ran("data", "check", swallowing("my.csv"), "--json")[1]
    status, shown = ran("classify", "my.csv", *TRAIN)
    assert status == 0 and shown.count(f"note: {said}. Look at") == 1 and "rows: 56" in shown
    write("good.csv", {"text": TEXTS, "label": LABELS})
    status, shown = ran("classify", "good.csv", "--test", "my.csv", *TRAIN)
    assert status == 0 and shown.count(f"note: my.csv: {said}. Look at") == 1


def test_a_leaking_text_column_is_reported_before_training(ran):
    columns = {"text": TEXTS, "kind": ["one", "two"] * 20, "label": LABELS}
    status, shown = ran("classify", write("my.csv", columns), "--text", "text,kind", *TRAIN)
    assert status == 0 and shown.count("note: column 'kind' predicts the label in 100.0% of the rows") == 1


BLANK = ["" if i % 20 else label for i, label in enumerate(["ham"] * 20 + ["spam"] * 20)]  # merged cells
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
CHECKED = {
    "blanks at the end of one label": (
        {"text": [text + "  " * (i % 2) for i, text in enumerate(TEXTS)], "label": LABELS},
        ["ends with white space in 100% of the rows labelled 'spam'", "columns.white_space=fold", "FT030"],
    ),
    "a total below": (
        {"text": [*TEXTS, "Total"], "label": [*LABELS, "240"]},
        ["1 of 41 rows are left out: total row", "FT034"],
    ),
    "a second header": (
        {"text": [*TEXTS[:9], "text", *TEXTS[9:]], "label": [*LABELS[:9], "label", *LABELS[9:]]},
        ["1 of 41 rows are left out: repeated header", "FT033"],
    ),
    "a label with a full stop": ({"text": TEXTS, "label": [*LABELS[:-1], "spam."]}, ["1 label is spelled", "FT020"]),
    "a label with a zero-width blank": (
        {"text": TEXTS, "label": [*LABELS[:-1], "spam\u200b"]},
        ["1 label is spelled in several ways; 1 row has a rarer spelling", "1 label has fewer than 10 rows"],
    ),
    "lists of tokens": (
        {"text": [json.dumps(text.split()) for text in TEXTS], "label": LABELS},
        ["column 'text' has lists, not texts", "Join the tokens", "FT032"],
    ),
    "labels named in their texts": (
        {"text": [f"{MONTHS[i % 12]} {'x' * (i + 1)}" for i in range(240)], "label": MONTHS * 20},
        ["the names of 12 labels occur in their own texts", "and 10 more", "FT023"],
    ),
    "one row of a thousand": (
        {"text": [f"{'x' * i}" for i in range(1, 1001)], "label": ["fraud", *["ok"] * 996, *["fraud"] * 3]},
        ["99.60% of the rows are 'ok', 0.40% are 'fraud'"],
    ),
}
UNSPLIT = {
    "merged cells": ({"text": TEXTS, "label": BLANK}, "38 of 40 rows are left out: empty label"),
    "numbers": ({"text": [f"{100000 + i}" for i in range(40)], "label": LABELS}, "1 different text in 40 rows"),
    "dates": ({"text": [f"2025-01-{1 + i % 28:02}" for i in range(40)], "label": LABELS}, "1 different text"),
    "one sentence in Arabic": (
        {"text": [f"\u0645\u0631\u062d\u0628\u0627 {10 + i}" for i in range(40)], "label": LABELS},
        "1 different text in 40 rows",
    ),
    "one group": ({"text": TEXTS, "label": LABELS, "who": ["a"] * 40}, "1 group in column 'who'"),
}


@pytest.mark.parametrize("kind", CHECKED)
def test_what_spreadsheets_leave_is_said_and_trained_on(kind, ran):
    columns, fragments = CHECKED[kind]
    status, shown = ran("data", "check", write("my.csv", columns), "--json")
    said = json.loads(shown.split("\n}")[0] + "\n}")
    words = ran("data", "check", "my.csv")[1].replace("\n", " ")
    words = words + " ".join(f"{own['what']} {own['do']}" for own in said["findings"])
    assert status == 0 and [part for part in fragments if part not in words] == [], words
    status, shown = ran("classify", "my.csv", *TRAIN)
    assert status == 0, shown
    assert {"label", "240"}.isdisjoint(label for _, label in records().values())


@pytest.mark.parametrize("kind", UNSPLIT)
def test_the_check_refuses_what_training_refuses(kind, ran):
    columns, fragment = UNSPLIT[kind]
    options = ["--group", "who"] if "who" in columns else []
    for command in (["data", "check", write("my.csv", columns), *options], ["classify", "my.csv", *options, *TRAIN]):
        status, shown = ran(*command)
        assert status == 2 and "too few rows" in shown, shown
    assert fragment in ran("data", "check", "my.csv", *options, "--json")[1]


def test_texts_that_differ_in_a_number_do_not_contradict_each_other(ran):
    texts = [f"order number {i}" if i < 4 else text for i, text in enumerate(TEXTS)]
    write("my.csv", {"text": texts, "label": LABELS})
    assert "FT025" not in ran("data", "check", "my.csv")[1]
    write("my.csv", {"text": ["Order  number 1", "order number 1", *TEXTS[2:]], "label": LABELS})
    assert "1 text has more than one label" in ran("data", "check", "my.csv", "--json")[1]


@pytest.mark.parametrize("option", ["--split", "--time", "--test"])
def test_the_check_divides_as_the_options_say(option, ran):
    write("my.csv", {"text": TEXTS, "label": LABELS, "at": ["train"] * 30 + ["val"] * 5 + ["test"] * 5})
    write("test.csv", {"text": TEXTS[:4], "label": [*LABELS[:3], "eggs"]})
    words = {
        "--split": (0, "labels"),
        "--time": (2, "column 'at': 40 cells are not a time"),
        "--test": (2, "labels that no row of my.csv has; got eggs"),
    }
    status, shown = ran("data", "check", "my.csv", option, "test.csv" if option == "--test" else "at")
    assert (status, words[option][1] in shown) == (words[option][0], True), shown


def test_advice_fits_the_fault(ran):
    Path("my.csv").write_text('text,label\n"he said \\"no, never\\" twice",ham\n"plain",spam\n')
    assert "two quotes" in ran("classify", "my.csv", *TRAIN)[1]
    status, shown = ran("classify", write("my.csv", {"text": [""] * 40, "label": LABELS}), *TRAIN)
    assert status == 2 and "left out: 40 rows, empty text. Is 'text' the text column?" in shown
    write("my.csv", {"text": TEXTS, "label": LABELS})
    status, shown = ran("classify", "my.csv", *TRAIN, "--set", "max_length=500000")
    assert status == 0 and "max_length=500000 is more than the" in shown


def test_folded_white_space_is_trained_on_and_predicted(ran):
    write("my.csv", {"text": [f" {text}\u200b  {'  ' * (i % 2)}" for i, text in enumerate(TEXTS)], "label": LABELS})
    fold = ["--set", "columns.white_space=fold"]
    steps = ["--set", "train.max_steps=2", "--set", "max_length=16", "--set", "evaluate.resamples=100"]
    status, shown = ran("classify", "my.csv", "--weights", "random-bytes", *fold, *steps, "--name", "one")
    assert status == 0 and "FT030" not in shown, shown
    assert {text for text, _ in records().values()} == set(map(str.strip, TEXTS))
    answers = [ran("predict", "runs/one", text)[1] for text in ("win  a\u00a0prize ", "win a prize")]
    assert answers[0] == answers[1]
    assert ran("predict", "runs/one", "--csv", "my.csv", "--out", "out.jsonl")[0] == 0
    first = json.loads(Path("out.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert list(first) == ["text", "label", "predicted", "probability", "p_ham", "p_spam"]
    assert (
        Path("runs/one/predictions.csv")
        .read_text(encoding="utf-8")
        .startswith("row,text,label,predicted,probability,p_ham,p_spam")
    )
    for given in ("my.csv", "missing.xlsx"):
        status, shown = ran("predict", "runs/one", given)
        assert status == 2 and f"--csv {given} --out OUT.csv" in shown
