"""Changes to a text that should not change its label: typos, case, punctuation, neutral sentences.

A system that answers differently afterwards has learned the surface. What is counted of it
is the share of answers that flip; nothing here knows labels or systems.
"""

import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from hashlib import sha256

from bertcnn.errors import SettingsError, nearest

WORDS_A_TYPO = 8
SHORTEST_WITH_TYPO = 4

_NEGATIONS = """
not no nor never nobody noone none nothing nowhere neither without hardly barely scarcely rarely seldom cannot
aint cant dont wont shant isnt arent wasnt werent doesnt didnt hasnt havent hadnt wouldnt couldnt shouldnt
mustnt neednt
"""
_OTHER_PIVOTAL = """
non nought naught lack lacks lacked lacking fail fails failed failing unless except far few little less least
"""
NEGATIONS = frozenset(_NEGATIONS.split())
PIVOTAL = NEGATIONS | frozenset(_OTHER_PIVOTAL.split())
"""Words in which one letter off could turn a text round."""

# True of any review and any other text, and neither praise nor blame.
NEUTRAL = (
    "I am writing this on a Tuesday.",
    "My neighbour asked me about it in the lift.",
    "There were three of us that week.",
    "I live about an hour from the coast.",
    "It was late in the afternoon.",
    "I heard of it through my cousin.",
    "This was some time in October.",
    "I usually read the paper in the morning.",
    "We had come by train.",
    "My office is on the second floor.",
    "I am forty-one and work in a bank.",
    "My sister was with me at the time.",
    "The clocks had gone back the day before.",
    "I have a small flat with two windows.",
)

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")

# Signs that carry meaning: inside numbers and words, a minus, a percentage, a smiley.
_KEPT = re.compile(
    r"(?<=\d)[.,:/\u2013-](?=\d)"
    r"|(?<![^\s(\u00a3\u20ac$])[.-](?=\d)"
    r"|(?<=[^\W\d_])['\u2019](?=[^\W\d_])"
    r"|(?<!\S)['\u2019](?=(?i:s|m|d|re|ve|ll|t)\b)"  # "it 's", as tokenised corpora write it
    r"|[%&@#*\u2030]"
    r"|[:;=]['\u2019]?-?[()\[\]|]|:-?/(?!/)|(?<!\w)[:;=]-?[DPp](?!\w)"
)

_AUXILIARY = "(?P<word>is|are|was|were|do|does|did|has|have|had|can|could|would|should|must|need|will)"
_NT = r"n['\u2019]t"
_NOT = re.compile(rf"\b{_AUXILIARY}\s?{_NT}\b", re.IGNORECASE)
_ODD_NOT = re.compile(rf"\b(?P<word>ca|wo|sha)\s?{_NT}\b", re.IGNORECASE)
# "Didn't we sleep?" is "Did we not sleep?"; it and you can be objects, so they count as subjects only in front.
_ASKED = (
    re.compile(rf"\b{_AUXILIARY}\s?{_NT}\s+(?P<subject>I|he|she|we|they)\b", re.IGNORECASE),
    re.compile(rf"(?:^|(?<=[.!?,;:\"]\s)){_AUXILIARY}\s?{_NT}\s+(?P<subject>it|you)\b", re.IGNORECASE),
)
_OTHER = re.compile(r"\b(?P<word>I|you|we|they)\s?['\u2019](?P<short>m|re|ve|ll)\b", re.IGNORECASE)
_WHOLE = {"m": "am", "re": "are", "ve": "have", "ll": "will"}
_ODD_WHOLE = {"ca": "cannot", "wo": "will not", "sha": "shall not"}
# "can not only X but also Y" does not deny that one can X.
_APART = re.compile(
    rf"\b(?:(?P<cannot>can)\s?|{_AUXILIARY}\s+)(?P<not>not)\b(?![-\u2019'])(?!\s+(?:only|just|merely|simply)\b)",
    re.IGNORECASE,
)


def typos(text: str, rng: random.Random) -> str:
    """Return a text with a slip in about every eighth of its longer words, at least one.

    A slip swaps two neighbouring inner letters, drops one or doubles one. First and last letters
    stay, as do negations, words with an apostrophe, short words, and scripts without upper and
    lower case, where a letter is a syllable or a word.
    """
    words = [found for found in _WORD.finditer(text) if _may_slip(found[0])]
    if not words:
        return text
    count = max(1, round(len(words) / WORDS_A_TYPO))
    chosen = sorted(rng.sample(range(len(words)), count))
    parts: list[str] = []
    end = 0
    for index in chosen:
        parts += [text[end : words[index].start()], _slip(words[index][0], rng)]
        end = words[index].end()
    return "".join([*parts, text[end:]])


def lower_case(text: str, _: random.Random) -> str:
    """Return a text in small letters."""
    return text.lower()


def upper_case(text: str, _: random.Random) -> str:
    """Return a text in capitals."""
    return text.upper()


