"""Take the screenshots of the README: `python docs/screenshots.py RUN [BASE]`. Needs Chromium and the extra serve.

RUN: a finished spam classifier. BASE: the weights that it started from, for xray.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.browser import Browser  # noqa: E402 (found by the line above)

TEXTS = (
    "WIN a free prize now, call 09061701461 to claim\nshall we have lunch at six?\nyour account is locked, reply STOP"
)
TEXT = TEXTS.splitlines()[0]


def serve_picture(browser: Browser, run: Path) -> bytes:
    """The page of a classifier after a prediction and a look at why."""
    command = [sys.executable, "-m", "finetune", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        browser.open(process.stdout.readline().split()[-4] + "/", 900, 1180)
        browser.until("!document.getElementById('threshold-section').hidden")
        browser.run(f"document.getElementById('texts').value = {TEXTS!r}")
        browser.run("document.getElementById('predict-form').requestSubmit()")
        browser.until("document.querySelectorAll('#predictions-rows tr').length === 3")
        for _ in range(200):  # until the training rows have been read
            browser.run("document.querySelector('#predictions-rows button').click()")
            if browser.until("!document.getElementById('why').hidden") and browser.run(
                "new Promise(done => setTimeout(() => done(!document.getElementById('why-near').hidden), 500))"
            ):
                break
        browser.run("document.activeElement.blur()")
        return browser.picture()
    finally:
        process.kill()
        process.wait()


def xray_picture(browser: Browser, run: Path, base: str, folder: Path) -> bytes:
    """The page of xray from its top."""
    command = [sys.executable, "-m", "finetune", "xray", str(run), "--text", TEXT, "--against", base]
    subprocess.run([*command, "--out", str(folder / "xray.html")], check=True)
    browser.open(folder / "xray.html", 1100, 1300)
    return browser.picture()


def html_picture(browser: Browser, run: Path) -> bytes:
    """The exported page after it has classified a text, with a head of attention."""
    subprocess.run([sys.executable, "-m", "finetune", "export", str(run), "--format", "html"], check=True)
    browser.open(run / "export" / "html" / "index.html", 900, 1180)
    browser.run("ready.then(() => 0)")
    browser.run(f"document.getElementById('text').value = {TEXT!r}")
    browser.run("run(new Event('submit'))")
    browser.run("document.querySelectorAll('.grid button')[9].click()")
    return browser.picture()


def main() -> None:
    """Write docs/serve.png, docs/xray.png and docs/html.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("base", nargs="?", default="mini")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(Path(folder) / "profile")
        try:
            for name, picture in (
                ("serve", serve_picture(browser, given.run)),
                ("xray", xray_picture(browser, given.run, given.base, Path(folder))),
                ("html", html_picture(browser, given.run)),
            ):
                few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256)  # a third of the bytes
                few.save(ROOT / "docs" / f"{name}.png", optimize=True)
        finally:
            browser.close()


if __name__ == "__main__":
    main()
