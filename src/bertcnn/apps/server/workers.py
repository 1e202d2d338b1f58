"""Processes that run a server: threads for each, one socket for all, signals, the log.

SIGTERM and SIGINT: what is in flight is answered, nothing new is taken. SIGHUP: the model folder is loaded anew.
"""

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
from functools import partial
from importlib.util import find_spec
from math import ceil
from traceback import walk_tb
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.supervisors import Multiprocess

from bertcnn.apps.server.app import Page, create_app
from bertcnn.apps.server.connections import connections
from bertcnn.apps.server.limits import ServerSettings
from bertcnn.apps.server.metrics import SHARED
from bertcnn.apps.server.middleware import log
from bertcnn.errors import ModelError, SettingsError
from bertcnn.machine import has_gpu, threads
from bertcnn.network.folder import check_folder, check_weights

BACKLOG = 2048

START_SECONDS = 120
"""What a process may take to load its model."""


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
            trace = walk_tb(record.exc_info[2])
            fields["where"] = [f"{at.f_code.co_filename}:{line} {at.f_code.co_name}" for at, line in trace]
        return json.dumps(fields)


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


class _Supervisor(Multiprocess):
    """Several processes; a SIGHUP is passed on to each, which loads its model beside the one that serves."""

    def keep_subprocess_alive(self) -> None:
        """Put others in the place of those that died, and count no more what waited there."""
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {process.pid for process in self.processes}:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]

    def terminate_all(self) -> None:
        """Stop listening first, here and in all processes at once: connections would wait for nobody, and be reset."""
        for one in self.sockets:
            if find_spec("uvloop"):  # asyncio's own loop would log that it can accept nothing any more
                with suppress(OSError):  # only Linux does this to a socket that listens
                    one.shutdown(socket.SHUT_RD)
            one.close()
        super().terminate_all()

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
        pages: See :func:`bertcnn.apps.server.app.create_app`; functions of modules, for they go to other processes.
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
        check_folder(folder)
        check_weights(folder)  # so that a wrong folder is one line, before it is said that anything listens
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
    is_graph = settings.backend.startswith("onnx")  # which runs on the CPU
    on_gpu = not is_graph and (settings.device not in {None, "cpu"} or (settings.device is None and has_gpu()))
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
    finally:
        listener.close()
        hosts = [apps[0].state.service.host, *apps[0].state.hosts] if apps and not server.started else []
        for failure in filter(None, (host.failure for host in hosts)):
            raise failure from None  # instead of SystemExit, which older versions of uvicorn do not raise here


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
