"""What stands before the web page: the key, the size of bodies, and the few paths that the page needs.

Gradio serves more than a page of ours uses (files, proxies, an API of its own); what is not named
here is not reached.
"""

import asyncio
import base64
import binascii
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bertcnn.apps.server.limits import ServerSettings
from bertcnn.apps.server.metrics import Metrics
from bertcnn.apps.server.middleware import Refused, check_key

ROOT = "/web"

_STREAMS = ("/gradio_api/queue/data", "/gradio_api/heartbeat/", "/gradio_api/upload_progress")
_READ = ("/assets/", "/static/", "/config", "/theme.css", *_STREAMS)
_SENT = ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/upload")
_FILE = "/gradio_api/file="

MOST_OPEN = 256
"""Requests of pages at once; an open page holds one or two."""

MOST_KEPT_BYTES = 1 << 30
"""Of uploaded and made files together."""

SLOWEST = 50_000
"""Bytes a second at which a file may come."""

FORM_BYTES = 1 << 16
"""What a form adds to an uploaded file."""

HEADERS = {
    # Gradio's page has inline scripts, styles and templates. Nothing leaves the origin.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


class PageGuard:
    """Stands before the paths of the page.

    Args:
        app: What is behind it.
        settings: The limits and the key.
        metrics: Where refusals are counted.
        files: Folder of uploaded and made files; no other is reached.
        streams: Where answers without an end are put; who stops the server cancels them.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServerSettings,
        metrics: Metrics,
        files: Path,
        streams: "set[asyncio.Task[None]]",
    ) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.files, self.streams = files, streams
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path != ROOT and not path.startswith(ROOT + "/"):
            await self.app(scope, receive, send)
            return
        reply = _Reply(receive, send)
        self.open += 1
        try:
            self._check(scope["method"], path.removeprefix(ROOT), dict(scope["headers"]))
            await self._pass(scope, receive, reply)
        except Refused as refusal:
            self.metrics.rejected.labels(refusal.reason).inc()
            await reply.refuse(refusal)
        finally:
            self.open -= 1

    async def _pass(self, scope: Scope, receive: Receive, reply: "_Reply") -> None:
        if scope["method"] == "POST":
            await self._take(scope, receive, reply)
            return
        if not scope["path"].removeprefix(ROOT).startswith(_STREAMS):
            await self.app(scope, receive, reply.send)
            return
        task = asyncio.ensure_future(self.app(scope, receive, reply.send))
        self.streams.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self.streams.discard(task)
            task.cancel()
        if task.cancelled():  # the server stops
            await reply.end()
        else:
            task.result()

    async def _take(self, scope: Scope, receive: Receive, reply: "_Reply") -> None:
        """Pass on a request whose body must come in time; its answer may take longer."""
        seconds = self.settings.timeout_seconds + int(dict(scope["headers"])[b"content-length"]) / SLOWEST
        limit = asyncio.timeout(seconds)

        async def read() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                limit.reschedule(None)
            return message

        try:
            async with limit:
                await self.app(scope, read, reply.send)
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"The body did not come within {seconds:.0f} s. Send a smaller file, or send it faster."
            raise Refused(408, message, "timeout", {"connection": "close"}) from None

    def _check(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        if self.settings.api_key is not None:
            check_page_key(headers, self.settings.api_key)
        if not self._is_known(method, path):
            raise Refused(404, f"No such page. {ROOT}/ is the one there is.", "path")
        if self.open > MOST_OPEN:
            raise Refused(503, "Too many pages are open. Try again in 10 s.", "requests", {"retry-after": "10"})
        if method == "POST":
            self._check_sent(path, headers)

    def _is_known(self, method: str, path: str) -> bool:
        if method == "POST":
            return path in _SENT
        known = path in {"", "/"} or path.startswith((*_READ, f"{_FILE}{self.files.as_posix()}/"))
        return known and ".." not in path.split("/") and method in {"GET", "HEAD"}

    def _check_sent(self, path: str, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"sec-fetch-site", b"same-origin") not in {b"same-origin", b"none"}:
            raise Refused(403, "Only the page itself may send this, not one of another site.", "site")
        told = headers.get(b"content-length", b"")
        if not told.isdigit():
            raise Refused(411, "Expected the header Content-Length.", "body size")
        is_file = path.endswith("/upload")
        most = self.settings.max_upload_bytes if is_file else self.settings.max_body_bytes
        if int(told) > most + FORM_BYTES * is_file:
            raise Refused(413, f"Got {int(told):,} bytes, expected at most {most:,}.", "body size")
        if is_file and int(told) + _size(self.files) > MOST_KEPT_BYTES:
            raise Refused(503, "Too many files are here. Try again in 30 minutes.", "files", {"retry-after": "1800"})


def check_page_key(headers: dict[bytes, bytes], key: str) -> None:
    """Refuse a request without the key, which browsers send as a password and programs as a bearer token.

    Raises:
        Refused: 401; browsers ask for a name and a password then.
    """
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"basic":
        try:
            given = base64.b64decode(token, validate=True).partition(b":")[2]
        except binascii.Error:
            given = b""
        headers = {b"x-api-key": given}
    try:
        check_key(headers, key)
    except Refused as refusal:
        message = "Expected the API key: any user name, and the key as the password."
        asks = {"www-authenticate": 'Basic realm="the API key is the password", charset="UTF-8"'}
        raise Refused(401, message, refusal.reason, asks) from None


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # deleted meanwhile
            continue
    return total


class _Reply:
    """An answer on its way out, with the page's headers."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._is_begun = False

    async def send(self, message: Message) -> None:
        """Pass on a part."""
        if message["type"] == "http.response.start":
            self._is_begun = True
            MutableHeaders(scope=message).update(HEADERS)
        await self._send(message)

    async def end(self) -> None:
        """Finish an answer in its midst."""
        if self._is_begun:
            await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, refusal: Refused) -> None:
        """Say why it is refused; as ``detail``, too, which Gradio's page reads."""
        said = {"error": str(refusal), "detail": str(refusal)}
        answer = JSONResponse(said, refusal.status, {"connection": "close", **refusal.headers})
        await answer({"type": "http"}, self._receive, self.send)
