"""How deep is enough: what was tried, and the smallest depth that is as good as the best."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from bertcnn.text.write_table import write_whole

POINT = 0.01


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
    """

    metric: str
    tolerance: float
    budget_ms: float
    timed_pieces: int
    trials: tuple[Trial, ...]
    chosen: Trial
    warnings: tuple[str, ...] = ()

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
        return cls(trials=trials, chosen=chosen, warnings=warnings, **values)

    @property
    def why(self) -> str:
        """Why the chosen one was taken, in a sentence."""
        if self.budget_ms:
            return (
                f"Depth {self.chosen.depth} with {self.chosen.num_filters} filters has the best dev {self.metric} of "
                f"what answers within {self.budget_ms:g} ms, by {self.chosen.backend}."
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


def choose(trials: Sequence[Trial], *, metric: str, tolerance: float, budget_ms: float) -> Trial:
    """Return the trial to take.

    Without a budget that is the smallest depth whose score is within the tolerance of the best.
    With one it is the best score of those that answer in time, the quickest of equals.

    Args:
        trials: Scored; at least one within the budget.
        metric: What the scores are; all but ``log_loss`` are better the greater.
        tolerance: Points, hundredths of the score.
        budget_ms: Most milliseconds; 0: no limit.
    """
    if budget_ms:
        quick = [one for one in trials if one.latency_ms <= budget_ms]
        return max(quick, key=lambda one: (_goodness(one, metric), -one.latency_ms))
    # Differences of scores are not exact: 0.90 - 0.897 is a little more than 0.003.
    enough = _goodness(_best(trials, metric), metric) - tolerance * POINT - 1e-9
    return min((one for one in trials if _goodness(one, metric) >= enough), key=lambda one: one.depth)


def standard_error(share: float, *, texts: int) -> float:
    """Return the standard error of a share of so many texts.

    What is within one standard error of the best is taken for as good. Of a mean of shares, such as macro F1, it is
    about right. One right and one wrong text are added, for all of six right do not tell that none will be wrong.

    Source:
        Breiman et al. (1984), "Classification and Regression Trees", sec. 3.4.3; Laplace's rule of succession.
    """
    share = (share * texts + 1) / (texts + 2)
    return math.sqrt(share * (1 - share) / texts)


def _goodness(trial: Trial, metric: str) -> float:
    return -trial.score if metric == "log_loss" else trial.score


def _best(trials: Sequence[Trial], metric: str) -> Trial:
    return max(trials, key=lambda one: _goodness(one, metric))
