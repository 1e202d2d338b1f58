"""What each filter of a model looks for, seen over many texts: a dictionary of filters, and groups of like ones.

A filter is known by the phrases that excite it most, by how often it fires, and by its weights.
Filters that never fire, or that fire as another one does, are named.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bertcnn.arrays import Floats64, Ints
from bertcnn.inference.backend import Backend
from bertcnn.inference.explaining.winners import Span, Winners, widths_of

MOST_NGRAMS = 10

DUPLICATE = 0.95
"""Correlation over the texts from which two filters count as one twice."""

ALIKE = 0.3
"""Mean correlation from which filters are put into one group."""

FEWEST = 5
"""Texts in which a filter must fire before its correlations mean anything."""


@dataclass(frozen=True)
class Filter:
    """One filter over a file.

    Attributes:
        number: From 1, in the order of the features.
        width: Word pieces it sees at once.
        texts: In how many it fired (a feature above 0).
        weights: Of the linear layer, for each label: what a response of 1 adds to its logit; where a
            text has one label, less the mean over the labels, which changes no answer.
        ngrams: Phrases that excite it most, with its response, the greatest first; all different.
        duplicate_of: The first filter whose responses go with its own (correlation >= 0.95); else None.
        group: Number of its group, from 1; None: it is alone, or fires too seldom to tell.
    """

    number: int
    width: int
    texts: int
    weights: tuple[float, ...]
    ngrams: tuple[tuple[str, float], ...]
    duplicate_of: int | None = None
    group: int | None = None

    @property
    def is_dead(self) -> bool:
        """Whether it never fired."""
        return not self.texts


@dataclass(frozen=True)
class FilterGroup:
    """Filters that fire in the same texts.

    Attributes:
        number: From 1, the one that moves answers most first.
        ngrams: Phrases that most of its filters look for.
        filters: Their numbers.
        texts: In how many texts one of its filters fired, in the mean.
        moves: What they add to each label's logit in a text, in the mean over the file; relative
            to the mean over the labels, as in :class:`Filter`.
    """

    number: int
    ngrams: tuple[str, ...]
    filters: tuple[int, ...]
    texts: int
    moves: tuple[float, ...]


class FilterTally:
    """Responses of a model's filters, summed text by text; memory does not grow with the texts.

    Args:
        backend: Whose filters.
    """

    def __init__(self, backend: Backend) -> None:
        weight = backend.classifier[0].astype(np.float64)
        self.weight = weight if backend.spec.is_multi_label else weight - weight.mean(axis=0)
        count = weight.shape[1]
        self.widths = widths_of(backend.spec.kernel_sizes, count)
        self.texts = 0
        self._fires = np.zeros(count, dtype=np.int64)
        self._sums = np.zeros(count)
        self._products = np.zeros((count, count))
        self._best: list[dict[str, float]] = [{} for _ in range(count)]

    def add(self, rows: Ints, winners: Sequence[Winners], names: Sequence[Sequence[Span]]) -> None:
        """Add texts.

        Args:
            rows: For each text its place among the distinct ones, ``(N,)``.
            winners: The windows of the distinct texts.
            names: Of the phrases of each.
        """
        if not len(rows):
            return
        distinct = np.stack([found.features for found in winners])
        features = distinct[rows]
        self.texts += len(rows)
        self._fires += (features > 0).sum(axis=0)
        self._sums += features.sum(axis=0)
        self._products += features.T @ features
        owners = np.stack([found.phrase_of for found in winners])
        order = np.argsort(-distinct, axis=0, kind="stable")
        moved = (distinct > 0).sum(axis=0)  # the others have no window, nor need their texts have a phrase
        for i, best in enumerate(self._best):
            strongest = order[: moved[i], i].tolist()
            _keep_best(best, ((float(distinct[row, i]), names[row][owners[row, i]].text) for row in strongest))

    def dictionary(self) -> tuple[list[Filter], list[FilterGroup]]:
        """Return every filter, in order, and the groups of like ones."""
        likeness = self._likeness()
        doubles = _doubles(likeness)
        clusters = _clusters(likeness)
        groups = sorted(clusters, key=lambda one: -float(np.ptp(self._moves(one))))
        group_of = {i: number for number, members in enumerate(groups, start=1) for i in members}
        filters = [
            Filter(
                number=i + 1,
                width=int(self.widths[i]),
                texts=int(self._fires[i]),
                weights=tuple(self.weight[:, i].tolist()),
                ngrams=tuple(self._best[i].items()),
                duplicate_of=None if i not in doubles else doubles[i] + 1,
                group=group_of.get(i),
            )
            for i in range(len(self._best))
        ]
        return filters, [self._group(number, members) for number, members in enumerate(groups, start=1)]

    def _group(self, number: int, members: list[int]) -> FilterGroup:
        counts: Counter[str] = Counter()
        for i in members:
            counts.update(self._best[i].keys())
        strongest = {name: max(self._best[i].get(name, 0.0) for i in members) for name in counts}
        ngrams = sorted(counts, key=lambda name: (-counts[name], -strongest[name], name))[:MOST_NGRAMS]
        return FilterGroup(
            number,
            tuple(ngrams),
            tuple(i + 1 for i in members),
            round(float(self._fires[members].mean())),
            tuple(self._moves(members).tolist()),
        )

    def _moves(self, members: list[int]) -> Floats64:
        """Return what filters add to each label in a text, in the mean."""
        return np.asarray(self.weight[:, members] @ self._sums[members] / max(self.texts, 1), dtype=np.float64)

    def _likeness(self) -> Floats64:
        """Return the correlations of the filters' responses, ``(M, M)``; 0 where there is too little to tell."""
        count = max(self.texts, 1)
        mean = self._sums / count
        covariance = self._products / count - np.outer(mean, mean)
        variance = np.diagonal(covariance)
        enough = (self._fires >= FEWEST) & (variance > 1e-9 * np.maximum(mean**2, 1e-12))
        spread = np.sqrt(np.where(enough, variance, 1.0))
        likeness = covariance / np.outer(spread, spread) * np.outer(enough, enough)
        np.fill_diagonal(likeness, 1.0)
        return np.asarray(np.clip(likeness, -1, 1), dtype=np.float64)


def _keep_best(best: dict[str, float], excited: Iterator[tuple[float, str]]) -> None:
    """Bring in a chunk's responses of a filter, greatest first; ``best`` stays sorted."""
    floor = min(best.values()) if len(best) == MOST_NGRAMS else 0.0
    met: set[str] = set()
    for response, name in excited:
        if response <= floor or len(met) == MOST_NGRAMS:
            break
        met.add(name)
        best[name] = max(response, best.get(name, 0.0))
    order = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_NGRAMS]
    best.clear()
    best.update(order)


def _doubles(likeness: Floats64) -> dict[int, int]:
    """Return for each filter that another one makes needless the first such one."""
    found: dict[int, int] = {}
    for i in range(len(likeness)):
        like = [j for j in np.flatnonzero(likeness[i, :i] >= DUPLICATE).tolist() if j not in found]
        if like:
            found[i] = like[0]
    return found


def _clusters(likeness: Floats64) -> list[list[int]]:
    """Return groups of two filters or more whose mean correlation is at least ``ALIKE``."""
    if len(likeness) < 2:
        return []
    from sklearn.cluster import AgglomerativeClustering  # imported here: who predicts does without

    model = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - ALIKE
    )
    labels = model.fit_predict(1 - likeness)
    groups = [np.flatnonzero(labels == label).tolist() for label in range(int(labels.max()) + 1)]
    return [members for members in groups if len(members) > 1]
