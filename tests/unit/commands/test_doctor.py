"""The doctor says what is wrong, in plain text, and never where the person's home is."""

from pathlib import Path

import pytest

from finetune.commands import doctor
from finetune.hub import fetch


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(fetch, "network_available", lambda: False)


def found():
    return {name: (value, ok) for name, value, ok in doctor.examine()}


def test_a_working_machine_is_reported_as_working(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 0)
    status = doctor.show()
    text = capsys.readouterr().out
    assert status == 0 and text.rstrip().endswith("everything works")
    assert "torch " in text and "none: only local files are used" in text
    assert "gpt2: not here" in text and "PROBLEM" not in text


def test_home_is_shown_as_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("HF_HOME")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    values = found()
    assert "in ~" in values["disk"][0] and values["caches"][0].startswith("~")
    assert not [name for name, (value, _) in values.items() if str(Path.home()) in value]


def test_values_of_variables_are_not_shown(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@example.org")
    monkeypatch.setenv("FINETUNE_MIRROR", "somewhere")
    value, _ = found()["variables"]
    assert "HF_ENDPOINT set" in value and "FINETUNE_MIRROR set" in value and "secret" not in value
    assert "FINETUNE_REGISTRY not set" in value


def test_a_damaged_registry_is_a_problem(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.toml").write_text("[weights.x\n")
    monkeypatch.setenv("FINETUNE_REGISTRY", str(tmp_path / "mine.toml"))
    status = doctor.show()
    text = capsys.readouterr().out
    assert status == 2 and "PROBLEM: FetchError: " in text and "problems: weights" in text


def test_a_full_disk_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5 * 10**6})())
    value, ok = found()["disk"]
    assert ok is False and "2 GB" in value


def test_logits_that_are_not_finite_are_a_problem(monkeypatch):
    from finetune.models.gpt import GPT

    forward = GPT.forward
    monkeypatch.setattr(GPT, "forward", lambda self, ids: forward(self, ids) * float("nan"))
    assert found()["forward pass"][1] is False
    monkeypatch.setattr(GPT, "forward", forward)
    assert found()["forward pass"][1] is True
