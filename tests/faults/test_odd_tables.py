"""Odd but honest tables: every row arrives as it is, or is counted as left out; what contradicts itself stops."""

import csv
import json
import sys
from pathlib import Path

import pytest

TRAIN = ["--weights", "random-bytes", "--until", "prepare"]
TEXTS = [f"{('lunch at home', 'win a prize')[i % 2]} {'x' * (i // 2)}" for i in range(40)]
LABELS = ["ham", "spam"] * 20


@pytest.fixture
def finetune(monkeypatch, capsys, tmp_path):
    """``finetune(*arguments)``: (exit status, what was shown) of the command, in an empty directory."""
    from finetune.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return stopped.value.code, shown.out + shown.err

    return run


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
def test_labels_arrive_as_they_are(kind, finetune):
    labels = ODD_LABELS[kind] * 20
    status, shown = finetune("classify", write("my.csv", {"text": TEXTS, "label": labels}), *TRAIN)
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
def test_texts_arrive_as_they_are(kind, finetune):
    texts = [ODD_TEXTS[kind], *TEXTS[1:]]
    status, shown = finetune("classify", write("my.csv", {"text": texts, "label": LABELS}), *TRAIN)
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
def test_layouts_are_detected_and_reported(kind, finetune):
    columns = {"text": [*TEXTS[:-1], "naïve"], "label": LABELS}
    status, shown = finetune("classify", write("my.csv", columns, **LAYOUTS[kind]), *TRAIN)
    assert status == 0, shown
    assert records() == {i: pair for i, pair in enumerate(zip(columns["text"], LABELS, strict=True))}
    said = {
        "semicolons": "separated by semicolons",
        "tabs": "separated by tabs",
        "utf-16": "read as utf-16",
        "byte order mark": "byte order mark",
    }
    assert said.get(kind, "rows: 40") in shown


def test_mixed_line_ends_are_read(finetune):
    lines = ["text,label", *(f"{text},{label}" for text, label in zip(TEXTS, LABELS, strict=True))]
    ends = ["\n", "\r\n", "\r"]
    Path("my.csv").write_bytes("".join(line + ends[i % 3] for i, line in enumerate(lines)).encode())
    assert finetune("classify", "my.csv", *TRAIN)[0] == 0 and len(records()) == 40


def test_another_encoding_is_read_when_asked_for(finetune):
    write("my.csv", {"text": [*TEXTS[:-1], "café"], "label": LABELS}, encoding="latin-1")
    assert finetune("classify", "my.csv", *TRAIN, "--set", "encoding=cp1252")[0] == 0 and records()[39][0] == "café"


def test_another_encoding_is_that_of_the_files_which_need_it(finetune):
    write("my.csv", {"text": [*TEXTS[:-1], "café"], "label": LABELS})
    write("test.csv", {"text": [*TEXTS[:3], "thé"], "label": LABELS[:4]}, encoding="latin-1")
    further = ["--test", "test.csv", "--encoding", "cp1252", "--name", "one"]
    status, shown = finetune("classify", "my.csv", *further, *TRAIN)
    assert status == 0 and "my.csv: read as utf-8-sig, because it is valid UTF-8" in shown
    assert "test.csv: read as cp1252, as requested" in shown
    texts = [json.loads(line)["text"] for path in Path("runs/one/data").glob("*.jsonl") for line in path.open()]
    assert len(texts) == 44 and {"café", "thé"} <= set(texts)


def test_the_check_names_an_option_that_it_has(finetune):
    write("my.csv", {"text": [*TEXTS[:-1], "café"], "label": LABELS}, encoding="latin-1")
    status, shown = finetune("data", "check", "my.csv")
    assert status == 2 and "--encoding cp1252" in shown and "--set" not in shown
    assert finetune("data", "check", "my.csv", "--encoding", "cp1252")[0] == 0
    status, shown = finetune("data", "check", "nothing.csv")
    assert status == 2 and "--set" not in shown


@pytest.mark.parametrize("name", ["my.jsonl", "my.json", "my.parquet"])
def test_missing_labels_and_other_types_are_counted_or_written_out(name, finetune):
    rows = [{"text": text, "label": i % 2 == 0} for i, text in enumerate(TEXTS)]
    rows += [{"text": "no label", "label": None}, {"text": None, "label": True}, {"text": " ", "label": False}]
    if name == "my.parquet":
        import pandas

        pandas.DataFrame(rows).to_parquet(name)
    else:
        lines = [json.dumps(row) for row in rows]
        Path(name).write_text("\n".join(lines) if name == "my.jsonl" else f"[{','.join(lines)}]")
    status, shown = finetune("classify", name, *TRAIN)
    assert status == 0 and "2 rows left out: empty text" in shown and "1 row left out: empty label" in shown
    assert {label for _, label in records().values()} == {"true", "false"} and len(records()) == 40


