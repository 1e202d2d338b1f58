"""The command ``bertcnn serve``. The server itself is loaded when it is called."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from bertcnn.apps.options import Device, Model, Runner, check_is_folder
from bertcnn.apps.server.limits import ServerSettings
from bertcnn.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from bertcnn.apps.server.app import Page

KEY_VARIABLE = "BERTCNN_API_KEY"

_DEFAULT = ServerSettings(model=Path())


def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of them.")] = _DEFAULT.host,
    port: Annotated[int, typer.Option(help="0: any that is free.")] = _DEFAULT.port,
    name: Annotated[str, typer.Option(help="What clients call the model; default: its folder's name.")] = "",
    workers: Annotated[int, typer.Option(help="Processes, each with a model and a share of the cores.")] = 1,
    lanes: Annotated[
        Optional[int], typer.Option(help="Batches computed side by side, dividing the cores; default: one a core.")
    ] = None,
    backend: Runner = "auto",
    device: Device = None,
    api_key_file: Annotated[
        Optional[Path], typer.Option(help=f"File with the key that clients must give; or set {KEY_VARIABLE}.")
    ] = None,
    cors: Annotated[
        Optional[list[str]], typer.Option(help="Origin whose pages may call, as https://example.org; repeatable.")
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Also serve a page for people, at /web/; with one worker only.")
    ] = False,
    beside: Annotated[
        Optional[Path], typer.Option(help="A second model folder, which the page shows beside the first.")
    ] = None,
    max_wait_ms: Annotated[float, typer.Option(help="How long a text waits for company.")] = _DEFAULT.max_wait_ms,
    max_batch_tokens: Annotated[int, typer.Option(help="Word pieces computed at once.")] = _DEFAULT.max_batch_tokens,
    queue_texts: Annotated[int, typer.Option(help="Texts that may wait; then 503.")] = _DEFAULT.queue_texts,
    queue_seconds: Annotated[float, typer.Option(help="Longest wait for a turn; then 503.")] = _DEFAULT.queue_seconds,
    max_body_bytes: Annotated[int, typer.Option(help="Largest request; beyond, 413.")] = _DEFAULT.max_body_bytes,
    max_upload_bytes: Annotated[
        int, typer.Option(help="Largest file given to the page; more is refused.")
    ] = _DEFAULT.max_upload_bytes,
    max_texts: Annotated[int, typer.Option(help="Most texts in a request; beyond, 422.")] = _DEFAULT.max_texts,
    max_characters: Annotated[int, typer.Option(help="Longest text; beyond, 422.")] = _DEFAULT.max_characters,
    timeout_seconds: Annotated[float, typer.Option(help="Longest a request takes; 504.")] = _DEFAULT.timeout_seconds,
    log_level: Annotated[
        Literal["info", "warning"], typer.Option(help="info: a line a request; warning: only what is amiss.")
    ] = "info",
) -> None:
    """Serve a model over HTTP.

    Example: `bertcnn serve models/reviews`, then

    `curl -d '{"texts": ["Not bad at all."]}' -H 'Content-Type: application/json' http://127.0.0.1:8000/v1/predict`

    POST /v1/predict, /v1/explain; GET /v1/models, /healthz, /readyz, /metrics, /openapi.json; and the Open
    Inference Protocol under /v2. To replace a model, move another folder to its place and send SIGHUP, or
    POST /v1/reload. Logs are lines of JSON on stderr, and hold no text.
    """
    settings = ServerSettings(
        model=model, name=name, backend=backend, device=device, host=host, port=port, workers=workers, lanes=lanes,
        max_wait_ms=max_wait_ms, max_batch_tokens=max_batch_tokens, queue_texts=queue_texts,
        queue_seconds=queue_seconds, web=web, beside=beside,
        max_body_bytes=max_body_bytes, max_upload_bytes=max_upload_bytes, max_texts=max_texts,
        max_characters=max_characters,
        timeout_seconds=timeout_seconds, api_key=_key(api_key_file), cors=tuple(cors or ()),
    )  # fmt: skip
    serve_with(settings, log_level=log_level.upper())


def serve_with(settings: ServerSettings, *, log_level: str = "INFO") -> None:
    """Serve until a signal ends it.

    Raises:
        ModelError: A folder is not there or cannot be served, or a package is missing.
        SettingsError: The address cannot be had.
    """
    for folder in filter(None, (settings.model, settings.beside)):
        check_is_folder(folder)
    try:
        from bertcnn.apps.server.workers import run

        pages = [_page()] if settings.web else []
    except ImportError as error:
        extra = "web" if settings.web else "serve"
        raise ModelError(f"Serving needs {error.name}: pip install 'bertcnn[{extra}]'") from error
    run(settings, pages=pages, log_level=log_level)


def _page() -> "Page":
    from bertcnn.apps.web.page import mount_page

    return mount_page


def _key(file: Path | None) -> str | None:
    """Return the API key. A file may be read by its owner alone; a flag is seen by all who list processes."""
    if file is None:
        key = os.environ.get(KEY_VARIABLE)
        if key is not None and not key.strip():  # a secret that was not filled in must open no door
            raise SettingsError(f"{KEY_VARIABLE} is set, but empty. Put the key into it, or unset it to serve without.")
        return None if key is None else key.strip()
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"Cannot read --api-key-file {file}: {error}. Write the key into it, on one line."
        ) from error
