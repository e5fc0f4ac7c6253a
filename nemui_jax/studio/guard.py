"""Limits on requests: their origin, size, rate and duration."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_BODY = 4 * 2**20
TOO_LARGE = f"larger than {MAX_BODY // 2**20} MiB, the most that the studio takes"
BODY_SECONDS = 20.0  # to receive the body of a request
HEADER_SECONDS = 10.0  # to receive its header
POSTS_A_SECOND, POST_BURST = 4.0, 40.0

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Bucket:
    """A leaky bucket: `burst` may pass at once, and `rate` a second after that."""

    def __init__(self, rate: float, burst: float):
        self.rate, self.burst = rate, burst
        self.left, self.checked = burst, time.monotonic()

    def take(self) -> bool:
        """Counts one more, if it may pass now; returns whether it may."""
        now = time.monotonic()
        self.left = min(self.left + (now - self.checked) * self.rate, self.burst)
        self.checked = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Guard:
    """ASGI middleware that checks Host and Origin, limits body size and rate, and adds security headers."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], port: int):
        self.app, self.posts = app, Bucket(POSTS_A_SECOND, POST_BURST)
        self.hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        sockets = " ".join(f"ws://{host}" for host in sorted(self.hosts))
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; worker-src 'self'; img-src 'self' data:; "
            f"connect-src 'self' {sockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), midi=(self)"),
            (b"cache-control", b"no-cache"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        refused = self.refusal(scope)
        if scope["type"] == "websocket":
            if refused:
                await receive()
                return await send({"type": "websocket.close", "code": 1008})
            return await self.app(scope, receive, send)
        if refused:
            return await self.refuse(send, *refused)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.headers]
            await send(message)

        await self.app(scope, _bounded(receive), send_with_headers)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status and reason with which a request is refused, if it is.

        Browsers send an Origin with every POST and WebSocket.
        """
        fields: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            fields.setdefault(name.lower(), []).append(value.decode("latin-1"))
        host, origin = fields.get(b"host", []), fields.get(b"origin", [])
        if len(host) != 1 or host[0].lower() not in self.hosts:
            return 421, "the request is for another server"
        writes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if origin != [f"http://{host[0].lower()}"] and (origin or writes):
            return 403, "the request is from another page"
        length = (fields.get(b"content-length") or ["0"])[0]
        if not length.isdecimal() or len(length) > 12 or int(length) > MAX_BODY:
            return 413, TOO_LARGE
        if writes and scope["type"] == "http" and not self.posts.take():
            return 429, "too many requests; wait a moment"
        return None

    async def refuse(self, send: Send, status: int, reason: str) -> None:
        body = reason.encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers + self.headers})
        await send({"type": "http.response.body", "body": body})


def _bounded(receive: Receive) -> Receive:
    """Receives a body of at most MAX_BODY bytes within BODY_SECONDS; else the answer is 413 or 408."""
    seen, complete, until = 0, False, time.monotonic() + BODY_SECONDS

    async def bounded() -> Message:
        nonlocal seen, complete
        if complete:  # only a disconnect can follow, at any time
            return await receive()
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0)):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, f"not received within {BODY_SECONDS:g} s", {"connection": "close"}) from error
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > MAX_BODY:
                raise HTTPException(413, TOO_LARGE, {"connection": "close"})
        return message

    return bounded


class Http(H11Protocol):
    """HTTP that closes connections without a request, so that they do not accumulate."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None and self.transport.get_protocol() is self:  # no request yet, and no WebSocket
            self.transport.abort()
