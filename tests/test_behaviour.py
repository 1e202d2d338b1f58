import csv
import os
import random
import re
import string
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcnn.errors import SettingsError
from bertcnn.study.behaviour import CAPABILITIES, FAR, Case, Tally, applies_to, failures, load_cases
from bertcnn.study.perturb import NEUTRAL, PERTURBATIONS, PIVOTAL, perturbed
from bertcnn.text.dataset import normal_form
from bertcnn.text.sources import BUILTIN

CASES = load_cases()
ONE_LABEL = {
    "near negation of good": "negative",
    "near negation of bad": "positive",
    "far negation of good": "negative",
    "far negation of bad": "positive",
}
NEGATOR = re.compile(
    r"\b(not|no|never|nobody|nothing|nowhere|none|neither|nor|cannot|without|hardly|rarely|barely)\b|n't\b", re.I
)
some = settings(max_examples=60, deadline=None)
any_text = st.text(st.characters())  # lone surrogates too
TRICKY = (
    "the film wasn't good or didn't didn\u2019t NEVER not could n't without wonderful \U0001f600 ... naïve caf\u0301e "
    "Straße 3.5 :) is not cannot won't I'm 100% -- don't"
)
wordy = st.lists(
    st.sampled_from(TRICKY.split()) | st.text(string.ascii_letters, min_size=1, max_size=12),
).map(" ".join)
AUXILIARIES = "is are was were do does did has have had could would should must need can will"
TOLD = (
    "good worth enjoyable tasty helpful sharp funny comfortable fresh happy pleasant lovely glad reliable bad boring "
    "problems lumpy noisy complaints regret rude flimsy slow bored dull unpleasant awful disappointed cramped"
)


def words_of(text: str) -> list[str]:
    """Lower-case words, where "is n't" of tokenised corpora and "isn't" are the same."""
    joined = re.sub(r"\s+(?=n?['\u2019])", "", text.lower())
    return re.findall(r"[^\W_]+", re.sub(r"['\u2019`]", "", joined))


def runs_of(text: str, length: int = 6) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def shared_runs(texts: list[str]) -> set[str]:
    ours = {run for case in CASES for run in runs_of(case.text)}
    whole = {tuple(words_of(case.text)) for case in CASES}
    runs = {" ".join(run) for text in texts for run in runs_of(text) & ours}
    return runs | {" ".join(words) for text in texts if (words := tuple(words_of(text))) in whole}


def column(file: Path) -> list[str]:
    with file.open(encoding="utf-8", newline="") as stream:
        return [row["text"] for row in csv.DictReader(stream)]


def one(name: str, text: str, seed: int = 0) -> str:
    return perturbed([text], name, seed=seed)[0]


# The cases.


def test_there_are_enough_cases_of_each_capability():
    counts = Counter(case.capability for case in CASES)
    assert list(counts) == list(CAPABILITIES)
    assert min(counts.values()) >= 40
    assert len(CASES) >= 400
    assert set(FAR) < set(CAPABILITIES)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_labels_of_a_capability(capability):
    labels = Counter(case.label for case in CASES if case.capability == capability)
    if capability in ONE_LABEL:
        assert set(labels) == {ONE_LABEL[capability]}
    elif capability == "double negation":
        assert labels["positive"] > labels["negative"] >= 15
    else:
        assert labels["positive"] == labels["negative"]


