"""A hub that can be told to misbehave, on the loopback interface only; a small finished run, and the command."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
TINY = {
    "weights": "scratch",
    "shape": {"layers": 1, "width": 16, "heads": 2, "context": 64},
    "train": {"epochs": 2, "batch_size": 8, "threads": 1},
    "evaluate": {"resamples": 100},
}

COMMIT = "a" * 40
STALL_SECONDS = 20
HTML = b"<!DOCTYPE html><html><body>Please log in to this network</body></html>"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


class FakeHub:
    """Serves `files` as the Hugging Face hub serves a repository; `modes[file]` names the fault of a file.

    Modes: a status number; html and pointer (instead of the file, on GET and HEAD), html-get (on GET only),
    truncated (the connection ends early, every time, ranges ignored), corrupt (same size), corrupt-once,
    no-hub (headers of any web server), endless (no length, no end), stalled (nothing comes after the headers),
    longer (more bytes than the length says); redirect-loop and redirect-file (to itself, and to a file of the machine).
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.plain: dict[str, bytes] = {}  # served at /plain/NAME without any hub header
        self.modes: dict[str, object] = {}
        self.requests: list[str] = []
        self.status = 200  # of everything, if not 200
        self.delay_seconds = 0.0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                """Say nothing."""

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """Clients that hang up are part of the tests."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def gets(self, file: str) -> int:
        """How often the content of a file was asked for."""
        return sum(request.startswith("GET") and request.endswith("/" + file) for request in self.requests)

    def answer(self, request, body: bool) -> None:
        path = request.path.partition("?")[0]
        self.requests.append(f"{request.command} {path}")
        time.sleep(self.delay_seconds)
        file = path.rsplit("/", 1)[-1]
        mode = self.modes.get(file)
        if self.status != 200 or isinstance(mode, int):
            return self.send(request, b"no", body, status=mode if isinstance(mode, int) else self.status)
        if mode in ("redirect-loop", "redirect-file"):
            target = f"{self.url}{path}" if mode == "redirect-loop" else "file:///etc/hostname"
            return self.send(request, b"", body, status=302, headers={"Location": target})
        if path.startswith("/plain/") and mode == "endless":
            return self.stream(request)
        if path.startswith("/plain/"):
            return self.send(request, self.plain[file], body, mode=mode)
        if path.startswith("/api/models/"):
            return self.send(request, json.dumps(self.listing()).encode(), body)
        if "/resolve/" not in path or file not in self.files:
            return self.send(request, b"", body, status=404, headers={"X-Error-Code": "EntryNotFound"})
        content = self.files[file]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest(file, content)}"'}
        if mode == "no-hub":
            headers = {}
        if mode == "html":
            content, headers = HTML, {}
        if mode == "pointer":
            content, headers["ETag"] = LFS_POINTER, '"' + "1" * 40 + '"'
        if mode == "html-get" and body:
            content = HTML
        if mode == "corrupt" or mode == "corrupt-once":
            content = bytes(byte ^ 1 for byte in content) if body else content
            if body and mode == "corrupt-once":
                del self.modes[file]
        return self.send(request, content, body, headers=headers, mode=mode)

    def listing(self) -> dict:
        siblings = []
        for name, content in self.files.items():
            lfs = {"sha256": digest(name, content), "size": len(content), "pointerSize": 130}
            siblings.append(
                {"rfilename": name, "size": len(content), "blobId": git_blob_id(content)}
                | ({"lfs": lfs} if name.endswith(".safetensors") else {})
            )
        return {"id": "someone/model", "sha": COMMIT, "siblings": siblings}

    @staticmethod
    def send(request, content: bytes, body: bool, status: int = 200, headers=None, mode: object = None) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        if mode in ("truncated", "longer"):
            request.send_header("Connection", "close")
        request.end_headers()
        if body and mode == "stalled":
            threading.Event().wait(STALL_SECONDS)  # time.sleep may be patched
        elif body:
            sent = {"truncated": content[: len(content) // 2], "longer": content + content}.get(mode, content)
            with contextlib.suppress(OSError):  # the client hangs up
                request.wfile.write(sent)

    @staticmethod
    def stream(request) -> None:
        request.send_response(200)
        request.send_header("Connection", "close")
        request.end_headers()
        with contextlib.suppress(OSError):  # until the client hangs up
            while True:
                request.wfile.write(bytes(65536))


def git_blob_id(content: bytes) -> str:
    """What `git hash-object` prints."""
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


def digest(name: str, content: bytes) -> str:
    """The hub's ETag: sha256 of large (LFS) files, git's blob id of the others."""
    return hashlib.sha256(content).hexdigest() if name.endswith(".safetensors") else git_blob_id(content)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A fake hub with a small checkpoint, as this process's endpoint, and empty caches."""
    from huggingface_hub import constants

    from finetune.hub import fetch

    hub = FakeHub()
    hub.files = {
        "model.safetensors": bytes(range(256)) * 8000,
        "vocab.json": b'{"a": 0}\n' * 50,
        "merges.txt": b"#version: 0.2\n" * 40,
        "config.json": b'{"n_layer": 2}\n',
    }
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("FINETUNE_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(fetch, "RETRY_SECONDS", (0, 0))
    fetch.network_available.cache_clear()
    yield hub
    fetch.network_available.cache_clear()
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A table that can be learnt: 60 rows, two labels."""
    draw, rows = random.Random(0), ["text,label"]
    words = {
        "ham": ["lunch", "home", "meeting", "mum", "train", "dinner"],
        "spam": ["win", "cash", "prize", "claim", "free", "urgent"],
    }
    for number in range(60):
        label = ("ham", "spam")[number % 2]
        rows.append(f"{' '.join(draw.choices(words[label], k=6))} {number},{label}")
    file = tmp_path_factory.mktemp("table") / "toy.csv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def tiny_request(table):
    """The request of a run that takes seconds."""
    from finetune.pipeline import classify_request

    return classify_request(str(table), settings=TINY)


def leave_out_comparison(patch):
    """Do not compare exports with transformers: its import takes longer than all the rest of a tiny run."""
    from finetune.export import hf
    from finetune.export.exportable import Exported

    patch.setattr(hf, "compare_classifier", lambda *_: Exported(False, "not compared"))


@pytest.fixture(scope="session")
def finished(tiny_request, tmp_path_factory):
    """A finished run's directory, made in this process; read it, or copy it."""
    from finetune.console import silence
    from finetune.execution import execute, open_run
    from finetune.pipeline import load_pipeline

    with silence(), pytest.MonkeyPatch.context() as patch:
        leave_out_comparison(patch)
        run, recipe = open_run(tiny_request, tmp_path_factory.mktemp("finished") / "runs", "toy")
        execute(run, recipe, load_pipeline("classify").stages)
    return run.directory


@pytest.fixture
def toy(finished, tmp_path, monkeypatch):
    """A copy of the finished run, ``runs/toy`` in the directory of the test."""
    leave_out_comparison(monkeypatch)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "runs" / "toy")
    return Path("runs", "toy")


@pytest.fixture
def finetune(tmp_path, monkeypatch, capsys):
    """``finetune(*arguments)`` in this process and the directory of the test: its status, output and errors."""
    from finetune.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return SimpleNamespace(status=stopped.value.code, out=out, err=err)

    return run


@pytest.fixture
def start(tmp_path):
    """Start the real command in a process of its own; it is killed where the test leaves it."""
    import subprocess

    started = []

    def begin(*arguments: object, program: tuple[str, ...] = ("-m", "finetune"), **more) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            cwd=tmp_path,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **more,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def ran(finetune):
    """``ran(*arguments)``: (exit status, what was shown)."""

    def run(*arguments: object) -> tuple[int, str]:
        done = finetune(*arguments)
        assert "Traceback" not in done.err
        return done.status, done.out + done.err

    return run
