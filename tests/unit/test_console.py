"""What reaches a terminal and the log."""

import io
import sys

import pytest

from finetune import console


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain\ttext", "plain\ttext"),
        ("\x1b[31mred\x07", "\ufffd[31mred\ufffd"),
        ("a\rb", "a\ufffdb"),
        ("\u202ecba\u2066", "\ufffdcba\ufffd"),
        ("\x9b2J\x7f\x00", "\ufffd2J\ufffd\ufffd"),
        ("[/x] [link=a]", "[/x] [link=a]"),
        ("naïve 東京 👩\u200d👩", "naïve 東京 👩\u200d👩"),
    ],
)
def test_no_text_drives_the_terminal(capsys, text, shown):
    console.say(text)
    console.say(text, error=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == shown + "\n"


def test_the_log_contains_the_output(capsys, tmp_path):
    console.say("before")
    with console.log_to(tmp_path / "log.txt"):
        console.say("\x1b é")
        console.warn("careful")
    console.say("after")
    with pytest.raises(ZeroDivisionError), console.log_to(tmp_path / "log.txt"):
        console.say("again")
        raise ZeroDivisionError
    console.say("after all")
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "\ufffd é\nnote: careful\nagain\n"
    assert capsys.readouterr().err == "note: careful\n"


def test_inside_of_silence_nothing_is_printed(capsys):
    with console.silence():
        console.say("a")
        console.warn("b")
        with console.progress("c", 2, every_seconds=0) as advance:
            advance(1, note="d")
    assert capsys.readouterr() == ("", "")
    console.say("e")
    assert capsys.readouterr().out == "e\n"


def test_a_terminal_without_utf_8_gets_question_marks(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    console.say("café \udcff")
    assert stream.buffer.getvalue() == b"caf? ?\n"


def test_a_name_that_is_not_utf_8_reaches_the_log(tmp_path, capsys):
    """A file name of odd bytes comes from the system as lone surrogates, which UTF-8 cannot hold."""
    with console.log_to(tmp_path / "log.txt"):
        console.say("caf\udce9.csv")
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "caf?.csv\n"


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 5.0, 10.0, 12.0, 30.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("reading", 100, unit="rows", done=20) as advance:
        for _ in range(4):
            advance(10, "loss 1.0")
    assert capsys.readouterr().out.splitlines() == [
        "reading: 40/100 rows  2.0/s  30 s left  loss 1.0",
        "reading: 60/100 rows  1.3/s  30 s left  loss 1.0",
    ]


def test_progress_on_a_terminal_shows_text_as_text(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())
    with console.progress("training", 3, unit="steps") as advance:
        advance(1, "[/x] loss")
        advance(2, "[/x] loss")
    assert "training" in sys.stdout.getvalue()
