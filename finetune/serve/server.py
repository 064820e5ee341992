"""Listen, serve, and end within a second of an interrupt."""

import errno
import os
import socket
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from finetune.console import say
from finetune.errors import RecipeError
from finetune.serve.app import build_app
from finetune.serve.limits import Limits
from finetune.serve.opening import open_model
from finetune.serve.worker import Worker

BACKLOG = 512
ENDED, INTERRUPTED = "the server has ended", 130


def serve(given: str, host: str, port: int) -> NoReturn:
    """Serve a run, a bundle or a checkpoint until the process is interrupted.

    Raises RecipeError if it cannot listen there, WeightsError or RunError for a directory without a model.
    """
    listening = listen(host, port)  # before the model is loaded, to fail early
    with listening:
        limits = Limits()
        worker = Worker(limits.waiting)
        served = open_model(given, worker)
        names = (host,) if _is_local(host) else (host, socket.gethostname())
        app = build_app(served, worker, names, limits)
        shown = f"[{host}]" if ":" in host else host
        say(f"{served.name} ({served.kind}): http://{shown}:{listening.getsockname()[1]}   (Ctrl-C ends it)")
        if not _is_local(host):
            say(f"note: everyone who reaches {host} can use it; there is no password", error=True)
        server = _Server(app, worker)
        with suppress(KeyboardInterrupt):  # raised again by uvicorn after closing
            server.run(sockets=[listening])
        worker.close()
    say(ENDED, error=True)
    os._exit(INTERRUPTED)  # unloading torch would take a second, and crash on a thread in the middle of a batch


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises RecipeError.

    Its connections send at once (TCP_NODELAY): otherwise a response in two parts would wait 40 ms for the client's
    delayed acknowledgement of the first. asyncio sets this only on sockets with an explicit protocol.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.create_server((host, port), family=family, backlog=BACKLOG)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RecipeError(
                f"port {port} of {host} is in use", do=f"Give another one: --port {port + 1 if port < 65535 else 8000}"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise RecipeError(
                f"port {port} needs privileges that you do not have", do="Give one above 1023."
            ) from error
        raise RecipeError(
            f"cannot listen on {host}",
            got=error.strerror or str(error),
            do="Leave out --host to serve this machine only.",
        ) from error


class _Server(uvicorn.Server):
    """A server that tells the model's thread when it is interrupted, so that no stream keeps it open."""

    def __init__(self, app: FastAPI, worker: Worker):
        super().__init__(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False)
        )
        self.worker = worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle an interrupt. ``close`` cannot deadlock here: its lock is reentrant for this thread."""
        self.worker.close()
        super().handle_exit(sig, frame)


def _is_local(host: str) -> bool:
    return host in ("127.0.0.1", "localhost", "::1")
