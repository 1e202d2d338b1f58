"""A trained model behind HTTP: the application. :mod:`bertcnn.apps.server.workers` runs it.

Handlers read their bodies themselves: pydantic's own JSON reader refuses what is not Unicode, which
FastAPI's way through Python objects lets pass, and its findings are told in our words.
"""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from bertcnn import __version__
from bertcnn.apps.server.batching import Busy
from bertcnn.apps.server.hosting import Host
from bertcnn.apps.server.limits import ServerSettings
from bertcnn.apps.server.middleware import Guard, Refused, is_from_here, log
from bertcnn.apps.server.open_inference import NoSuchModel, readiness, routes
from bertcnn.apps.server.schemas import (
    BodyError,
    ExplainRequest,
    ExplainResponse,
    Fault,
    InferRequest,
    ModelForm,
    ModelsResponse,
    PredictRequest,
    PredictResponse,
    Ready,
    Status,
    read_body,
)
from bertcnn.apps.server.service import Service
from bertcnn.errors import BertCNNError

Page = Callable[[FastAPI, Service], None]

_Body = TypeVar("_Body", bound=BaseModel)

_REFUSALS = {
    400: "The body is not JSON in UTF-8.",
    401: "The API key is missing or wrong.",
    404: "No such model here.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not said to be JSON, or is said to be compressed.",
    422: "Something in the body is not as it must be, or beyond the limits.",
    503: "Too much is waiting; Retry-After says when to come again.",
    504: "No answer in time.",
}
_FAULTS: dict[int | str, Any] = {code: {"model": Fault, "description": text} for code, text in _REFUSALS.items()}
_BODIES = (PredictRequest, ExplainRequest, InferRequest)


def create_app(settings: ServerSettings, *, pages: Sequence[Page] = ()) -> FastAPI:
    """Return the application, which loads its model when it is started.

    Args:
        settings: What to serve, and within which limits.
        pages: Called in turn with the application and its service, to mount pages for people. The guard
            stands before ``/v1``, ``/v2`` and ``/metrics``; a page brings its own, and asks the service, whose limits
            hold for it, too.
    """
    service = Service(settings)
    app = FastAPI(
        title="bertcnn", version=__version__, description=f"Text classification by the model {settings.model_name!r}.",
        lifespan=_lifespan, docs_url=None, redoc_url=None,  # their pages load scripts from elsewhere
        redirect_slashes=False,  # it would lead to wherever the header Host says
    )  # fmt: skip
    app.state.service = service
    app.state.hosts = []  # of further models, which pages show
    app.state.streams = set()  # answers without an end, which whoever stops the server must cancel
    _answer_faults(app)
    _add_texts(app, service)
    _add_operation(app, service)
    app.include_router(routes(service, _read, _FAULTS, _described(InferRequest)))
    app.add_middleware(Guard, settings=settings, metrics=service.metrics)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key"],
            expose_headers=["retry-after"],
        )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # the way FastAPI documents
    for page in pages:
        page(app, service)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    tasks: set[asyncio.Task[None]] = set()
    hears_signals = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP")
    if hears_signals:

        def renew() -> None:
            task = asyncio.create_task(_reload_quietly(service, app.state.hosts))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        # Before the load: a signal that comes meanwhile is heeded after it.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renew)
    try:
        model = await service.open(app.state.hosts)
    except BertCNNError as error:
        log.error("cannot serve", extra={"fields": {"error": str(error)}})
        raise
    log.info("serving", extra={"fields": {"model": model.name, "version": model.version, **_how(service)}})
    try:
        yield
    finally:
        if hears_signals:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        for task in tasks:
            task.cancel()
        await service.close()
        log.info("stopped", extra={"fields": {}})


def _how(service: Service) -> dict[str, Any]:
    backend, lanes = service.host.model.predictor.backend.name, service.settings.lanes or 1
    return {"backend": backend, "lanes": lanes, "process": os.getpid()}


async def _reload_quietly(service: Service, others: Sequence[Host]) -> None:
    """Reload for a signal, whose sender reads the log."""
    try:
        model = await service.reload(others)
    except BertCNNError as error:
        log.error("reload failed", extra={"fields": {"error": str(error)}})
    else:
        log.info("reloaded", extra={"fields": {"model": model.name, "version": model.version, **_how(service)}})


def _add_texts(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/predict",
        response_model=PredictResponse,
        response_model_exclude_unset=True,
        responses=_FAULTS,
        openapi_extra=_described(PredictRequest),
        tags=["texts"],
    )
    async def predict(request: Request) -> Response:
        """Classify texts."""
        asked = await _read(PredictRequest, request)
        predictions, model = await service.predict(asked.texts, route="/v1/predict")
        return JSONResponse({"model": model.name, "version": model.version, "predictions": predictions})

    @app.post(
        "/v1/explain",
        response_model=ExplainResponse,
        responses=_FAULTS,
        openapi_extra=_described(ExplainRequest),
        tags=["texts"],
    )
    async def explain(request: Request) -> Response:
        """Say which phrases decided, with their exact shares."""
        asked = await _read(ExplainRequest, request)
        options = asked.model_dump(exclude={"texts"})
        explanations, model = await service.explain(asked.texts, route="/v1/explain", **options)
        return JSONResponse({"model": model.name, "version": model.version, "explanations": explanations})


