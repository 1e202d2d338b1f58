"""Who and what comes in: key, size, time and number of requests; each counted and logged, never its texts.

A bare ASGI layer, for it stands before every request.
"""

import asyncio
import hmac
import logging
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bertcnn.apps.server.limits import ServerSettings, is_loopback
from bertcnn.apps.server.metrics import Metrics

log = logging.getLogger("bertcnn.server")

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Asked by orchestrators, which have no key."""

GUARDED = ("/v1", "/v2", "/metrics")
"""What the guard stands before; other paths are pages, or answered 404."""

MOST_OPEN = 1024
"""Requests that are being read, computed or answered at once."""

MOST_HELD_BYTES = 64 << 20
"""Of the bodies of those."""

DISCARD_BYTES = 8 << 20
"""Read of a body that is refused, so that its sender, who may write before he reads, gets to the answer."""

DISCARD_SECONDS = 2.0

CLIENT_WENT_AWAY = 499


class Refused(Exception):  # noqa: N818  # an answer, not a fault
    """A request that goes no further."""

    def __init__(self, status: int, message: str, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, headers or {}


class _Visit:
    """One request on its way, and what became of it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.began = perf_counter()
        self.status = 0
        self.size = 0
        self.is_read = False
        self.is_gone = asyncio.Event()
        self._receive, self._send, self._body = receive, send, b""
        self._is_replayed = False

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def replay(self) -> Message:
        """Give the body, which has been read, to the application; then wait until the client goes."""
        if not self._is_replayed:
            self._is_replayed = True
            body, self._body = self._body, b""
            return {"type": "http.request", "body": body, "more_body": False}
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    async def read(self, room: Callable[[int], None]) -> None:
        """Read the body, asking for room with each part."""
        parts: list[bytes] = []
        while not self.is_read:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_gone.set()
                return
            self.is_read = not message.get("more_body", False)
            part = message.get("body", b"")
            self.size += len(part)
            room(len(part))
            parts.append(part)
        self._body = b"".join(parts)

    async def discard(self) -> None:
        """Read on for a while, and keep nothing."""
        seen = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while not self.is_read and seen < DISCARD_BYTES:
                    message = await self._receive()
                    self.is_read = not message.get("more_body", False)
                    seen += len(message.get("body", b""))

    async def watch(self, limit: asyncio.Timeout) -> None:
        """End the request when its client goes away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone.set()
        limit.reschedule(asyncio.get_running_loop().time())

    async def answer(self, status: int, message: str, headers: dict[str, str]) -> None:
        """Say why it is refused."""
        await JSONResponse({"error": message}, status, headers)({"type": "http"}, self._receive, self.send)


class Guard:
    """Stands before the paths of the API.

    Args:
        app: What is behind it.
        settings: The limits and the key.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, *, settings: ServerSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.open = self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http" or not _is_guarded(scope["path"]):
            await self.app(scope, receive, send)
            return
        visit = _Visit(receive, send)
        self.open += 1
        try:
            await self._pass(scope, visit)
        except Exception:
            visit.status = 500
            raise
        finally:
            self.open -= 1
            self._count(scope, visit)

    async def _pass(self, scope: Scope, visit: _Visit) -> None:
        limit = asyncio.timeout(self.settings.timeout_seconds)
        try:
            async with limit:
                await self._let_in(scope, visit, limit)
        except TimeoutError:
            if not limit.expired():
                raise
            if visit.is_gone.is_set():
                visit.status = CLIENT_WENT_AWAY
            elif not visit.status:  # else it has begun to answer, and the server cuts the connection
                await self._late(visit)
        except Refused as refusal:
            self.metrics.rejected.labels(refusal.reason).inc()
            if not any(name == b"expect" for name, _ in scope["headers"]):  # else it asks first whether to send
                await visit.discard()
            headers = refusal.headers if visit.is_read else {**refusal.headers, "connection": "close"}
            await visit.answer(refusal.status, str(refusal), headers)

    async def _let_in(self, scope: Scope, visit: _Visit, limit: asyncio.Timeout) -> None:
        headers = dict(scope["headers"])
        self._check(scope["path"], headers)
        try:
            await visit.read(lambda size: self._make_room(visit, size))
            if visit.is_gone.is_set():
                visit.status = CLIENT_WENT_AWAY
                return
            watcher = asyncio.create_task(visit.watch(limit))
            try:
                await self.app(scope, visit.replay, visit.send)
            finally:
                watcher.cancel()
        finally:
            self.held -= visit.size

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self.settings.api_key is not None and path not in OPEN_PATHS:
            check_key(headers, self.settings.api_key)
        if self.open > MOST_OPEN:
            raise Refused(503, "Too many requests at once. Try again in 1 s.", "requests", {"retry-after": "1"})
        told = headers.get(b"content-length", b"0")
        if told.isdigit() and int(told) > self.settings.max_body_bytes:
            raise self._too_large(f"Got a body of {int(told):,} bytes")

    def _make_room(self, visit: _Visit, size: int) -> None:
        self.held += size
        if visit.size > self.settings.max_body_bytes:
            raise self._too_large(f"Got more than {self.settings.max_body_bytes:,} bytes")
        if self.held > MOST_HELD_BYTES:
            raise Refused(503, "Too much is being read at once. Try again in 1 s.", "bytes", {"retry-after": "1"})

    def _too_large(self, got: str) -> Refused:
        most = self.settings.max_body_bytes
        return Refused(413, f"{got}, expected at most {most:,}. Send several requests.", "body size")

    async def _late(self, visit: _Visit) -> None:
        seconds = self.settings.timeout_seconds
        self.metrics.rejected.labels("timeout").inc()
        if visit.is_read:
            message = f"No answer within {seconds:g} s. Send fewer or shorter texts, or try again later."
            await visit.answer(504, message, {})
        else:
            message = f"The body did not come within {seconds:g} s. Send it faster, or in smaller requests."
            await visit.answer(408, message, {"connection": "close"})

    def _count(self, scope: Scope, visit: _Visit) -> None:
        seconds = perf_counter() - visit.began
        route = _route_of(scope)
        self.metrics.requests.labels(route, visit.status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if log.isEnabledFor(logging.INFO):
            fields: dict[str, Any] = {
                "route": route,
                "method": scope["method"] if scope["method"] in _METHODS else "other",
                "status": visit.status,
                "seconds": round(seconds, 4),
                "bytes": visit.size,
            }
            log.info("request", extra={"fields": fields})


def _route_of(scope: Scope) -> str:
    """Return the template of the route, never the path: that is the client's, and may hold anything."""
    if "route" in scope:
        return str(scope["route"].path)
    asked = scope["path"].split("/")  # it was refused at the door
    for template in scope["app"].openapi()["paths"]:
        parts = template.split("/")
        if len(parts) == len(asked) and all(a == b or a.startswith("{") for a, b in zip(parts, asked, strict=True)):
            return str(template)
    return "other"


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


def _is_guarded(path: str) -> bool:
    return any(path == one or path.startswith(one + "/") for one in GUARDED)


def check_key(headers: dict[bytes, bytes], key: str) -> None:
    """Refuse a request without the key, in a time that tells nothing of it.

    Raises:
        Refused: 401.
    """
    given = headers.get(b"x-api-key", b"")
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        given = token.strip()
    if not hmac.compare_digest(given, key.encode()):
        message = "Expected the API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
        raise Refused(401, message, "key", {"www-authenticate": "Bearer"})


def is_from_here(scope: Scope) -> bool:
    """Return whether a program of this machine asks: no page of a browser, and nobody through a proxy."""
    client = scope.get("client")
    names = {name for name, _ in scope["headers"]}
    led = {b"origin", b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"} & names
    return client is not None and is_loopback(client[0]) and not led
