"""What would change the answer: the fewest phrases without which the head decides otherwise.

Taking phrases out means: every window that touches one of their pieces is taken out of the head, and
each filter falls back to its strongest window elsewhere. With all window scores at hand the effect
on the logits is exact, and no text is encoded again. Whether the text itself, written without the
phrases, is answered otherwise is another question, that only reading it again can answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np

from bertcnn.arrays import Bools, Floats32, Floats64, Ints
from bertcnn.inference.backend import Backend
from bertcnn.inference.explaining.explanation import Phrase, winner
from bertcnn.inference.explaining.winners import Winners, responses_of
from bertcnn.inference.prediction import cuts_of
from bertcnn.text.tokens import Pieces, PieceTokenizer

EXACT = 3
"""Sets of up to so many phrases are all tried, those aside that cannot flip."""

MOST_SETS = 20_000
"""Of one size, of one text. Where more could flip, the search goes on greedily and proves nothing more."""

MOST_PHRASES = 12
"""Of a greedy set; more would be no explanation."""

_CELLS_AT_ONCE = 10_000_000


@dataclass(frozen=True, eq=False)
class Without:
    """A set of phrases, and the head without them.

    Attributes:
        phrases: Indices; empty where no set was found.
        is_smallest: It is proved that no set of fewer flips the decision.
        logits: Without them, float64 ``(K,)``.
    """

    phrases: tuple[int, ...]
    is_smallest: bool
    logits: Floats64


def flipping_sets(
    backend: Backend, tokenizer: PieceTokenizer, winners: Sequence[Winners], logits: Floats64
) -> list[Without]:
    """Return for each text a smallest set of phrases without which the decision flips.

    All sets of one phrase are tried, then of two, then of three, leaving out only those that provably
    cannot flip; of sets of the same size the one with the fewest pieces is taken, and then the one
    that flips the most. If there is none, or there are more than ``MOST_SETS`` to try, phrases are
    taken out greedily, each time the one that brings the decision nearest to its turn. Phrases
    without characters stay, for nobody could write the text without them.

    Args:
        backend: What runs the network.
        tokenizer: What pads its batches.
        winners: The texts, with their phrases.
        logits: The model's, ``(N, K)``.
    """
    weight = backend.classifier[0].astype(np.float64)
    cuts = cuts_of(backend.spec)
    scores = window_scores(backend, tokenizer, [found.ids for found in winners])
    return [_Search(*each, weight, cuts).run() for each in zip(winners, scores, logits, strict=True)]


def window_scores(backend: Backend, tokenizer: PieceTokenizer, texts: Sequence[Ints]) -> list[Floats32]:
    """Return every window's response to every filter, after ReLU.

    Args:
        backend: What runs the network.
        tokenizer: What pads its batches.
        texts: Pieces of each text, special ones included.

    Returns:
        For each text float32 ``(T, M)``: the window of filter m that begins at piece t, or 0 where
        none fits.
    """
    pieces = Pieces.of(texts)
    spec, (weight, bias) = backend.spec, backend.filters
    tables = [np.zeros((len(ids), len(bias)), dtype=np.float32) for ids in texts]
    for batch in backend.batches(pieces, pad_id=tokenizer.pad_id):
        states = backend.states(batch)
        for row, (text, start) in enumerate(zip(batch.texts, batch.starts, strict=True)):
            found = responses_of(states[row, : int(batch.source_mask[row].sum())], weight, bias, spec.kernel_sizes)
            # Segments share pieces, so that a window at their border may lie in the later one only.
            stretch = tables[text][start : start + len(found)]
            np.maximum(stretch, found, out=stretch)
    return tables


def without(text: str, phrases: Sequence[Phrase]) -> str:
    """Return a text without some phrases, and without the gap that they leave.

    >>> without("A bad, bad film.", [Phrase(2, 5, "bad", ()), Phrase(7, 10, "bad", ())])
    'A , film.'
    """
    kept, at = "", 0
    for start, end in [*sorted((one.start, one.end) for one in phrases), (len(text), len(text))]:
        part = text[at : max(start, at)]
        closes_gap = at > 0 and (not kept or kept[-1].isspace())
        kept += part.lstrip() if closes_gap else part
        at = max(at, end)
    return kept


class _Search:
    """The search in one text.

    The decision is a number of margins, one a rival (the other labels; of many labels, the threshold
    of the one the decision is about), each above 0 while the answer stands: ``margins + directions @ change``,
    where ``change`` is what the features change by.
    """

    def __init__(
        self, found: Winners, scores: Floats32, logits: Floats64, weight: Floats64, cuts: Floats64 | None
    ) -> None:
        self.found, self.scores, self.logits, self.weight = found, scores, logits, weight
        best = winner(logits, cuts)
        if cuts is None:
            rivals = np.delete(np.arange(len(logits)), best)
            self.directions = weight[best] - weight[rivals]
            self.margins = logits[best] - logits[rivals]
        else:
            side = 1.0 if logits[best] >= cuts[best] else -1.0
            self.directions = side * weight[best][None]
            self.margins = np.array([side * (logits[best] - cuts[best])])
        written = np.array([span.end > span.start for span in found.phrases], dtype=bool)
        self.candidates = np.flatnonzero(written)
        self.base = scores.max(axis=0, initial=0).astype(np.float64)

    def run(self) -> Without:
        """Return the set."""
        nothing = Without((), is_smallest=False, logits=self.logits)
        if not len(self.margins) or not len(self.candidates):
            return nothing
        proved = 0
        top = _Top(self, EXACT)
        reach = self._reach(top)
        for size in range(1, EXACT + 1):
            sets = list(islice(self._possible(size, reach), MOST_SETS + 1))
            if len(sets) > MOST_SETS:
                break
            found = self._best(np.array(sets, dtype=np.int64).reshape(-1, size), top)
            if found is not None:
                return self._made(found, is_smallest=True)
            proved = size
        taken = self._greedy()
        return self._made(taken, is_smallest=len(taken) <= proved + 1) if taken else nothing

    def _reach(self, top: "_Top") -> Floats64:
        """Return for each candidate a number; a set can flip only if they add up to 1.

        A filter changes only if its strongest window is touched, and then by no more than its whole
        response. So the sum, over the phrases of a set, of the responses with their weights that
        each touches bounds what the set takes from a margin.
        """
        first = top.kills[:, 0, :]  # candidates, filters
        most = np.maximum(self.directions, 0) * self.base
        losses = first @ most.T  # candidates, rivals
        return np.asarray((losses / np.maximum(self.margins, 1e-12)).max(axis=1))

    def _possible(self, size: int, reach: Floats64) -> Iterator[tuple[int, ...]]:
        """Yield sets of places among the candidates that may flip."""
        order = np.argsort(-reach, kind="stable")
        values = reach[order] * (1 + 1e-9)
        for places in _reaching(values, size):
            yield tuple(order[list(places)].tolist())

    def _best(self, sets: Ints, top: "_Top") -> tuple[int, ...] | None:
        """Return the set that flips with the fewest pieces, and of those the one that flips the most."""
        if not len(sets):
            return None
        left = np.concatenate([self._margins(values).min(axis=1) for values in top.values(sets)])
        flips = np.flatnonzero(left < 0)
        if not len(flips):
            return None
        sizes = [(len(self._pieces(sets[i])), left[i], i) for i in flips]
        return tuple(sets[min(sizes)[2]].tolist())

    def _greedy(self) -> tuple[int, ...]:
        """Return a set found by taking out, each time, the phrase that brings the turn nearest."""
        taken: list[int] = []
        top = _Top(self, MOST_PHRASES)
        while len(taken) < min(MOST_PHRASES, len(self.candidates)):
            sets = np.array([[*taken, i] for i in range(len(self.candidates)) if i not in taken])
            left = np.concatenate([self._margins(values).min(axis=1) for values in top.values(sets)])
            best = int(left.argmin())
            taken.append(int(sets[best, -1]))
            if left[best] < 0:
                return tuple(taken)
        return ()

    def _margins(self, features: Floats64) -> Floats64:
        """Return the margins ``(sets, rivals)`` with these features ``(sets, M)``."""
        return np.asarray(self.margins + (features - self.base) @ self.directions.T)

    def _pieces(self, places: Ints) -> Ints:
        """Return the pieces of some candidates."""
        bounds = self.found.pieces[self.candidates[places]]
        return np.unique(np.concatenate([np.arange(low, high) for low, high in bounds]))

    def _made(self, places: tuple[int, ...], *, is_smallest: bool) -> Without:
        removed = np.zeros(len(self.scores), dtype=bool)
        removed[self._pieces(np.array(places))] = True
        features = np.where(_touched(removed, self.found.widths), 0, self.scores).max(axis=0, initial=0)
        logits = self.logits + self.weight @ (features.astype(np.float64) - self.base)
        phrases = tuple(sorted(self.candidates[list(places)].tolist()))
        return Without(phrases, is_smallest, logits)


class _Top:
    """The strongest windows of each filter, as many as some phrases can touch, and one more.

    Args:
        search: The text.
        phrases: How many are taken out at once, at most.
    """

    def __init__(self, search: _Search, phrases: int) -> None:
        widths, scores = search.found.widths, search.scores
        pieces = search.found.pieces[search.candidates]
        longest = int((pieces[:, 1] - pieces[:, 0]).max())
        count = min(len(scores), phrases * (longest + int(widths.max()) - 1) + 1)
        order = np.argpartition(-scores, count - 1, axis=0)[:count]
        strengths = np.take_along_axis(scores, order, axis=0)
        sorting = np.argsort(-strengths, axis=0, kind="stable")
        self.strengths = np.take_along_axis(strengths, sorting, axis=0)  # windows, filters
        first = np.take_along_axis(order, sorting, axis=0)
        low, high = pieces[:, 0, None, None], pieces[:, 1, None, None]
        self.kills = (first < high) & (first + widths > low)  # candidates, windows, filters

    def values(self, sets: Ints) -> Iterator[Floats64]:
        """Yield the features without each set of candidates ``(sets, size)``, some ``(chunk, M)`` at a time."""
        step = max(1, _CELLS_AT_ONCE // self.strengths.size)
        for at in range(0, len(sets), step):
            chunk = sets[at : at + step]
            killed = self.kills[chunk[:, 0]]
            for place in range(1, sets.shape[1]):
                killed |= self.kills[chunk[:, place]]
            best = killed.argmin(axis=1)  # the first that stands
            found = np.take_along_axis(self.strengths[None], best[:, None, :], axis=1)[:, 0]
            nothing = np.all(killed, axis=1)  # every window of the text is out
            yield np.where(nothing, 0, found).astype(np.float64)


def _touched(removed: Bools, widths: Ints) -> Bools:
    """Return which windows hold a removed piece, bool ``(T, M)``."""
    counts = np.append(0, np.cumsum(removed))
    first = np.arange(len(removed))
    by_width = {int(w): counts[np.minimum(first + w, len(removed))] > counts[first] for w in np.unique(widths)}
    return np.stack([by_width[int(w)] for w in widths], axis=1)


def _reaching(values: Floats64, size: int, *, begin: int = 0, needed: float = 1.0) -> Iterator[tuple[int, ...]]:
    """Yield the sets of so many places, from ``begin`` on, whose values add up to ``needed``, and few others.

    Values are sorted downwards, so a set that begins at a place adds up to at most ``size`` times its value: where that
    is too little, so it is at all later places.
    """
    if needed <= 0:
        yield from combinations(range(begin, len(values)), size)
        return
    for first in range(begin, len(values)):
        if values[first] * size < needed:
            return
        if size == 1:
            yield (first,)
            continue
        for rest in _reaching(values, size - 1, begin=first + 1, needed=needed - values[first]):
            yield (first, *rest)