def test_cases_are_clean_and_different():
    assert len({normal_form(case.text) for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.text == " ".join(case.text.split())
        assert case.text[-1] in ".!?"
        assert unicodedata.is_normalized("NFC", case.text)


def test_no_two_cases_differ_by_a_word():
    bags = [(case.text, set(words_of(case.text))) for case in CASES]
    near = [(a, b) for (a, x), (b, y) in combinations(bags, 2) if len(x & y) / len(x | y) >= 0.7]
    assert near == []


def test_no_opening_is_worn_out():
    openings = Counter(tuple(words_of(case.text)[:3]) for case in CASES)
    assert max(openings.values()) <= 5


def test_negation_cases_have_a_negation_and_controls_have_none():
    for case in CASES:
        if case.capability == "affirmative control":
            assert not NEGATOR.search(case.text), case
        elif "negation" in case.capability:
            assert NEGATOR.search(case.text) or re.search(r"\b(fail|un|impossible)", case.text), case


def test_controls_use_the_words_of_the_negations():
    words = defaultdict(set)
    for case in CASES:
        words[case.capability == "affirmative control"].update(words_of(case.text))
    for told in (words[True], words[False]):
        assert set(TOLD.split()) <= told


def test_nothing_is_taken_from_the_built_in_reviews():
    assert shared_runs(column(BUILTIN["builtin:reviews"])) == set()


@pytest.mark.realdata
@pytest.mark.skipif("BERTCNN_DATA" not in os.environ, reason="BERTCNN_DATA names no folder with data")
@pytest.mark.parametrize("file", ["sst2/train.csv", "cr/all.csv"])
def test_nothing_is_taken_from_public_data(file):
    assert shared_runs(column(Path(os.environ["BERTCNN_DATA"]) / file)) == set()


def test_the_overlap_check_sees_overlap():
    assert shared_runs(["He said I can 't think of a single thing today"]) == {
        "i cant think of a single",
        "cant think of a single thing",
    }
    assert shared_runs(["Is it worth forty pounds ? I do n't think so ."])


# Failures.


def test_failures_by_hand():
    cases = [
        Case("Not good.", "negative", "near"),
        Case("Not bad.", "positive", "near"),
        Case("Good once.", "negative", "then"),
        Case("Not nice.", "negative", "near"),
    ]
    answers = ["positive", "Positive", "NEGATIVE", "neutral"]
    assert failures(cases, answers) == {"near": Tally(3, 2), "then": Tally(1, 0)}
    assert failures([], []) == {}


def test_a_right_system_fails_nowhere_and_a_stubborn_one_on_the_rest():
    assert all(tally.failures == 0 for tally in failures(CASES, [case.label for case in CASES]).values())
    found = failures(CASES, ["positive"] * len(CASES))
    assert list(found) == list(CAPABILITIES)
    assert found["near negation of good"] == Tally(44, 44)
    assert found["near negation of bad"] == Tally(44, 0)
    assert found["comparison"] == Tally(42, 21)


def test_an_answer_is_needed_for_each_case():
    with pytest.raises(ValueError, match="Got 1 answers to 432 cases"):
        failures(CASES, ["positive"])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["negative", "positive"], True),
        (("POSITIVE", "Negative"), True),
        ({"positive"}, False),
        (["negative", "positive", "neutral"], False),
        (["negative", "Negative", "positive"], False),
        (["neg", "pos"], False),
        ([], False),
    ],
)
def test_applies_to_two_labels_only(labels, expected):
    assert applies_to(labels) is expected


# Perturbations.


@pytest.mark.parametrize("name", PERTURBATIONS)
@given(text=any_text | wordy, seed=st.integers())
@some
def test_any_text_survives_and_is_changed_alike_anywhere(name, text, seed):
    changed = one(name, text, seed)
    assert isinstance(changed, str)
    assert perturbed(["before", text, "behind"], name, seed=seed)[1] == changed
    assert bool(changed.strip()) == bool(text.strip())


def test_empty_inputs():
    for name in PERTURBATIONS:
        assert perturbed([], name) == []
        assert perturbed(["", " \n"], name)[0] == ""


def test_other_processes_and_seeds():
    texts = [case.text for case in CASES[:20]]
    code = (
        "from bertcnn.study.behaviour import load_cases; from bertcnn.study.perturb import perturbed;"
        "print(ascii(perturbed([case.text for case in load_cases()[:20]], 'typos', seed=3)))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "12"}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ascii(perturbed(texts, "typos", seed=3))
    for name in ("typos", "neutral before", "neutral after"):
        assert perturbed(texts, name, seed=3) != perturbed(texts, name, seed=4)


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(SettingsError, match=r"No perturbation 'typo'.*Did you mean 'typos'"):
        perturbed(["text"], "typo")


@given(text=st.lists(st.text(string.ascii_letters + "'éß", min_size=1, max_size=10), max_size=40).map(" ".join) | wordy)
@some
def test_typos_change_inner_letters_of_harmless_words(text):
    before, after = text.split(" "), one("typos", text).split(" ")
    assert len(before) == len(after)
    longer = changes = 0
    for old, new in zip(before, after, strict=True):
        if old != new:
            changes += 1
            assert (old[0], old[-1]) == (new[0], new[-1])
            assert old.casefold() not in PIVOTAL
            assert new.casefold() not in PIVOTAL
            assert not re.search("n['\u2019]t", old)
            assert _is_slip(old, new), (old, new)
        longer += sum(len(part) >= 4 for part in re.findall(r"[^\W\d_]+", old))
    assert changes <= max(1, longer // 8 + 1)


def _is_slip(old: str, new: str) -> bool:
    swaps = {old[:i] + old[i + 1] + old[i] + old[i + 2 :] for i in range(1, len(old) - 2)}
    drops = {old[:i] + old[i + 1 :] for i in range(1, len(old) - 1)}
    doubles = {old[:i] + old[i] + old[i:] for i in range(1, len(old) - 1)}
    return new in swaps | drops | doubles


@pytest.mark.parametrize("seed", range(20))
def test_typos_come_in_every_eighth_word_and_at_least_one(seed):
    plain = "the waiter brought wonderful noodles " * 16  # 64 words of four letters or more
    changed = one("typos", plain, seed).split()
    assert sum(a != b for a, b in zip(plain.split(), changed, strict=True)) == 8
    assert one("typos", "a good one", seed) in {"a god one", "a goood one"}
    for spared in (
        "It was not a fun day",
        "Nobody, never, without n't isn't DIDN\u2019T",
        "这家餐厅真的非常好吃",
        "\U0001f600",
    ):
        assert one("typos", spared, seed) == spared


@given(text=any_text)
@some
def test_case_facts(text):
    assert one("lower case", text) == text.lower()
    assert one("upper case", text) == text.upper()
    if text.isascii():
        assert one("lower case", one("upper case", text)) == text.lower()
        assert one("upper case", one("lower case", text)) == text.upper()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Good? No, it isn't; it's well-made, though...", "Good No it isn't it's well made though"),
        ("\u201cWow!\u201d \u2014 3.5/5 at 10:30, 50% off, -2 stars", "Wow 3.5/5 at 10:30 50% off -2 stars"),
        ("does n't , it 's `` new ''", "does n't it 's new"),
        ("Great :) or not :-( \U0001f600!", "Great :) or not :-( \U0001f600"),
        ("end.Start", "end Start"),
        ("wait ...5 stars", "wait 5 stars"),
        ("?!...", "?!..."),
        ("plain words", "plain words"),
    ],
)
def test_no_punctuation_by_hand(text, expected):
    assert one("no punctuation", text) == expected


