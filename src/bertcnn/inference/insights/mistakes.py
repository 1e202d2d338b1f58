"""Labels to look at, for they are probably wrong by what a model thinks of the texts.

Source:
    Northcutt, Jiang and Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset
    Labels", sec. 3; computed by cleanlab.
"""

import warnings
from importlib.util import find_spec

import numpy as np

from bertcnn.arrays import Bools, Floats
from bertcnn.errors import ModelError
from bertcnn.inference.metrics import Truth, wilson

NEEDS_CLEANLAB = "Probable label mistakes need cleanlab: pip install 'bertcnn[insights]'"


def can_find_mistakes() -> bool:
    """Return whether the library is there."""
    return find_spec("cleanlab") is not None


def can_judge(truth: Truth, answers: Truth) -> bool:
    """Return whether a model agrees with the labels enough for its doubts to say something of them.

    It must agree with them more often than not, and surely more often than it would by giving the commonest
    label to every text. Otherwise most of its doubts are mistakes of its own.

    Args:
        truth: Class ids ``(N,)``, or for many labels a text 0 and 1 ``(N, K)``; then each label of each text counts.
        answers: The model's, alike.
    """
    if not truth.size:
        return False
    agreed = int((truth == answers).sum())
    shares = np.atleast_2d(truth.mean(axis=0)) if truth.ndim == 2 else np.bincount(truth) / len(truth)
    commonest = float(np.maximum(shares, 1 - shares).mean()) if truth.ndim == 2 else float(shares.max())
    return agreed > truth.size / 2 and wilson(agreed, truth.size)[0] > commonest


def probable_mistakes(truth: Truth, probabilities: Floats) -> list[int]:
    """Return the rows whose label is probably wrong, the most suspicious first.

    Texts that the model was trained on hide their mistakes: it has learned them. Of a label that no
    text has, or every one, nothing can be told.

    Args:
        truth: Class ids, int64 ``(N,)``, or for many labels a text 0 and 1 ``(N, K)``.
        probabilities: The model's, ``(N, K)``.

    Raises:
        ModelError: cleanlab is not installed.
    """
    if not can_find_mistakes():
        raise ModelError(NEEDS_CLEANLAB)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="May not flag all label issues")  # of a label with a single text
        if truth.ndim == 2:
            told = (truth > 0.5).any(axis=0) & (truth < 0.5).any(axis=0)
            return _of_many(truth[:, told] > 0.5, probabilities[:, told]) if told.any() else []
        return _of_one(truth, probabilities) if len(np.unique(truth)) > 1 else []


def _of_one(given: Truth, probabilities: Floats) -> list[int]:
    from cleanlab.filter import find_label_issues

    found = find_label_issues(given, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [int(row) for row in found]


def _of_many(given: Bools, probabilities: Floats) -> list[int]:
    from cleanlab.multilabel_classification.filter import find_label_issues

    lists = [np.flatnonzero(row).tolist() for row in given]
    found = find_label_issues(lists, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [int(row) for row in found]
