"""How deep is enough: what was tried, and the smallest depth that is as good as the best."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from bertcnn.arrays import Floats, Floats64
from bertcnn.files import write_whole
from bertcnn.inference.metrics import Truth, goodness

POINT = 0.01

FEW_TEXTS = 200
"""With fewer dev texts, half or all of the layers is not chosen by them, but by a regression on all texts."""

PENALTIES = (30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Of that regression; the best is taken."""


@dataclass(frozen=True)
class Trial:
    """One network that was tried.

    Attributes:
        depth: Encoder layers.
        num_filters: Of each window width.
        score: Dev score of its head.
        seconds: Its head's training took, without encoding.
        latency_ms: Of one text alone, median of some runs; of the training text of median length.
        backend: By which it is: torch, or where that is over the budget a graph.
    """

    depth: int
    num_filters: int
    score: float
    seconds: float
    latency_ms: float
    backend: str = "torch"

    @property
    def name(self) -> str:
        """What its folder of checkpoints is called."""
        return name_of(self.depth, self.num_filters)


def name_of(depth: int, num_filters: int) -> str:
    """Return the name of the folder of checkpoints of a trial."""
    return f"depth-{depth}-{num_filters}"


@dataclass(frozen=True)
class Gain:
    """What the states of all layers add to those of half, by a regression on their means.

    Attributes:
        texts: That each were left out in turn.
        points: Hundredths of the texts that are answered rightly, more by all than by half.
        error: Standard error of that.
    """

    texts: int
    points: float
    error: float

    @property
    def is_shown(self) -> bool:
        """Whether it is more than its standard error."""
        return self.points > self.error


@dataclass(frozen=True)
class DepthCurve:
    """What a search found.

    Attributes:
        metric: What ``score`` of the trials is.
        tolerance: Points (hundredths) that the chosen one may be below the best; of ``half-or-all`` the best one's
            standard error.
        budget_ms: Most that one text was allowed to take; 0: no limit.
        timed_pieces: Word pieces of the text that was timed.
        trials: By depth; where there was a budget, those with fewer filters behind.
        chosen: The one that was taken.
        warnings: Signs of failure in the chosen one's training.
        gain: Where half or all was chosen with few dev texts, by what.
    """

    metric: str
    tolerance: float
    budget_ms: float
    timed_pieces: int
    trials: tuple[Trial, ...]
    chosen: Trial
    warnings: tuple[str, ...] = ()
    gain: Gain | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the form for JSON."""
        return asdict(self)

    def write(self, file: Path) -> None:
        """Write as JSON; the file appears when it is whole."""
        write_whole(file, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what :meth:`write` wrote."""
        values = json.loads(file.read_text("utf-8"))
        trials = tuple(Trial(**one) for one in values.pop("trials"))
        chosen, warnings = Trial(**values.pop("chosen")), tuple(values.pop("warnings"))
        gain = values.pop("gain", None)
        return cls(trials=trials, chosen=chosen, warnings=warnings, gain=gain and Gain(**gain), **values)

    @property
    def why(self) -> str:
        """Why the chosen one was taken, in a sentence."""
        if self.budget_ms:
            return (
                f"Depth {self.chosen.depth} with {self.chosen.num_filters} filters has the best dev {self.metric} of "
                f"what answers within {self.budget_ms:g} ms, by {self.chosen.backend}."
            )
        if self.gain is not None:
            other = next(one for one in self.trials if one != self.chosen)
            more = "add" if self.gain.is_shown else "do not add"
            return (
                f"Depth {self.chosen.depth} and not {other.depth}: by a regression on the means of their states, all "
                f"layers {more} to half of them ({self.gain.points:+.1f} points, standard error "
                f"{self.gain.error:.1f}, of {self.gain.texts} texts, each left out in turn); the dev texts are too few "
                "to tell."
            )
        best = _best(self.trials, self.metric)
        return (
            f"Depth {self.chosen.depth} is the smallest with a dev {self.metric} within {self.tolerance:.2g} points "
            f"of the best ({best.score:.3f}, depth {best.depth})."
        )

    def table(self) -> str:
        """Return the trials as a Markdown table, the chosen one in bold."""
        lines = [
            f"| depth | filters | dev {self.metric} | head trained in, s | one text, ms | by |",
            "|---|---|---|---|---|---|",
        ]
        for one in self.trials:
            mark = "**" if one == self.chosen else ""
            scores = (f"{one.score:.3f}", f"{one.seconds:.1f}", f"{one.latency_ms:.1f}")
            cells = (one.depth, one.num_filters, *scores, one.backend)
            lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
        return "\n".join(lines)


