"""``finetune push`` against a server that speaks the hub's API: what is sent, and what comes back."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "c" * 40


class Hub:
    """One repository: made, committed to and downloaded from, as huggingface_hub asks for it.

    Weights go by the protocol of Git LFS (github.com/git-lfs/git-lfs, docs/api/batch.md) to a store of their own, and
    come back over a redirect; all else stands in the commit.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}  # large files by their sha256
        self.large: dict[str, str] = {}  # name -> sha256, as committed
        self.asked: list[tuple[str, str]] = []
        self.created: dict = {}
        self.spoil = ""  # a file that is served changed
        self.part_bytes = 0  # of an upload in parts; 0: in one piece
        self.loses = False  # the last byte of what is uploaded
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, value, headers=None, body=True, status=200):
                content = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, text)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def do_POST(self):
                hub.asked.append(("POST", self.path))
                status, value = hub.post(self.path, self.sent())
                self.answer(value, status=status)

            def do_PUT(self):
                hub.asked.append(("PUT", self.path))
                _, _, key = self.path.partition("/upload/")
                content = self.sent()
                hub.stored[key] = content[:-1] if hub.loses else content
                self.answer({}, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

            def sent(self):
                if length := int(self.headers.get("Content-Length") or 0):
                    return self.rfile.read(length)
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
                place = self.path.partition("/store/")[2]
                if place:
                    return self.answer(hub.stored[place], body=body)
                if name in hub.large:
                    digest = hub.large[name]
                    linked = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(hub.stored[digest]))}
                    linked |= {"X-Repo-Commit": COMMIT, "Location": f"{hub.elsewhere}/store/{digest}"}
                    return self.answer(b"", linked, status=302)
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
        self.elsewhere = f"http://localhost:{self.server.server_port}"  # to a client another host

    def post(self, path, body):
        """The status and the answer."""
        if path == "/api/repos/create":
            self.created = json.loads(body)
            return 200, {"url": f"{self.address}/me/mine"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            return 200, {"files": [{"path": n, "uploadMode": mode, "shouldIgnore": False} for n, mode in modes.items()]}
        if path.endswith(".git/info/lfs/objects/batch"):
            asked = json.loads(body)
            assert (asked["operation"], asked["hash_algo"]) == ("upload", "sha256")
            return 200, {"objects": [self.actions(**item) for item in asked["objects"]]}
        if path.startswith("/complete/"):
            given = json.loads(body)
            parts = [f"{given['oid']}/{part['partNumber']}" for part in given["parts"]]
            self.stored[given["oid"]] = b"".join(self.stored.pop(part) for part in parts)
            return 200, {}
        if path == "/verify":
            given = json.loads(body)
            content = self.stored[given["oid"]]
            right = len(content) == given["size"] and hashlib.sha256(content).hexdigest() == given["oid"]
            return (200, {}) if right else (422, {"error": "not what was announced"})
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "lfsFile":
                    self.large[line["value"]["path"]] = line["value"]["oid"]
                    assert line["value"]["algo"] == "sha256"
            return 200, {"commitUrl": f"{self.address}/me/mine/commit/{COMMIT}", "commitOid": COMMIT}
        return 200, {"errors": [], "warnings": []}  # of the card's YAML

    def actions(self, oid, size):
        """What the client shall do with a large file; nothing if it is there."""
        if oid in self.stored:
            return {"oid": oid, "size": size}
        upload = {"href": f"{self.address}/upload/{oid}"}
        if self.part_bytes:
            numbers = range(1, -(-size // self.part_bytes) + 1)
            parts = {str(number): f"{self.address}/upload/{oid}/{number}" for number in numbers}
            upload = {"href": f"{self.address}/complete/{oid}", "header": {"chunk_size": str(self.part_bytes), **parts}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{self.address}/verify"}}}

    def whole(self):
        """Every committed file."""
        return self.files | {name: self.stored[oid] for name, oid in self.large.items()}


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
    assert hub.whole() == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert (
        f"{hub.address}/me/mine (private)" in done.out and "files uploaded, and downloaded again unchanged" in done.out
    )


@pytest.mark.parametrize("part_bytes", [0, 100_000])
def test_the_weights_go_to_the_large_files_are_verified_and_stay_out_of_the_commit(finetune, toy_copy, hub, part_bytes):
    hub.part_bytes = part_bytes
    assert finetune("push", toy_copy, "me/mine").status == 0
    weights = (toy_copy / "export" / "hf" / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    assert hub.large == {"model.safetensors": digest} and hub.stored == {digest: weights}
    assert "model.safetensors" not in hub.files
    steps = [path for _, path in hub.asked if "/lfs/" in path or path.startswith(("/upload", "/complete", "/verify"))]
    batch, *uploads, verify = steps
    assert batch == "/me/mine.git/info/lfs/objects/batch" and verify == "/verify"
    pieces = -(-len(weights) // part_bytes) if part_bytes else 1
    assert len(uploads) == pieces + bool(part_bytes) and (pieces > 1) is bool(part_bytes)
    committed = next(at for at, (_, path) in enumerate(hub.asked) if "/commit/" in path)
    assert committed > hub.asked.index(("POST", "/verify"))
    before = len(hub.asked)
    assert finetune("push", toy_copy, "me/mine").status == 0  # the store has them: they are not sent again
    assert not [path for _, path in hub.asked[before:] if path.startswith("/upload")]


def test_weights_that_arrive_damaged_are_not_committed(finetune, toy_copy, hub):
    hub.loses = True
    done = finetune("push", toy_copy, "me/mine")
    assert done.status == 2 and "Traceback" not in done.err and "me/mine" in done.err, done.err
    assert not hub.files and not hub.large


def test_a_dry_run_shows_every_file_and_sends_nothing(finetune, toy_copy, hub):
    done = finetune("push", toy_copy, "me/mine", "--dry-run")
    assert done.status == 0 and "nothing was sent" in done.out and not hub.asked
    for path in (toy_copy / "export" / "hf").iterdir():
        assert path.name in done.out


def test_a_file_that_comes_back_changed_is_said(finetune, toy_copy, hub):
    hub.spoil = "bundle.json"
    done = finetune("push", toy_copy, "me/mine", "--public")
    assert done.status == 2 and "uploaded files differ from the export; got bundle.json" in done.err
    assert hub.created.get("private") is not True and hub.created.get("visibility") != "private"


def test_no_text_of_the_user_goes(finetune, toy_copy, hub, sms):
    readme = toy_copy / "export" / "hf" / "README.md"
    text = max((text for text, _ in sms.rows), key=len)
    readme.write_text(f"{readme.read_text(encoding='utf-8')}\nFor example: {text}\n", encoding="utf-8")
    done = finetune("push", toy_copy, "me/mine")
    assert done.status == 2 and "files of the export contain texts of your data; got README.md" in done.err
    assert not hub.asked


def test_a_changed_export_is_not_pushed(finetune, toy_copy, hub):
    config = toy_copy / "export" / "hf" / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    done = finetune("push", toy_copy, "me/mine")
    assert done.status == 2 and "the export was changed; got config.json has changed since" in done.err
    assert not hub.asked


def test_an_odd_name_or_no_network_is_refused(finetune, toy_copy):
    odd = finetune("push", toy_copy, "mine")
    assert odd.status == 2 and "It has the form OWNER/NAME" in odd.err
    alone = finetune("push", toy_copy, "me/mine")
    assert alone.status == 2 and "nothing can be pushed without a network" in alone.err
