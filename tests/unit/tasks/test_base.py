"""Rows of prepared data: one JSON object a line, read back as they were, and a clear error for any other line."""

import json
import re

import pytest

from finetune.errors import RunError
from finetune.run import Run
from finetune.tasks.base import read_records, write_records
from finetune.tasks.classify.data import LabelledRow
from finetune.tasks.instruct.records import Dialogue, Instruction, Message
from finetune.tasks.seq2seq.pairs import TextPair

ODD = 'é "🦊"\u2028\x1f\\n\r\n\ttab\x00 </s>'
LINES = {
    LabelledRow: {"row": 3, "text": ODD, "label": ""},
    TextPair: {"row": 0, "source": ODD, "target": "01"},
    Instruction: {"row": 2**40, "instruction": "a", "input": "", "output": ODD},
    Dialogue: {"row": 7, "messages": [{"role": "user", "content": ODD}, {"role": "assistant", "content": ""}]},
}
ROWS = {
    LabelledRow: LabelledRow(3, ODD, ""),
    TextPair: TextPair(0, ODD, "01"),
    Instruction: Instruction(2**40, "a", "", ODD),
    Dialogue: Dialogue(7, [Message("user", ODD), Message("assistant", "")]),
}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "data").mkdir()
    return Run(tmp_path)


@pytest.mark.parametrize("kind", ROWS)
def test_rows_survive_writing_and_reading(run, kind):
    write_records(run, {"val": [ROWS[kind]] * 2, "test": []})
    line = json.dumps(LINES[kind], ensure_ascii=False).encode() + b"\n"
    assert run.path("data", "val.jsonl").read_bytes() == 2 * line
    assert read_records(run, "val", kind) == [ROWS[kind]] * 2 and read_records(run, "test", kind) == []


def test_rows_of_two_kinds_are_told_apart(run):
    both = [ROWS[Dialogue], ROWS[Instruction], ROWS[Dialogue]]
    write_records(run, {"train": both})
    assert read_records(run, "train", Instruction, Dialogue) == both


@pytest.mark.parametrize(
    "line, problem",
    [
        ("", "Invalid JSON"),
        ('{"row": 1, "text": "a", "label": "b"', "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ('{"row": 1, "text": "\udcff", "label": "b"}', "Invalid JSON"),  # a byte that is not UTF-8
        ("[1]", "should be an object|dictionary"),
        ('{"row": 1, "text": "a"}', "label: Field required"),
        ('{"row": 1, "text": ["a"], "label": "b"}', "text: .* valid string"),
        ('{"row": "x", "text": "a", "label": "b"}', "row: .* valid integer"),
    ],
)
def test_an_invalid_line_raises_with_its_number(run, line, problem):
    write_records(run, {"train": [ROWS[LabelledRow]]})
    path = run.path("data", "train.jsonl")
    path.write_bytes(path.read_bytes() + line.encode(errors="surrogateescape") + b"\n")
    where = re.escape(f"{path}, line 2: not in this version's format")
    with pytest.raises(RunError, match=rf"{where}; got .*({problem}).*Run the stage that wrote it again"):
        read_records(run, "train", LabelledRow)


def test_a_missing_file_raises_with_its_name(run):
    with pytest.raises(RunError, match="cannot read .*val.jsonl; got No such file.*--from prepare"):
        read_records(run, "val", LabelledRow)
