"""What every test stands on: one thread, no network, and nothing of the person's own settings or caches.

The environment is set when this file is imported, because the libraries read it when they are.
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

home = Path(tempfile.mkdtemp(prefix="finetune-tests-"))
atexit.register(shutil.rmtree, home, ignore_errors=True)
for variable in [name for name in os.environ if name.startswith("FINETUNE_")]:
    del os.environ[variable]
os.environ |= {
    "FINETUNE_HOME": str(home / "finetune"),
    "HF_HOME": str(home / "huggingface"),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.pop("HF_HUB_CACHE", None)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium; where there is none, its tests are skipped."""
    from tests.browser import CHROMIUM, Browser

    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def signal_handlers():
    """Those from before the test: the command installs its own, and after a signal others."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_collection_modifyitems(items):
    """Skip the tests marked gpu where there is none; torch is asked only if there are such tests."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))
