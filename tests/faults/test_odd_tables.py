"""Odd but honest tables: every row arrives as it is, or is counted as left out; what contradicts itself stops."""

import csv
import json
from pathlib import Path

import pytest

from tests.faults.odd_tables import CASES, LABELS, TEXTS, write

TRAIN = ["--weights", "random-bytes", "--until", "prepare"]
SHORT = ["--set", "train.max_steps=2", "--set", "max_length=16", "--set", "evaluate.resamples=100"]


def records() -> dict[int, tuple[str, str]]:
    """Each row of the one run here: number -> (text, label)."""
    rows = [
        json.loads(line)
        for name in ("train", "val", "test")
        for line in next(Path("runs").iterdir()).joinpath("data", f"{name}.jsonl").open(encoding="utf-8")
    ]
    assert len({row["row"] for row in rows}) == len(rows)
    return {row["row"]: (row["text"], row["label"]) for row in rows}


def test_the_table_of_odd_tables_is_one_of_different_kinds():
    assert len({case.what for case in CASES}) == len(CASES) >= 65
    assert all("\n" not in case.what and len(case.what) < 100 for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_an_odd_table(case, ran):
    name = case.write()
    if case.check is not None:
        status, shown = ran("data", "check", name, *case.options)
        words = shown.replace("\n", " ") + ran("data", "check", name, *case.options, "--json")[1].replace("\n", " ")
        assert status == case.check and [part for part in case.checked if part not in words] == [], shown
    status, shown = ran("classify", name, *case.options, *case.training, *TRAIN)
    assert status == case.status, shown
    assert [part for part in case.said if part not in shown] == [], shown
    assert [part for part in case.unsaid if part in shown] == [] and len(shown.splitlines()) <= case.most_lines
    if case.rows is not None:
        found = records()
        assert [found[row] for row in sorted(found)] == case.rows
    if case.status == 0:
        assert {"label", "240"}.isdisjoint(label for _, label in records().values())


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
    assert any(note.startswith("1 of 3 test rows have the same normalised text") for note in card["notes"])
    write("test.csv", {"text": ["a"], "label": ["eggs"]})
    status, shown = ran("classify", "my.csv", "--test", "test.csv", "--name", "other", *TRAIN)
    assert status == 2 and "labels that are not in my.csv; got eggs; known: ham, spam" in shown


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
        assert "xxxx..." in shown and len(shown) < 50_000, len(shown)  # the bars take more lines under load


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


@pytest.mark.parametrize("option", ["--split", "--time", "--test"])
def test_the_check_divides_as_the_options_say(option, ran):
    write("my.csv", {"text": TEXTS, "label": LABELS, "at": ["train"] * 30 + ["val"] * 5 + ["test"] * 5})
    write("test.csv", {"text": TEXTS[:4], "label": [*LABELS[:3], "eggs"]})
    words = {
        "--split": (0, "labels"),
        "--time": (2, "column 'at': 40 cells are not times"),
        "--test": (2, "labels that are not in my.csv; got eggs"),
    }
    status, shown = ran("data", "check", "my.csv", option, "test.csv" if option == "--test" else "at")
    assert (status, words[option][1] in shown) == (words[option][0], True), shown


def test_what_a_finished_model_is_given(ran):
    write("my.csv", {"text": TEXTS, "label": LABELS})
    assert ran("classify", "my.csv", "--weights", "random-bytes", *SHORT, "--name", "one")[0] == 0
    status, shown = ran("predict", "runs/one", "my.csv")
    assert status == 2 and "--csv my.csv --out OUT.csv" in shown
    write("ham.csv", {"text": TEXTS[::2], "label": LABELS[::2]})
    status, shown = ran("evaluate", "runs/one", "ham.csv")
    assert status == 0 and "positive class 'spam'" in shown and "note: no row has the label spam" in shown
    for metric in ("f1_macro", "recall"):
        assert f"{metric:18} not defined" in shown, shown
    Path("texts.csv").write_text("".join(f"{text}\n" for text in TEXTS))
    status, shown = ran("predict", "runs/one", "--csv", "texts.csv", "--out", "out.csv")
    assert status == 0 and "40 rows" in shown and TEXTS[0] in Path("out.csv").read_text()
    write("again.csv", {"text": TEXTS, "predicted": LABELS})
    status, shown = ran("predict", "runs/one", "--csv", "again.csv", "--out", "out.csv")
    assert status == 2 and "has columns that the output adds; got predicted" in shown and "--overwrite" in shown
    assert ran("predict", "runs/one", "--csv", "again.csv", "--out", "out.csv", "--overwrite")[0] == 0


def test_python_reads_odd_labels_as_the_command_does():
    from sklearn.exceptions import DataConversionWarning

    import finetune
    from finetune.errors import InputError
    from finetune.tables.training_rows import read_training_rows

    with pytest.warns(
        DataConversionWarning, match=r"2 labels.*: 'ham\\n', 'spam '\. Strip y before you pass it to scikit-learn's own"
    ):
        learnt = read_training_rows(TEXTS, [*LABELS[:-2], "ham\n", "spam "])
    assert learnt.classes.tolist() == ["ham", "spam"] and learnt.targets.tolist() == [0, 1] * 20
    with pytest.raises(InputError, match="1 missing label, the first in row 39"):
        read_training_rows(TEXTS, [*LABELS[:-1], " "])
    with pytest.raises(InputError, match=r"settings\['epochs'\] is set by a parameter"):
        finetune.TextClassifier("random-bytes", epochs=1, settings={"epochs": 2}).fit(TEXTS, LABELS)


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
