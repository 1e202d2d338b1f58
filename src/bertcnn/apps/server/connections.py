"""Connections with limits that hold before anything is known of a request, its key included."""

import asyncio
import json
from functools import cache, partial
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bertcnn.apps.server.limits import ServerSettings
from bertcnn.apps.server.middleware import log

MOST_HEAD_BYTES = 1 << 16
"""Of a request's first line and headers; also of anything else that is no part of a body, such as trailers."""

MOST_CONNECTIONS = 4096
"""Of a process at once, where it may open so many files; else three quarters of those that it may open."""

IDLE_SECONDS = 75
"""How long a connection may lie between two requests: longer than the 60 s that proxies commonly keep theirs, or they
would now and then send a request into one that is just being closed, and answer 502."""

LINGER_SECONDS = 1.0
"""How long is listened to who is told that his headers are too long."""

WARN_SECONDS = 60
"""How often it is said that connections are refused."""


class Connection(HttpToolsProtocol):
    """A connection with limits that hold before anything is known of a request: the bytes of its head, its time.

    The parser has none: it keeps whatever comes until the head is complete, and joins it at each part.

    Args:
        args: uvicorn's.
        seconds: How long a head may take, from its first byte; that of the first from the connection's begin.
        kwargs: uvicorn's.
    """

    _warned = float(-WARN_SECONDS)

    def __init__(self, *args: Any, seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = seconds
        self.timeout_keep_alive = IDLE_SECONDS + 1  # uvicorn's own timer, which any byte would end
        self._loose = 0  # bytes since the last that were a whole head, or of a body
        self._is_in_head = self._is_over = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, where there is room for another connection."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            self._warn()
            self._end(503, "Too many connections. Try again in 1 s.")
        self._wait(self._seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read no more than may come, so that the parser keeps no more."""
        at = 0
        while at < len(data) and not self._is_over and not self.transport.is_closing():
            part = data[at : at + MOST_HEAD_BYTES - self._loose]
            at += len(part)
            self._loose += len(part)
            super().data_received(part)  # which sets _loose back where it was of use
            if self._loose >= MOST_HEAD_BYTES:
                message = f"Got headers of more than {MOST_HEAD_BYTES:,} bytes. Send fewer or shorter ones."
                self._end(431, message, lingers=True)

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._is_in_head = True
        self._wait(self._seconds)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Leave the rest of the time to the request."""
        self._loose, self._is_in_head = 0, False
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._loose = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._loose = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or what has come of it."""
        super().on_response_complete()
        if not self.pipeline:
            self._wait(self._seconds if self._is_in_head else IDLE_SECONDS)

    def shutdown(self) -> None:
        """End at once what has not come whole; what has is answered."""
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete:
            self._end(503, "The server stops. Try again in 1 s.")
        else:
            super().shutdown()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: any client can ask for another protocol, and is answered in this one."""

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self._late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()  # its client does not read the answer
        elif self._is_in_head:
            self._end(408, f"The headers did not come within {self._seconds:g} s. Send them faster.")
        else:
            self.transport.close()

    def _end(self, status: int, message: str, *, lingers: bool = False) -> None:
        """Close the connection; say why, unless an answer has begun.

        Args:
            status: Of the answer.
            message: Its words.
            lingers: What still comes is thrown away for a while: a socket that is closed on unread bytes takes back
                its answer.
        """
        self._is_over = True
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps({"error": message}).encode()
            fields = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            if status == 503:
                fields["retry-after"] = "1"
            head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            self.transport.write(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n".encode() + body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # whoever works on it hears that there is nobody to answer
            self.cycle.message_event.set()
        if lingers and self.transport.can_write_eof():
            self.transport.write_eof()
            self._stop_waiting()
            self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.close()

    def _warn(self) -> None:
        now = self.loop.time()
        if now - Connection._warned >= WARN_SECONDS:
            Connection._warned = now
            log.warning("too many connections", extra={"fields": {"most": most_connections()}})


def connections(settings: ServerSettings) -> type[asyncio.Protocol]:
    """Return what uvicorn makes connections with, for its ``http``."""
    return cast("type[asyncio.Protocol]", partial(Connection, seconds=settings.timeout_seconds))


@cache
def most_connections() -> int:
    """Return how many connections may be open: fewer than files may be, or none could be taken, and none closed."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, max(1, files * 3 // 4))