def choose(
    trials: Sequence[Trial], *, metric: str, tolerance: float, budget_ms: float, gain: Gain | None = None
) -> Trial:
    """Return the trial to take.

    Without a budget that is the smallest depth whose score is within the tolerance of the best.
    With one it is the best score of those that answer in time, the quickest of equals. Where a gain is given, the
    scores do not count, but it.

    Args:
        trials: Scored; at least one within the budget.
        metric: What the scores are; all but ``log_loss`` are better the greater.
        tolerance: Points, hundredths of the score.
        budget_ms: Most milliseconds; 0: no limit.
        gain: Of the deepest over the other.
    """
    if gain is not None:
        return (max if gain.is_shown else min)(trials, key=lambda one: one.depth)
    if budget_ms:
        quick = [one for one in trials if one.latency_ms <= budget_ms]
        return max(quick, key=lambda one: (goodness(metric, one.score), -one.latency_ms))
    # Differences of scores are not exact: 0.90 - 0.897 is a little more than 0.003.
    enough = goodness(metric, _best(trials, metric).score) - tolerance * POINT - 1e-9
    return min((one for one in trials if goodness(metric, one.score) >= enough), key=lambda one: one.depth)


def right_answers(means: Floats, truth: Truth) -> Floats64:
    """Return how far a ridge regression on the other texts gets each text right: 0 or 1, or a share of its labels.

    It has a closed form, so that thousands of texts take a second; and what it says of two depths agrees with what
    heads say that are trained and tested on many more texts (docs/design/0006-depth.md).

    Args:
        means: Of each text's states, ``(N, D)``.
        truth: Class ids ``(N,)``, or for many labels a text 0 and 1 ``(N, K)``.

    Source:
        Hoerl and Kennard (1970), "Ridge Regression"; Allen (1974), on leaving out each row, by scikit-learn.
    """
    # Imported here: they take a second to load, and most who train have more dev texts.
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    many = truth.ndim == 2
    wanted = truth if many else np.eye(int(truth.max()) + 1)[truth]
    regression = RidgeCV(PENALTIES, scoring="neg_mean_squared_error", store_cv_results=True)
    regression.fit(StandardScaler().fit_transform(means), wanted)
    answers = regression.cv_results_[..., PENALTIES.index(regression.alpha_)]
    right = ((answers > 0.5) == (truth > 0.5)).mean(axis=1) if many else answers.argmax(axis=1) == truth
    return np.asarray(right, dtype=np.float64)


def gain_of(half: Floats64, every: Floats64) -> Gain:
    """Return what all layers add to half of them, by :func:`right_answers` of both."""
    more = every - half
    return Gain(len(more), float(more.mean()) / POINT, float(more.std() / math.sqrt(len(more))) / POINT)


def standard_error(share: float, *, texts: int) -> float:
    """Return the standard error of a share of so many texts.

    What is within one standard error of the best is taken for as good. Of a mean of shares, such as macro F1, it is
    about right. One right and one wrong text are added, for all of six right do not tell that none will be wrong.

    Source:
        Breiman et al. (1984), "Classification and Regression Trees", sec. 3.4.3; Laplace's rule of succession.
    """
    share = (share * texts + 1) / (texts + 2)
    return math.sqrt(share * (1 - share) / texts)


def _best(trials: Sequence[Trial], metric: str) -> Trial:
    return max(trials, key=lambda one: goodness(metric, one.score))
