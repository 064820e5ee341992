"""The standalone predict.py shares no code with the package, so what it repeats is held equal here."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from finetune.export import standalone
from finetune.tables import white_space

TABLE = ["in.csv", "note", "out.csv"]


@pytest.mark.parametrize(
    "text",
    ["  a \t b\n", "a\u00a0b\u2028c", "zero\u200bwidth\ufeff", "\u202eright\u2066 to left", "caf\u00e9 \u0301", ""],
)
def test_white_space_is_folded_as_in_the_package(text):
    assert standalone.fold_white_space(text) == white_space.fold_white_space(text)
    assert standalone.INVISIBLE.pattern == white_space.INVISIBLE.pattern


@pytest.mark.parametrize(
    "given",
    [[], ["a text", "--csv", "in", "--out", "out"], ["--csv", "in"], ["--out", "out"], ["a text", "--out", "out"]],
)
def test_the_command_takes_texts_or_a_table_with_its_output(given, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict.py", *given])
    monkeypatch.setattr(standalone, "OnnxClassifier", lambda directory: pytest.fail("it should have been refused"))
    with pytest.raises(SystemExit, match="2"):
        standalone.main()
    assert "give texts, or --csv IN.csv with --out OUT.csv" in capsys.readouterr().err


def test_the_command_prints_a_line_for_each_text_or_the_rows_of_a_table(monkeypatch, capsys):
    model = SimpleNamespace(lines=lambda texts: [f"spam\t{text}" for text in texts])
    monkeypatch.setattr(standalone, "OnnxClassifier", lambda directory: model)
    monkeypatch.setattr(standalone, "predict_csv", lambda own, *given: [own, *map(str, given)] == [model, *TABLE] and 7)
    for given, said in (
        (["a", "b"], "spam\ta\nspam\tb\n"),
        (["--csv", *TABLE[:1], "--text", *TABLE[1:2], "--out", *TABLE[2:]], "out.csv: 7 rows\n"),
    ):
        monkeypatch.setattr(sys, "argv", ["predict.py", *given])
        assert standalone.main() == 0 and capsys.readouterr().out == said


def test_the_logits_of_a_text_in_windows_are_the_mean_over_them(monkeypatch):
    model = standalone.OnnxClassifier.__new__(standalone.OnnxClassifier)
    pieces = {"long": [[1], [2], [6]], "short": [[5]], "two": [[7], [8]]}
    monkeypatch.setattr(model, "encode", lambda texts: [pieces[text] for text in texts], raising=False)
    monkeypatch.setattr(model, "logits_of", lambda rows: np.array([[ids[0], -ids[0]] for ids in rows], np.float32))
    assert model.logits(["long", "short", "two"]).tolist() == [[3, -3], [5, -5], [7.5, -7.5]]
    assert model.logits(["short", "short"]).tolist() == [[5, -5], [5, -5]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("id,text\n1,a\n2\n", "line 3: 1 cells, and the header has 2"),
        ('id,text\n1,"a"b\n', "line 2: ',' expected after"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path, content, said):
    source = tmp_path / "in.csv"
    source.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"in.csv.*{said}"):
        standalone.read_csv(source)


def test_a_table_is_read_without_its_blank_lines(tmp_path):
    source, long = tmp_path / "in.csv", "x" * 200_000
    source.write_text(f'\ufeffid,text\n\n1,"a\nb"\n\n2,{long}\n', encoding="utf-8")
    assert standalone.read_csv(source) == (["id", "text"], [["1", "a\nb"], ["2", long]])
