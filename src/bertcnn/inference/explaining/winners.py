"""Which window of a text won for each filter, and which phrase and words it stands on.

The arithmetic of explanations starts here; encoders do not come into it.
"""

import re
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from bertcnn.arrays import Bools, Floats32, Floats64, Ints

START, END, BLANK = "(start)", "(end)", "(blank)"
"""Names of phrases without characters: windows of special pieces only, or of pieces that stand for nothing."""

# One sign each: these scripts write no spaces between words.
_SIGN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_MARK = r"!-/:-@\[-`{-~\u00a1\u00ab\u00bb\u00bf\u2010-\u2027\u2030-\u205e\u3001-\u303f\uff01-\uff0f\uff1a-\uff1f"
_WORD = re.compile(rf"[{_SIGN}]|[^\s{_MARK}{_SIGN}]+(?:['\u2019_-][^\s{_MARK}{_SIGN}]+)*|[{_MARK}]+")


@dataclass(frozen=True)
class Span:
    """Characters ``text[start:end]``, or a name where there are none."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, eq=False)
class Winners:
    """The winning windows of one text.

    V are the distinct windows that won for at least one filter with a feature above 0.

    Attributes:
        text: As it was given.
        ids: Its pieces, special ones included, int64 ``(T,)``.
        spans: Characters of each piece, int64 ``(T, 2)``.
        prefix: Special pieces at the start.
        suffix: Special pieces at the end.
        features: What the filters found, each >= 0, float64 ``(M,)``.
        kernel_sizes: Pieces that the filters see, F of each.
        firsts: First piece of each window, int64 ``(V,)``.
        sizes: Pieces of each window, int64 ``(V,)``.
        window_of: The window of each filter, int64 ``(M,)``; -1 where it found nothing.
        parts: What each place of each filter's window gave to its feature, with the bias spread evenly over
            them: float64 ``(sum(kernel_sizes) * F,)``, see :func:`places_of`; None where nobody asked.
    """

    text: str
    ids: Ints
    spans: Ints
    prefix: int
    suffix: int
    features: Floats64
    kernel_sizes: tuple[int, ...]
    firsts: Ints
    sizes: Ints
    window_of: Ints
    parts: Floats64 | None = None

    @cached_property
    def widths(self) -> Ints:
        """Pieces that each filter sees, int64 ``(M,)``."""
        return widths_of(self.kernel_sizes, len(self.features))

    @cached_property
    def _phrases(self) -> tuple[tuple[Span, ...], Ints, Ints]:
        """Phrases in reading order, the phrase of each window, and the pieces ``(P, 2)`` of each phrase."""
        keys = [self._span(*window) for window in self._written.tolist()]
        phrases = sorted(set(keys), key=lambda span: (span.start, span.end, span.text))
        place = {span: i for i, span in enumerate(phrases)}
        owner = np.array([place[span] for span in keys], dtype=np.int64)
        pieces = np.tile(np.array([len(self.ids), 0], dtype=np.int64), (len(phrases), 1))
        np.minimum.at(pieces[:, 0], owner, self._written[:, 0])
        np.maximum.at(pieces[:, 1], owner, self._written[:, 1])
        return tuple(phrases), owner, pieces

    def _span(self, low: int, high: int) -> Span:
        """Return what a window stands on whose pieces with characters (else all of them) these are."""
        if self.has_characters[low]:
            start, end = int(self.spans[low, 0]), int(self.spans[high - 1, 1])
            return Span(start, end, self.text[start:end])
        if low < self.prefix:
            return Span(0, 0, START)
        if low >= len(self.ids) - self.suffix:
            return Span(len(self.text), len(self.text), END)
        at = int(self.spans[low, 0])
        return Span(at, at, BLANK)

    @cached_property
    def _written(self) -> Ints:
        """First piece of each window that has characters, and the one after the last, int64 ``(V, 2)``.

        Of a window without any, all its pieces.
        """
        places = np.arange(len(self.ids) + 1)
        written = np.append(self.has_characters, False)
        following = np.minimum.accumulate(np.where(written, places, len(places))[::-1])[::-1]
        before = np.maximum.accumulate(np.where(written, places, -1))
        low, high = following[self.firsts], before[self.firsts + self.sizes - 1] + 1
        some = low < high
        return np.stack([np.where(some, low, self.firsts), np.where(some, high, self.firsts + self.sizes)], axis=1)

    @cached_property
    def has_characters(self) -> Bools:
        """True for pieces that stand for characters of the text, ``(T,)``."""
        inside = np.arange(len(self.ids))
        special = (inside < self.prefix) | (inside >= len(self.ids) - self.suffix)
        return ~special & (self.spans[:, 1] > self.spans[:, 0])

    @property
    def phrases(self) -> tuple[Span, ...]:
        """Distinct spans of the windows, in reading order."""
        return self._phrases[0]

    @property
    def phrase_of(self) -> Ints:
        """The phrase of each filter, int64 ``(M,)``; -1 where it found nothing."""
        return np.append(self._phrases[1], -1)[self.window_of]

    @property
    def pieces(self) -> Ints:
        """First piece of each phrase and the one after its last, int64 ``(P, 2)``."""
        return self._phrases[2]

    def by_phrase(self, values: Floats64) -> Floats64:
        """Sum a value of each filter, ``(M,)`` or ``(M, K)``, over the phrases: ``(P,)`` or ``(P, K)``."""
        return _summed(values, self.phrase_of, len(self.phrases))

    def by_word(self, weights: Floats64) -> tuple[tuple[Span, ...], Floats64]:
        """Divide weighted features among the words: each piece of a window has what its state gave to the response.

        A response is a sum over the places of its window of kernel times state, so that is exact; the filter's
        bias is divided evenly. Words are runs of letters, and runs of marks; words without a share are there,
        too. What special pieces gave is said of ``(start)`` and ``(end)``.

        Args:
            weights: Of each feature, ``(M, K)``.

        Returns:
            The words in reading order, and float64 ``(words, K)``.
        """
        assert self.parts is not None, "read without parts"
        words = words_of(self.text)
        names = [Span(0, 0, START), *words, Span(len(self.text), len(self.text), END)]
        ends = np.array([word.end for word in words], dtype=np.int64)
        row_of = 1 + np.minimum(np.searchsorted(ends, self.spans[:, 0], side="right"), max(len(words) - 1, 0))
        row_of[: self.prefix] = 0
        row_of[len(self.ids) - self.suffix :] = len(words) + 1
        feature_of, offset_of = places_of(self.kernel_sizes, len(self.features))
        fired = self.window_of[feature_of] >= 0
        feature_of, offset_of = feature_of[fired], offset_of[fired]
        rows = row_of[self.firsts[self.window_of[feature_of]] + offset_of]
        table = np.zeros((len(names), weights.shape[1]))
        np.add.at(table, rows, self.parts[fired][:, None] * weights[feature_of])
        # The two ends are words only where something stood on them.
        used = np.ones(len(names), dtype=bool)
        used[[0, -1]] = np.isin([0, len(names) - 1], rows)
        return tuple(name for name, keep in zip(names, used, strict=True) if keep), table[used]


def widths_of(kernel_sizes: tuple[int, ...], features: int) -> Ints:
    """Return the pieces that each filter sees, int64 ``(features,)``.

    >>> widths_of((1, 2), 4).tolist()
    [1, 1, 2, 2]
    """
    return np.repeat(np.array(kernel_sizes, dtype=np.int64), features // len(kernel_sizes))


@cache
def places_of(kernel_sizes: tuple[int, ...], features: int) -> tuple[Ints, Ints]:
    """Return for each row of the filters' weights its feature and its place in the window.

    Int64 ``(sum(kernel_sizes) * F,)`` each.

    >>> [row.tolist() for row in places_of((1, 2), 4)]
    [[0, 1, 2, 3, 2, 3], [0, 0, 0, 0, 1, 1]]
    """
    count = features // len(kernel_sizes)
    own = [np.arange(i * count, (i + 1) * count) for i in range(len(kernel_sizes))]
    feature_of = np.concatenate([np.tile(own[i], size) for i, size in enumerate(kernel_sizes)])
    offset_of = np.concatenate([np.repeat(np.arange(size), count) for size in kernel_sizes])
    return feature_of.astype(np.int64), offset_of.astype(np.int64)


def parts_of(states: Floats32, positions: Ints, weight: Floats32, kernel_sizes: tuple[int, ...]) -> Floats32:
    """Return what each place of each winning window gave to its response: kernel times state.

    Args:
        states: What the convolution read, ``(B, T, S)``.
        positions: First piece of each window in its row, ``(B, M)``; -1 where there is none.
        weight: Of the filters, ``(sum(kernel_sizes) * F, D)``.
        kernel_sizes: Window widths.

    Returns:
        Float32 ``(B, sum(kernel_sizes) * F)``; 0 where there is no window.
    """
    feature_of, offset_of = places_of(kernel_sizes, positions.shape[1])
    parts = np.zeros((len(states), len(weight)), dtype=np.float32)
    for row, (own, where) in enumerate(zip(states, positions, strict=True)):
        there = where[feature_of] >= 0
        parts[row, there] = np.einsum("wd,wd->w", weight[there], own[(where[feature_of] + offset_of)[there]])
    return parts


def responses_of(states: Floats32, weight: Floats32, bias: Floats32, kernel_sizes: tuple[int, ...]) -> Floats32:
    """Return every window's response to every filter, after ReLU.

    Args:
        states: Of a stretch of pieces, ``(T, D)``.
        weight: Of the filters, ``(sum(kernel_sizes) * F, D)``.
        bias: Of the filters, ``(M,)``.
        kernel_sizes: Window widths.

    Returns:
        Float32 ``(T, M)``: the window of filter m that begins at piece t; 0 where none fits.
    """
    filters = len(bias) // len(kernel_sizes)
    products = states @ weight.T
    table = np.zeros((len(states), len(bias)), dtype=np.float32)
    place = 0
    for index, size in enumerate(kernel_sizes):
        windows = len(states) - size + 1
        own = slice(index * filters, (index + 1) * filters)
        if windows > 0:
            shifts = range(size)
            total = sum(products[j : j + windows, (place + j) * filters : (place + j + 1) * filters] for j in shifts)
            table[:windows, own] = np.maximum(total + bias[own], 0)
        place += size
    return table


def winners_of(
    text: str,
    ids: Ints,
    spans: Ints,
    features: Floats32,
    positions: Ints,
    *,
    kernel_sizes: tuple[int, ...],
    special: tuple[int, int],
    parts: Floats32 | None = None,
) -> Winners:
    """Gather the winning windows of one text.

    Args:
        text: As it was given.
        ids: Its pieces, int64 ``(T,)``.
        spans: Their characters, int64 ``(T, 2)``.
        features: What the convolution found, ``(M,)``.
        positions: First piece of each filter's window, ``(M,)``; -1 where there is none.
        kernel_sizes: Window widths of the convolution.
        special: Special pieces at the start and at the end.
        parts: What each place of each window gave, :func:`parts_of`; None: not needed.
    """
    widths = widths_of(kernel_sizes, len(features))
    found = (features > 0) & (positions >= 0)
    keys = positions[found] * (max(kernel_sizes) + 1) + widths[found]
    distinct, window = np.unique(keys, return_inverse=True)
    window_of = np.full(len(features), -1, dtype=np.int64)
    window_of[found] = window
    firsts, sizes = np.divmod(distinct, max(kernel_sizes) + 1)
    wide = features.astype(np.float64)
    whole = None if parts is None else _whole(parts.astype(np.float64), wide, kernel_sizes)
    return Winners(text, ids, spans, *special, wide, kernel_sizes, firsts, sizes, window_of, whole)


def _whole(parts: Floats64, features: Floats64, kernel_sizes: tuple[int, ...]) -> Floats64:
    """Add what the places of a window lack to its feature, the bias and some rounding, evenly to them."""
    feature_of, _ = places_of(kernel_sizes, len(features))
    lacking = features - np.bincount(feature_of, weights=parts)
    return parts + (lacking / widths_of(kernel_sizes, len(features)))[feature_of]


def words_of(text: str) -> tuple[Span, ...]:
    """Return the words and runs of marks of a text; of one that has neither, itself.

    >>> [word.text for word in words_of("Don't go, it's so-so...")]
    ["Don't", 'go', ',', "it's", 'so-so', '...']
    """
    words = tuple(Span(found.start(), found.end(), found.group()) for found in _WORD.finditer(text))
    return words or ((Span(0, len(text), text),) if text else ())


def _summed(values: Floats64, owner: Ints, count: int) -> Floats64:
    """Sum rows by their owner; those of owner -1 are left out."""
    total = np.zeros((count, *values.shape[1:]))
    owned = owner >= 0
    np.add.at(total, owner[owned], values[owned])
    return total
