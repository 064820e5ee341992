"""A headless Chromium, spoken to through a pipe (Chrome DevTools Protocol), that keeps what a page logs and loads."""

import base64
import json
import os
import shutil
import subprocess
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_PATIENCE = 60  # seconds for an answer


class Browser:
    """One page of a browser. errors: what the console shows as an error; requests: the addresses that are asked for."""

    def __init__(self, profile):
        inward, self._to = os.pipe()
        self._from, outward = os.pipe()
        flags = (
            f"--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe --user-data-dir={profile}"
        )
        command = f'exec "$0" {flags} about:blank 3<&{inward} 4>&{outward} 2>/dev/null'
        self._process = subprocess.Popen(["bash", "-c", command, CHROMIUM], pass_fds=(inward, outward))
        os.close(inward)
        os.close(outward)
        self._number, self._session, self._buffer = 0, None, b""
        self.errors, self.requests = [], []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self):
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def send(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda found: found.get("id") == self._number)
        assert "error" not in answer, answer
        return answer["result"]

    def _wait(self, wanted):
        """Read messages up to the one that is wanted, and keep errors and requests."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            while b"\0" not in self._buffer:
                part = os.read(self._from, 1 << 16)
                assert part, "the browser has ended"
                self._buffer += part
            line, _, self._buffer = self._buffer.partition(b"\0")
            found = json.loads(line)
            self._note(found.get("method"), found.get("params", {}))
            if wanted(found):
                return found
        raise TimeoutError("the browser does not answer")

    def _note(self, method, event):
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["exceptionDetails"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.errors.append(event["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "assert"):
            self.errors.append(json.dumps(event["args"]))

    def open(self, page, width=1100, height=900, dark=False):
        """Load a file or an address in a window of this size, and forget what earlier pages logged."""
        self.errors, self.requests = [], []
        self.size(width, height, dark)
        self.send("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        self._wait(lambda found: found.get("method") == "Page.loadEventFired")

    def size(self, width, height, dark=False):
        """Show the page in a window of this size, with light or dark colours."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def until(self, script):
        """The first true value of a JavaScript expression."""
        end = time.monotonic() + _PATIENCE
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}; errors: {self.errors}"
            time.sleep(0.05)
        return value

    def choose_file(self, selector, path):
        """Choose a file in the input that a CSS selector finds."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def picture(self):
        """What the window shows, as a PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def run(self, script):
        """The value of a JavaScript expression in the page."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key, text=""):
        """Press and release a key on what has the focus."""
        code = {"Enter": 13, "Escape": 27, " ": 32, "Tab": 9, "Home": 36, "ArrowRight": 39}.get(key, 0)
        shared = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
        self.send("Input.dispatchKeyEvent", type="keyUp", **shared)

    def type(self, text):
        """Enter text into what has the focus."""
        self.send("Input.insertText", text=text)
