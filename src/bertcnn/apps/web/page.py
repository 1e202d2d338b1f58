"""The web page: one text, two models on one text, a file. Gradio draws it; answers come from the service.

An error of a user is a sentence in the page; one of ours is said to be ours, and the log says where.
"""

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response

from bertcnn import __version__
from bertcnn.apps.server.batching import Busy
from bertcnn.apps.server.hosting import Host
from bertcnn.apps.server.middleware import log
from bertcnn.apps.server.service import Service
from bertcnn.apps.web.draw import draw, explanation, prediction, script, style
from bertcnn.apps.web.file import ENDINGS, State, UploadedTable, classify_file, read_upload
from bertcnn.apps.web.guard import ROOT, PageGuard
from bertcnn.errors import BertCNNError, DataError, ModelError
from bertcnn.text.cells import without_surrogates

# Read while it is imported, and when a queue is made.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(1 << 62)  # it would count by pandas after each event, for nobody
import gradio as gr

EXAMPLES = (
    "The movie was not bad at all.",
    "I expected more for the price.",
    "Great, it broke on the first day.",
    "Couldn't be happier with the service!",
)
SHORT = 2000
"""Characters of a text for which is also sought what would change the answer: that reads it again."""

AT_ONCE, FILES_AT_ONCE, MOST_WAITING = 16, 2, 64
"""Texts and files that are answered at once, and how many requests of each kind may wait."""

SWEEP_SECONDS, KEPT_SECONDS = 300, 1800
"""How often files are looked through, and after how long they are deleted."""

OUR_FAULT = "Something went wrong here, and not by your fault. The server's log says where."

_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_Private: dict[str, Any] = {"api_visibility": "private"}
_T = TypeVar("_T")


class Told(Exception):  # noqa: N818  # an answer, not a fault
    """What a user is told instead of an answer."""


def mount_page(app: FastAPI, service: Service) -> None:
    """Mount the page at ``/web/``; ``/`` leads there."""

    async def mount() -> None:
        _mount(app, service)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(mount())  # without a loop that runs Gradio makes one for each of its locks, and closes none
    else:
        _mount(app, service)


def _mount(app: FastAPI, service: Service) -> None:
    settings = service.settings
    files = _files()
    blocks = _blocks(service, _beside(app, service))
    blocks.has_launched = True  # else Gradio does not check which files a request names
    app.add_middleware(PageGuard, settings=settings, metrics=service.metrics, files=files, streams=app.state.streams)
    for path in ("/", ROOT):
        app.add_api_route(path, lambda: RedirectResponse(f"{ROOT}/"), include_in_schema=False)
    app.add_api_route("/favicon.ico", lambda: Response(status_code=204), include_in_schema=False)
    theme = gr.themes.Default(primary_hue="emerald", font=_FONTS, font_mono=["ui-monospace", "monospace"])
    theme.set(button_primary_background_fill="#12855f", button_primary_background_fill_hover="#0e6b4c")
    gr.mount_gradio_app(
        app, blocks, ROOT,
        theme=theme, css=style(), head=script(), footer_links=[], run_history=False, ssr_mode=False, pwa=False,
        show_error=False, enable_monitoring=False, mcp_server=False, max_file_size=settings.max_upload_bytes,
    )  # fmt: skip