@given(text=any_text | wordy)
@some
def test_no_punctuation_keeps_letters_and_digits(text):
    def kept(t):
        return [c for c in t if c.isalnum()]

    assert kept(one("no punctuation", text)) == kept(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It isn't good.", "It is not good."),
        ("It isn\u2019t good.", "It is not good."),
        ("I can't say. I won't. I shan't.", "I cannot say. I will not. I shall not."),
        ("DON'T, CAN'T, WON'T", "DO NOT, CANNOT, WILL NOT"),
        ("Didn't we sleep? Isn't it fun?", "Did we not sleep? Is it not fun?"),
        ("The one that isn't it.", "The one that is not it."),
        ("it does n't , ca n't , wo n't", "it does not , cannot , will not"),
        ("I'm sure they're off; we've gone, you'll see", "I am sure they are off; we have gone, you will see"),
        ("I'M OUT", "I AM OUT"),
        ("It's Tom's, he'd say", "It's Tom's, he'd say"),
        ("It is not good and I did not go", "It isn't good and I didn't go"),
        ("I cannot, can not and will not", "I can't, can't and won't"),
        ("WAS NOT, WILL NOT, CANNOT", "WASN'T, WON'T, CAN'T"),
        ("Is not", "Isn't"),
        ("It is not only cheap; you can not only eat", "It is not only cheap; you can not only eat"),
        ("It isn't bad and is not dear", "It is not bad and is not dear"),
        ("Nothing here. This notion, a cannoli.", "Nothing here. This notion, a cannoli."),
        ("\u017fhan't", "\u017fhall not"),
    ],
)
def test_contractions_by_hand(text, expected):
    assert one("contractions", text) == expected


@pytest.mark.parametrize("word", AUXILIARIES.split())
def test_contractions_round_trip(word):
    short = {"can": "can't", "will": "won't"}.get(word, f"{word}n't")
    text = f"That {short} help much."
    whole = one("contractions", text)
    assert whole == f"That {'cannot' if word == 'can' else word + ' not'} help much."
    assert one("contractions", whole) == text


@pytest.mark.parametrize("name", ["neutral before", "neutral after"])
@given(text=any_text)
@some
def test_neutral_sentences_leave_the_text_whole(name, text):
    changed = one(name, text)
    assert text in changed
    if text.strip():
        added = changed.replace(text, "", 1).strip(" .") + "."
        assert text in NEUTRAL[0] or len(text) < 3 or added in NEUTRAL


def test_neutral_sentences_by_hand():
    assert len(set(NEUTRAL)) >= 12
    generator = random.Random(0)
    before, after = PERTURBATIONS["neutral before"], PERTURBATIONS["neutral after"]
    assert after("No stop", generator).removeprefix("No stop. ") in NEUTRAL
    assert after("With stop!", generator).removeprefix("With stop! ") in NEUTRAL
    assert before("Fine.", generator).removesuffix(" Fine.") in NEUTRAL
    assert {before("x", generator).removesuffix(" x") for _ in range(500)} == set(NEUTRAL)


def test_perturbations_touch_the_cases():
    texts = [case.text for case in CASES]
    for name in PERTURBATIONS:
        changed = sum(a != b for a, b in zip(texts, perturbed(texts, name), strict=True))
        assert changed > (0.3 if name == "contractions" else 0.9) * len(texts), name