def no_punctuation(text: str, _: random.Random) -> str:
    """Return a text without punctuation, its words a space apart.

    Apostrophes inside words, signs inside numbers, ``%`` and its like, and simple smileys stay: they
    carry meaning. So does a text that is punctuation alone.
    """
    kept = {place for found in _KEPT.finditer(text) for place in range(*found.span())}
    spaced = (" " if i not in kept and _is_punctuation(sign) else sign for i, sign in enumerate(text))
    return " ".join("".join(spaced).split()) or text


def contractions(text: str, _: random.Random) -> str:
    """Return a text with its contractions written out, or, where it has none, with "not" contracted.

    Written out are those with one reading: ``n't``, and I, you, we, they with ``'m 're 've 'll``.
    ``'s`` (is, has, of) and ``'d`` (had, would) are left. A text with nothing to change stays.
    """
    written_out = text
    for pattern, whole in _TO_WRITE_OUT:
        written_out = pattern.sub(whole, written_out)
    return written_out if written_out != text else _APART.sub(_contracted, text)


def neutral_before(text: str, rng: random.Random) -> str:
    """Return a text behind a sentence that says nothing; a blank text stays blank."""
    return f"{rng.choice(NEUTRAL)} {text}" if text.strip() else text


def neutral_after(text: str, rng: random.Random) -> str:
    """Return a text and a sentence that says nothing behind it; a blank text stays blank."""
    if not text.strip():
        return text
    stop = "." if text.rstrip()[-1].isalnum() else ""
    return f"{text}{stop} {rng.choice(NEUTRAL)}"


PERTURBATIONS: dict[str, Callable[[str, random.Random], str]] = {
    "typos": typos,
    "lower case": lower_case,
    "upper case": upper_case,
    "no punctuation": no_punctuation,
    "contractions": contractions,
    "neutral before": neutral_before,
    "neutral after": neutral_after,
}


ENGLISH_ONLY = frozenset({"contractions", "neutral before", "neutral after"})
"""Those that change or add English words."""


def perturbed(texts: Sequence[str], name: str, *, seed: int = 0) -> list[str]:
    """Return the texts, each changed; a text is changed alike wherever it stands and in every process.

    Args:
        texts: Any texts.
        name: One of :data:`PERTURBATIONS`.
        seed: Another seed, other typos and other neutral sentences.

    Raises:
        SettingsError: No perturbation has this name.
    """
    if name not in PERTURBATIONS:
        known = ", ".join(map(repr, PERTURBATIONS))
        raise SettingsError(f"No perturbation {name!r}. There are: {known}.{nearest(name, PERTURBATIONS)}")
    change = PERTURBATIONS[name]
    return [change(text, _generator(text, seed)) for text in texts]


def _generator(text: str, seed: int) -> random.Random:
    # Python's own hash of a text differs from process to process.
    digest = sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()
    return random.Random(int.from_bytes(digest))  # noqa: S311  # no secret hangs on it


def _is_pivotal(word: str) -> bool:
    return word.casefold() in PIVOTAL


def _may_slip(word: str) -> bool:
    cased = all(letter.lower() != letter.upper() for letter in word)  # an apostrophe has no case either
    return len(word) >= SHORTEST_WITH_TYPO and cased and not _is_pivotal(word)


def _slip(word: str, rng: random.Random) -> str:
    inner = range(1, len(word) - 1)
    ways = (
        [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in inner[:-1]],
        [word[:i] + word[i + 1 :] for i in inner],
        [word[:i] + word[i] + word[i:] for i in inner],
    )
    usable = [slips for way in ways if (slips := [s for s in way if s != word and not _is_pivotal(s)])]
    return rng.choice(rng.choice(usable))


def _is_punctuation(sign: str) -> bool:
    return sign == "`" or unicodedata.category(sign).startswith("P")  # SST-2 quotes with backticks


def _as_case_of(word: str, new: str) -> str:
    return new.upper() if len(word) > 1 and word.isupper() else new


def _not_whole(found: re.Match[str]) -> str:
    return f"{found['word']} {_as_case_of(found['word'], 'not')}"


def _odd_whole(found: re.Match[str]) -> str:
    word = found["word"]
    whole = _as_case_of(word, _ODD_WHOLE[word.casefold()])
    return word[0] + whole[1:]


def _asked(found: re.Match[str]) -> str:
    return f"{found['word']} {found['subject']} {_as_case_of(found['word'], 'not')}"


def _other_whole(found: re.Match[str]) -> str:
    short = found["short"]
    whole = _WHOLE[short.casefold()]
    return f"{found['word']} {whole.upper() if short.isupper() else whole}"


def _contracted(found: re.Match[str]) -> str:
    word = found["cannot"] or found["word"]
    if word.lower() == "will":
        word = word[0] + ("O" if word.isupper() else "o")
    elif word.lower() == "can":
        word = word[:2]
    return word + _as_case_of(word, "n't")


_TO_WRITE_OUT = (
    *((pattern, _asked) for pattern in _ASKED),
    (_ODD_NOT, _odd_whole),
    (_NOT, _not_whole),
    (_OTHER, _other_whole),
)
