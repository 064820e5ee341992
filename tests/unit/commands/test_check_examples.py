"""``data check`` on pairs and instructions: what they are told by, and each finding on data that has it."""

import json

import pytest

from finetune.commands.check_examples import check_examples, kind_of, show_examples
from finetune.errors import DataError
from finetune.tables.codes import CHECKS


def write_pairs(path, rows):
    path.write_text("source,target\n" + "".join(f"{source},{target}\n" for source, target in rows))
    return str(path)


def write_records(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def clean_pairs(n=20):
    return [(f"number {i} please", f"it is {i}") for i in range(n)]


@pytest.mark.parametrize(
    "content, name, kind",
    [
        ("source,target\na,b\n", "x.csv", "seq2seq"),
        ("question,answer\na,b\n", "x.csv", "seq2seq"),
        ("text,label\na,b\n", "x.csv", "classify"),
        ("text,summary\na,b\n", "x.csv", "seq2seq"),
        ("text,summary,label\na,b,c\n", "x.csv", "classify"),
        ("one,two,three\na,b,c\n", "x.csv", "classify"),
        ('{"instruction": "a", "output": "b"}\n', "x.jsonl", "instruct"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n', "x.jsonl", "instruct"),
        ('{"question": "a", "answer": "b"}\n', "x.jsonl", "instruct"),
        ('{"text": "a", "label": "b"}\n', "x.jsonl", "classify"),
    ],
)
def test_columns_tell_what_the_data_is_for(tmp_path, content, name, kind):
    (tmp_path / name).write_text(content)
    assert kind_of(str(tmp_path / name), None) == kind


def test_bundled_samples_and_missing_files_are_told_too(tmp_path):
    assert [kind_of(name, None) for name in ("seq2seq-sample", "instruct-sample", "spam-sample")] == [
        "seq2seq",
        "instruct",
        "classify",
    ]
    assert kind_of(str(tmp_path / "none.csv"), None) == "classify"


def test_clean_pairs_have_no_finding_and_their_counts(tmp_path):
    report = check_examples(write_pairs(tmp_path / "a.csv", clean_pairs()), "seq2seq", "mini", None, [])
    assert report.findings == [] and report.rows == report.different_targets == 20
    assert report.columns == ["source", "target"] and report.source_tokens.max >= 3


@pytest.mark.parametrize(
    "rows, code, count",
    [
        ([("alone", "")], "FT070", 1),
        ([("word " * 300, "a word")], "FT072", 1),
        ([("write", "word " * 300)], "FT073", 1),
        ([("Number 3  PLEASE", "it is 3")], "FT074", 1),
        ([("number 3 please", "it is three")], "FT075", 2),
        ([("same", " Same")], "FT076", 1),
        ([(f"who is {i}", "nobody knows") for i in range(9)], "FT077", 9),
    ],
)
def test_each_problem_of_pairs_is_found_and_can_be_muted(tmp_path, rows, code, count):
    name = write_pairs(tmp_path / "a.csv", clean_pairs() + rows)
    found = check_examples(name, "seq2seq", "mini", None, []).findings
    assert [(finding.code, finding.count) for finding in found] == [(code, count)]
    assert found[0].rows[-1] >= 3
    assert check_examples(name, "seq2seq", "mini", None, [code]).findings == []


def test_records_that_cannot_be_read_stop_with_their_line(tmp_path, capsys):
    records = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(5)]
    name = write_records(tmp_path / "a.jsonl", [*records, {"instruction": "Say two."}])
    report = check_examples(name, "instruct", "mini", None, [])
    assert report.rows == 5 and report.dropped == {"malformed": 1}
    with pytest.raises(DataError, match=r"1 records cannot be read as instructions \[FT071\]"):
        show_examples(report)
    assert "line 6: no 'output'" in capsys.readouterr().out
    with pytest.raises(DataError):
        show_examples(report, as_json=True)
    assert json.loads(capsys.readouterr().out)["findings"][0]["code"] == "FT071"


def test_conversations_are_judged_by_their_last_answer(tmp_path):
    def talk(last):
        roles = ("user", "assistant", "user", "assistant")
        return {
            "messages": [{"role": r, "content": c} for r, c in zip(roles, ("hi", "hello", "who?", last), strict=True)]
        }

    name = write_records(tmp_path / "a.jsonl", [talk("me"), talk("you")])
    found = check_examples(name, "instruct", "mini", None, []).findings
    assert [finding.code for finding in found] == ["FT075"] and "1 questions have several answers" in found[0].what


def test_every_check_of_examples_is_tested_here():
    assert [check.code for check in CHECKS if check.code >= "FT070"] == [f"FT07{i}" for i in range(8)]
