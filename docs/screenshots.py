"""Take the screenshots of the README: `python docs/screenshots.py RUN [BASE]`. Needs Chromium and the extra serve.

RUN: a finished spam classifier. BASE: the weights that it started from, for xray.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.browser import Browser  # noqa: E402 (found by the line above)

TEXTS = (
    "WIN a free prize now, call 09061701461 to claim\nshall we have lunch at six?\nyour account is locked, reply STOP"
)
TEXT = TEXTS.splitlines()[0]


def serve_picture(browser: Browser, address: str) -> bytes:
    """The page of a classifier after a prediction and a look at why."""
    browser.open(f"{address}/", 900, 1180)
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


def top_picture(browser: Browser, page: Path | str, height: int) -> bytes:
    """A page from its top."""
    browser.open(page, 1100, height)
    return browser.picture()


@contextlib.contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of a server that is ended afterwards."""
    command = [sys.executable, "-m", "finetune", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process.stdout.readline().split()[-4]
    finally:
        process.kill()
        process.wait()


def looked_inside(run: Path, base: str, page: Path) -> Path:
    """The page that xray writes."""
    command = [sys.executable, "-m", "finetune", "xray", str(run), "--text", TEXT, "--against", base]
    subprocess.run([*command, "--out", str(page)], check=True)
    return page


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
    """Write docs/report.png, docs/serve.png, docs/xray.png and docs/html.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("base", nargs="?", default="mini")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, served(given.run) as address:
        browser = Browser(Path(name) / "profile")
        browser.send("Emulation.setScrollbarsHidden", hidden=True)
        try:
            pictures = {
                "report": top_picture(browser, given.run / "report" / "index.html", 1000),
                "serve": serve_picture(browser, address),
                "xray": top_picture(browser, looked_inside(given.run, given.base, Path(name) / "xray.html"), 1300),
                "html": html_picture(browser, given.run),
            }
        finally:
            browser.close()
    for kind, picture in pictures.items():
        few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256)  # a third of the bytes
        few.save(ROOT / "docs" / f"{kind}.png", optimize=True)


if __name__ == "__main__":
    main()
