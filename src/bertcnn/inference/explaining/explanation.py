"""What an explanation is: phrases with their shares of the logits, and what can be asked of it.

:mod:`bertcnn.inference.explaining.explain` makes them; :mod:`bertcnn.inference.explaining.page` draws them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bertcnn.arrays import Floats64
from bertcnn.errors import DataError, nearest
from bertcnn.inference.prediction import Prediction

NOT_SURE = "not sure"


@dataclass(frozen=True)
class Phrase:
    """Characters of a text that filters point at, with their share of each logit.

    Attributes:
        start, end: The characters ``text[start:end]`` of the explained text; equal where a window
            has special pieces only.
        text: Those characters, or ``(start)``, ``(end)``, ``(blank)`` where there are none.
        shares: Sum over its filters of weight times feature, for each label, in their order.
        filters: Which features of the convolution won here.
        survives: Of a locality audit, else None: how much of its filters' response is left when
            the phrase is read alone, 0 to 1 (:mod:`bertcnn.inference.explaining.audit`).
        alone: Of a locality audit, else None: the shares it has when it is read alone.
        effects: Of a word that was left out, else None: what each logit loses where the text is read
            again without it (:mod:`bertcnn.inference.explaining.leave_one_out`).
    """

    start: int
    end: int
    text: str
    shares: tuple[float, ...]
    filters: tuple[int, ...] = ()
    survives: float | None = None
    alone: tuple[float, ...] | None = None
    effects: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Contrast:
    """Why one label and not another: ``margin = bias + sum(shares) + residual``.

    Attributes:
        label: What speaks for it is positive.
        other: The label it is set against. None: where a text can have many labels, its threshold;
            of a model with a single label, nothing.
        margin: The difference of the logits; above 0, ``label`` is ahead.
        bias: What the margin is with nothing found.
        phrases: Of the explanation, in reading order.
        shares: What each phrase adds to the margin.
        words: Of the text, in reading order.
        word_shares: What each word adds to the margin.
        word_effects: What the margin loses where the text is read again without each word; None for
            words that were not left out.
    """

    label: str
    other: str | None
    margin: float
    bias: float
    phrases: tuple[Phrase, ...]
    shares: tuple[float, ...]
    words: tuple[Phrase, ...]
    word_shares: tuple[float, ...]
    word_effects: tuple[float | None, ...]

    @property
    def residual(self) -> float:
        """What rounding leaves unexplained."""
        return self.margin - self.bias - math.fsum(self.shares)

    @property
    def in_favour(self) -> float:
        """Sum of the shares above 0."""
        return math.fsum(share for share in self.shares if share > 0)

    @property
    def opposed(self) -> float:
        """Sum of the shares below 0, as a positive number."""
        return -math.fsum(share for share in self.shares if share < 0)

    def top(self, n: int = 10) -> list[tuple[Phrase, float]]:
        """Return the n phrases with the greatest shares for or against, greatest first."""
        pairs = zip(self.phrases, self.shares, strict=True)
        return sorted(pairs, key=lambda pair: (-abs(pair[1]), pair[0].start, pair[0].end))[:n]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; shares are in the order of the explanation's phrases and words."""
        return {
            "label": self.label,
            "other": self.other,
            "margin": self.margin,
            "bias": self.bias,
            "residual": self.residual,
            "shares": list(self.shares),
            "word_shares": list(self.word_shares),
            "word_effects": list(self.word_effects),
        }


@dataclass(frozen=True)
class Audit:
    """How far the decision rests on phrases, and how far on what BERT mixed into them.

    Attributes:
        survives: Of all phrases together, 0 to 1; 1 where nothing was found.
        logits: What the head says of the phrases when each is read alone, for each label.
        label: The answer that gives.
    """

    survives: float
    logits: tuple[float, ...]
    label: str


@dataclass(frozen=True)
class Counterfactual:
    """The phrases without which the answer is another.

    Attributes:
        phrases: A set that flips the decision when every window that touches it is taken out of
            the head; empty where no set was found.
        is_smallest: It is proved that no set of fewer phrases flips it.
        logits: The head's without them, exactly, for each label.
        label: The answer that gives.
        text: The text without them.
        prediction: What the model says of that text; None where no set was found.
        holds: Reading that text flips the decision, too.
    """

    phrases: tuple[Phrase, ...]
    is_smallest: bool
    logits: tuple[float, ...]
    label: str
    text: str
    prediction: Prediction | None = None
    holds: bool = False


