"""The Open Inference Protocol, version 2, over REST: what KServe-style clients speak.

A model takes one BYTES tensor of texts. It gives their labels, confidences, probabilities ``[N, K]``,
and the names of the K columns. Data is JSON; the binary extension is not spoken, and not announced.

Source: https://github.com/kserve/open-inference-protocol, "Predict Protocol - Version 2", HTTP/REST.
"""

import base64
from collections.abc import Iterator
from math import prod
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from bertcnn import __version__
from bertcnn.apps.server.hosting import Hosted
from bertcnn.apps.server.schemas import (
    OUTPUTS,
    InferInput,
    InferRequest,
    InferResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
)
from bertcnn.apps.server.service import Service
from bertcnn.errors import DataError, nearest

INPUT = "text"


def routes(service: Service, read: Any, faults: dict[int | str, Any], body: dict[str, Any]) -> APIRouter:
    """Return the protocol's routes.

    Args:
        service: Where texts are handed in.
        read: ``await read(InferRequest, request)``, as the other doors read their bodies.
        faults: OpenAPI's responses of a refused request.
        body: OpenAPI's description of an inference request.
    """
    router = APIRouter(tags=["Open Inference Protocol v2"])
    _add_server(router, service, faults)
    _add_model(router, service, {404: faults[404]})
    described: dict[str, Any] = {"response_model": InferResponse, "responses": faults, "openapi_extra": body}

    @router.post("/v2/models/{name}/infer", **described)
    async def infer(name: str, request: Request) -> Response:
        """Classify the texts of a tensor."""
        _known(service, name)
        return await _infer(service, await read(InferRequest, request), "/v2/models/{name}/infer")

    @router.post("/v2/models/{name}/versions/{version}/infer", **described)
    async def infer_by_version(name: str, version: str, request: Request) -> Response:
        """Classify the texts of a tensor, by the version that is loaded."""
        _known(service, name, version)
        asked = await read(InferRequest, request)
        return await _infer(service, asked, "/v2/models/{name}/versions/{version}/infer")

    return router


def _add_server(router: APIRouter, service: Service, faults: dict[int | str, Any]) -> None:
    @router.get("/v2", response_model=ServerMetadata)
    async def server_metadata() -> Response:
        """What serves here."""
        return JSONResponse({"name": "bertcnn", "version": __version__, "extensions": []})

    @router.head("/v2/health/live", include_in_schema=False)
    @router.get("/v2/health/live", response_model=Live)
    async def live() -> Response:
        """Whether the process answers."""
        return JSONResponse({"status": "live", "live": True})

    @router.head("/v2/health/ready", include_in_schema=False)
    @router.get("/v2/health/ready", response_model=Ready, responses={503: faults[503]})
    async def ready() -> Response:
        """Whether a model is loaded."""
        return readiness(service)


def _add_model(router: APIRouter, service: Service, missing: dict[int | str, Any]) -> None:
    def readied(model: Hosted) -> Response:
        return JSONResponse({"name": model.name, "status": "ready", "ready": True})

    @router.get("/v2/models/{name}", response_model=ModelMetadata, responses=missing)
    async def model_metadata(name: str) -> Response:
        """What the model takes and gives."""
        return JSONResponse(metadata(_known(service, name)))

    @router.get("/v2/models/{name}/ready", response_model=ModelReady, responses=missing)
    async def model_ready(name: str) -> Response:
        """Whether this model is loaded."""
        return readied(_known(service, name))

    @router.get("/v2/models/{name}/versions/{version}", response_model=ModelMetadata, responses=missing)
    async def version_metadata(name: str, version: str) -> Response:
        """What this version of the model takes and gives."""
        return JSONResponse(metadata(_known(service, name, version)))

    @router.get("/v2/models/{name}/versions/{version}/ready", response_model=ModelReady, responses=missing)
    async def version_ready(name: str, version: str) -> Response:
        """Whether this version of the model is loaded."""
        return readied(_known(service, name, version))


async def _infer(service: Service, asked: InferRequest, route: str) -> Response:
    texts = texts_of(asked)
    wanted = _wanted(asked)
    predictions, model = await service.predict(texts, route=route)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if asked.id is not None:
        answer["id"] = asked.id
    answer["outputs"] = [one for one in outputs_of(predictions, model) if one["name"] in wanted]
    return JSONResponse(answer)


class NoSuchModel(Exception):  # noqa: N818  # a 404
    """A model that is not served here."""


def readiness(service: Service) -> Response:
    """Return 200 where a model is loaded, else 503."""
    if service.host.is_ready:
        return JSONResponse({"status": "ready", "ready": True})
    said = {"error": "The model is being loaded. Try again in 1 s.", "ready": False}
    return JSONResponse(said, 503, {"retry-after": "1"})


