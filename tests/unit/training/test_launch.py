"""What another process passes back: its result as the record that was asked for, its stop, its error, or nothing."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from finetune.errors import Interrupted, RunError, TrainingError
from finetune.records import Record
from finetune.training.launch import RESULT, answer, launch


@dataclass(frozen=True)
class Sum(Record):
    """A result."""

    total: int


@pytest.fixture
def started(tmp_path):
    """``started(content)``: what is made of a process that leaves this in the file of the result."""
    run = SimpleNamespace(path=tmp_path.joinpath)

    def start(content: str | None) -> Sum:
        code = "raise SystemExit(3)" if content is None else f"open({str(tmp_path / RESULT)!r}, 'w').write({content!r})"
        return launch(["-c", code], run, Sum)

    yield start
    assert not (tmp_path / RESULT).exists()


def test_a_result_is_the_record_that_was_asked_for(started):
    assert started('{"result": {"total": 7}}') == Sum(7)


def test_a_launched_process_has_the_environment_that_is_given(tmp_path):
    code = f"import os; open({str(tmp_path / RESULT)!r}, 'w').write('{{\"result\": {{\"total\": %s}}}}' % os.environ['GIVEN'])"
    run = SimpleNamespace(path=tmp_path.joinpath)
    assert launch(["-c", code], run, Sum, {"GIVEN": "5"}) == Sum(5)


@pytest.mark.parametrize(
    "content, error, said",
    [
        ('{"stopped": "stopped at step 3"}', Interrupted, "stopped at step 3"),
        ('{"error": "the loss is not finite"}', TrainingError, "the loss is not finite"),
        (None, TrainingError, "status 3"),
        ('{"result": {"totals": 7}}', RunError, "not in this version's format.*total"),
        ('{"result": 7}', RunError, "not in this version's format.*result"),
    ],
)
def test_every_other_end_is_an_error_that_says_so(started, content, error, said):
    with pytest.raises(error, match=said):
        started(content)


def test_the_answer_holds_nothing_but_how_the_work_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.training.launch.watch_parent", lambda: None)
    run = SimpleNamespace(path=tmp_path.joinpath)

    def refuse():
        raise TrainingError("no room")

    for work, written in ((lambda: Sum(7), {"result": {"total": 7}}), (refuse, {"error": "no room"})):
        answer(run, work)
        assert json.loads((tmp_path / RESULT).read_text()) == written


def test_memory_that_ran_out_in_a_launched_process_says_what_to_lower(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.training.launch.watch_parent", lambda: None)

    def fill():
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    answer(SimpleNamespace(path=tmp_path.joinpath), fill)
    said = json.loads((tmp_path / RESULT).read_text())["error"]
    assert said.startswith("out of memory") and "train.micro_batch_tokens" in said
