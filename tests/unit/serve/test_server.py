"""The command: what it refuses, and that an interrupt ends it, also while it streams."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.errors import FinetuneError, RecipeError, RunError, WeightsError

pytest.importorskip("fastapi", reason="the extra serve is not installed")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def command():
    """``command(directory)``: the real command on a free port, with its address."""
    started = []

    def start(directory):
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune", "serve", str(directory), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )
        started.append(process)
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, line + process.stderr.read()
        return process, line.split()[-4]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_an_interrupt_ends_it_while_it_streams(command, instruct_run):
    import httpx2 as httpx

    process, address = command(instruct_run)
    asked = {"model": "talk", "prompt": "The", "max_tokens": 4000, "stream": True, "temperature": 0}
    with httpx.stream("POST", f"{address}/v1/completions", json=asked, timeout=60) as answer:
        pieces = answer.iter_text()
        next(pieces)
        process.send_signal(signal.SIGINT)
        rest = "".join(pieces)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "the server has ended" in err and "Traceback" not in err
    assert "closing" in rest and "[DONE]" not in rest


def test_a_port_in_use_is_said(instruct_run):
    from finetune.serve.server import serve

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RecipeError, match=f"port {port} of 127.0.0.1 is in use.*--port"):
            serve(str(instruct_run), "127.0.0.1", port)


def test_an_answer_does_not_wait_for_an_acknowledgement():
    from finetune.serve.server import listen

    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_that_is_not_ours_is_said():
    from finetune.serve.server import listen

    with pytest.raises(RecipeError, match="cannot listen on 203.0.113.7"):
        listen("203.0.113.7", 0)


def test_what_is_no_model_is_said(tmp_path, classifier_run, tiny):
    import shutil

    from finetune.models.encoder import Encoder  # noqa: F401 (its kind is the last case)
    from finetune.serve.opening import open_model
    from finetune.serve.worker import Worker

    worker = Worker(4)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(classifier_run / "recipe.json", unfinished)
    other = shutil.copytree(classifier_run / "export" / "hf", tmp_path / "other")
    card = (other / "bundle.json").read_text()
    (other / "bundle.json").write_text(card.replace('"task": "classify"', '"task": "tell"'))
    loose = shutil.copytree(classifier_run / "export" / "hf", tmp_path / "loose")
    (loose / "bundle.json").unlink()
    for given, kind, said in (
        (unfinished, WeightsError, "Finish the run"),
        (other, RunError, "serve does not support the task tell"),
        (loose, WeightsError, "bundle.json"),
        (tmp_path / "nothing", FinetuneError, "nothing"),
        (tmp_path, FinetuneError, str(tmp_path)),
    ):
        with pytest.raises(kind, match=said):
            open_model(str(given), worker)
    assert open_model(str(tiny), worker).kind == "language model"
    worker.close()


def test_a_missing_extra_is_named(monkeypatch, capsys):
    import importlib.util

    from finetune.cli import main

    found = importlib.util.find_spec
    monkeypatch.setattr("finetune.export.extras.find_spec", lambda name: None if name == "fastapi" else found(name))
    monkeypatch.setattr(sys, "argv", ["finetune", "serve", "runs/none"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and "gpt2-finetune[serve]" in capsys.readouterr().err
