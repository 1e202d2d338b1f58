"""How much of a phrase is the phrase, and how much is its context.

A filter reads BERT's states, and BERT has mixed the whole sentence into each of them. So each
winning window is encoded again with nothing around it but the special pieces, and its filters are
applied at the same place. What is left of their response is the phrase's own.
"""

from collections.abc import Sequence

import numpy as np

from bertcnn.arrays import Floats32, Floats64, Ints
from bertcnn.inference.backend import Backend
from bertcnn.inference.explaining.winners import Winners, responses_of
from bertcnn.text.tokens import Pieces, PieceTokenizer


def alone_features(backend: Backend, tokenizer: PieceTokenizer, winners: Sequence[Winners]) -> list[Floats64]:
    """Return what each text's filters find in their windows when these are read alone.

    A window's pieces stand between the special pieces, as a text of their own. Windows that read
    the same are encoded once, over all texts.

    Args:
        backend: What runs the network.
        tokenizer: Its special pieces.
        winners: The windows of each text.

    Returns:
        For each text float64 ``(M,)``, each >= 0; 0 where a filter had found nothing in the text.
    """
    rows: dict[tuple[int, ...], int] = {}
    wanted: dict[tuple[int, int], int] = {}  # row, first piece in it
    asked: list[Ints] = []
    for found in winners:
        places = []
        for first, size in zip(found.firsts.tolist(), found.sizes.tolist(), strict=True):
            row, offset = _alone(found, tokenizer, first, size)
            at = rows.setdefault(row, len(rows))
            places.append(wanted.setdefault((at, offset), len(wanted)))
        asked.append(np.array([*places, -1], dtype=np.int64))
    responses = _responses(backend, tokenizer, list(rows), list(wanted))
    return [_picked(found, places, responses) for found, places in zip(winners, asked, strict=True)]


def survival(found: Winners, alone: Floats64, weight: Floats64, *, many: bool) -> tuple[Floats64, float]:
    """Return how much of the filters' response survives without context, per phrase and over all.

    Each filter counts by the most that it can move a decision: by the spread of its weights over
    the labels (the difference, where there are two), or of many labels by its greatest absolute
    weight. Of each, no more survives than there was: a filter that fires more strongly alone
    counts as whole, and does not make up for one that falls silent.

        survives = sum(c * min(alone, in context)) / sum(c * in context), from 0 to 1

    It is 1 where there is nothing to lose.

    Args:
        found: The windows and features of a text.
        alone: Features of the windows read alone, ``(M,)``.
        weight: Of the linear layer, ``(K, M)``.
        many: A text can have many labels.

    Returns:
        Float64 ``(P,)``, and of all phrases together.
    """
    counts = np.abs(weight).max(axis=0) if many or len(weight) == 1 else np.ptp(weight, axis=0)
    in_context = counts * found.features
    left = counts * np.minimum(alone, found.features)
    return _ratio(found.by_phrase(left), found.by_phrase(in_context)), float(
        _ratio(left.sum(keepdims=True), in_context.sum(keepdims=True))[0]
    )


def _ratio(left: Floats64, whole: Floats64) -> Floats64:
    return np.where(whole > 0, left / np.where(whole > 0, whole, 1), 1.0)


def _alone(found: Winners, tokenizer: PieceTokenizer, first: int, size: int) -> tuple[tuple[int, ...], int]:
    """Return the row in which a window is read alone, and where in it the window begins."""
    count, prefix = len(found.ids), len(tokenizer.prefix)
    end = count - len(tokenizer.suffix)
    content = found.ids[max(first, prefix) : max(min(first + size, end), prefix)].tolist()
    row = (*tokenizer.prefix, *content, *tokenizer.suffix)
    if first < prefix:
        return row, first
    return row, prefix + max(first - end, 0)


def _responses(
    backend: Backend, tokenizer: PieceTokenizer, rows: list[tuple[int, ...]], wanted: list[tuple[int, int]]
) -> Floats32:
    """Return the responses of all filters to the windows that begin at these places, after ReLU, ``(wanted, M)``."""
    weight, bias = backend.filters
    responses = np.zeros((len(wanted), len(bias)), dtype=np.float32)
    by_row: list[list[int]] = [[] for _ in rows]
    for place, (row, _) in enumerate(wanted):
        by_row[row].append(place)
    pieces = Pieces.of([np.array(row, dtype=np.int64) for row in rows])
    for batch in backend.batches(pieces, pad_id=tokenizer.pad_id, whole=True):
        states = backend.states(batch)
        for row, mask, own in zip(batch.texts.tolist(), batch.source_mask, states, strict=True):
            table = responses_of(own[: int(mask.sum())], weight, bias, backend.spec.kernel_sizes)
            responses[by_row[row]] = table[[wanted[place][1] for place in by_row[row]]]
    return responses


def _picked(found: Winners, places: Ints, responses: Floats32) -> Floats64:
    """Return each filter's own response in its own window."""
    place = places[found.window_of]
    values = np.zeros(len(place))
    there = place >= 0
    values[there] = responses[place[there], np.flatnonzero(there)]
    return values
