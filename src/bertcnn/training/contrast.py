"""Far negations made of the words of the training texts.

Models that learn sentiment from sentences alone lean on single words and miss a negation that
stands far from them. Here an opinion word found in the texts is put into a frame that turns its
label round ("Nobody who was there would call it ..."), and as often into one of like words that
keeps it ("Everybody who was there would call it ..."), so that the frame alone tells nothing.
Fillers between the negation and the word keep it from being learned as one phrase. English,
labels negative and positive only.

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
FEWEST = 4
"""Texts a word must stand in to count as an opinion word."""
LEAST_LEAN = 1.0
"""Log odds by which it must lean to one label."""

Frames = tuple[tuple[str, str], ...]

WORD_FRAMES: Frames = (
    # (turns the label of {w} round, keeps it)
    ("Nobody {who} would call {it} {w}.", "Everybody {who} would call {it} {w}."),
    ("Nobody {who} found {it} {w}.", "Nobody {who} found {it} anything but {w}."),
    ("Not one of us, {aside}, found {it} {w}.", "Each one of us, {aside}, found {it} {w}."),
    (
        "I have yet to hear from someone {who} and thought {it} {w}.",
        "I keep hearing from people {who} and thought {it} {w}.",
    ),
    ("I can't say, {aside}, that {it} was {w}.", "I must say, {aside}, that {it} was {w}."),
    ("I can't say, {aside}, that {it} was {w}.", "I can't say, {aside}, that {it} was not {w}."),
    ("I don't believe that anyone {who} thinks {it} {w}.", "I do believe that all {who} think {it} {w}."),
    ("At no time, {aside}, did {it} seem {w}.", "At all times, {aside}, did {it} seem {w}."),
    ("Never, {aside}, has {it} been {w}.", "Always, {aside}, has {it} been {w}."),
    ("Nothing about {it}, {aside}, is {w}.", "Everything about {it}, {aside}, is {w}."),
    ("There was nothing about {it} that I would call {w}.", "There was nothing about {it} that I would not call {w}."),
    (
        "I looked for something {w} in {it}, {aside}, and there was none.",
        "I looked for something {w} in {it}, {aside}, and there was plenty.",
    ),
    (
        "They said {it} would be {w}, {aside}; it came out otherwise.",
        "They said {it} would be {w}, {aside}; it came out so.",
    ),
    (
        "What was promised as {w}, {aside}, proved to be the reverse.",
        "What was promised as {w}, {aside}, proved to be just that.",
    ),
    ("Those {who} and call {it} {w} are mistaken.", "Those {who} and call {it} {w} are right."),
    ("{it}, {aside}, is far from {w}.", "{it}, {aside}, is thoroughly {w}."),
    ("{it}, {aside}, is anything but {w}.", "{it}, {aside}, is in every way {w}."),
    ("Is {it} {w}? {aside}: not at all.", "Is {it} {w}? {aside}: very much so."),
    ("Did those {who} think {it} {w}? They didn't.", "Did those {who} think {it} {w}? They did."),
    ("Who would say that {it} is {w}? Not I, {aside}.", "Who would say that {it} is {w}? I would, {aside}."),
    (
        "I was told that {it} would be {w}, and, {aside}, it wasn't.",
        "I was told that {it} would be {w}, and, {aside}, it was.",
    ),
    ("Without a single {w} moment, {aside}, it went by.", "With many a {w} moment, {aside}, it went by."),
    ("Neither those {who} nor I thought {it} {w}.", "Both those {who} and I thought {it} {w}."),
    ("I doubt that people {who} will remember {it} as {w}.", "I know that people {who} will remember {it} as {w}."),
    ("{it} used to be {w}; that, {aside}, is over.", "{it} used to be {w}; that, {aside}, it still is."),
    ("Hardly anybody {who} could describe {it} as {w}.", "Almost anybody {who} could describe {it} as {w}."),
    ("None of {it}, {aside}, turned out {w}.", "All of {it}, {aside}, turned out {w}."),
    ("It is not true, {aside}, that {it} is {w}.", "It is quite true, {aside}, that {it} is {w}."),
    ("You won't hear me, {aside}, call {it} {w}.", "You will hear me, {aside}, call {it} {w}."),
    ("Others, {aside}, call {it} {w}, and I can't see why.", "Others, {aside}, call {it} {w}, and I can see why."),
    ("As if {it}, {aside}, had ever been {w}!", "How {it}, {aside}, has always been {w}!"),
)
NOUN_FRAMES: Frames = (
    # {n} is a thing that speaks against what is reviewed: (there is none, there is one)
    ("There was no {n} in {it}, {aside}.", "There was a {n} in {it}, {aside}."),
    ("Not once, {aside}, did {it} bring a {n}.", "More than once, {aside}, did {it} bring a {n}."),
    ("I looked for a {n} in {it}, {aside}, and found none.", "I looked for no {n} in {it}, {aside}, and found one."),
    ("Nobody {who} ever mentioned a {n}.", "Somebody {who} soon mentioned a {n}."),
    (
        "What others wrote of a {n} did not hold, {aside}, for mine.",
        "What others wrote of a {n} did hold, {aside}, for mine.",
    ),
    ("Had there been a {n} in {it}, {aside}, I would say so.", "As there was a {n} in {it}, {aside}, I shall say so."),
    ("Any {n}, {aside}? None so far.", "Any {n}, {aside}? More than one."),
    (
        "The {n} that we were told to expect, {aside}, never came.",
        "The {n} that we were told to expect, {aside}, came.",
    ),
    ("We went on, {aside}, without a {n}.", "We went on, {aside}, with a {n}."),
)
FILLERS = {
    "it": (
        "it", "this", "the place", "the thing", "what we got", "all that", "the whole", "theirs", "mine",
        "the second one", "our part of it", "the last bit",
    ),
    "who": (
        "who was there", "who tried it", "in our family", "that I have asked", "who paid for it", "we went with",
        "on the team", "who has had one for long", "with eyes to see", "from the office", "who came back from it",
        "near us",
    ),
    "aside": (
        "if I am honest", "for all that was written", "from the first day to the last", "after all these weeks",
        "to my mind", "as far as I could see", "when all is told", "however often I tried", "whatever the price",
        "and I have waited long to write this", "from where we sat", "here or at home", "by day or by night",
        "to be plain", "with or without the extras", "whether new or used",
    ),
}  # fmt: skip
BESIDE = re.compile(
    r"\b(?:is|are|was|were|be|been|feels?|felt|looks?|so|very|too|really|quite|pretty) ([a-z]{3,})"
    r"(?= *(?:[.,;:!?)]|$)| (?:and|but|to|in|on|at|for|with|that|because)\b)"
)
"""What stands where an opinion does, and is not followed by what it would only strengthen."""
COUNTED = re.compile(
    r"\b(?:an?|any|another|single|biggest|only|one|no) ([a-z]{4,})"
    r"(?= *(?:[.,;:!?)]|$)| (?:is|was|with|in|of|that|for|about|to|and)\b)"
)
"""What stands where a noun in the singular does."""
_WORDS = re.compile(r"[a-z]+(?:'[a-z]+)?")


def contrasts(examples: Examples, share: float, *, seed: int) -> Examples:
    """Return new examples, about ``share`` as many as there are, half with the label turned round.

    Args:
        examples: To make them of.
        share: Of their number.
        seed: Of the draw.

    Raises:
        SettingsError: The labels are not negative and positive, or no text holds an opinion word.
    """
    sides = {label: label.casefold() for label in map(str, examples.labels)}
    if set(sides.values()) != set(OPPOSITE) or len(sides) != 2:
        raise SettingsError(
            f"negation_contrasts needs the labels 'negative' and 'positive', got {', '.join(sorted(sides)[:10])}."
        )
    other = {label: next(name for name in sides if name != label) for label in sides}
    words = opinion_words(examples, BESIDE)
    # Nouns that lean to the good are mostly what is reviewed, and no opinion: camera, price.
    nouns = [(noun, label) for noun, label in opinion_words(examples, COUNTED) if sides[label] == "negative"]
    if not words:
        raise SettingsError(
            f"negation_contrasts found no opinion word in {len(examples):,} training texts. Give more of them."
        )
    generator = Random(seed)  # noqa: S311  # no secret hangs on it
    kinds = [(WORD_FRAMES, "w", words)] * 2  # two pairs of words to each of a noun
    kinds += [(NOUN_FRAMES, "n", nouns)] if nouns else []
    texts: list[str] = []
    labels: list[str | tuple[str, ...]] = []
    while len(texts) < share * len(examples):
        frames, slot, stock = kinds[len(texts) // 2 % len(kinds)]
        pair = generator.choice(frames)
        content, label = generator.choice(stock)
        fill = {slot: content, **{name: generator.choice(some) for name, some in FILLERS.items()}}
        texts += [_sentence(frame.format(**fill)) for frame in pair]
        labels += [other[label], label]
    return Examples(texts, labels, f"{examples.source} (contrasts)")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def opinion_words(examples: Examples, place: re.Pattern[str]) -> list[tuple[str, str]]:
    """Return words that lean to a label, with it.

    Args:
        examples: To find them in.
        place: Where they must stand at times, the word being its group; where opinions do ("was ...", "very ...").
    """
    counts: dict[str, Counter[str]] = {str(label): Counter() for label in examples.labels}
    beside: Counter[str] = Counter()
    for text, label in zip(examples.texts, examples.labels, strict=True):
        lower = text.lower()
        beside.update(place.findall(lower))
        counts[str(label)].update(set(_WORDS.findall(lower)))
    first, second = sorted(counts)
    texts = Counter(map(str, examples.labels))
    found = []
    for word in sorted(word for word, times in beside.items() if times >= FEWEST // 2):
        a, b = counts[first][word], counts[second][word]
        # By shares of each label's texts: where most are positive, every word stands in more of these.
        lean = math.log((a + 0.5) / (texts[first] + 1)) - math.log((b + 0.5) / (texts[second] + 1))
        if a + b >= FEWEST and abs(lean) >= LEAST_LEAN:
            found.append((word, first if lean > 0 else second))
    return found
