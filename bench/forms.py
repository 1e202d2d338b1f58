"""Forms of our own explanation as scores of words, each from one run of the network unless it says otherwise.

Like the rivals in :mod:`attributions`: one score a word for the margin of the predicted label over
the runner-up. What falls to special pieces alone belongs to no word.
"""

from dataclasses import dataclass

import numpy as np

from attributions import owners
from bertcnn import Predictor
from bertcnn.arrays import Floats32, Floats64, Ints
from bertcnn.inference.explaining.winners import words_of


def even_shares(predictor: Predictor, text: str) -> Floats64:
    """Return word shares where a window's share is spread evenly over its pieces, as the product first had it."""
    read = _read(predictor, text)
    widths = np.repeat(read.sizes, read.filters)
    scores = np.zeros(read.words)
    for filter_ in np.flatnonzero(read.features > 0):
        window = read.owner[read.positions[filter_] : read.positions[filter_] + widths[filter_]]
        inside = window[window >= 0]
        np.add.at(scores, inside, read.change[filter_] * read.features[filter_] / max(len(inside), 1))
    return scores


def surviving_shares(predictor: Predictor, text: str) -> Floats64:
    """Return shares times what survives of them without context (the audit), spread evenly over a phrase's words.

    The audit encodes each winning window again, alone.
    """
    (explanation,) = predictor.explain([text], audit=True)
    why, words = explanation.decision, words_of(text)
    scores = np.zeros(len(words))
    for phrase, share in zip(why.phrases, why.shares, strict=True):
        inside = [i for i, word in enumerate(words) if word.start < phrase.end and word.end > phrase.start]
        if inside:
            scores[inside] += share * (phrase.survives or 0.0) / len(inside)
    return scores


def piece_shares(predictor: Predictor, text: str) -> Floats64:
    """Return word shares where a window's share is divided by what each of its pieces gave to it.

    A filter's response is a sum over the places of its window of kernel times state, plus its bias.
    So each piece has an exact part of each share. The product's words are these, with the filters'
    biases spread evenly; here the biases are nobody's.
    """
    return by_piece(_read(predictor, text))


def without_states(predictor: Predictor, text: str) -> Floats64:
    """Return what the margin loses when a word's states are taken out and the convolution runs over the rest.

    The encoder does not run again: the states of the other words still hold the word.
    """
    return without_words(_read(predictor, text))


def blend(predictor: Predictor, text: str) -> Floats64:
    """Return the mean of :func:`piece_shares` and :func:`without_states`, each with absolute sum 1."""
    return blended(_read(predictor, text))


def without_windows(predictor: Predictor, text: str) -> Floats64:
    """Return what the margin loses when all windows that touch a word are out, as counterfactuals have it."""
    read = _read(predictor, text)
    responses = np.maximum(windows(read.products, read.bias, read.sizes), 0)
    sizes = np.repeat(read.sizes, read.filters)
    starts = np.arange(len(responses))[:, None]
    scores = np.zeros(read.words)
    for word in range(len(scores)):
        own = np.concatenate([[0], np.cumsum(read.owner == word)])
        touched = own[np.minimum(starts + sizes, len(responses))] > own[starts]
        scores[word] = read.change @ (read.features - np.where(touched, 0, responses).max(axis=0))
    return scores


@dataclass(frozen=True, eq=False)
class Reading:
    """One run of the network on a text.

    Attributes:
        products: What each piece gives at each place of each window, ``(T, sum(sizes) * F)``.
        bias: Of the filters, ``(M,)``.
        sizes: Window widths.
        owner: The word of each piece, int64 ``(T,)``; -1 for special pieces.
        words: How many there are.
        features: After ReLU and max, ``(M,)``.
        positions: First piece of each winning window, int64 ``(M,)``.
        change: What a unit of each feature adds to the margin, ``(M,)``.
    """

    products: Floats32
    bias: Floats32
    sizes: tuple[int, ...]
    owner: Ints
    words: int
    features: Floats32
    positions: Ints
    change: Floats64

    @property
    def filters(self) -> int:
        """Filters of each width."""
        return len(self.bias) // len(self.sizes)


def readings(predictor: Predictor, texts: list[str]) -> list[Reading]:
    """Run the network once over texts, in batches of like length."""
    backend, pieces = predictor.backend, predictor.tokenizer(texts)
    filters, (last, constant) = backend.filters, backend.classifier
    found: dict[int, Reading] = {}
    for batch in backend.batches(pieces, pad_id=predictor.tokenizer.pad_id, whole=True):
        states = backend.states(batch)
        for row, text in enumerate(batch.texts.tolist()):
            products = states[row, : int(batch.source_mask[row].sum())] @ filters[0].T
            responses = windows(products, filters[1], backend.spec.kernel_sizes)
            features = np.maximum(responses.max(axis=0), 0)
            second, first = np.argsort(last @ features + constant, kind="stable")[-2:]
            change = (last[first] - last[second]).astype(np.float64)
            owner, words = owners(predictor, texts[text]), len(words_of(texts[text]))
            sizes = backend.spec.kernel_sizes
            found[text] = Reading(products, filters[1], sizes, owner, words, features, responses.argmax(axis=0), change)
    return [found[i] for i in range(len(texts))]


def windows(products: Floats32, bias: Floats32, sizes: tuple[int, ...]) -> Floats32:
    """Return each window's response before ReLU, ``(T, M)``; -inf where none fits."""
    table = np.full((len(products), len(bias)), -np.inf, dtype=np.float32)
    place, count = 0, len(bias) // len(sizes)
    for index, size in enumerate(sizes):
        fit = len(products) - size + 1
        own = slice(index * count, (index + 1) * count)
        if fit > 0:
            table[:fit, own] = bias[own] + sum(
                products[j : j + fit, (place + j) * count : (place + j + 1) * count] for j in range(size)
            )
        place += size
    return table


def _read(predictor: Predictor, text: str) -> Reading:
    return readings(predictor, [text])[0]


def blended(read: Reading) -> Floats64:
    """Return what :func:`blend` does, of a text that was read."""
    parts = [by_piece(read), without_words(read)]
    return np.asarray(np.sum([part / max(np.abs(part).sum(), 1e-12) for part in parts], axis=0))


def by_piece(read: Reading) -> Floats64:
    scores = np.zeros(read.words)
    place, count = 0, read.filters
    for index, size in enumerate(read.sizes):
        own = np.arange(index * count, (index + 1) * count)
        own = own[read.features[own] > 0]
        for j in range(size):
            pieces = read.positions[own] + j
            given = read.change[own] * read.products[pieces, (place + j) * count + own % count]
            inside = read.owner[pieces] >= 0
            np.add.at(scores, read.owner[pieces][inside], given[inside])
        place += size
    return scores


def without_words(read: Reading) -> Floats64:
    scores = np.zeros(read.words)
    for word in range(len(scores)):
        left = windows(read.products[read.owner != word], read.bias, read.sizes).max(axis=0, initial=0)
        scores[word] = float(read.change @ (read.features - left))
    return scores