def test_a_nan_label_is_a_missing_label(finetune):
    Path("my.jsonl").write_text(
        "".join(f'{{"text": "{text}", "label": {("NaN" if i == 7 else i % 2)}}}\n' for i, text in enumerate(TEXTS))
    )
    status, shown = finetune("classify", "my.jsonl", *TRAIN)
    assert status == 0 and "1 row left out: empty label" in shown
    assert 7 not in records() and {label for _, label in records().values()} == {"0", "1"}


def test_columns_called_as_ours_are_kept_apart(finetune):
    columns = {"row": range(100, 140), "predicted": ["x"] * 40, "text": TEXTS, "p_0": [0.5] * 40, "label": LABELS}
    status, shown = finetune("classify", write("my.csv", columns), *TRAIN)
    assert status == 0, shown
    assert records()[5] == (TEXTS[5], "spam")
    assert "predicted, p_0" in finetune("data", "check", "my.csv")[1]


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
def test_what_contradicts_is_refused(kind, finetune):
    columns, arguments, fragments = REFUSED[kind]
    status, shown = finetune("classify", write("my.csv", columns), *TRAIN, *arguments)
    assert status == 2 and [part for part in fragments if part not in shown] == [], shown


def test_a_split_by_time_tests_on_the_newest_rows(finetune):
    days = [f"2025-{1 + i % 12:02}-{1 + i // 12:02}" for i in range(40)]
    write("my.csv", {"text": TEXTS, "label": LABELS, "sent": days})
    status, shown = finetune("classify", "my.csv", "--time", "sent", *TRAIN)
    assert status == 0 and "time split: train 28 / val 4 / test 8" in shown, shown
    run = next(Path("runs").iterdir())
    rows = {
        name: [days[json.loads(line)["row"]] for line in (run / "data" / f"{name}.jsonl").open()]
        for name in ("train", "val", "test")
    }
    assert max(rows["train"]) < min(rows["val"]) and max(rows["val"]) < min(rows["test"])
    notes = json.loads((run / "data" / "card.json").read_text())["notes"]
    assert f"test {min(rows['test'])} to {max(rows['test'])}" in " ".join(notes)


def test_files_of_the_person_keep_their_side(finetune):
    write("my.csv", {"text": TEXTS, "label": LABELS})
    write("test.csv", {"text": ["a new one", TEXTS[0].upper(), "b"], "label": ["spam", "ham", "ham"]})
    status, shown = finetune("classify", "my.csv", "--test", "test.csv", *TRAIN)
    assert status == 0, shown
    run = next(Path("runs").iterdir())
    tested = [json.loads(line)["text"] for line in (run / "data" / "test.jsonl").open()]
    assert tested == ["a new one", TEXTS[0].upper(), "b"]
    card = json.loads((run / "data" / "card.json").read_text())
    assert any(note.startswith("1 of 3 test rows have a text") for note in card["notes"])
    write("test.csv", {"text": ["a"], "label": ["eggs"]})
    status, shown = finetune("classify", "my.csv", "--test", "test.csv", "--name", "other", *TRAIN)
    assert status == 2 and "labels that no row of my.csv has; got eggs; known: ham, spam" in shown


def test_a_split_column_is_used_if_named_and_reported_if_not(finetune):
    sides = (["Train"] * 6 + ["dev", "dev", "test", "test"]) * 4
    write("my.csv", {"text": TEXTS, "label": LABELS, "Split": sides})
    status, shown = finetune("classify", "my.csv", "--name", "one", *TRAIN)
    said = (
        "column 'Split' gives the split of each row (test, train, val) but is not used. To use that split, add "
        "--split Split [FT006]\n"
    )
    assert status == 0 and shown.count(said) == 1
    assert "To use that split, add --split Split" in finetune("data", "check", "my.csv", "--json")[1]
    write("test.csv", {"text": TEXTS[::-1], "label": LABELS[::-1], "Split": ["test"] * 40})
    sides = [own.replace("test", "train") for own in sides]
    write("more.csv", {"text": TEXTS, "label": LABELS, "Split": sides})
    for arguments, sizes in (
        (["my.csv"], "train 24 / val 8 / test 8"),
        (["more.csv", "--test", "test.csv"], "train 32 / val 8 / test 40"),
    ):
        status, shown = finetune("classify", *arguments, "--split", "Split", "--name", f"of-{len(arguments)}", *TRAIN)
        assert status == 0 and sizes in shown and "is not used" not in shown, shown
    write("my.csv", {"text": TEXTS, "label": LABELS, "split": ["train", "left"] * 20})
    assert "is not used" not in finetune("data", "check", "my.csv")[1]


