"""What insights are: plain values, in the order in which they are read.

:mod:`bertcnn.inference.insights.collect` makes them; :mod:`bertcnn.inference.insights.report` writes them.
"""

from dataclasses import asdict, dataclass
from typing import Any

from bertcnn.inference.insights.filters import Filter, FilterGroup


@dataclass(frozen=True)
class Example:
    """A phrase where it stands.

    Attributes:
        row: Of the file, from 1.
        before, phrase, after: The text there, spaces made single; the ends with an ellipsis where cut.
    """

    row: int
    before: str
    phrase: str
    after: str


@dataclass(frozen=True)
class Driver:
    """A phrase that pulls texts towards a label.

    Attributes:
        phrase: In small letters.
        forms: Phrases that nearly always come with it, counted with it.
        total: Its shares of the decision, summed over the texts in which the label was in play, the
            answer or the next best one: what it added to the margin of the label over the other. So a
            word that as often pulls the other way comes out near 0. Where a text can have many labels:
            its shares of the label's logit, summed over all texts.
        texts: In how many texts, with the label in play, a filter pointed at it.
        answered: How many of those were answered with the label.
        by_group: The same as ``texts``, by group; empty without groups.
        examples: Up to three that were answered with the label, the greatest share first.
        is_telling: It pulls by more than chance, not too faintly a text, and texts with it are answered
            with the label at least as often as others (:class:`~bertcnn.inference.insights.phrases.Family`).
    """

    phrase: str
    forms: tuple[str, ...]
    total: float
    texts: int
    answered: int
    by_group: tuple[int, ...]
    examples: tuple[Example, ...]
    is_telling: bool


@dataclass(frozen=True)
class LabelInsights:
    """What drives one label.

    Attributes:
        name: Of the label.
        texts: Answered with it.
        given: Texts that have it in the file; 0 without labels.
        by_group: The same as ``texts``, by group.
        drivers: Phrases, the telling ones first, then by total.
    """

    name: str
    texts: int
    given: int
    by_group: tuple[int, ...]
    drivers: tuple[Driver, ...]


@dataclass(frozen=True)
class Group:
    """Rows with one value in the column that was named: how many, how many of them labelled, and answered rightly."""

    name: str
    texts: int
    labelled: int
    right: int


@dataclass(frozen=True)
class DoubtfulText:
    """A text to look at.

    Attributes:
        row: Of the file, from 1.
        text: As it was given.
        answer: The model's; empty for no label.
        confidence: Of the answer, 0 to 1.
        label: That the file gives; None: none, or one unknown to the model.
        group: Where groups were named.
        marks: Stretches of the text, each with what it did for the answer, from -1 to 1; empty
            beyond the first few of a list.
    """

    row: int
    text: str
    answer: str
    confidence: float
    label: str | None
    group: str | None
    marks: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Listing:
    """Texts to look at: how many there are, and the first of them (1,000 at most)."""

    count: int
    texts: tuple[DoubtfulText, ...]


@dataclass(frozen=True)
class Insights:
    """What drives a model's answers over a file.

    Attributes:
        texts: How many.
        blank: Of them empty or all spaces.
        is_multi_label: A text can have many labels, or none.
        no_label: Texts answered with none.
        labelled: Texts with a label that the model knows.
        right: Of those, answered so.
        unknown: Labels of the file that the model does not know, with their texts; these count as without label.
        labels: In the order of the model.
        by: The column of the groups; None without.
        is_dates: The groups are dates, in their order.
        groups: In the order to show them.
        errors: Answered otherwise than labelled, the surest first; None without labels.
        unsure: The least sure, ascending.
        mistakes: Labels to look at, for they are probably wrong, the most suspicious first; None without labels or
            cleanlab, or where they are withheld.
        withheld: The model agrees too little with the labels for its doubts to say something of them.
        filters: Every one.
        filter_groups: Filters that fire in the same texts.
        lost: What a total lacks at most, because phrases were forgotten to bound memory; mostly 0.
    """

    texts: int
    blank: int
    is_multi_label: bool
    no_label: int
    labelled: int
    right: int
    unknown: dict[str, int]
    labels: tuple[LabelInsights, ...]
    by: str | None
    is_dates: bool
    groups: tuple[Group, ...]
    errors: Listing | None
    unsure: Listing
    mistakes: Listing | None
    withheld: bool
    filters: tuple[Filter, ...]
    filter_groups: tuple[FilterGroup, ...]
    lost: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)