@cache
def _files() -> Path:
    """Return the folder of uploaded and made files, which goes with the process."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        made = tempfile.mkdtemp(prefix="bertcnn-web-")
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        os.environ["GRADIO_TEMP_DIR"] = made
    files = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(files)  # else Gradio would name files by a link that the guard does not know
    return files


def _beside(app: FastAPI, service: Service) -> Service | None:
    """Return the same queue and limits with the second model, which the application loads at its start."""
    folder = service.settings.beside
    if folder is None:
        return None
    other = copy(service)
    other.settings = replace(service.settings, model=folder, name="", beside=None)
    other.host = Host(other.settings, pause=service.batcher.breathe)
    app.state.hosts.append(other.host)
    return other


# ---- answers


@contextmanager
def _reasons(service: Service) -> Iterator[None]:
    """Turn errors into what a user is told.

    Raises:
        Told: The reason.
    """
    try:
        yield
    except (BertCNNError, Busy) as error:
        raise Told(str(error)) from error
    except TimeoutError as error:
        seconds = service.settings.timeout_seconds
        raise Told(f"No answer within {seconds:g} s. Try a shorter text, or again later.") from error
    except Exception as error:
        log.exception("the page failed")
        raise Told(OUR_FAULT) from error


async def _answer(service: Service, work: Awaitable[_T]) -> _T:
    """Return what some work gives in time.

    Raises:
        Told: Why it gives nothing.
    """
    with _reasons(service):
        async with asyncio.timeout(service.settings.timeout_seconds):
            return await work


async def _explained(service: Service, text: str, name: str = "") -> tuple[str, dict[str, Any]]:
    """Return the picture of an answer, and its prediction."""
    if not text.strip():
        raise DataError("Write a text first.")
    longest = service.settings.max_characters
    if len(text) > longest:
        raise DataError(f"Got {len(text):,} characters, expected at most {longest:,}. Shorten or divide the text.")
    try:
        forms, _ = await service.explain([text], route=ROOT, counterfactual=len(text) <= SHORT)
    except ModelError as error:  # a head without filters answers, but points at nothing
        forms, _ = await service.predict([text], route=ROOT)
        return prediction(forms[0], name=name) + draw("note", text=str(error)), forms[0]
    return explanation(forms[0], name=name), forms[0]["prediction"]


async def answer_one(service: Service, text: str) -> str:
    """Return the picture of an answer, or of the reason why there is none."""
    try:
        return (await _answer(service, _explained(service, text)))[0]
    except Told as reason:
        return draw("message", text=str(reason))


async def answer_two(service: Service, beside: Service, text: str) -> tuple[str, str, str]:
    """Return whether two models agree, and the picture of each one's answer."""
    both = (service, beside)
    names = [one.settings.model_name for one in both]
    try:
        work = asyncio.gather(*(_explained(one, text, name) for one, name in zip(both, names, strict=True)))
        found = await _answer(service, work)
    except Told as reason:
        return draw("message", text=str(reason)), "", ""
    answers = [{"name": name, **form} for name, (_, form) in zip(names, found, strict=True)]
    agree = answers[0]["label"] == answers[1]["label"]
    return draw("verdict", agree=agree, answers=answers), found[0][0], found[1][0]


# ---- what is on it


def _blocks(service: Service, beside: Service | None) -> Any:
    name = without_surrogates(service.settings.model_name)
    with gr.Blocks(
        title=f"{name} - bertcnn", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)
    ) as blocks:
        _html(draw("title", name=name, version=__version__))
        with gr.Tab("One text"):
            _one_text(service)
        if beside is not None:
            with gr.Tab("Two models"):
                _two_models(service, beside)
        with gr.Tab("A file"):
            _a_file(service)
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
    return blocks


def _one_text(service: Service) -> None:
    async def answer(text: str) -> str:
        return await answer_one(service, text)

    _question(answer, lambda: [_html()])


def _two_models(service: Service, beside: Service) -> None:
    async def answer(text: str) -> tuple[str, str, str]:
        return await answer_two(service, beside, text)

    def places() -> list[gr.HTML]:
        verdict = _html()
        with gr.Row(elem_classes="bw-pair"):
            return [verdict, _html(), _html()]

    _question(answer, places)


def _html(value: str = "") -> gr.HTML:
    return gr.HTML(value, apply_default_css=False)


