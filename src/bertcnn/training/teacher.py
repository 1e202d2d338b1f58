"""Targets that a teacher softens: what a better, slower model answers to the training texts.

A label says which class a text is of; a teacher's probabilities also say how near it is to the
others. A network cut to its lower layers learns more from both than from labels alone.

Source:
    Hinton et al. (2015), "Distilling the Knowledge in a Neural Network", at a temperature of 1:
    our teachers are calibrated on dev, so they are not as sure as they would be.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertcnn.errors import DataError
from bertcnn.inference.metrics import Truth
from bertcnn.inference.predictor import Predictor
from bertcnn.text.labels import Labels

WHOLE = "whole"
"""The teacher that is trained first, on the same texts: all layers of the encoder under a plain linear head."""

WHOLE_SETTINGS: dict[str, Any] = {
    "method": "finetune",
    "depth": "all",
    "states": "last",
    "features": "mean",
    "dropout": 0.1,
    "layer_decay": 1.0,
    "budget_ms": 0.0,
    "teacher": "",
}
"""What differs in its settings from those of what it teaches."""


def load_teacher(folder: str, labels: Labels) -> Predictor:
    """Load a saved model to learn from.

    Raises:
        DataError: It tells other labels apart.
        ModelError: The folder is none of a model.
    """
    teacher = Predictor.load(Path(folder).expanduser())
    if set(teacher.label_names) != set(labels.names) or teacher.is_multi_label != labels.many:
        kind = {True: "many labels a text", False: "one label a text"}
        raise DataError(
            f"The teacher {folder} knows {_shown(teacher.label_names)} ({kind[teacher.is_multi_label]}), the training "
            f"texts have {_shown(labels.names)} ({kind[labels.many]}). Expected the same labels."
        )
    return teacher


def soft_targets(
    teacher: Predictor, texts: Sequence[str], truth: Truth, labels: Labels, share: float
) -> npt.NDArray[np.float32]:
    """Mix a teacher's probabilities into the truth.

    Args:
        teacher: Knows the same labels, in any order.
        texts: The first of those that the truth is of; what follows them keeps its truth alone.
        truth: Class ids ``(N,)``, or for many labels a text rows of 0 and 1 ``(N, K)``.
        labels: In the order of the targets.
        share: Of the teacher in a target, 0 to 1.

    Returns:
        Targets ``(N, K)``; with one label a text, each row sums to 1.
    """
    targets = np.array(truth if labels.many else np.eye(len(labels.names))[truth], dtype=np.float32)
    columns = [teacher.label_names.index(name) for name in labels.names]
    taught = teacher.probabilities(texts)[:, columns]
    targets[: len(texts)] += share * (taught - targets[: len(texts)])
    return targets


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
