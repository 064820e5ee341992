"""From the model's thread to a response: wait for an answer, or stream it, until the client disconnects or time is up."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from finetune.serve.limits import Limits
from finetune.serve.problems import Problem, body_of, message_of, status_of
from finetune.serve.worker import Work, Worker
from finetune.serve.writer import Writing, Written

R = TypeVar("R")

LOOK_SECONDS = 0.25  # seconds between two checks for a disconnected client


async def answer(request: Request, future: Future[R], limits: Limits, give_up: Callable[[], None] = lambda: None) -> R:
    """The result of a future. give_up: called if the client disconnects or time is up. Raises Problem."""
    waiting, end = asyncio.wrap_future(future), asyncio.get_running_loop().time() + limits.seconds
    try:
        while True:
            done, _ = await asyncio.wait([waiting], timeout=LOOK_SECONDS)
            if done:
                return waiting.result()
            if asyncio.get_running_loop().time() > end:
                raise Problem(
                    504,
                    f"no answer after {limits.seconds:.0f} seconds",
                    do="Ask for less at a time, or try again later.",
                )
            if await request.is_disconnected():
                raise Problem(499, "the client has disconnected")
    finally:
        if not waiting.done():
            give_up()
            waiting.cancel()


class Pieces:
    """Texts as they are generated: an asynchronous iterator of (number of the text, its next piece or its end)."""

    def __init__(self, worker: Worker, work: Work[Writing, Written], limits: Limits):
        self.worker, self.work, self.limits = worker, work, limits
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[int, str | Future[Written]]] = asyncio.Queue()
        self.writings: list[Writing] = []
        self.futures: list[Future[Written]] = []

    def piece_of(self, number: int) -> Callable[[str], None]:
        """The callback of the model's thread for each piece of a text."""
        return lambda new: self._put(number, new)

    def begin(self, writings: list[Writing]) -> None:
        """Start generating. Raises Problem if too many requests are waiting."""
        for number, writing in enumerate(writings):
            try:
                future = self.worker.submit(self.work, writing)
            except Problem:
                self.cancel()
                raise
            self.writings.append(writing)
            self.futures.append(future)
            future.add_done_callback(lambda done, number=number: self._put(number, done))  # type: ignore[misc]

    def cancel(self) -> None:
        """Stop generating: the client no longer waits."""
        for writing in self.writings:
            writing.cancelled.set()
        for future in self.futures:
            future.cancel()

    async def each(self, request: Request, streamed: bool) -> AsyncGenerator[tuple[int, str | Written], None]:
        """The pieces in the order of generation. Raises Problem if time is up or the server closes."""
        left, end = len(self.writings), self.loop.time() + self.limits.seconds
        watched: Request | None = request  # once the response has begun, it watches the connection itself
        try:
            while left:
                number, new = await self._next(watched, end)
                if watched and streamed:
                    watched, end = None, self.loop.time() + self.limits.streaming_seconds
                if isinstance(new, str):
                    yield number, new
                    continue
                left -= 1
                yield number, new.result()
        finally:
            self.cancel()

    async def _next(self, request: Request | None, end: float) -> tuple[int, str | Future[Written]]:
        while True:
            if self.loop.time() > end:
                raise Problem(504, "the answer takes too long", do="Ask for fewer tokens, or try again later.")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    return await self.queue.get()
            if self.worker.stopping.is_set():
                raise Problem(503, "the server is closing")
            if request and await request.is_disconnected():
                raise Problem(499, "the client has disconnected")

    def _put(self, number: int, new: str | Future[Written]) -> None:
        with suppress(RuntimeError):  # the loop is closed: no one waits for more
            self.loop.call_soon_threadsafe(self.queue.put_nowait, (number, new))


async def stream_events(events: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Server-sent events in OpenAI's form. An error before the first event is a response of its own, a later one an event."""
    first = await anext(events)

    async def lines() -> AsyncIterator[str]:
        try:
            yield _line(first)
            async for event in events:
                yield _line(event)
        except Exception as error:  # report any error to the client
            yield _line(body_of(status_of(error), message_of(error)))
            return
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