def _question(answer: Any, places: Any) -> None:
    """Put a box for a text, its button, examples, and places for the answer."""
    box = gr.Textbox(
        label="Your text", info="Enter classifies; Shift+Enter begins a new line.", lines=1, max_lines=12,
        elem_classes="bw-text",
    )  # fmt: skip
    with gr.Row(elem_classes="bw-buttons"):
        button = gr.Button("Classify", variant="primary")
    with gr.Row(elem_classes="bw-examples"):
        examples = [(gr.Button(one, size="sm", min_width=100), one) for one in EXAMPLES]
    outputs = places()
    options = {"concurrency_limit": AT_ONCE, **_Private}
    gr.on([box.submit, button.click], answer, [box], outputs, **options)
    for example, text in examples:
        example.click(lambda text=text: text, None, box, **_Private).then(answer, [box], outputs, **options)


def _a_file(service: Service) -> None:
    most = service.settings.max_upload_bytes
    _html(draw("file_told", endings=ENDINGS, most=f"{most / (1 << 20):.3g} MB"))
    given = gr.File(label="Your file")  # told what it may not be, Gradio speaks in its own words, and cannot be cleared
    _take_uploads_only(given)
    _html(draw("too_large", most=most))
    column = gr.Dropdown([], label="Column with the texts", visible=False)
    with gr.Row(elem_classes="bw-buttons"):
        button = gr.Button("Classify the file", variant="primary", interactive=False)
        stop = gr.Button("Stop", visible=False)
    told = _html()
    with gr.Row(elem_classes="bw-buttons"):
        made, why = gr.DownloadButton(visible=False), gr.DownloadButton(visible=False)

    async def look(path: str | None) -> tuple[Any, ...]:
        text, table = await _look(service, path)
        columns = [(without_surrogates(str(name)), name) for name in table.columns] if table else []
        shown = gr.Dropdown(columns, value=table.text if table else None, visible=table is not None)
        return text, shown, gr.Button(interactive=table is not None), _download(None), _download(None)

    async def classify(path: str, name: str) -> AsyncIterator[tuple[Any, ...]]:
        async for state in _states(service, path, name):
            works = state.is_working
            buttons = gr.Button(interactive=not works), gr.Button(visible=works)
            yield state.html, _download(state.file), _download(state.insights), *buttons

    def stopped() -> tuple[Any, ...]:
        return draw("note", text="Stopped."), gr.Button(interactive=True), gr.Button(visible=False)

    given.change(look, [given], [told, column, button, made, why], **_Private)
    work = button.click(
        classify, [given, column], [told, made, why, button, stop], concurrency_limit=FILES_AT_ONCE,
        show_progress="hidden", **_Private,
    )  # fmt: skip
    stop.click(stopped, None, [told, button, stop], cancels=[work], **_Private)


def _take_uploads_only(given: gr.File) -> None:
    """Keep Gradio from fetching an address that a request names.

    Not by a subclass: for each one Gradio writes a stub file beside its module.
    """
    take = given.async_move_resource_to_block_cache

    async def uploaded(path: str | Path | None) -> str | None:
        if path is not None and not Path(path).resolve().is_relative_to(_files()):
            raise gr.Error("Expected an uploaded file.", print_exception=False)
        return await take(path)

    given.async_move_resource_to_block_cache = uploaded  # type: ignore[method-assign, assignment]


def _download(file: Path | None) -> gr.DownloadButton:
    return gr.DownloadButton(f"Download {file.name}" if file else "", value=file, visible=file is not None)


async def _look(service: Service, path: str | None) -> tuple[str, UploadedTable | None]:
    """Read an uploaded file; say what is in it, or what is wrong with it."""
    if path is None:
        return "", None
    try:
        table = await _answer(service, asyncio.to_thread(read_upload, Path(path)))
    except Told as reason:
        return draw("message", text=str(reason)), None
    return draw("note", text=table.seen), table


async def _states(service: Service, path: str, name: str) -> AsyncIterator[State]:
    """Yield how far a file is, or what is wrong with it."""
    try:
        with _reasons(service):
            async for state in classify_file(service, Path(path), name, folder=_files()):
                yield state
    except Told as reason:
        yield State(draw("message", text=str(reason)))
