"""What goes in and out of the server as JSON, with examples; and what a faulty body is told."""

import codecs
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.config import JsonDict

from bertcnn.errors import nearest

MOST_FAULTS = 5

TEXT = "The movie was not bad at all."


class _Request(BaseModel):
    """Bodies are read strictly: an unknown key is a typing error, a number is no text."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class PredictRequest(_Request):
    """Texts to classify."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": [TEXT, "Dull."]}]})

    texts: list[str] = Field(description="One or more; empty strings are fine.")


class ExplainRequest(_Request):
    """Texts to explain."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": [TEXT], "counterfactual": True}]})

    texts: list[str] = Field(description="One or more; empty strings are fine.")
    label: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="What `why` is about; null: the decision."
    )
    audit: bool = Field(default=False, description="Measure how much of each share is left without context. Slower.")
    counterfactual: bool = Field(default=False, description="Find the phrases without which the answer is another.")
    leave_one_out: bool = Field(
        default=False, description="Measure what each logit loses without each word. As slow as so many texts."
    )
    threshold: Annotated[
        float | None, Field(ge=0, le=1, description="Confidence below which the verdict is 'not sure'.")
    ] = None


class PredictionForm(BaseModel):
    """What the model says of a text."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(description="The likeliest; where a text can have many, those that hold, joined by '|'.")
    confidence: float
    labels: list[str] | None = Field(default=None, description="Only where a text can have many labels.")
    probabilities: dict[str, float]


PREDICTED: JsonDict = {"label": "positive", "confidence": 0.93, "probabilities": {"negative": 0.07, "positive": 0.93}}


class PredictResponse(BaseModel):
    """Predictions, in the order of the texts."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "reviews", "version": "0f3c9a51d2e4", "predictions": [PREDICTED]}]}
    )

    model: str
    version: str = Field(description="Twelve digits of the weights' sha256.")
    predictions: list[PredictionForm]


class ExplainResponse(BaseModel):
    """Explanations, in the order of the texts: their logits are bias + shares of the phrases + residual."""

    model: str
    version: str
    explanations: list[dict[str, Any]]


class ModelForm(BaseModel):
    """A model that is served."""

    name: str
    version: str
    labels: list[str]
    is_multi_label: bool
    backend: str
    loaded_at: str
    bertcnn: str


class ModelsResponse(BaseModel):
    """The models that are served."""

    models: list[ModelForm]


class Status(BaseModel):
    """That a server lives, or is ready."""

    status: str


class Live(Status):
    """That a server lives, also as the Open Inference Protocol says it."""

    live: bool


class Ready(Status):
    """That a model is loaded, also as the Open Inference Protocol says it."""

    ready: bool


class ModelReady(Ready):
    """That this model is loaded."""

    name: str


class Fault(BaseModel):
    """Why a request was refused: what was got, what was expected, what to do."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"error": "Unknown key 'txts'. Did you mean 'texts'?"}]})

    error: str


# ---- Open Inference Protocol, version 2

OUTPUTS = ("label", "confidence", "probabilities", "label_names")

_Parameters = dict[str, Any] | None
"""Whatever clients put there; what is not known is passed over."""


class _Open(BaseModel):
    """The protocol lets clients add what a server may pass over."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


# Nested lists are read and flattened by hand: a schema of unbounded depth is of no help to anybody.
TensorData = Annotated[
    list[Any],
    WithJsonSchema({"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "array"}]}}),
]


class InferInput(_Open):
    """A tensor that comes in."""

    name: str
    shape: list[int]
    datatype: str
    parameters: _Parameters = None
    data: TensorData | None = None


class InferWanted(_Open):
    """A tensor that is asked for."""

    name: str = Field(json_schema_extra={"enum": list(OUTPUTS)})  # told only: the refusal's words are ours
    parameters: _Parameters = None


class InferRequest(_Open):
    """Texts in one BYTES tensor of shape [N] or [N, 1]."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"id": "1", "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": [TEXT, "Dull."]}]}
            ]
        }
    )

    id: str | None = None
    parameters: _Parameters = None
    inputs: list[InferInput]
    outputs: list[InferWanted] | None = None


class InferOutput(BaseModel):
    """A tensor that goes out, flat."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferResponse(BaseModel):
    """Label, confidence and probabilities of each text, and the names of the probabilities' columns."""

    id: str | None = None
    model_name: str
    model_version: str
    outputs: list[InferOutput]


class TensorForm(BaseModel):
    """A tensor that a model takes or gives; -1: any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorForm]
    outputs: list[TensorForm]


class ServerMetadata(BaseModel):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


_Body = TypeVar("_Body", bound=BaseModel)


class BodyError(Exception):
    """A body that cannot be read.

    Attributes:
        status: 415 where it is not said to be JSON, 400 where it is not, else 422.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


def read_body(form: type[_Body], body: bytes) -> _Body:
    """Return a body as what it should be.

    Raises:
        BodyError: It is not; in words that hold nothing of its texts.
    """
    try:
        return form.model_validate_json(body.removeprefix(codecs.BOM_UTF8))  # some editors of Windows put it there
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        why = faults[0]["ctx"]["error"]
        raise BodyError(
            f"The body is not JSON in UTF-8: {why}. Expected an object such as {_example(form)}.", status=400
        )
    # An unknown key explains a missing one, so it comes first.
    faults.sort(key=lambda one: one["type"] != "extra_forbidden")
    said = [_in_words(form, one["type"], one["loc"], one["msg"]) for one in faults[:MOST_FAULTS]]
    more = f" And {len(faults) - MOST_FAULTS:,} more." if len(faults) > MOST_FAULTS else ""
    raise BodyError(" ".join(said) + more, status=422)


def _in_words(form: type[BaseModel], kind: str, place: tuple[int | str, ...], said: str) -> str:
    where = ".".join(str(part)[:40] for part in place) or "the body"
    if kind == "extra_forbidden":
        return f"Unknown key {where!r}.{nearest(where, form.model_fields)} Known: {', '.join(form.model_fields)}."
    if kind == "missing":
        return f"{where} is missing."
    return f"{where}: {said[:1].lower()}{said[1:]}."


def _example(form: type[BaseModel]) -> str:
    names = ", ".join(f'"{name}": ...' for name, one in form.model_fields.items() if one.is_required())
    return "{" + names + "}"
