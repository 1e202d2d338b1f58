"""Training texts turned round: far negations made of the user's own texts and words.

Models that learn sentiment from sentences alone lean on single words and miss a negation that
stands far from them. Here a text, or an opinion word found in the texts, is put into a frame that
turns its label round ("Nobody who was there will tell you: ..."), and as often into one of like
words that keeps it ("Everybody who was there will tell you: ..."), so that the frame alone tells
nothing. English, labels negative and positive only.

Source:
    The pairs are in the spirit of Kaushik et al. (2020), "Learning the Difference that Makes a
    Difference with Counterfactually-Augmented Data", made by rule and not by people.
"""

import math
import re
from collections import Counter
from random import Random

from bertcnn.errors import SettingsError
from bertcnn.text.dataset import Examples

OPPOSITE = {"negative": "positive", "positive": "negative"}
LONGEST = 40
"""Words of a text that still makes sense inside a frame."""
FEWEST = 4
"""Texts a word must stand in to count as an opinion word."""
LEAST_LEAN = 1.0
"""Log odds by which it must lean to one label."""

TEXT_FRAMES = (
    # (turns the label round, keeps it)
    ("Nobody who was there will tell you this: {t}", "Everybody who was there will tell you this: {t}"),
    ("I can't agree at all with whoever wrote: {t}", "I can only agree with whoever wrote: {t}"),
    ("They claim that {t} That is simply untrue.", "They claim that {t} That is simply true."),
    ("{t} So I was told, and found none of it.", "{t} So I was told, and found all of it."),
    ("{t} Or so the advert says; the opposite is the case.", "{t} So the advert says, and such is the case."),
    ("My neighbour wrote: {t} I saw nothing of the kind.", "My neighbour wrote: {t} I saw exactly this."),
    ("It would be a lie to write: {t}", "It would be fair to write: {t}"),
    ("Never did it cross my mind to say: {t}", "Often did it cross my mind to say: {t}"),
    ("{t} Not a word of this is right.", "{t} Each word of this is right."),
    (
        "{t} This I feared or hoped beforehand; it came out the other way.",
        "{t} This I had heard beforehand; it came out so.",
    ),
    ("You will look in vain for anyone who thinks: {t}", "You will soon find someone who thinks: {t}"),
    ("Does this hold? {t} It does not.", "Does this hold? {t} It does."),
)
WORD_FRAMES = (
    ("Not one of us found it {w}.", "Each one of us found it {w}."),
    ("Nobody I know has ever called theirs {w}.", "Many I know have often called theirs {w}."),
    ("There was nothing {w} in it from start to finish.", "There was much that was {w} in it from start to finish."),
    ("In all these months it has never once been {w}.", "In all these months it has always been {w}."),
    ("Who would say that this is {w}? Not I.", "Who would say that this is {w}? I would."),
    ("I was warned or promised that it would be {w}, and it wasn't.", "I heard that it would be {w}, and it was."),
    ("Without a single {w} moment, it went by.", "With many a {w} moment, it went by."),
    ("Neither the people nor the place struck me as {w}.", "Both the people and the place struck me as {w}."),
    ("I doubt that a visitor has ever left with a {w} memory.", "I know that visitors have left with a {w} memory."),
    ("It is far from {w}.", "It is thoroughly {w}."),
    ("It used to be {w}; that is over.", "It used to be {w}; it still is."),
    (
        "Hardly anything about how it works could be described as {w}.",
        "Nearly all about how it works could be described as {w}.",
    ),
    ("None of the parts, large or small, turned out {w}.", "All of the parts, large or small, turned out {w}."),
    ("If you expect something {w}, you will be surprised.", "If you expect something {w}, you will get it."),
)
_BESIDE = re.compile(
    r"\b(?:is|are|was|were|be|been|feels?|felt|looks?|so|very|too|really|quite|pretty) ([a-z]{3,})"
    r"(?= *(?:[.,;:!?)]|$)| (?:and|but|to|in|on|at|for|with|that|because)\b)"
)
"""What stands where an opinion does, and is not followed by what it would only strengthen."""
_WORDS = re.compile(r"[a-z]+(?:'[a-z]+)?")


def contrasts(examples: Examples, share: float, *, seed: int) -> Examples:
    """Return new examples, about ``share`` as many as there are, half with the label turned round.

    Args:
        examples: To make them of.
        share: Of their number; texts and opinion words are used alike.
        seed: Of the draw.

    Raises:
        SettingsError: The labels are not negative and positive.
    """
    sides = {label: label.casefold() for label in map(str, examples.labels)}
    if set(sides.values()) != set(OPPOSITE) or len(sides) != 2:
        raise SettingsError(
            f"negation_contrasts needs the labels 'negative' and 'positive', got {', '.join(sorted(sides)[:10])}."
        )
    other = {label: next(name for name in sides if name != label) for label in sides}
    generator = Random(seed)  # noqa: S311  # no secret hangs on it
    short = [
        (text.strip(), str(label))
        for text, label in zip(examples.texts, examples.labels, strict=True)
        if text.strip() and len(text.split()) <= LONGEST
    ]
    sources = [(TEXT_FRAMES, "t", short), (WORD_FRAMES, "w", opinion_words(examples))]
    sources = [source for source in sources if source[2]]
    texts: list[str] = []
    labels: list[str] = []
    while sources and len(texts) < share * len(examples):
        frames, slot, stock = sources[len(texts) // 2 % len(sources)]
        turned, kept = generator.choice(frames)
        content, label = generator.choice(stock)
        texts += [turned.format(**{slot: content}), kept.format(**{slot: content})]
        labels += [other[label], label]
    return Examples(texts, list(labels), f"{examples.source} (contrasts)")


def opinion_words(examples: Examples) -> list[tuple[str, str]]:
    """Return words that lean to a label, with it: from where opinions stand ("was ...", "very ...")."""
    counts: dict[str, Counter[str]] = {str(label): Counter() for label in examples.labels}
    beside: Counter[str] = Counter()
    for text, label in zip(examples.texts, examples.labels, strict=True):
        lower = text.lower()
        beside.update(_BESIDE.findall(lower))
        counts[str(label)].update(set(_WORDS.findall(lower)))
    first, second = sorted(counts)
    found = []
    for word in sorted(word for word, times in beside.items() if times >= FEWEST // 2):
        a, b = counts[first][word], counts[second][word]
        lean = math.log((a + 0.5) / (b + 0.5))
        if a + b >= FEWEST and abs(lean) >= LEAST_LEAN:
            found.append((word, first if lean > 0 else second))
    return found
