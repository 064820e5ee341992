"""Set up .venv beside this file with the project and all it needs: python3 bootstrap.py [--dev]

For Linux, macOS and Windows, with the standard library alone. A finished set-up is recorded in .venv and
costs nothing the next time; an interrupted or outdated one is mended. The syntax is that of Python 3.6, so
that an old interpreter gets as far as the sentence about its age.
Exit status: 0 ready, 2 the message says what to do, 130 interrupted.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
RECORD = VENV / "setup.json"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED = [
    "torch",
    "tiktoken",
    "datasets",
    "safetensors",
    "sklearn",
    "scipy",
    "pandas",
    "accelerate",
    "typer",
    "huggingface_hub",
    "rich",
    "pydantic",
    "jinja2",
    "matplotlib",
    "pooch",
    "psutil",
    "platformdirs",
]
NEEDED_DEV = ["pytest", "transformers"]


def say(message):
    print(f"set-up: {message}", flush=True)


def stop(message):
    print(f"set-up: {message}", file=sys.stderr)
    sys.exit(2)


def fingerprint():
    """What a set-up depends on: the requirements, their pins, this script, and where the checkout is."""
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt", "bootstrap.py")]
    return hashlib.sha256(b"\0".join([*parts, os.fsencode(ROOT)])).hexdigest()


def read_record():
    try:
        return json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_record(**state):
    RECORD.write_text(json.dumps(state), encoding="utf-8")


def venv_runs(code):
    """Whether the interpreter of .venv is there and runs `code` without error."""
    command = [PYTHON, "-c", code]
    return PYTHON.exists() and subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def create_venv(**options):
    import venv

    venv.EnvBuilder(clear=True, symlinks=os.name != "nt", **options).create(VENV)


def pip_install(*arguments):
    """Run pip in .venv, True if it did all; else its own messages have said what is wrong."""
    return (
        subprocess.run(
            [
                PYTHON,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--constraint",
                "constraints.txt",
                *arguments,
            ],
            cwd=ROOT,
        ).returncode
        == 0
    )


def cpu_index_answers():
    """Whether PyTorch's index of CPU builds can be reached within 5 seconds, the name look-up included."""
    probe = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)"
    try:
        return (
            subprocess.run(
                [sys.executable, "-c", probe, f"{CPU_INDEX}/torch/"], capture_output=True, timeout=5
            ).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


def install(dev, patience):
    """Install the pinned requirements and the checkout; False if pip failed. `patience`: pip's options."""
    gpu_possible = not sys.platform.startswith("linux") or shutil.which("nvidia-smi")
    if not gpu_possible and not venv_runs("import torch") and cpu_index_answers():
        say("no NVIDIA GPU here: taking PyTorch's own CPU build, which is gigabytes smaller")
        pip_install(*patience, "--no-deps", "--index-url", CPU_INDEX, "torch")  # if not, the next line does
    return pip_install(*patience, "--editable", ".[dev]" if dev else ".")


def adopt_packages(modules):
    """Make .venv a door to the packages of this interpreter; False if they do not import there."""
    create_venv(system_site_packages=sys.prefix == sys.base_prefix)
    query = [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site_packages = Path(subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip())
    paths = [str(ROOT)] + [path for path in sys.path if path.endswith("-packages")]
    (site_packages / "checkout.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    return venv_runs("import " + ", ".join(modules))


@contextlib.contextmanager
def one_at_a_time():
    """Wait for another set-up of this checkout: it would clear .venv under ours, or ours under it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(ROOT / "bootstrap.py", "rb") as file:  # the lock ends with the process
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up in this folder")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_set_up(dev):
    """Whether .venv has what the checkout asks for now."""
    record = read_record()
    return record.get("finished") == fingerprint() and record["dev"] >= dev and venv_runs("import psutil")


def set_up(dev):
    """Bring .venv to what the checkout asks for now."""
    if is_set_up(dev):
        return
    with one_at_a_time():
        if not is_set_up(dev):
            install_all(dev)


def install_all(dev):
    """Make .venv where it is missing or spoilt, and install everything."""
    wanted, record = fingerprint(), read_record()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        stop(
            f"Python {version} at {sys.executable} cannot make a virtual environment. On Debian and Ubuntu: "
            f"sudo apt install python{version}-venv; then run the same command again."
        )
    modules = NEEDED + NEEDED_DEV * dev
    at_hand = Path(sys.prefix) != VENV and all(importlib.util.find_spec(module) for module in modules)
    say(
        f"installing PyTorch and about {80 if dev else 60} other packages into .venv with Python {version}; "
        "the first time this can take some minutes"
    )
    # Without a record it is a .venv of the user's own, kept if it runs.
    spoilt = "unfinished" in record or record.get("adopted")
    if spoilt or not venv_runs("import sys, pip; assert sys.version_info >= (3, 11)"):
        create_venv(with_pip=True)
    write_record(unfinished=True)
    adopted = False
    if not install(dev, patience=["--retries", "1", "--timeout", "15"] if at_hand else []):
        if not at_hand:
            stop(
                "pip could not install the packages; its message is above. Check the network, the proxy and "
                "the free disk space, then run the same command again."
            )
        say(f"pip could not install the packages, but {sys.executable} has what is needed: using that")
        adopted = True
        if not adopt_packages(modules):
            stop(
                f"the packages of {sys.executable} cannot be used. Connect to the network and run the same "
                "command again."
            )
    write_record(finished=wanted, dev=dev, adopted=adopted)
    say("ready")


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036
        stop(
            f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}. Install one "
            "(python.org or your system's packages), or name it: make PYTHON=/path/to/python3.12"
        )
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="what the tests need, too")
    try:
        set_up(parser.parse_args().dev)
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, subprocess.CalledProcessError) as error:
        stop(f"{error}. Fix that, then run the same command again.")
