"""Processes that run a server: threads for each, one socket for all, connections and their limits, signals, the log.

SIGTERM and SIGINT: what is in flight is answered, nothing new is taken. SIGHUP: the model folder is loaded anew.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from http import HTTPStatus
from math import ceil
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from bertcnn.apps.limits import ServerSettings
from bertcnn.apps.metrics import SHARED
from bertcnn.apps.middleware import log
from bertcnn.apps.server import Page, create_app
from bertcnn.errors import ModelError, SettingsError
from bertcnn.inference.onnx_backend import threads
from bertcnn.inference.predictor import NVIDIA
from bertcnn.network.folder import check_folder

BACKLOG = 2048

START_SECONDS = 120
"""What a process may take to load its model."""

MOST_HEAD_BYTES = 1 << 16
"""Of a request's first line and headers; also of anything else that is no part of a body, such as trailers."""

MOST_CONNECTIONS = 4096
"""Of a process at once, where it may open so many files; else three quarters of those that it may open."""

LINGER_SECONDS = 1.0
"""How long is listened to who is told that his headers are too long."""

WARN_SECONDS = 60
"""How often it is said that connections are refused."""


class JsonLines(logging.Formatter):
    """A log record as a line of JSON.

    Of an exception, its kind and where it was raised are told. Its message is not: it may quote a text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "event": record.getMessage().splitlines()[0] if record.getMessage() else "",
            **getattr(record, "fields", {"logger": record.name}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = record.exc_info[0].__name__
            fields["where"] = _frames(record.exc_info[2])
        return json.dumps(fields)


def _frames(trace: Any) -> list[str]:
    found = []
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return found


class NoTraceOfStart(logging.Filter):
    """Keeps out the text of a trace that starlette hands on when a model cannot be loaded: that was told in a line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is to be told."""
        return not record.getMessage().startswith("Traceback (most recent call last):")


def log_settings(level: str) -> dict[str, Any]:
    """Return the logging of a server's process: all on stderr, a JSON object a line."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": JsonLines}},
        "filters": {"no trace": {"()": NoTraceOfStart}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "lines",
                "filters": ["no trace"],
                "stream": "ext://sys.stderr",
            }
        },
        "loggers": {
            "bertcnn.server": {"handlers": ["stderr"], "level": level, "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        },
    }


class Connection(HttpToolsProtocol):
    """A connection with limits that hold before anything is known of a request: the bytes of its head, its time.

    The parser has none: it keeps whatever comes until the head is complete, and joins it at each part.

    Args:
        args: uvicorn's.
        seconds: How long a head may take, from the connection's begin or the last answer.
        kwargs: uvicorn's.
    """

    _warned = float(-WARN_SECONDS)

    def __init__(self, *args: Any, seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = seconds
        self._loose = 0  # bytes since the last that were a whole head, or of a body
        self._is_in_head = self._is_over = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, where there is room for another connection."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            self._warn()
            self._end(503, "Too many connections. Try again in 1 s.")
        self._wait()

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
        """Give the next head its time."""
        super().on_response_complete()
        if not self.pipeline:
            self._wait()

    def shutdown(self) -> None:
        """End at once what has not come whole; what has is answered."""
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete:
            self._end(503, "The server stops. Try again in 5 s.")
        else:
            super().shutdown()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: any client can ask for another protocol, and is answered in this one."""

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self._seconds, self._late)

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


class _Supervisor(Multiprocess):
    """Several processes; a SIGHUP is passed on to each, which loads its model beside the one that serves."""

    def handle_hup(self) -> None:
        """Pass it on."""
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGHUP)


class _Server(uvicorn.Server):
    """One process. Open pages hold requests that never end, and must not hold up its stop."""

    def __init__(self, config: uvicorn.Config, apps: list[FastAPI]) -> None:
        super().__init__(config)
        self.apps = apps

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and do not wait for pages."""
        for task in [task for app in self.apps for task in app.state.streams]:
            task.cancel()
        await super().shutdown(sockets)


def run(settings: ServerSettings, *, pages: Sequence[Page] = (), log_level: str = "INFO") -> None:
    """Serve until a signal ends it.

    Args:
        settings: What, where and how.
        pages: See :func:`bertcnn.apps.server.create_app`; functions of modules, for they go to other processes.
        log_level: INFO: a line a request; WARNING: only what is amiss.

    Raises:
        ModelError: The folder cannot be served.
        SettingsError: The address cannot be had.
    """
    settings = replace(settings, lanes=share_cores(settings))
    apps: list[FastAPI] = []
    config = uvicorn.Config(
        partial(create_app, settings, pages=tuple(pages)) if settings.workers > 1 else _keep(apps, settings, pages),
        factory=True,
        http=connections(settings),
        ws="none",  # there is nothing to say over it, and it would have limits of its own
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        log_config=log_settings(log_level),
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whose address it is decides who may reload
        timeout_graceful_shutdown=ceil(settings.timeout_seconds) + 1,
        timeout_worker_healthcheck=START_SECONDS,
    )
    if not settings.is_local and settings.api_key is None:
        log.warning("anybody who reaches this address may classify texts: give --api-key-file", extra={"fields": {}})
    for folder in filter(None, (settings.model, settings.beside)):
        check_folder(folder)  # so that a wrong folder is one line, before it is said that anything listens
    if settings.workers > 1:
        _run_several(config, settings)
    else:
        _run_one(config, settings, apps)


def share_cores(settings: ServerSettings) -> int:
    """Divide the cores among processes and their lanes, before anything that computes is loaded; return the lanes.

    A thread of its own for each batch, and not all threads for one: where clients and the event loop run on the
    same cores, threads that compute one product together wait for whichever of them was interrupted.
    ``OMP_NUM_THREADS`` says how many cores a process may use.
    """
    each = threads() if "OMP_NUM_THREADS" in os.environ else max(1, threads() // settings.workers)
    on_gpu = settings.device not in {None, "cpu"} or (settings.device is None and Path(NVIDIA).exists())
    lanes = settings.lanes or (1 if on_gpu else each)
    os.environ.setdefault("RAYON_NUM_THREADS", str(each))  # of tokenizers
    os.environ["OMP_NUM_THREADS"] = str(max(1, each // lanes))  # of torch, and of our ONNX sessions
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else it warns in processes that fork
    return lanes


def _keep(apps: list[FastAPI], settings: ServerSettings, pages: Sequence[Page]) -> Callable[[], FastAPI]:
    def make() -> FastAPI:
        apps.append(create_app(settings, pages=pages))
        return apps[-1]

    return make


def _bind(settings: ServerSettings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]
        raise SettingsError(f"Cannot listen on {host}:{port}: {why}. Give another --host or --port.") from error
    listener.set_inheritable(True)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    log.info("listening", extra={"fields": {"address": address, "process": os.getpid()}})
    return listener


def _run_one(config: uvicorn.Config, settings: ServerSettings, apps: list[FastAPI]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn heeds them, and raises them again when all is done
    server = _Server(config, apps)
    listener = _bind(settings)
    try:
        server.run([listener])
    except SystemExit:
        hosts = [apps[0].state.service.host, *apps[0].state.hosts] if apps else []
        failure = next((host.failure for host in hosts if host.failure), None)
        if failure is None:
            raise
        raise failure from None
    finally:
        listener.close()


def _run_several(config: uvicorn.Config, settings: ServerSettings) -> None:
    listener = _bind(settings)
    folder = tempfile.mkdtemp(prefix="bertcnn-metrics-")
    os.environ[SHARED] = folder
    try:
        supervisor = _Supervisor(config, [listener])
        supervisor.run()
        if not supervisor.signal_queue and any(one.exitcode == 3 for one in supervisor.processes):
            raise ModelError("The processes could not load the model; the log says why.")
    finally:
        listener.close()
        with suppress(KeyError):
            del os.environ[SHARED]
        shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.flush()
