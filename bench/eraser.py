"""How faithful scores of words are: what deleting words, or keeping only them, does to the answer.

A word is one of :func:`bertcnn.inference.explaining.winners.words_of` (a run of letters, or of marks). Deleting
means writing the text without it and reading that anew, as a user would.

Source:
    DeYoung et al. (2020), "ERASER", sec. 4: comprehensiveness ``p(whole) - p(without the top words)`` and
    sufficiency ``p(whole) - p(the top words alone)`` of the predicted label, each the mean over the top 1,
    5, 10, 20 and 50 %. Serrano and Smith (2019), "Is Attention Interpretable?": the share of words
    to delete, from the top, until the answer is another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bertcnn.arrays import Floats64
from bertcnn.inference.explaining.counterfactual import without
from bertcnn.inference.explaining.explanation import Phrase
from bertcnn.inference.explaining.winners import words_of

BINS = (1, 5, 10, 20, 50)
"""Percent of the words whose effects are averaged."""

STEPS = (1, 5, *range(10, 101, 10))
"""Percent of the words deleted, in turn, until the answer is another."""

FLIP_AT = 20
"""Percent of the words whose deletion shall change the answer."""


class Answers(Protocol):
    """What is needed of a predictor."""

    def probabilities(self, texts: Sequence[str]) -> Floats64:
        """Return probabilities, ``(N, K)``."""


@dataclass(frozen=True)
class Outcome:
    """What deleting words in the order of their scores does to the answer on one text.

    Attributes:
        comprehensiveness: Mean drop of the predicted label's probability without the top words; more is better.
        sufficiency: Mean drop of it with the top words alone; less is better.
        flips: The answer is another without the top 20 %.
        needed: Share of the words to delete until the answer is another; 1 where it never is.
    """

    comprehensiveness: float
    sufficiency: float
    flips: bool
    needed: float


def top(count: int, percent: int) -> int:
    """Return how many of some words are the top percent: rounded up, at least one."""
    return max(1, math.ceil(count * percent / 100 - 1e-9))


def outcomes(predictor: Answers, texts: Sequence[str], scores: Sequence[Floats64]) -> list[Outcome]:
    """Return what the scores of each text's words are worth.

    Args:
        predictor: Reads the shortened texts; equal ones should cost it nothing.
        texts: Each with at least one word.
        scores: One a word, what speaks for the predicted label is positive. Equal ones stand in reading order.
    """
    asked: list[str] = []
    for text, values in zip(texts, scores, strict=True):
        asked += [text, *_shortened(text, values)]
    table = np.asarray(predictor.probabilities(asked)).reshape(len(texts), -1, _columns(predictor))
    return [_outcome(rows) for rows in table]


def _columns(predictor: Answers) -> int:
    return int(np.asarray(predictor.probabilities([""])).shape[1])


def _shortened(text: str, values: Floats64) -> list[str]:
    """Return the text without its top words, a step after the other, and the top words of each bin alone."""
    words = [Phrase(word.start, word.end, word.text, ()) for word in words_of(text)]
    if len(words) != len(values):
        raise ValueError(f"{len(values)} scores for {len(words)} words of {text!r}.")
    order = [words[i] for i in np.argsort(-values, kind="stable")]
    deleted = [without(text, order[: top(len(words), percent)]) for percent in STEPS]
    return deleted + [without(text, order[top(len(words), percent) :]) for percent in BINS]


def _outcome(rows: Floats64) -> Outcome:
    """Return what the probabilities ``(1 + steps + bins, K)`` of a text and its shortened forms say."""
    label = int(rows[0].argmax())
    chance = rows[:, label]
    deleted, kept = chance[1 : 1 + len(STEPS)], chance[1 + len(STEPS) :]
    other = rows[1 : 1 + len(STEPS)].argmax(axis=1) != label
    at = int(other.argmax())
    return Outcome(
        comprehensiveness=float(np.mean([chance[0] - deleted[STEPS.index(b)] for b in BINS])),
        sufficiency=float(np.mean(chance[0] - kept)),
        flips=bool(other[STEPS.index(FLIP_AT)]),
        needed=STEPS[at] / 100 if other[at] else 1.0,
    )