def _add_operation(app: FastAPI, service: Service) -> None:
    @app.head("/v1/models", include_in_schema=False)
    @app.get("/v1/models", response_model=ModelsResponse, responses={401: _FAULTS[401]}, tags=["operation"])
    async def models() -> Response:
        """List what is served."""
        return JSONResponse({"models": [service.host.model.to_dict()]})

    @app.post(
        "/v1/reload",
        response_model=ModelForm,
        responses={401: _FAULTS[401], 403: {"model": Fault}, 422: _FAULTS[422]},
        tags=["operation"],
    )
    async def reload(request: Request) -> Response:
        """Load the model folder anew, losing no request; only with the API key, or else from this machine."""
        if service.settings.api_key is None and not is_from_here(request.scope):
            message = "Without an API key, only a program on this machine may reload. Start with --api-key-file."
            raise Refused(403, message, "reload")
        model = await asyncio.shield(service.reload(app.state.hosts))  # it is done, whether or not its client waits
        log.info("reloaded", extra={"fields": {"model": model.name, "version": model.version, **_how(service)}})
        if service.settings.workers > 1:
            os.kill(os.getppid(), signal.SIGHUP)  # who tells all processes, this one too: it loads once more
        return JSONResponse(model.to_dict())

    @app.head("/healthz", include_in_schema=False)  # as load balancers ask
    @app.get("/healthz", response_model=Status, tags=["operation"])
    async def healthz() -> Response:
        """Whether the process answers."""
        return JSONResponse({"status": "live"})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", response_model=Ready, responses={503: _FAULTS[503]}, tags=["operation"])
    async def readyz() -> Response:
        """Whether a model is loaded."""
        return readiness(service)

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response, tags=["operation"])
    async def metrics() -> Response:
        """Counts, for Prometheus."""
        page, kind = service.metrics.page()
        return Response(page, media_type=kind)


async def _read(form: type[_Body], request: Request) -> _Body:
    """Return the body of a request as what it should be.

    Raises:
        BodyError: It is not.
    """
    # Clients of the Open Inference Protocol send JSON and do not say so.
    usual = "application/json" if request.scope["path"].startswith("/v2/") else ""
    kind = request.headers.get("content-type", usual)
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise BodyError("Expected JSON. Send the header 'Content-Type: application/json'.", status=415)
    encoding = ", ".join(request.headers.getlist("content-encoding"))
    if encoding.strip().lower() not in {"", "identity"}:
        said = f"Got the header 'Content-Encoding: {encoding[:40]}'. Expected none: send the body as it is."
        raise BodyError(said, status=415)
    return read_body(form, await request.body())


def _answer_faults(app: FastAPI) -> None:
    """Turn what handlers raise into one form of answer."""

    def said(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        return JSONResponse({"error": message}, status, headers)

    @app.exception_handler(BertCNNError)
    async def user_error(_: Request, error: BertCNNError) -> Response:
        return said(422, str(error))

    @app.exception_handler(BodyError)
    async def body_error(_: Request, error: BodyError) -> Response:
        return said(error.status, str(error))

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        request.app.state.service.metrics.rejected.labels(error.reason).inc()
        return said(error.status, str(error), error.headers)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        request.app.state.service.metrics.rejected.labels("queue").inc()
        return said(503, str(error), {"retry-after": str(error.retry_after)})

    @app.exception_handler(NoSuchModel)
    async def no_such_model(_: Request, error: NoSuchModel) -> Response:
        return said(404, str(error))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        words = {404: "No such path. GET /openapi.json lists them.", 405: "Not this method. See GET /openapi.json."}
        return said(error.status_code, words.get(error.status_code, str(error.detail)), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def our_fault(_: Request, __: Exception) -> Response:
        return said(500, "Something went wrong here, and not by your fault. The server's log says where.")


def _described(form: type[BaseModel]) -> dict[str, Any]:
    """Return OpenAPI's description of a body that its handler reads itself."""
    schema = {"$ref": f"#/components/schemas/{form.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the schema, with the bodies that handlers read themselves and the key that is asked for."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, made = models_json_schema(
            [(form, "validation") for form in _BODIES], ref_template="#/components/schemas/{model}"
        )
        schema["components"].setdefault("schemas", {}).update(made["$defs"])
        if app.state.service.settings.api_key is not None:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
        app.openapi_schema = schema
    return app.openapi_schema
