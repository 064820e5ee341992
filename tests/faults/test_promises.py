"""What the command says at its end is no more than what is so."""

import sys

import pytest


def test_an_interrupt_promises_no_more_than_is_kept(monkeypatch, capsys):
    from finetune.cli import main

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.pipeline.describe_pipelines", interrupt)
    monkeypatch.setattr(sys, "argv", ["finetune", "ls"])
    with pytest.raises(SystemExit) as done:
        main()
    said = "interrupted; saved files are intact. Run the same command again.\n"
    assert done.value.code == 130 and capsys.readouterr().err == said


def test_nothing_checked_is_not_called_checked(monkeypatch, capsys, tmp_path):
    from finetune.cli import main

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["finetune", "weights", "verify"])
    with pytest.raises(SystemExit) as done:
        main()
    out = capsys.readouterr().out
    *checked, last = out.splitlines()
    assert done.value.code == 0 and last == "checked: all files are intact"
    assert {line.split()[0] for line in checked} == {"mini"}  # the only weights on this machine
