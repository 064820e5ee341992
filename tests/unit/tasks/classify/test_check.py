"""The check of a whole file, as lines and as JSON."""

import json

import pytest

from finetune.errors import DataError
from finetune.tasks.classify.check import check_file, show

ROWS = [
    ("call me at home [/b]", "win a prize, now")[i % 2] + " " + "abcdefghij"[i // 2 % 10] * (i // 2 + 1)
    for i in range(40)
]
PLAIN = "text,label\n" + "".join(f'"{text}",{("ham", "spam")[i % 2]}\n' for i, text in enumerate(ROWS))


def test_json_report_describes_the_file(tmp_path):
    (tmp_path / "my.csv").write_text(PLAIN + ",ham\n")
    found = check_file(str(tmp_path / "my.csv")).to_json()
    assert list(found) == [
        "schema_version",
        "file",
        "format",
        "columns",
        "rows",
        "dropped",
        "labels",
        "lengths",
        "duplicates",
        "letters",
        "muted",
        "findings",
    ]
    assert found["rows"] == 40 and found["dropped"] == {"empty text": 1} and found["labels"] == {"ham": 20, "spam": 20}
    assert list(found["lengths"]) == ["tokenizer", "context", "characters", "tokens", "cut_rows"]
    assert list(found["lengths"]["tokens"]) == ["median", "p95", "max"]
    assert list(found["duplicates"]) == ["exact_rows", "near_rows"]
    assert list(found["letters"]) == ["counted", "other_alphabet"]
    assert found["lengths"]["characters"]["max"] == max(map(len, ROWS)) and found["lengths"]["context"] == 256
    assert found["format"]["delimiter"] == "," and found["columns"] == {"text": "text", "label": "label"}
    assert all(
        set(finding) == {"code", "check", "level", "what", "do", "count", "rows", "examples", "files"}
        for finding in found["findings"]
    )
    assert {finding["check"] for finding in found["findings"]} >= {"empty_text", "near_duplicates"}


def test_lines_and_json_say_the_same(tmp_path, capsys):
    (tmp_path / "my.csv").write_text(PLAIN)
    found = check_file(str(tmp_path / "my.csv"))
    show(found, as_json=True)
    assert json.loads(capsys.readouterr().out) == found.to_json()
    show(found)
    lines = capsys.readouterr().out
    assert "rows     40" in lines and "ham 20 (50%)" in lines
    assert all(finding.what.split()[0] in lines for finding in found.findings)


def test_file_content_is_not_rendered_as_markup(tmp_path, capsys):
    (tmp_path / "my.csv").write_text(PLAIN.replace("home", "\x1b]0;x\x07home", 3))
    show(check_file(str(tmp_path / "my.csv")))
    lines = capsys.readouterr().out
    assert "[/b]" in lines and "\x1b" not in lines and "control" in lines


def test_rows_that_default_quoting_loses_are_counted(tmp_path):
    rows = ["ham\thello there you", 'spam\t"win now or never', "ham\twell then bye", 'ham\tso it goes"', "spam\tbuy me"]
    (tmp_path / "sms").write_text("\n".join(rows * 4) + "\n")
    found = check_file(str(tmp_path / "sms"))
    assert found.rows == 20 and found.format.lost_by_quoting == 8 and not found.format.quoting
    assert any("loses 8 rows" in finding.what for finding in found.findings)


def test_a_file_that_is_not_utf8_is_checked_with_a_guess_and_stops(tmp_path):
    (tmp_path / "my.csv").write_bytes(PLAIN.replace("home", "café").encode("latin-1"))
    found = check_file(str(tmp_path / "my.csv"))
    assert found.format.encoding == "cp1252" and found.rows == 40
    assert (found.findings[0].check, found.findings[0].level) == ("encoding", "stop")
    with pytest.raises(
        DataError,
        match="not UTF-8: the first invalid line is line 2; 0 of the 20 non-ASCII lines.*cp1252, a guess "
        "that reads 'café'.*--encoding cp1252",
    ):
        show(found, as_json=True)


def test_a_given_encoding_is_not_guessed(tmp_path):
    (tmp_path / "my.csv").write_bytes(PLAIN.replace("home", "\x9caf\xe9").encode("latin-1"))
    found = check_file(str(tmp_path / "my.csv"), encoding="cp1252")
    assert found.format.encoding == "cp1252" and not [own for own in found.findings if own.level == "stop"]


def test_a_sample_is_checked_by_its_name():
    found = check_file("spam-sample")
    assert found.rows > 500 and not [own for own in found.findings if own.level == "stop"]
