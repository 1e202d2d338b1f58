"""Phrases over many texts: how much each pulled towards each label, in which texts, and which belong together.

Windows of :mod:`bertcnn.inference.explaining.winners` end inside words and differ in case; here they are whole
words in small letters, so that they can be counted. Nothing here runs a network.
"""

import re
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertcnn.arrays import Bools, Floats64, Ints
from bertcnn.inference.explaining.winners import Span, Winners, words_of

MOST_PHRASES = 100_000
"""Phrases held at once: some 100 MB with what is kept of each."""

LONGEST = 80
"""Characters of a phrase; a longer one (a link, a word without an end) is cut."""

EXAMPLES = 3
CANDIDATES = 2_000
"""Phrases of a label, the strongest, that are looked at for families."""

TOGETHER = 0.8
"""Share of a phrase's texts in which it comes with another one to be called a form of it."""

COMPARABLE = 0.2
"""The other one must pull at least so much a text, as a part of what the phrase does: "a" has no forms."""

STEADY = 2.0
"""Standard errors from 0 at which the pull of a phrase is more than chance."""

FAINT = 0.2
LEADING = 50
"""A phrase that pulls less a text than a fifth of what the median of the 50 leading ones does tells nobody anything."""

_EDGE = re.compile(r"^(?:[^\w'\u2019]|['\u2019](?!\w))+|(?:[^\w'\u2019]|(?<!\w)['\u2019])+$")


@dataclass(frozen=True)
class Found:
    """Where a phrase pulled towards a label.

    Attributes:
        share: What it added to the decision there.
        text: Number of the text, from 0.
        start, end: Its characters.
    """

    share: float
    text: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Family:
    """A phrase with the forms of it that nearly always come with it ("bad", "a bad", "bad taste").

    Attributes:
        phrase: The form that pulls most.
        forms: The others, the strongest first.
        total: Of all forms together.
        texts: Numbers of the texts with any of them, ascending.
        found: Up to three texts that were answered with the label, the strongest first.
        is_telling: ``phrase`` pulls by more than chance (two standard errors), not too faintly a text,
            and texts with it are answered with the label at least as often as others ("that" fails).
    """

    phrase: str
    forms: tuple[str, ...]
    total: float
    texts: Ints
    found: tuple[Found, ...]
    is_telling: bool


def names_of(found: Winners) -> list[Span]:
    """Return each phrase of a text as it is counted: whole words without marks at the ends.

    ``text`` is in small letters with single spaces. A phrase of marks only keeps them; one
    without characters keeps its name, such as ``(start)``.
    """
    words = words_of(found.text)
    starts, ends = [word.start for word in words], [word.end for word in words]

    def named(span: Span) -> Span:
        inside = words[bisect_right(ends, span.start) : bisect_left(starts, span.end)]
        if span.start == span.end or not inside:
            return span
        start, end = inside[0].start, min(inside[-1].end, inside[0].start + 4 * LONGEST)
        whole = found.text[start:end]
        bare = _EDGE.sub("", whole)
        start, whole = (start + whole.index(bare), bare) if bare else (start, whole)
        return Span(start, start + len(whole), " ".join(whole.casefold().split())[:LONGEST])

    return [named(span) for span in found.phrases]


