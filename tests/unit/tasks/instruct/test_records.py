"""Instruction records: every kind of file gives the same ones, and what is malformed is named, never lost."""

import csv
import json

import pytest

from finetune.errors import DataError
from finetune.hub.assets import asset
from finetune.tasks.instruct.records import Dialogue, Instruction, Message, read_instructions
from finetune.tasks.instruct.settings import Instruct

STRICT = Instruct()

FIELDS = ("instruction", "input", "output")
PAIRS = [
    {"instruction": "Say it.", "input": "", "output": "it"},
    {"instruction": "Zähle,\nbitte", "input": 'ein "Wort" 🦊\u2028zwei', "output": " 3\n"},
    {"instruction": "a", "input": "  indented", "output": "NA"},
]
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture
def write(tmp_path):
    """Write a file's text, or values as JSON lines; returns its path."""

    def to(content, name="my.jsonl"):
        path = tmp_path / name
        text = content if isinstance(content, str) else "".join(json.dumps(value) + "\n" for value in content)
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return to


def test_json_jsonl_and_csv_give_the_same_records(write, tmp_path):
    table = tmp_path / "my.csv"
    with open(table, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["Output", "instruction", "input"])
        writer.writeheader()
        writer.writerows(
            {"Output": pair["output"], "instruction": pair["instruction"], "input": pair["input"]} for pair in PAIRS
        )
    expected = [Instruction(i, *(pair[name] for name in FIELDS)) for i, pair in enumerate(PAIRS)]
    raw = "\ufeff" + "\n\n".join(json.dumps(pair, ensure_ascii=False) for pair in PAIRS)
    for path in (table, write(json.dumps(PAIRS), "my.json"), write(PAIRS), write(raw, "raw.jsonl")):
        found = read_instructions(path, STRICT)
        assert found.records == expected and found.malformed == [], path


def test_other_usual_names_and_further_keys(write):
    dolly = {"context": None, "response": "r", "instruction": "i", "category": ["x"]}
    pair = {"prompt": "p", "completion": "c", "id": 3}
    talk = {"messages": [{"role": "system", "content": "s", "weight": 1}, *MESSAGES], "instruction": 5}
    found = read_instructions(write([dolly, pair, talk]), STRICT).records
    assert found == [
        Instruction(0, "i", "", "r"),
        Instruction(1, "p", "", "c"),
        Dialogue(2, [Message("system", "s"), *(Message(**message) for message in MESSAGES)]),
    ]


