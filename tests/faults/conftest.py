"""The command in an empty directory, and a hub that can be told to misbehave, on the loopback interface only."""

import contextlib
import hashlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "a" * 40
HTML = b"<!DOCTYPE html><html><body>Please log in to this network</body></html>"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


class FakeHub:
    """Serves `files` as the Hugging Face hub serves a repository; `modes[file]` names the fault of a file.

    Modes: a status number; html and pointer (instead of the file, on GET and HEAD), html-get (on GET only),
    truncated (the connection ends early, every time, ranges ignored), corrupt (same size), corrupt-once,
    no-hub (headers of any web server), endless (no length, no end).
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
        if path.startswith("/plain/") and mode == "endless":
            return self.stream(request)
        if path.startswith("/plain/"):
            content = self.plain[file]
            return self.send(request, content, body, cut=mode == "truncated")
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
        return self.send(request, content, body, headers=headers, cut=mode == "truncated")

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
    def send(request, content: bytes, body: bool, status: int = 200, headers=None, cut: bool = False) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        if cut:
            request.send_header("Connection", "close")
        request.end_headers()
        if body:
            request.wfile.write(content[: len(content) // 2] if cut else content)

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


@pytest.fixture
def finetune(monkeypatch, capsys, tmp_path):
    """``finetune(*arguments)``: (exit status, what was shown) of the command, in an empty directory."""
    from finetune.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return stopped.value.code, shown.out + shown.err

    return run
