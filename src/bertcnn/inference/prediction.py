"""What a model says of a text: logits to :class:`Prediction`. No network here."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertcnn.arrays import Floats, Floats64
from bertcnn.errors import DataError
from bertcnn.inference.backend import Spec
from bertcnn.inference.calibration import probabilities_of
from bertcnn.inference.metrics import confidence, decide


@dataclass(frozen=True)
class Prediction:
    """What a model says of one text.

    Attributes:
        label: The likeliest label; where a text can have many, those that hold, joined by ``|``.
        confidence: The probability of ``label``; where a text can have many, that the whole set is right, the
            labels taken as independent: it falls with their number, and is no probability of one label.
        probabilities: Of every label, by name, in the order of the model.
        labels: Where a text can have many, those that hold; else None.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    labels: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the one JSON form."""
        form: dict[str, Any] = {"label": self.label, "confidence": self.confidence}
        if self.labels is not None:
            form["labels"] = list(self.labels)
        return {**form, "probabilities": self.probabilities}


def predictions_of(logits: Floats, spec: Spec) -> Iterator[Prediction]:
    """Yield what logits ``(N, K)`` of a model say, a text each."""
    names, many = spec.labels, spec.is_multi_label
    table = probabilities_of(logits, many=many)
    answers = decide(table, many=many, thresholds=spec.thresholds)
    for row, answer, sure in zip(table.tolist(), answers, confidence(table, answers, many=many).tolist(), strict=True):
        by_name = dict(zip(names, row, strict=True))
        if many:
            held = tuple(name for name, holds in zip(names, answer, strict=True) if holds)
            yield Prediction("|".join(held), sure, by_name, held)
        else:
            yield Prediction(names[answer], sure, by_name)


def with_answer(row: Mapping[str, Any], form: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a table with the columns of an answer behind its own.

    Args:
        row: By column.
        form: :meth:`Prediction.to_dict`.

    Raises:
        DataError: The row has one of these columns already.
    """
    added = {"prediction": form["label"], "confidence": round(form["confidence"], 6)}
    added |= {f"probability_{name}": round(p, 6) for name, p in form["probabilities"].items()}
    check_has_room(row, added)
    return {**row, **added}


def answer_columns(labels: Iterable[str]) -> list[str]:
    """Return the columns of an answer, by the labels of the model."""
    return ["prediction", "confidence", *(f"probability_{name}" for name in labels)]


def check_has_room(row: Mapping[str, Any], columns: Iterable[str]) -> None:
    """Refuse a row that has one of the columns that shall be added.

    Raises:
        DataError: It has.
    """
    taken = next((name for name in columns if name in row), None)
    if taken is not None:
        raise DataError(f"The input has a column {taken!r} already, which would be lost. Rename it first.")


def cuts_of(spec: Spec) -> Floats64 | None:
    """Return the logit from which each label holds, ``(K,)``; None where a text has one label."""
    if not spec.is_multi_label:
        return None
    thresholds = np.full(len(spec.labels), 0.5) if spec.thresholds is None else np.asarray(spec.thresholds)
    inside = np.clip(thresholds, 1e-9, 1 - 1e-9)  # a threshold of 0 or 1 would be an infinite logit
    return np.asarray(np.log(inside) - np.log1p(-inside), dtype=np.float64)
