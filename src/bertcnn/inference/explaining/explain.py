"""Why a model answers as it does: which phrases of a text decided, exactly.

A logit is the bias plus a sum over filters of weight times feature, and each feature comes from one
window of the text. So the windows, merged where they stand on the same characters, divide the
logit among them without a remainder. That costs nothing beyond the prediction: one run of the
network gives features and windows. What the windows mean without their context is measured by
:mod:`bertcnn.inference.explaining.audit`; what would change the answer by
:mod:`bertcnn.inference.explaining.counterfactual`.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from bertcnn.arrays import Floats32, Floats64, Ints
from bertcnn.errors import ModelError
from bertcnn.inference.backend import NO_FILTERS, Backend
from bertcnn.inference.explaining.audit import alone_features, survival
from bertcnn.inference.explaining.counterfactual import Without, flipping_sets, without
from bertcnn.inference.explaining.explanation import Audit, Counterfactual, Explanation, Phrase, winner
from bertcnn.inference.explaining.leave_one_out import with_effects
from bertcnn.inference.explaining.winners import Winners, winners_of
from bertcnn.inference.prediction import cuts_of, predictions_of
from bertcnn.text.tokens import Pieces, PieceTokenizer, check_texts

PIECES_AT_ONCE = 50_000
"""Pieces of the texts whose window scores are held at once: 80 MB for 400 filters."""


class Reader(Protocol):
    """What is needed of a :class:`~bertcnn.inference.predictor.Predictor`."""

    backend: Backend
    tokenizer: PieceTokenizer

    def pooled(self, pieces: Pieces) -> tuple[Floats32, Ints]:
        """Return features and positions, each ``(N, M)``."""

    def pooled_parts(self, pieces: Pieces) -> tuple[Floats32, Ints, Floats32]:
        """Return those, and what each place of each window gave."""

    def logits(self, texts: Sequence[str]) -> Floats32:
        """Return the logits of texts, ``(N, K)``."""


def explain(
    predictor: Reader,
    texts: Sequence[str],
    *,
    audit: bool = False,
    counterfactual: bool = False,
    leave_one_out: bool = False,
    threshold: float | None = None,
) -> list[Explanation]:
    """Explain predictions, in the run of the network that makes them.

    Equal texts are explained once. An audit encodes each winning window again alone, about 100
    short rows a text; counterfactuals encode each text a second time, and each shortened text;
    leaving out words encodes a text once a word (of at most ``MOST_WORDS``).

    Args:
        predictor: A model with filters, by torch or ONNX.
        texts: Of any length; empty ones are fine.
        audit: Also measure how much of each phrase's share is left without its context.
        counterfactual: Also find the phrases without which the answer is another.
        leave_one_out: Also measure what each logit loses where the text is read again without each word.
        threshold: Confidence below which the verdict is "not sure", 0 to 1
            (:func:`bertcnn.inference.refusal.threshold_for`); None: no verdict.

    Raises:
        ModelError: The model has a plain linear head and no filters.
        TypeError: A single string was given, or something that is no string.
    """
    texts = check_texts(texts)
    distinct = list(dict.fromkeys(texts))
    if not predictor.backend.spec.kernel_sizes:
        raise ModelError(NO_FILTERS)
    winners, logits = read_winners(predictor, distinct, with_parts=True)
    explanations = _explanations(predictor.backend, winners, logits, threshold)
    if audit:
        explanations = _audited(predictor, winners, explanations)
    if counterfactual:
        explanations = _with_counterfactuals(predictor, winners, explanations)
    if leave_one_out:
        explanations = [with_effects(each, predictor.logits) for each in explanations]
    by_text = dict(zip(distinct, explanations, strict=True))
    return [by_text[text] for text in texts]


def read_winners(predictor: Reader, texts: list[str], *, with_parts: bool = False) -> tuple[list[Winners], Floats32]:
    """Return the winning windows of texts, and their logits, float32 ``(N, K)``, in one run of the network.

    Args:
        predictor: A model with filters.
        texts: All different, or not.
        with_parts: Also what each piece of a window gave, for shares of words.
    """
    pieces = predictor.tokenizer(texts, with_spans=True)
    spans = np.empty((len(pieces.ids), 2), dtype=np.int64) if pieces.spans is None else pieces.spans
    features, positions, *parts = predictor.pooled_parts(pieces) if with_parts else predictor.pooled(pieces)
    weight, bias = predictor.backend.classifier
    special = len(predictor.tokenizer.prefix), len(predictor.tokenizer.suffix)
    winners = [
        winners_of(
            text,
            pieces[i],
            spans[pieces.starts[i] : pieces.starts[i + 1]],
            features[i],
            positions[i],
            kernel_sizes=predictor.backend.spec.kernel_sizes,
            special=special,
            parts=parts[0][i] if parts else None,
        )
        for i, text in enumerate(texts)
    ]
    return winners, features @ weight.T + bias


def _explanations(
    backend: Backend, winners: list[Winners], logits: Floats32, threshold: float | None
) -> list[Explanation]:
    weight, bias = (array.astype(np.float64) for array in backend.classifier)
    spec = backend.spec
    cuts = cuts_of(spec)
    made = []
    for found, row, prediction in zip(winners, logits.tolist(), predictions_of(logits, spec), strict=True):
        shares = found.features[:, None] * weight.T
        words, word_shares = found.by_word(weight.T)
        made.append(
            Explanation(
                text=found.text,
                prediction=prediction,
                labels=spec.labels,
                bias=tuple(bias.tolist()),
                logits=tuple(row),
                phrases=_phrases(found, shares),
                words=tuple(
                    Phrase(word.start, word.end, word.text, tuple(each))
                    for word, each in zip(words, word_shares.tolist(), strict=True)
                ),
                cuts=None if cuts is None else tuple(cuts.tolist()),
                threshold=threshold,
            )
        )
    return made


def _phrases(found: Winners, shares: Floats64) -> tuple[Phrase, ...]:
    owner = found.phrase_of
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(found.phrases) + 1))
    filters = [tuple(order[a:b].tolist()) for a, b in pairwise(bounds)]
    table = found.by_phrase(shares).tolist()
    return tuple(
        Phrase(span.start, span.end, span.text, tuple(row), own)
        for span, row, own in zip(found.phrases, table, filters, strict=True)
    )


def _audited(predictor: Reader, winners: list[Winners], explanations: list[Explanation]) -> list[Explanation]:
    backend = predictor.backend
    weight, bias = (array.astype(np.float64) for array in backend.classifier)
    audited = []
    alone = alone_features(backend, predictor.tokenizer, winners)
    for found, features, explanation in zip(winners, alone, explanations, strict=True):
        by_phrase, overall = survival(found, features, weight, many=backend.spec.is_multi_label)
        shares = found.by_phrase(features[:, None] * weight.T)
        phrases = tuple(
            replace(phrase, survives=float(kept), alone=tuple(row))
            for phrase, kept, row in zip(explanation.phrases, by_phrase, shares.tolist(), strict=True)
        )
        logits = bias + weight @ features
        (prediction,) = predictions_of(logits[None], backend.spec)
        result = Audit(overall, tuple(logits.tolist()), prediction.label)
        audited.append(replace(explanation, phrases=phrases, audit=result))
    return audited


def _with_counterfactuals(
    predictor: Reader, winners: list[Winners], explanations: list[Explanation]
) -> list[Explanation]:
    """Find what flips each answer, and read all shortened texts in one go."""
    backend = predictor.backend
    sets: list[Without] = []
    for chunk in _chunks(winners):
        logits = np.array([explanations[i].logits for i in chunk]).reshape(len(chunk), -1)
        sets += flipping_sets(backend, predictor.tokenizer, [winners[i] for i in chunk], logits)
    shortened = [without(e.text, [e.phrases[i] for i in s.phrases]) for e, s in zip(explanations, sets, strict=True)]
    flipped = [i for i, found in enumerate(sets) if found.phrases]
    again = dict(zip(flipped, predictor.logits([shortened[i] for i in flipped]), strict=True))
    done = []
    for i, (explanation, found) in enumerate(zip(explanations, sets, strict=True)):
        done.append(
            replace(explanation, counterfactual=_judged(backend, explanation, found, shortened[i], again.get(i)))
        )
    return done


def _judged(
    backend: Backend, explanation: Explanation, found: Without, text: str, logits: Floats32 | None
) -> Counterfactual:
    """Say what a set does to the head, and what the model says of the text without it."""
    (answer,) = predictions_of(found.logits[None], backend.spec)
    phrases = tuple(explanation.phrases[i] for i in found.phrases)
    result = Counterfactual(phrases, found.is_smallest, tuple(found.logits.tolist()), answer.label, text)
    if logits is None:
        return result
    (prediction,) = predictions_of(logits[None], backend.spec)
    label = explanation.labels[winner(explanation.logits, explanation.cuts)]
    if prediction.labels is None:
        holds = prediction.label != explanation.prediction.label
    else:
        holds = (label in prediction.labels) != (label in (explanation.prediction.labels or ()))
    return replace(result, prediction=prediction, holds=holds)


def _chunks(winners: list[Winners]) -> list[list[int]]:
    """Group texts, in their order, so that each group has few pieces."""
    chunks: list[list[int]] = []
    size = 0
    for i, found in enumerate(winners):
        if not chunks or size + len(found.ids) > PIECES_AT_ONCE:
            chunks.append([])
            size = 0
        chunks[-1].append(i)
        size += len(found.ids)
    return chunks
