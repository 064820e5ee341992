"""A middleware in front of every route that checks the origin and limits the size of requests.

A page of another site can make a browser send requests to this machine. Two checks refuse them: the Host header must
be an IP address or a name of this server, which defeats DNS rebinding, and Origin or Sec-Fetch-Site must be its own.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from finetune.errors import shorten
from finetune.serve.limits import Limits
from finetune.serve.problems import Problem, response_to

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

UPLOAD = "/tables"  # its route streams the body
BODY_SECONDS = 30.0  # timeout for the body of a request
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """The middleware. names: the host names that the server accepts besides localhost and any IP address."""

    def __init__(self, app: Any, names: tuple[str, ...], limits: Limits):
        self.app, self.limits = app, limits
        self.names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on with its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message.get("headers", [])}
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *(pair for pair in more if pair[0] not in own)]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self.check(scope["method"], scope["path"], headers)
            if scope["path"] != UPLOAD:
                receive = _replay(await self._body(receive, headers.get("content-length", "")), receive)
        except Problem as problem:
            await response_to(problem.status, str(problem))(scope, receive, send_safely)
            return
        await self.app(scope, receive, send_safely)

    def check(self, method: str, path: str, headers: dict[str, str]) -> None:
        """Raise Problem for a request from a refused origin."""
        host = headers.get("host", "")
        if not self._is_own(host):
            raise Problem(
                403, "this server does not accept this host name", got=shorten(host), known="localhost, or its address"
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            raise Problem(403, "requests from pages of other sites are refused", got=f"the origin {shorten(origin)}")
        opened = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not opened:
            raise Problem(403, "requests from pages of other sites are refused")

    def _is_own(self, host: str) -> bool:
        """Whether a Host header is an IP address, which DNS cannot rebind, or a known name."""
        name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if name.lower().rstrip(".") in self.names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    async def _body(self, receive: Receive, length: str) -> bytes:
        """The whole body. length: from the header. Raises Problem if the body is too long, or does not arrive in time."""
        most, body = self.limits.body_bytes, bytearray()
        too_long = Problem(413, "the request is too long", known=f"{most:,} bytes at most")
        if length.isdecimal() and int(length) > most:
            raise too_long
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_long
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise Problem(408, f"the request did not arrive within {BODY_SECONDS:.0f} seconds") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns the body once, and then the connection's own messages."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
