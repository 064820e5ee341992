"""The processes of one command: the first runs it, and the others wait until it calls them to share its work.

They meet in the key-value store of torch.distributed, which waits without a time-out: the first may download and
prepare for hours before it calls. What they are is a fact of the process, as its environment is, so nothing here takes
or makes an object: the environment names the processes, and the store counts the calls.
"""

import atexit
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from torch.distributed import PrefixStore

WAIT_SECONDS = 0.1


def processes() -> int:
    """How many processes torchrun or accelerate launch started; 1 for a command that was started alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is; 0 is the first."""
    return int(os.environ.get("RANK", "0"))


def launched() -> bool:
    """Whether torchrun or accelerate launch started this process, be it alone."""
    return not os.environ.keys().isdisjoint(("WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"))


def call_others(*work: str) -> None:
    """Tell the other processes what to do next, and on what; nothing: to end."""
    if processes() > 1:
        if not work:
            _store().set("ended", "")
        number = _store().add("calls", 1) - 1
        _store().set(f"work {number}", json.dumps(work))


def calls() -> Iterator[list[str]]:
    """What the first process calls this one to do, until it ends."""
    store, number = _store(), 0
    while True:
        while not store.check([f"work {number}"]):
            time.sleep(WAIT_SECONDS)
        work = json.loads(store.get(f"work {number}"))
        number += 1
        if not work:
            return
        yield work


def has_ended() -> bool:
    """Whether the first process has ended, as seen by one that is called no more."""
    return bool(_store().check(["ended"]))


def part() -> None:
    """End the connection to the other processes."""
    distributed = sys.modules.get("torch.distributed")
    if processes() > 1 and distributed is not None and distributed.is_initialized():
        with suppress(RuntimeError):  # another has ended already
            distributed.destroy_process_group()


def end(status: int) -> NoReturn:
    """End this process with this exit status; one of several ends at once, after its exit handlers.

    DDP and FSDP keep gloo's threads alive even after ``part``. If such a thread releases a tensor while the interpreter
    shuts down, the process is aborted with all its work done, and torchrun calls the run a failure.
    """
    if processes() > 1:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # its reader has gone, or it is closed
                stream.flush()
        os._exit(status)
    sys.exit(status)


@cache
def _store() -> "PrefixStore":
    """This process's only connection to the others, made when it is first needed."""
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=timedelta(minutes=5)))
    return PrefixStore("finetune", store)
