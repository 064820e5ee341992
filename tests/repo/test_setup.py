"""The set-up mends what it can and says the rest; the Makefile hands settings through as they were typed."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest


@pytest.fixture
def bootstrap(root, tmp_path, monkeypatch):
    """bootstrap.py on a folder of its own; `calls` lists what it would have done."""
    spec = importlib.util.spec_from_file_location("bootstrap", root / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("pyproject.toml", "constraints.txt", "bootstrap.py"):
        shutil.copy(root / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    module.calls, module.runs, module.pip_works = [], True, True
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "RECORD", tmp_path / ".venv" / "setup.json")
    monkeypatch.setattr(module, "venv_runs", lambda code: module.runs)
    monkeypatch.setattr(module, "create_venv", lambda **options: module.calls.append("create"))
    monkeypatch.setattr(module, "adopt_packages", lambda modules: module.calls.append("adopt") or True)

    def install(dev, patience):
        module.calls.append("install dev" if dev else "install")
        return module.pip_works

    monkeypatch.setattr(module, "install", install)
    return module


def calls_of(bootstrap, dev=False):
    bootstrap.calls.clear()
    bootstrap.set_up(dev)
    return list(bootstrap.calls)


def test_a_finished_set_up_is_left_alone(bootstrap):
    assert calls_of(bootstrap) == ["install"]
    assert calls_of(bootstrap) == []
    assert calls_of(bootstrap, dev=True) == ["install dev"]
    assert calls_of(bootstrap) == [] and calls_of(bootstrap, dev=True) == []


def test_new_requirements_are_installed(bootstrap):
    calls_of(bootstrap)
    with open(bootstrap.ROOT / "constraints.txt", "a") as file:
        file.write("another==1.0\n")
    assert calls_of(bootstrap) == ["install"]


def test_an_interrupted_set_up_begins_again(bootstrap, monkeypatch):
    def killed(dev, patience):
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(bootstrap, "install", killed)
        bootstrap.set_up(False)
    assert calls_of(bootstrap) == ["create", "install"]
    assert calls_of(bootstrap) == []


@pytest.mark.skipif(os.name == "nt", reason="locks of this kind are POSIX's")
def test_a_second_set_up_waits_for_the_first_and_uses_its_packages(bootstrap, capsys):
    import threading

    second = threading.Thread(target=bootstrap.set_up, args=(False,))
    with bootstrap.one_at_a_time():
        second.start()
        second.join(0.5)
        assert second.is_alive() and bootstrap.calls == []
        bootstrap.install_all(True)
    second.join(30)
    assert bootstrap.calls == ["install dev"] and not second.is_alive()
    assert "waiting for another set-up" in capsys.readouterr().out


def test_an_interpreter_that_is_gone_is_replaced(bootstrap):
    calls_of(bootstrap)
    bootstrap.runs = False
    assert calls_of(bootstrap) == ["create", "install"]


def test_without_pip_the_interpreters_own_packages_serve(bootstrap, monkeypatch, capsys):
    bootstrap.pip_works = False
    monkeypatch.setattr(bootstrap, "NEEDED", ["json"])
    assert calls_of(bootstrap) == ["install", "adopt"]
    assert sys.executable in capsys.readouterr().out
    assert json.loads(bootstrap.RECORD.read_text())["adopted"] is True
    assert calls_of(bootstrap) == []


def test_without_pip_and_packages_the_error_says_what_to_do(bootstrap, monkeypatch, capsys):
    bootstrap.pip_works = False
    monkeypatch.setattr(bootstrap, "NEEDED", ["no_such_module"])
    with pytest.raises(SystemExit) as ended:
        bootstrap.set_up(False)
    assert ended.value.code == 2 and "Check the network" in capsys.readouterr().err


def test_without_ensurepip_the_error_says_what_to_do(bootstrap, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find(name))
    with pytest.raises(SystemExit) as ended:
        bootstrap.set_up(False)
    assert ended.value.code == 2 and "sudo apt install python3" in capsys.readouterr().err


def test_an_old_interpreter_can_read_the_script(root):
    text = (root / "bootstrap.py").read_text(encoding="utf-8")
    assert ast.parse(text, feature_version=(3, 6))
    code = (
        "import runpy, sys; sys.version_info = (3, 8, 1); sys.version = '3.8.1 (old)'; "
        "runpy.run_path('bootstrap.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and "Python 3.11 or newer is needed" in done.stderr and "3.8.1" in done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize(
    "given, expected",
    [
        ([], []),
        (["CSV=my own.csv"], ["--set", "data=my own.csv"]),
        (
            ["WEIGHTS=gpt2", "METHOD=head", "NAME=x", "ARGS=--set train.epochs=3 --set 'a=b c'"],
            [
                "--set",
                "weights=gpt2",
                "--set",
                "train.method=head",
                "--name",
                "x",
                "--set",
                "train.epochs=3",
                "--set",
                "a=b c",
            ],
        ),
        (['CSV=it\'s; echo `date` "x".csv'], ["--set", 'data=it\'s; echo `date` "x".csv']),
    ],
)
def test_make_hands_settings_through(root, tmp_path, given, expected):
    script = tmp_path / "python"
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{code}' \"$@\"\n")
    script.chmod(0o755)
    command = ["make", "--no-print-directory", "spam-classifier", "BOOTSTRAP=true", f"PY={script}", *given]
    theirs = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "CSV", "DATA", "WEIGHTS", "METHOD", "NAME", "ARGS"}  # of `make test`
    env = {name: value for name, value in os.environ.items() if name not in theirs}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["-m", "finetune", "run", "spam-classifier", *expected]
