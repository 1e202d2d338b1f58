"""The Open Inference Protocol, version 2, over REST: what KServe-style clients speak.

A model takes one BYTES tensor of texts. It gives their labels, confidences, probabilities ``[N, K]``,
and the names of the K columns. Data is JSON; the binary extension is not spoken, and not announced.

Source: https://github.com/kserve/open-inference-protocol, "Predict Protocol - Version 2", HTTP/REST.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from bertcnn import __version__
from bertcnn.apps.hosting import Hosted
from bertcnn.apps.schemas import InferInput, InferRequest, InferResponse, ModelMetadata, ServerMetadata, Status
from bertcnn.apps.service import Service
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
    missing: dict[int | str, Any] = {404: faults[404]}

    @router.get("/v2", response_model=ServerMetadata)
    async def server_metadata() -> Response:
        """What serves here."""
        return JSONResponse({"name": "bertcnn", "version": __version__, "extensions": []})

    @router.get("/v2/health/live", response_model=Status)
    async def live() -> Response:
        """Whether the process answers."""
        return JSONResponse({"status": "live"})

    @router.get("/v2/health/ready", response_model=Status, responses={503: faults[503]})
    async def ready() -> Response:
        """Whether a model is loaded."""
        return readiness(service)

    @router.get("/v2/models/{name}", response_model=ModelMetadata, responses=missing)
    async def model_metadata(name: str) -> Response:
        """What the model takes and gives."""
        return JSONResponse(metadata(_known(service, name)))

    @router.get("/v2/models/{name}/ready", response_model=Status, responses=missing)
    async def model_ready(name: str) -> Response:
        """Whether this model is loaded."""
        _known(service, name)
        return JSONResponse({"status": "ready"})

    @router.post("/v2/models/{name}/infer", response_model=InferResponse, responses=faults, openapi_extra=body)
    async def infer(name: str, request: Request) -> Response:
        """Classify the texts of a tensor."""
        _known(service, name)
        asked: InferRequest = await read(InferRequest, request)
        texts = texts_of(asked)
        wanted = _wanted(asked)
        predictions, model = await service.predict(texts)
        service.metrics.texts.labels("/v2/models/{name}/infer").inc(len(texts))
        answer: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
        if asked.id is not None:
            answer["id"] = asked.id
        outputs = outputs_of(predictions, model)
        answer["outputs"] = [one for one in outputs if one["name"] in wanted]
        return JSONResponse(answer)

    return router


class NoSuchModel(Exception):  # noqa: N818  # a 404
    """A model that is not served here."""


def readiness(service: Service) -> Response:
    """Return 200 where a model is loaded, else 503."""
    if service.host.is_ready:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"error": "The model is being loaded. Try again in 1 s."}, 503, {"retry-after": "1"})


def _known(service: Service, name: str) -> Hosted:
    model = service.host.model
    if name != model.name:
        raise NoSuchModel(f"No such model here. Known: {model.name!r}.{nearest(name, [model.name])}")
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
        hint = " The binary extension is not spoken here." if "binary_data_size" in tensor.parameters else ""
        raise DataError(f"Input {INPUT!r} has no data.{hint} Give them as a JSON list of strings.")
    data = list(_flat(tensor.data))
    wrong = next((i for i, one in enumerate(data) if not isinstance(one, str)), None)
    if wrong is not None:
        raise DataError(f"Datum {wrong} of input {INPUT!r} is no string. Expected texts.")
    return data


def _flat(data: list[Any]) -> Iterator[Any]:
    """Yield the elements of a list or of a list of lists, row by row."""
    for one in data:
        if isinstance(one, list):
            yield from one
        else:
            yield one


def _wanted(asked: InferRequest) -> set[str]:
    known = ["label", "confidence", "probabilities", "label_names"]
    if not asked.outputs:
        return set(known)
    for one in asked.outputs:
        if one.name not in known:
            hint = nearest(one.name, known)
            raise DataError(f"No output {one.name[:40]!r}. Known: {', '.join(known)}.{hint}")
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