def test_a_label_of_megabytes_is_shown_by_its_beginning(finetune):
    labels = ["x" * 5_000_000 if i in (3, 30) else label for i, label in enumerate(LABELS)]
    write("my.csv", {"text": TEXTS, "label": labels})
    for command in (
        ["data", "check", "my.csv"],
        ["classify", "my.csv", *TRAIN],
        ["classify", "my.csv", "--set", "evaluate.metric=f1"],
    ):
        shown = finetune(*command)[1]
        assert "xxxx..." in shown and len(shown) < 8000, len(shown)


def test_a_divided_group_is_reported_before_training(finetune):
    columns = {
        "text": TEXTS,
        "label": LABELS,
        "who": [f"p{i // 4}" for i in range(40)],
        "part": ["train"] * 26 + ["val"] * 6 + ["test"] * 8,
    }
    status, shown = finetune("classify", write("my.csv", columns), "--group", "who", "--split", "part", *TRAIN)
    assert status == 0 and shown.count("note: 2 of 6 val rows have a group that is also in train. ") == 1


def test_rows_are_named_with_their_file_where_there_are_several(finetune):
    write("my.csv", {"text": TEXTS, "label": LABELS})
    write("test.csv", {"text": ["", "caf\u00c3\u00a9"] + TEXTS[5:8], "label": LABELS[:5]})
    status, shown = finetune("classify", "my.csv", "--test", "test.csv", *TRAIN)
    assert status == 0 and "note: test.csv: 1 row left out: empty text (row 0) [FT011]\n" in shown
    assert "1 of 44 texts contain wrongly decoded characters (test.csv row 1)" in shown
    assert shown.count("row numbers start at 0") == 1
    shown = finetune("data", "check", "test.csv")[1]
    assert "rows     4, counted from 0; 1 left out" in shown and "row 1: 'caf" in shown and "  row 0" in shown


def test_another_test_file_is_another_run(finetune):
    write("my.csv", {"text": TEXTS, "label": LABELS})
    for word in ("one", "two"):
        write("test.csv", {"text": [word], "label": ["ham"]})
        status, shown = finetune("classify", "my.csv", "--test", "test.csv", *TRAIN)
        assert status == 0, shown
    assert "the test file's content" in shown and len(list(Path("runs").iterdir())) == 2


def test_a_run_of_odd_labels_goes_to_its_end_and_predicts_them(finetune):
    labels = ['=a,"b"\n../', "\U0001f600"] * 20
    write("my.csv", {"title": TEXTS, "body": ["x"] * 40, "label": labels})
    status, shown = finetune(
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
    status, shown = finetune(
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


def test_rows_swallowed_by_a_quote_are_reported_before_training(finetune):
    said = (
        "1 row looks like several rows joined by an unclosed quote, from line 12; it "
        "holds 4 further lines, each a lost row"
    )
    assert said in finetune("data", "check", swallowing("my.csv"), "--json")[1]
    status, shown = finetune("classify", "my.csv", *TRAIN)
    assert status == 0 and shown.count(f"note: {said}. Look at") == 1 and "rows: 56" in shown
    write("good.csv", {"text": TEXTS, "label": LABELS})
    status, shown = finetune("classify", "good.csv", "--test", "my.csv", *TRAIN)
    assert status == 0 and shown.count(f"note: my.csv: {said}. Look at") == 1


def test_a_leaking_text_column_is_reported_before_training(finetune):
    columns = {"text": TEXTS, "kind": ["one", "two"] * 20, "label": LABELS}
    status, shown = finetune("classify", write("my.csv", columns), "--text", "text,kind", *TRAIN)
    assert status == 0 and shown.count("note: column 'kind' predicts the label in 100.0% of the rows") == 1
