"""``finetune push`` against a server that speaks the hub's API: what is sent, and what comes back."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "c" * 40


class Hub:
    """One repository: made, committed to and downloaded from, as huggingface_hub asks for it."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.created: dict = {}
        self.spoil = ""  # a file that is served changed
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, value, headers=None, body=True):
                content = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(200)
                for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, text)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def do_POST(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else self.chunks()
                self.answer(hub.post(self.path, body))

            def chunks(self):
                found = b""
                while size := int(self.rfile.readline() or b"0", 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                return found

            def do_HEAD(self):
                self.serve(False)

            def do_GET(self):
                self.serve(True)

            def serve(self, body):
                hub.asked.append((self.command, self.path))
                name = self.path.partition(f"/resolve/{COMMIT}/")[2]
                if name not in hub.files:
                    return self.answer({"sha": COMMIT, "id": "me/mine", "siblings": []}, body=body)
                content = hub.files[name]
                if name == hub.spoil:
                    content = content[:-1] + b"?"
                digest = hashlib.sha256(content).hexdigest()
                self.answer(content, {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"'}, body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def post(self, path, body):
        self.asked.append(("POST", path))
        if path == "/api/repos/create":
            self.created = json.loads(body)
            return {"url": f"{self.address}/me/mine"}
        if "/preupload/" in path:
            named = json.loads(body)["files"]
            return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in named]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": f"{self.address}/me/mine/commit/{COMMIT}", "commitOid": COMMIT}
        return {"errors": [], "warnings": []}  # of the card's YAML


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    from finetune.hub import fetch

    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    fetch.network_available.cache_clear()
    yield hub
    hub.server.shutdown()
    fetch.network_available.cache_clear()


def test_a_run_is_pushed_private_and_comes_back_the_same(finetune, toy_copy, hub):
    folder = toy_copy / "export" / "hf"
    done = finetune("push", toy_copy, "me/mine")
    assert done.status == 0, done.err
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert f"{hub.address}/me/mine (private)" in done.out and "came back as they were sent" in done.out


def test_a_dry_run_shows_every_file_and_sends_nothing(finetune, toy_copy, hub):
    done = finetune("push", toy_copy, "me/mine", "--dry-run")
    assert done.status == 0 and "nothing was sent" in done.out and not hub.asked
    for path in (toy_copy / "export" / "hf").iterdir():
        assert path.name in done.out


def test_a_file_that_comes_back_changed_is_said(finetune, toy_copy, hub):
    hub.spoil = "bundle.json"
    done = finetune("push", toy_copy, "me/mine", "--public")
    assert done.status == 2 and "files came back changed; got bundle.json" in done.err
    assert hub.created.get("private") is not True and hub.created.get("visibility") != "private"


def test_no_text_of_the_user_goes(finetune, toy_copy, hub, sms):
    readme = toy_copy / "export" / "hf" / "README.md"
    text = max((text for text, _ in sms.rows), key=len)
    readme.write_text(f"{readme.read_text(encoding='utf-8')}\nFor example: {text}\n", encoding="utf-8")
    done = finetune("push", toy_copy, "me/mine")
    assert done.status == 2 and "files of the export hold texts of your data; got README.md" in done.err
    assert not hub.asked


def test_a_changed_export_is_not_pushed(finetune, toy_copy, hub):
    config = toy_copy / "export" / "hf" / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    done = finetune("push", toy_copy, "me/mine")
    assert done.status == 2 and "the export was changed; got config.json has other bytes" in done.err
    assert not hub.asked


def test_an_odd_name_or_no_network_is_refused(finetune, toy_copy):
    odd = finetune("push", toy_copy, "mine")
    assert odd.status == 2 and "It has the form OWNER/NAME" in odd.err
    alone = finetune("push", toy_copy, "me/mine")
    assert alone.status == 2 and "nothing can be pushed without a network" in alone.err
