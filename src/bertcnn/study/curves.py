"""What is read off curves: of data, of training, and of accuracy against cost."""

from collections.abc import Sequence


def data_needed(fractions: Sequence[float], scores: Sequence[float], target: float) -> float | None:
    """Return how much data a learning curve needs to reach a score; None if it never does.

    Between two points the curve is straight over the logarithm of the amount. Where the first point
    is good enough already, it is returned: less may do.

    ``fractions`` are amounts above 0, in any order: numbers of texts, or shares of a whole.
    """
    curve = sorted(zip(fractions, scores, strict=True))
    i = next((i for i, (_, score) in enumerate(curve) if score >= target), None)
    if not i:
        return None if i is None else float(curve[0][0])
    (less, low), (more, high) = curve[i - 1], curve[i]
    return float(less * (more / less) ** ((target - low) / (high - low)))


def frontier(costs: Sequence[float], scores: Sequence[float]) -> list[bool]:
    """Return True where no other point has as low a cost and as high a score, and betters it in one."""
    points = list(zip(costs, scores, strict=True))
    return [not any(c <= cost and s >= score and (c < cost or s > score) for c, s in points) for cost, score in points]


def time_to(progress: Sequence[tuple[float, float, float]], *, share: float = 0.99) -> tuple[float, float] | None:
    """Return (epochs, seconds) after which training had a share of its final dev score; None if it had no epochs.

    ``progress`` has (epoch, seconds since the start, dev score >= 0) of each epoch, in order.
    """
    if not progress:
        return None
    goal = share * progress[-1][2]
    return next((epoch, seconds) for epoch, seconds, dev in progress if dev >= goal)
