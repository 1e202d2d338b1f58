"""Does a system understand negation? Hand-written sentiment cases, by what they ask of a reader.

The cases are in ``behaviour.csv`` and were written for this project; nothing is trained or chosen
on them. A score over a test split hides which sentences fail; a list of one kind of sentence shows it.

Source:
    The idea of a test suite by capability: Ribeiro et al. (2020), "Beyond Accuracy: Behavioral
    Testing of NLP Models with CheckList", sec. 2.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertcnn.text.read_table import read_rows

FILE = Path(__file__).parent / "behaviour.csv"
LABELS = frozenset({"negative", "positive"})

FAR = ("far negation of good", "far negation of bad")
CAPABILITIES = (
    "near negation of good",
    "near negation of bad",
    *FAR,
    "double negation",
    "then and now",
    "question and answer",
    "mine against others'",
    "comparison",
    "affirmative control",
)


@dataclass(frozen=True)
class Case:
    """A text whose label is beyond doubt.

    Attributes:
        text: A short review, in English.
        label: ``negative`` or ``positive``.
        capability: What a reader must be able to do to get it right, one of :data:`CAPABILITIES`.
    """

    text: str
    label: str
    capability: str


@dataclass(frozen=True)
class Tally:
    """How many cases of a capability there are, and how many of them were answered wrongly."""

    cases: int
    failures: int


def load_cases() -> tuple[Case, ...]:
    """Return all cases, in the order of :data:`CAPABILITIES`.

    Raises:
        DataError: The package was installed without its csv.
    """
    return tuple(Case(row["text"], row["label"], row["capability"]) for row in read_rows(FILE))


def failures(cases: Sequence[Case], answers: Sequence[str]) -> dict[str, Tally]:
    """Count the wrong answers of each capability that the cases have.

    Args:
        cases: What was asked.
        answers: A label for each case, in their order; upper and lower case are alike.

    Raises:
        ValueError: There are more or fewer answers than cases.
    """
    if len(answers) != len(cases):
        raise ValueError(f"Got {len(answers)} answers to {len(cases)} cases, expected one for each.")
    asked = Counter(case.capability for case in cases)
    wrong = Counter(
        case.capability
        for case, answer in zip(cases, answers, strict=True)
        if answer.casefold() != case.label.casefold()
    )
    return {name: Tally(count, wrong[name]) for name, count in asked.items()}


def applies_to(labels: Iterable[str]) -> bool:
    """Return whether a system with these labels can be asked: they are negative and positive, in any case.

    >>> applies_to(["Positive", "Negative"]), applies_to(["negative", "neutral", "positive"])
    (True, False)
    """
    names = [name.casefold() for name in labels]
    return len(names) == len(LABELS) and set(names) == LABELS