class PhraseTable:
    """Pulls of phrases towards labels, summed text by text.

    Totals are exact as long as no more than ``most`` different phrases were met. From then on
    the weaker half is forgotten each time the table is full; ``lost`` bounds what any total
    lacks for it.

    Args:
        labels: How many there are.
        most: Phrases held at once.
    """

    def __init__(self, labels: int, *, most: int = MOST_PHRASES) -> None:
        self.most = most
        self.lost = 0.0
        self._rows: dict[str, int] = {}
        self._totals = np.zeros((most, labels))
        self._squares = np.zeros((most, labels))
        self._texts: list[array[int]] = []
        self._found: dict[tuple[int, int], list[Found]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, text: int, names: Sequence[Span], labels: Ints, shares: Floats64, answered: Ints) -> None:
        """Add the phrases of a text; those without characters are left out.

        Args:
            text: Its number; ascending.
            names: Its phrases, :func:`names_of`.
            labels: Which are in play, ``(J,)``.
            shares: What each phrase adds for each of them, ``(P, J)``.
            answered: Places in ``labels`` of those that the text was answered with.
        """
        firsts: dict[str, int] = {}
        kept = [i for i, name in enumerate(names) if name.end > name.start]
        owner = [firsts.setdefault(names[i].text, i) for i in kept]
        sums = np.zeros_like(shares)
        np.add.at(sums, np.array(owner, dtype=np.int64), shares[kept])
        if len(self._rows) + len(firsts) > self.most:
            self._forget()
        places = list(firsts.values())
        rows = np.array([self._row(name) for name in firsts], dtype=np.int64)
        self._totals[rows[:, None], labels] += sums[places]
        self._squares[rows[:, None], labels] += sums[places] ** 2
        for row, place in zip(rows.tolist(), places, strict=True):
            self._texts[row].append(text)
            for at in answered.tolist():
                if sums[place, at] > 0:
                    one = Found(float(sums[place, at]), text, names[place].start, names[place].end)
                    _keep_best(self._found.setdefault((row, int(labels[at])), []), one)

    def _row(self, name: str) -> int:
        row = self._rows.setdefault(name, len(self._rows))
        if row == len(self._texts):
            self._texts.append(array("I"))
        return row

    def _forget(self) -> None:
        """Keep the stronger half."""
        count = len(self._rows)
        strength = np.abs(self._totals[:count]).max(axis=1)
        order = np.argsort(-strength, kind="stable")
        kept = np.sort(order[: self.most // 2])
        self.lost += float(strength[order[self.most // 2 :]].max(initial=0.0))
        names = list(self._rows)
        place = {old: new for new, old in enumerate(kept.tolist())}
        self._rows = {names[old]: new for old, new in place.items()}
        self._texts = [self._texts[old] for old in place]
        self._found = {(place[row], k): best for (row, k), best in self._found.items() if row in place}
        for table in (self._totals, self._squares):
            table[: len(kept)] = table[kept]
            table[len(kept) :] = 0

    def total(self, phrase: str, label: int) -> float:
        """Return how much a phrase pulled towards a label, forms of it not counted; 0 if it was not met."""
        row = self._rows.get(phrase)
        return 0.0 if row is None else float(self._totals[row, label])

    def families(self, label: int, in_play: Bools, answered: Bools, *, most: int) -> list[Family]:
        """Return the phrases that pulled towards a label, forms together: the telling first, then by total.

        A weaker phrase is a form of a stronger one if one's words stand within the other's, if it
        comes with it in 80 % of its texts or more, and if the stronger pulls comparably much a text.
        "not bad" is no form of "bad": only what pulls towards the label counts.

        Args:
            label: Which.
            in_play: For each text, whether the label was in play there, bool ``(N,)``.
            answered: For each text, whether it was answered with the label, bool ``(N,)``.
            most: How many to return.
        """
        totals, names = self._totals[: len(self._rows), label], list(self._rows)
        strongest = [row for row in np.argsort(-totals, kind="stable")[:CANDIDATES].tolist() if totals[row] > 0]
        texts = {row: _picked(self._texts[row], in_play) for row in strongest}
        groups = _grouped({row: names[row] for row in strongest}, texts, totals)
        usual = float(answered.sum() / max(in_play.sum(), 1))
        telling = self._telling([rows[0] for rows in groups], texts, label, answered, usual)
        made = [self._family(rows, names, texts, label, rows[0] in telling) for rows in groups]
        return sorted(made, key=lambda one: (not one.is_telling, -one.total, one.phrase))[:most]

    def _telling(self, heads: list[int], texts: dict[int, Ints], label: int, answered: Bools, usual: float) -> set[int]:
        """Return which phrases, given strongest first, tell something; ``usual``: the label's share of all answers."""
        totals, squares = self._totals[:, label], self._squares[:, label]
        steady = [row for row in heads if totals[row] >= STEADY * np.sqrt(squares[row])]
        pulls = {row: float(totals[row]) / len(texts[row]) for row in steady}
        least = FAINT * float(np.median([pulls[row] for row in steady[:LEADING]])) if steady else 0.0
        return {row for row in steady if pulls[row] >= least and answered[texts[row]].mean() >= usual}

    def _family(
        self, rows: list[int], names: list[str], texts: dict[int, Ints], label: int, is_telling: bool
    ) -> Family:
        head = rows[0]
        best: list[Found] = []
        for row in rows:
            for one in self._found.get((row, label), ()):
                if one.text not in {other.text for other in best}:
                    _keep_best(best, one)
        return Family(
            names[head],
            tuple(names[row] for row in rows[1:]),
            float(self._totals[rows, label].sum()),
            np.unique(np.concatenate([texts[row] for row in rows])),
            tuple(best),
            is_telling,
        )


def _keep_best(best: list[Found], one: Found) -> None:
    if len(best) < EXAMPLES or one.share > best[-1].share:
        best.append(one)
        best.sort(key=lambda each: (-each.share, each.text))
        del best[EXAMPLES:]


def _picked(numbers: "array[int]", mask: Bools) -> Ints:
    every = np.frombuffer(numbers, dtype=np.uint32).astype(np.int64)
    return np.asarray(every[mask[every]], dtype=np.int64)


def _grouped(names: dict[int, str], texts: dict[int, Ints], totals: Floats64) -> list[list[int]]:
    """Group phrases, given strongest first: each list begins with its strongest."""
    heads: dict[tuple[str, ...], list[int]] = {}
    wider: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for row, name in names.items():
        words = tuple(word.text for word in words_of(name))
        parts = _parts(words)
        near = [part for part in parts if part in heads] + wider[words]
        fitting = [head for head in near if _is_form(row, heads[head][0], texts, totals)]
        if words in heads:  # they differ in spaces only
            heads[words].append(row)
            continue
        if fitting:
            heads[max(fitting, key=lambda head: (totals[heads[head][0]], head))].append(row)
            continue
        heads[words] = [row]
        for part in parts:
            wider[part].append(words)
    return list(heads.values())


def _parts(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return all runs of words but the whole."""
    count = len(words)
    return {words[i:j] for i in range(count) for j in range(i + 1, count + 1)} - {words}


def _is_form(row: int, head: int, texts: dict[int, Ints], totals: Floats64) -> bool:
    own, others = texts[row], texts[head]
    if totals[head] / len(others) < COMPARABLE * totals[row] / len(own):
        return False
    return len(np.intersect1d(own, others, assume_unique=True)) >= TOGETHER * len(own)
