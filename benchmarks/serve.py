"""The server's latency for one message, and for 200 that arrive together: `python benchmarks/serve.py RUN`.

Without RUN, it first trains a classifier from mini on the bundled sample, for one step. The server runs in its own
process, as in real use; times are those of a client on the same machine, with a connection that is kept open.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [line.split("\t")[1] for line in (ROOT / "data/spam/sample.tsv").read_text(encoding="utf-8").splitlines()[1:]]


def make_run(directory: Path) -> Path:
    """A classifier from mini after one step, which is as fast as a fully trained one."""
    settings = ["weights=mini", f"data={ROOT / 'data/spam/sample.tsv'}", "train.max_steps=1"]
    sets = [part for own in settings for part in ("--set", own)]
    command = [sys.executable, "-m", "finetune", "run", "spam-classifier", "--name", "served", *sets]
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    return directory / "runs" / "served"


def measure(address: str, repeats: int) -> dict:
    """Milliseconds for one message at a time, and for 200 at once."""
    with httpx.Client(base_url=address, timeout=60) as client:

        def ask(text: str) -> float:
            start = time.perf_counter()
            client.post("/predict", json={"texts": [text]}).raise_for_status()
            return 1000 * (time.perf_counter() - start)

        while "Reading" in client.post("/explain", json={"text": TEXTS[0]}).text:  # training rows, beside the requests
            time.sleep(1)
        for text in TEXTS[:20]:
            ask(text)
        single = sorted(ask(text) for text in TEXTS[20 : 20 + repeats])
        start = time.perf_counter()
        with ThreadPoolExecutor(200) as many:
            together = sorted(many.map(ask, TEXTS[:200]))
        seconds = time.perf_counter() - start
    return {
        "median_ms": statistics.median(single),
        "p95_ms": single[int(0.95 * len(single))],
        "together_median_ms": statistics.median(together),
        "together_max_ms": together[-1],
        "together_per_second": 200 / seconds,
    }


def main() -> None:
    """Start the server, measure, interrupt it, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = given.run or make_run(Path(folder))
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune", "serve", str(run), "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        assert process.stdout
        address = process.stdout.readline().split()[-4]
        found = measure(address, given.repeats)
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        process.wait()
        found["interrupt_ms"] = 1000 * (time.perf_counter() - start)
    print(json.dumps({name: round(value, 1) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