@pytest.mark.parametrize(
    "value, problem",
    [
        ({"instruction": "a"}, r"no 'output' \(it has: instruction\)"),
        ({}, r"no 'instruction' \(it has: nothing\)"),
        ({"instruction": "a", "output": ""}, "'output' is empty"),
        ({"instruction": " ", "output": "b"}, "'instruction' is empty"),
        ({"instruction": "a", "response": "\n"}, "'response' is empty"),
        (3, "a number, not an object"),
        ({"instruction": "a", "output": 5}, "'output' is a number, not text"),
        (["a", "b"], "a list, not an object"),
        ({"instruction": {"en": "a"}, "output": "b"}, "'instruction' is an object, not text"),
        ({"instruction": "a", "input": ["b"], "output": "c"}, "'input' is a list, not text"),
        ({"instruction": "a", "output": None}, "'output' is null, not text"),
        (None, "null, not an object"),
        ({"instruction": True, "output": "b"}, "'instruction' is true or false"),
        ("text", "text, not an object"),
        ({"instruction": "a", "output": "half \ud83d"}, r"'output' holds half a character"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": "Hi"}, "'messages' is text, not a list"),
        ({"messages": ["Hi"]}, "message 0 has no 'role' of system, user, assistant"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "message 0 has no 'role'"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "message 0 has no 'role'"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": " "}]}, "the 'content' of message 1 is empty"),
        ({"messages": [MESSAGES[0], {"role": "assistant"}]}, "the 'content' of message 1 is null, not text"),
        ({"messages": MESSAGES[:1]}, "the roles are user, not user and assistant in turn"),
        ({"messages": MESSAGES[::-1]}, "the roles are assistant, user, not"),
        (
            {"messages": [*MESSAGES, {"role": "system", "content": "late"}]},
            "the roles are user, assistant, system, not",
        ),
        ({"messages": [{"role": "system", "content": "alone"}]}, "the roles are system, not"),
    ],
)
def test_a_malformed_record_is_named_with_what_was_expected(write, value, problem):
    values = [PAIRS[0], value]
    for path, where in ((write(values), "line 2"), (write(json.dumps(values), "my.json"), "item 1")):
        with pytest.raises(DataError, match=f"1 of 2 records are malformed; got {where}: {problem}.*; known: "):
            read_instructions(path, STRICT)


def test_a_table_names_its_rows(write):
    with pytest.raises(DataError, match=r"2 of 3 records.*data row 0: 'output' is empty; data row 2: 'instruction' is"):
        read_instructions(write('instruction,input,output\na,,\na,b,c\n" ",b,c\n', "my.csv"), STRICT)
    with pytest.raises(DataError, match=r"data row 0: no 'output' \(it has: instruction, text\)"):
        read_instructions(write("instruction\ttext\na\tb\n", "my.tsv"), STRICT)


def test_lines_that_are_no_json_are_malformed_records(write):
    deep = "[" * 100_000
    with pytest.raises(DataError, match=r"3 of 4 records.*line 2: not JSON.*line 4: not JSON.*line 5: not JSON"):
        read_instructions(write(f'{json.dumps(PAIRS[0])}\n{{"instruction": \n\n{deep}\nnot json\n'), STRICT)


def test_twenty_are_listed_and_the_rest_counted(write):
    with pytest.raises(DataError) as caught:
        read_instructions(write([*PAIRS, *[{"instruction": "a"}] * 23]), STRICT)
    assert "23 of 26 records" in str(caught.value) and str(caught.value).count("no 'output'") == 20
    assert "line 23:" in str(caught.value) and "and 3 more" in str(caught.value)


def test_a_share_may_be_left_out_and_is_counted(write):
    path = write([*[PAIRS[0]] * 99, {"instruction": "a"}])
    found = read_instructions(path, Instruct(malformed_fraction=0.01))
    assert len(found.records) == 99 and [problem.split(":")[0] for problem in found.malformed] == ["line 100"]
    with pytest.raises(DataError, match="1 of 100 records are malformed"):
        read_instructions(path, Instruct(malformed_fraction=0.009))
    rows = [record.row for record in read_instructions(write([3, *PAIRS]), Instruct(malformed_fraction=0.5)).records]
    assert rows == [1, 2, 3]
    with pytest.raises(DataError, match="2 of 2 records are malformed; got line 1: a number"):
        read_instructions(write([1, 2]), Instruct(malformed_fraction=0.999))


@pytest.mark.parametrize(
    "content, name, problem",
    [
        ("", "my.jsonl", "no records"),
        ("[]", "my.json", "no records"),
        ("{}", "my.json", "no list of records; got an object"),
        ("[1", "my.json", "not JSON"),
        ("", "my.json", "not JSON"),
        ("x", "my.txt", "a file of unknown kind; got '.txt'"),
    ],
)
def test_files_that_hold_no_records(write, content, name, problem):
    with pytest.raises(DataError, match=problem):
        read_instructions(write(content, name), STRICT)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"instruction": "\xe9"}\n')
    (tmp_path / "folder.json").mkdir()
    for name, problem in (
        ("latin.jsonl", "not UTF-8; got byte 0xe9"),
        ("none.json", "no such file"),
        ("folder.json", "cannot be read; got Is a directory"),
    ):
        with pytest.raises(DataError, match=problem):
            read_instructions(tmp_path / name, STRICT)


def test_the_bundled_sample_is_read_whole():
    path = asset("data", "instruct", "sample.jsonl")
    found = read_instructions(path, STRICT)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 320 and found.malformed == []
    assert found.records == [Instruction(i, *(line[name] for name in FIELDS)) for i, line in enumerate(lines)]