@dataclass(frozen=True)
class Verdict:
    """An answer, or a refusal with its reason.

    Attributes:
        answer: The predicted label, or ``not sure``.
        reason: Why not, in words; empty where the answer is given.
        threshold: The confidence that was asked for.
    """

    answer: str
    reason: str
    threshold: float

    @property
    def is_sure(self) -> bool:
        """Whether an answer was given."""
        return not self.reason


@dataclass(frozen=True)
class Explanation:
    """Which phrases decided, exactly: ``logits = bias + sum of shares + residual``.

    =========================  ==========================================================
    ``decision``               why this answer and not the next best, as a :class:`Contrast`
    ``against("a", "b")``      why a and not b
    ``top("a", n)``            the phrases with the greatest shares of a's logit
    ``residual``               what rounding leaves, for each label
    ``verdict``                the answer, or "not sure" and why, where a threshold was given
    ``to_dict()``              the JSON form
    =========================  ==========================================================

    A share is exact for the head over BERT's states, which hold context: an ``audit`` says how much.

    Attributes:
        text: As it was given.
        prediction: The model's.
        labels: Names, in the order of all shares.
        bias: Of the linear layer, for each label.
        logits: The model's, for each label.
        phrases: In reading order; those of different widths overlap.
        words: In reading order, without overlap: each window's share divided by what its pieces gave to it.
            They add up to the logit, too.
        cuts: Where a text can have many labels, the logit from which each holds; else None.
        audit: Where it was asked for.
        counterfactual: Where it was asked for.
        threshold: Confidence below which the verdict is "not sure"; None: not asked for.
    """

    text: str
    prediction: Prediction
    labels: tuple[str, ...]
    bias: tuple[float, ...]
    logits: tuple[float, ...]
    phrases: tuple[Phrase, ...]
    words: tuple[Phrase, ...]
    cuts: tuple[float, ...] | None = None
    audit: Audit | None = None
    counterfactual: Counterfactual | None = None
    threshold: float | None = None

    @property
    def residual(self) -> tuple[float, ...]:
        """For each label, its logit less bias and shares: float32 rounding, and nothing else."""
        sums = [math.fsum(one.shares[k] for one in self.phrases) for k in range(len(self.labels))]
        parts = zip(self.logits, self.bias, sums, strict=True)
        return tuple(logit - bias - shares for logit, bias, shares in parts)

    @cached_property
    def decision(self) -> Contrast:
        """Why this answer: the winner against the runner-up, or the surest label against its threshold."""
        return self.about(self.labels[winner(self.logits, self.cuts)])

    @property
    def verdict(self) -> Verdict | None:
        """The answer if its confidence reaches the threshold, else "not sure" and why.

        A side is strong if its phrases alone, with nothing against them, would make the margin at which
        the confidence reaches the threshold (were all rivals as strong as the runner-up; of many labels,
        were all as sure as this one). Both sides strong: they cancel. Else no phrase is decisive.
        """
        if self.threshold is None:
            return None
        if self.prediction.confidence >= self.threshold:
            return Verdict(self.prediction.label, "", self.threshold)
        return Verdict(NOT_SURE, _reason(self._weakest(), self._needed(self.threshold)), self.threshold)

    def _needed(self, threshold: float) -> float:
        """Return the margin at which the confidence reaches a threshold."""
        many, count = self.cuts is not None, len(self.labels)
        inside = min(max(threshold, 1e-9), 1 - 1e-9)
        each = inside ** (1 / count) if many else inside
        rivals = 1 if many else max(count - 1, 1)
        return max(0.0, math.log(each) - math.log1p(-each) + math.log(rivals))

    def _weakest(self) -> Contrast:
        """Return the decision, or of many labels the one nearest to its threshold."""
        if self.cuts is None:
            return self.decision
        distances = np.abs(np.array(self.logits) - self.cuts)
        return self.about(self.labels[int(distances.argmin())])

    def about(self, label: str) -> Contrast:
        """Return why a label, and not the strongest other one (of many labels, and not its threshold).

        Raises:
            DataError: The model has no such label.
        """
        k = self._index(label)
        others = [i for i in range(len(self.labels)) if i != k]
        if self.cuts is not None or not others:
            return self.against(label)
        return self.against(label, self.labels[max(others, key=lambda i: self.logits[i])])

    def against(self, label: str, other: str | None = None) -> Contrast:
        """Return why a label and not another; of a label alone, why its logit is above its threshold.

        Raises:
            DataError: The model has no such label.
        """
        weights = np.zeros(len(self.labels))
        weights[self._index(label)] += 1
        if other is not None:
            weights[self._index(other)] -= 1
        cut = self.cuts[self._index(label)] if other is None and self.cuts is not None else 0.0
        return Contrast(
            label,
            other,
            margin=float(weights @ self.logits) - cut,
            bias=float(weights @ self.bias) - cut,
            phrases=self.phrases,
            shares=_weighted(self.phrases, weights),
            words=self.words,
            word_shares=_weighted(self.words, weights),
            word_effects=tuple(None if w.effects is None else float(weights @ w.effects) for w in self.words),
        )

    def top(self, label: str, n: int = 10) -> list[tuple[Phrase, float]]:
        """Return the n phrases with the greatest shares of a label's logit, for or against it.

        Raises:
            DataError: The model has no such label.
        """
        return self.against(label).top(n)

    def _index(self, label: str) -> int:
        if label not in self.labels:
            known = ", ".join(map(repr, self.labels))
            raise DataError(f"No label {label!r}. The model knows {known}.{nearest(label, self.labels)}")
        return self.labels.index(label)

    def to_dict(self, *, label: str | None = None) -> dict[str, Any]:
        """Return the one JSON form.

        Args:
            label: What ``why`` is about; None: the decision.

        Raises:
            DataError: The model has no such label.
        """
        verdict = self.verdict
        return {
            "text": self.text,
            "prediction": self.prediction.to_dict(),
            "logits": self._named(self.logits),
            "bias": self._named(self.bias),
            "residual": self._named(self.residual),
            "phrases": [self._phrase(one) for one in self.phrases],
            "words": [self._phrase(one) for one in self.words],
            "why": (self.decision if label is None else self.about(label)).to_dict(),
            "verdict": None
            if verdict is None
            else {"answer": verdict.answer, "reason": verdict.reason, "threshold": verdict.threshold},
            "audit": None
            if self.audit is None
            else {
                "survives": self.audit.survives,
                "logits": self._named(self.audit.logits),
                "label": self.audit.label,
            },
            "counterfactual": None if self.counterfactual is None else self._without(self.counterfactual),
        }

    def _without(self, found: Counterfactual) -> dict[str, Any]:
        return {
            "phrases": [{"start": one.start, "end": one.end, "text": one.text} for one in found.phrases],
            "is_smallest": found.is_smallest,
            "logits": self._named(found.logits),
            "label": found.label,
            "text": found.text,
            "prediction": None if found.prediction is None else found.prediction.to_dict(),
            "holds": found.holds,
        }

    def _phrase(self, one: Phrase) -> dict[str, Any]:
        form: dict[str, Any] = {"start": one.start, "end": one.end, "text": one.text, "shares": self._named(one.shares)}
        if one.alone is not None:
            form |= {"survives": one.survives, "alone": self._named(one.alone)}
        if one.effects is not None:
            form["effects"] = self._named(one.effects)
        return form

    def _named(self, values: Sequence[float]) -> dict[str, float]:
        return dict(zip(self.labels, values, strict=True))

    def _repr_html_(self) -> str:
        """Return the picture that notebooks show."""
        from bertcnn.inference.explaining.page import fragment  # imported here: it needs a template engine

        return fragment(self.to_dict())


def winner(logits: Sequence[float] | Floats64, cuts: Sequence[float] | Floats64 | None) -> int:
    """Return the label that a decision is about: the likeliest, or of many the furthest above its threshold."""
    return int(np.argmax(np.asarray(logits) - (0.0 if cuts is None else np.asarray(cuts))))


def _weighted(parts: tuple[Phrase, ...], weights: Floats64) -> tuple[float, ...]:
    if not parts:
        return ()
    return tuple((np.array([part.shares for part in parts]) @ weights).tolist())


def _reason(why: Contrast, needed: float) -> str:
    best = [_strongest(why, sign) for sign in (1, -1)]
    if min(why.in_favour, why.opposed) >= needed and None not in best:
        return f"strong phrases on both sides: {best[0]!r} for {why.label}, {best[1]!r} against it"
    return f"no decisive phrase: the phrases leave {why.label} a margin of {why.margin:+.2f}, {needed:.2f} is needed"


def _strongest(why: Contrast, sign: int) -> str | None:
    share, phrase = max(
        ((sign * share, phrase.text) for phrase, share in zip(why.phrases, why.shares, strict=True)),
        default=(0.0, ""),
        key=lambda pair: pair[0],
    )
    return phrase if share > 0 else None
