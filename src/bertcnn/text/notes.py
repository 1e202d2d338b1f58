"""What of labelled texts a user would want to know before anything is learned from them."""

import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice

from bertcnn.text.dataset import Examples, Findings, look_at
from bertcnn.text.labels import likely_separator

SHOWN_LABELS = 12


def notes(found: Findings, held_out: Mapping[str, Examples | None]) -> Iterator[tuple[str, str]]:
    """Yield what is noted, and what `train` could be told to do about it, or nothing.

    Args:
        found: In the texts to learn from.
        held_out: The texts of ``dev`` and ``test``, where there are some.
    """
    counts = {
        "empty {texts}": found.blank,
        "duplicate {texts}": found.duplicates,
        "{texts} with contradicting labels": found.contradictions,
    }
    said = [
        f"{count:,} {what.format(texts='text' if count == 1 else 'texts')}" for what, count in counts.items() if count
    ]
    if said:
        yield f"the training texts hold {', '.join(said)}.", ""
    labels = list(found.label_counts)
    for part, examples in held_out.items():
        spoken = set(labels) if examples is None else set(look_at(examples).label_counts)
        silent = [name for name in labels if name not in spoken and spoken <= set(labels)]  # else they are misnamed
        if silent:
            yield (
                f"labels without a {part} text: {_some(map(repr, silent))}. The {part} scores say nothing of them.",
                f"Add texts, or give --{part} FILE or a greater --{part}-fraction.",
            )
    single = [repr(name) for name, count in found.label_counts.items() if count == 1]
    if single:
        yield (
            f"labels with a single training text: {_some(single)}. They can hardly be learned.",
            "Add texts, or remove or merge these labels.",
        )
    alike: dict[str | float, list[str]] = {}
    for name in labels:
        alike.setdefault(_looks(name), []).append(name)
    doubled = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if doubled:
        yield (
            f"labels that look alike: {_some(doubled)}. Each is learned as a label of its own.",
            "Write them alike if they mean the same.",
        )
    separator = likely_separator(labels)
    if separator:
        joined = next(repr(name) for name in labels if separator in name)
        yield (
            f"labels look like lists of labels, such as {joined}, and each list is learned as a label of its own.",
            f"If a text can have many labels, give --separator {separator!r}.",
        )


def _looks(name: str) -> str | float:
    """Return what labels have in common that differ in capitals alone, in how accents are written, or as numbers are.

    >>> _looks("Good") == _looks("good"), _looks("01") == _looks("1.0"), _looks("nan")
    (True, True, 'nan')
    """
    with suppress(ValueError):
        if math.isfinite(number := float(name)):
            return number
    return unicodedata.normalize("NFKC", name).casefold()


def _some(names: Iterable[str]) -> str:
    """Return the first of some names, joined, and a sign that there are more."""
    some = list(islice(names, SHOWN_LABELS + 1))
    return ", ".join(some[:SHOWN_LABELS]) + (", ..." if len(some) > SHOWN_LABELS else "")
