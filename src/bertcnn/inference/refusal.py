"""When to answer "not sure": risk and coverage on labelled texts, and the confidence to ask for.

Source:
    El-Yaniv and Wiener (2010), "On the Foundations of Noise-free Selective Classification", sec. 2:
    coverage is the share of texts that are answered, risk the share of wrong answers among them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from bertcnn.arrays import Floats64, Ints
from bertcnn.errors import DataError
from bertcnn.inference.metrics import Truth, confidence, decide

MOST_RISK = 0.5
"""From this risk on, to ask for it is no advice."""


@dataclass(frozen=True)
class Operation:
    """Answering only from a confidence on.

    Attributes:
        threshold: The confidence, 0 to 1: a short decimal that tells these texts from the less sure ones.
        coverage: Share of the labelled texts that are answered.
        risk: Share of those answers that are wrong.
        risk_bound: 95 % upper bound of that risk on texts like these (Clopper and Pearson), for a threshold
            chosen beforehand; one chosen on the same texts is a little worse.
        answered: How many texts that is.
    """

    threshold: float
    coverage: float
    risk: float
    risk_bound: float
    answered: int


def risk_coverage(
    probabilities: Floats64, truth: Truth, *, thresholds: Sequence[float] | None = None
) -> list[Operation]:
    """Return every operation that labelled texts can tell apart, the least coverage first.

    Args:
        probabilities: Float ``(N, K)``.
        truth: Class ids ``(N,)``, or for many labels a text 0 and 1 ``(N, K)``.
        thresholds: Probability from which a label holds; many labels a text only.

    Raises:
        DataError: There are no texts.
    """
    if not len(probabilities):
        raise DataError("There are no labelled texts, and risk is measured on them. Give a dev split.")
    many = truth.ndim == 2
    answers = decide(probabilities, many=many, thresholds=thresholds)
    wrong = (answers != truth).any(axis=1) if many else answers != truth
    sure = confidence(probabilities, answers, many=many)
    order = np.argsort(-sure, kind="stable")
    errors = np.cumsum(wrong[order])
    # Texts of equal confidence are answered together or not at all.
    last = np.flatnonzero(np.append(np.diff(sure[order]) != 0, True))
    ordered = [*sure[order].tolist(), -1.0]
    bounds = _upper(errors[last], last + 1).tolist()
    return [
        Operation(
            threshold=_between(ordered[i + 1], ordered[i]),
            coverage=(i + 1) / len(wrong),
            risk=float(errors[i]) / (i + 1),
            risk_bound=bound,
            answered=i + 1,
        )
        for i, bound in zip(last.tolist(), bounds, strict=True)
    ]


def _between(low: float, high: float) -> float:
    """Return a short decimal above one confidence and at most another, for people to copy."""
    shorter = (math.floor(high * 10**digits + 1e-6) / 10**digits for digits in range(3, 17))
    return next((one for one in shorter if low < one <= high), high)


def threshold_for(
    risk: float,
    probabilities: Floats64,
    truth: Truth,
    *,
    thresholds: Sequence[float] | None = None,
    least_coverage: float = 0.1,
) -> Operation:
    """Return the operation that answers the most texts at no more than a risk.

    Args:
        risk: Share of wrong answers among those given, 0 to 1.
        probabilities: As for :func:`risk_coverage`, of texts that the model was not trained on.
        truth: As there.
        thresholds: As there.
        least_coverage: Share of the texts that must be answered at least, 0 to 1.

    Raises:
        DataError: No confidence gives that risk with that coverage, or there are no texts.
    """
    curve = [
        one for one in risk_coverage(probabilities, truth, thresholds=thresholds) if one.coverage >= least_coverage
    ]
    fitting = [one for one in curve if one.risk <= risk]
    if fitting:
        return fitting[-1]
    best = min(curve, key=lambda one: (one.risk, -one.coverage))
    advice = "ask for that" if best.risk < MOST_RISK else "no threshold makes this model reliable"
    raise DataError(
        f"No confidence gives a risk of {risk:.1%} on these {len(probabilities):,} texts while {least_coverage:.0%} of "
        f"them are answered. The least risk is {best.risk:.1%}, at a coverage of {best.coverage:.0%}: {advice}."
    )


def _upper(errors: Ints, counts: Ints) -> Floats64:
    right = counts - errors
    return np.where(right > 0, beta.ppf(0.95, errors + 1, np.maximum(right, 1)), 1.0)