def _known(service: Service, name: str, version: str | None = None) -> Hosted:
    model = service.host.model
    if name != model.name:
        raise NoSuchModel(f"No such model here. Known: {model.name!r}.{nearest(name, [model.name])}")
    if version not in {None, model.version}:
        raise NoSuchModel(f"No such version of {name!r} here. The one that is loaded: {model.version!r}.")
    return model


def metadata(model: Hosted) -> dict[str, Any]:
    """Return what a model takes and gives."""
    count = len(model.predictor.label_names)
    outputs = [("label", "BYTES", [-1]), ("confidence", "FP64", [-1]), ("probabilities", "FP64", [-1, count])]
    outputs.append(("label_names", "BYTES", [count]))
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": f"bertcnn_{model.predictor.backend.name.replace('-', '_')}",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in outputs],
    }


def texts_of(asked: InferRequest) -> list[str]:
    """Return the texts of a request.

    Raises:
        DataError: It has not one BYTES tensor of shape [N] or [N, 1], or its data are of another size.
    """
    names = [one.name for one in asked.inputs]
    if names != [INPUT]:
        shown = ", ".join(name[:40] for name in names[:5]) or "none"
        raise DataError(f"Got the inputs {shown}; expected one, named {INPUT!r}.")
    tensor = asked.inputs[0]
    if tensor.datatype != "BYTES":
        raise DataError(f"Input {INPUT!r} has datatype {tensor.datatype[:20]!r}, expected 'BYTES': texts as strings.")
    data = _data_of(tensor)
    shape = tensor.shape
    if len(shape) not in {1, 2} or min(shape) < 0 or (len(shape) == 2 and shape[1] != 1) or prod(shape) != len(data):
        shown = str(shape[:5])
        raise DataError(
            f"Input {INPUT!r} has shape {shown} and {len(data):,} data, expected [{len(data)}], one a text."
        )
    return data


def _data_of(tensor: InferInput) -> list[str]:
    if tensor.data is None:
        is_binary = "binary_data_size" in (tensor.parameters or {})
        hint = " The binary extension is not spoken here." if is_binary else ""
        raise DataError(f"Input {INPUT!r} has no data.{hint} Give them as a JSON list of strings.")
    data = list(_flat(tensor.data))
    wrong = next((i for i, one in enumerate(data) if not isinstance(one, str)), None)
    if wrong is not None:
        raise DataError(f"Datum {wrong} of input {INPUT!r} is no string. Expected texts.")
    kind = (tensor.parameters or {}).get("content_type")
    if kind == "base64":
        return [_decoded(i, one) for i, one in enumerate(data)]
    if kind not in (None, "str"):  # a tuple: it may be of any kind
        shown = str(kind)[:40]
        raise DataError(f"Input {INPUT!r} has content_type {shown!r}, expected 'str', 'base64', or none of it: texts.")
    return data


def _decoded(number: int, datum: str) -> str:
    """Return the text that a client sent as base64 of its UTF-8."""
    try:
        return base64.b64decode(datum, validate=True).decode()
    except ValueError as error:  # binascii's and Unicode's errors are such
        raise DataError(
            f"Datum {number} of input {INPUT!r} is not base64 of a text in UTF-8, as its content_type 'base64' says."
        ) from error


def _flat(data: list[Any]) -> Iterator[Any]:
    """Yield the elements of a list or of a list of lists, row by row."""
    for one in data:
        if isinstance(one, list):
            yield from one
        else:
            yield one


def _wanted(asked: InferRequest) -> set[str]:
    if not asked.outputs:
        return set(OUTPUTS)
    for one in asked.outputs:
        if one.name not in OUTPUTS:
            hint = nearest(one.name, OUTPUTS)
            raise DataError(f"No output {one.name[:40]!r}. Known: {', '.join(OUTPUTS)}.{hint}")
    return {one.name for one in asked.outputs}


def outputs_of(predictions: list[dict[str, Any]], model: Hosted) -> list[dict[str, Any]]:
    """Return predictions as tensors."""
    names = model.predictor.label_names
    count, width = len(predictions), len(names)
    table = [p["probabilities"][name] for p in predictions for name in names]
    return [
        {"name": "label", "shape": [count], "datatype": "BYTES", "data": [p["label"] for p in predictions]},
        {"name": "confidence", "shape": [count], "datatype": "FP64", "data": [p["confidence"] for p in predictions]},
        {"name": "probabilities", "shape": [count, width], "datatype": "FP64", "data": table},
        {"name": "label_names", "shape": [width], "datatype": "BYTES", "data": names},
    ]
