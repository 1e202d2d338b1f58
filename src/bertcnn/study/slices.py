"""What kind of text an example is, so that a system's accuracy can be told by kind."""

import re
from collections import Counter
from collections.abc import Sequence

from bertcnn.study.division import TaskData
from bertcnn.study.perturb import NEGATIONS
from bertcnn.text.columns import cell_of

_NEGATION = re.compile(rf"\b(?:{'|'.join(sorted(NEGATIONS))})\b|n['\u2019]t\b", re.IGNORECASE)
WORD = re.compile(r"\w+(?:['\u2019]\w+)?")
ENGLISH_WORDS = frozenset(["the", "and", "this", "that", "with", "you", "they", "what"])
"""Words that nearly every English text of some length has, and other languages hardly."""
ENGLISH_SHARE = 0.03
"""Of all words, from which on texts are taken for English ones; of reviews, questions and posts it is 0.07 to 0.21."""
LENGTHS = ((10, "up to 10 words"), (25, "11 to 25 words"), (60, "26 to 60 words"), (200, "61 to 200 words"))
LONGEST = "over 200 words"


def slices_of(table: TaskData) -> list[dict[str, str]]:
    """Return for each example that can be tested the slices it belongs to.

    ``length`` in words; ``negation`` (English texts): whether one is in it; ``rare words``: whether a word of it
    occurs in no other text to learn from; ``label``; ``label frequency`` (more than three labels, of
    which half are commoner than the rest: whether its own is); ``tag``, where the task names a column.
    """
    own = 1 if table.test is None else 0  # of folds the text itself is among those counted
    known: Counter[str] = Counter()
    for text in table.train.texts:
        known.update(_words(text))
    labels = Counter(str(label) for label in table.train.labels)
    half = (len(labels) + 1) // 2
    common = {label for label, _ in labels.most_common(half)}
    has_halves = len(labels) > 3 and labels.most_common(half)[-1][1] > labels.most_common(half + 1)[-1][1]
    english = is_english(table.train.texts)
    found = []
    for text, label, row in zip(table.tested.texts, table.tested.labels, table.tested_rows, strict=True):
        kinds = {
            "length": length_of(text),
            **({"negation": "yes" if has_negation(text) else "no"} if english else {}),
            "rare words": "yes" if any(known[word] <= own for word in _words(text)) else "no",
            "label": str(label),
        }
        if has_halves:
            kinds["label frequency"] = "commoner half" if label in common else "rarer half"
        if table.task.tag:
            kinds["tag"] = str(cell_of(row, table.task.tag))
        found.append(kinds)
    return found


def is_english(texts: Sequence[str]) -> bool:
    """Return whether texts seem to be English: whether enough of their words are among its commonest.

    >>> is_english(["The food was good, and the staff too."]), is_english(["Das Essen war gut und nicht teuer."])
    (True, False)
    """
    words = [word.lower() for text in texts for word in WORD.findall(text)]
    return sum(word in ENGLISH_WORDS for word in words) >= max(1, ENGLISH_SHARE * len(words))


def has_negation(text: str) -> bool:
    """Return whether a text has an English word of negation.

    >>> has_negation("It isn't bad."), has_negation("A notable knot.")
    (True, False)
    """
    return _NEGATION.search(text) is not None


def length_of(text: str) -> str:
    """Return the slice of a text's length in words."""
    words = len(WORD.findall(text))
    return next((name for most, name in LENGTHS if words <= most), LONGEST)


def _words(text: str) -> Sequence[str]:
    return tuple({word.lower() for word in WORD.findall(text)})
