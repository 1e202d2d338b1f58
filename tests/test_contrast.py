"""Far negations made of training texts."""

import math
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcnn import Settings, train
from bertcnn.errors import SettingsError
from bertcnn.settings import change
from bertcnn.text.dataset import Examples, Splits
from bertcnn.training.contrast import BESIDE, COUNTED, FILLERS, NOUN_FRAMES, WORD_FRAMES, contrasts, opinion_words
from tests.conftest import make_texts
from tests.test_behaviour import shared_runs

TEXTS = [
    "the food was awful. one fault",
    "staff were rude, so rude",
    "it was lovely.",
    "a lovely room, very quiet!",
] * 4
LABELS = ["negative", "negative", "positive", "positive"] * 4


def test_frames_come_in_pairs_that_share_their_slots() -> None:
    slots = re.compile(r"{(\w+)}")
    for frames, slot in ((WORD_FRAMES, "w"), (NOUN_FRAMES, "n")):
        assert len(set(frames)) == len(frames)
        for turned, kept in frames:
            assert turned != kept
            assert turned.count(f"{{{slot}}}") == 1 == kept.count(f"{{{slot}}}")
            assert set(slots.findall(turned)) == set(slots.findall(kept)) <= {slot, *FILLERS}


def test_no_frame_is_in_the_behaviour_suite() -> None:
    frames = [frame for pair in WORD_FRAMES + NOUN_FRAMES for frame in pair]
    longest = max(map(len, FILLERS.values()))
    rounds = [{name: some[i % len(some)] for name, some in FILLERS.items()} for i in range(longest)]
    assert not shared_runs([frame.format(w="", n="", **fill) for frame in frames for fill in rounds])


def test_half_are_turned_round_and_half_are_kept() -> None:
    found = contrasts(Examples(TEXTS, list(LABELS), "reviews"), 10.0, seed=1)
    assert len(found) == 160
    assert found.source == "reviews (contrasts)"
    for turned, kept, label, same in zip(
        found.texts[::2], found.texts[1::2], found.labels[::2], found.labels[1::2], strict=True
    ):
        assert {label, same} == {"negative", "positive"}
        (word,) = re.findall("lovely|quiet|awful|rude|fault", kept)
        assert word in turned
        assert same == ("positive" if word in {"lovely", "quiet"} else "negative")
    assert Counter(found.labels) == {"negative": 80, "positive": 80}
    assert sum("fault" in text for text in found.texts) > 20


def test_opinion_words_stand_where_opinions_do() -> None:
    words = dict(opinion_words(Examples(TEXTS, list(LABELS)), BESIDE))
    assert words == {"awful": "negative", "rude": "negative", "lovely": "positive", "quiet": "positive"}
    assert dict(opinion_words(Examples(TEXTS, list(LABELS)), COUNTED)) == {"fault": "negative"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(), st.booleans()), min_size=2, max_size=20), st.floats(0, 3), st.integers(0, 9))
def test_any_texts(rows: list[tuple[str, bool]], share: float, seed: int) -> None:
    texts, labels = [text for text, _ in rows], ["Positive" if good else "NEGATIVE" for _, good in rows]
    examples = Examples(texts, list(labels))
    if len(set(labels)) < 2:
        with pytest.raises(SettingsError, match="negation_contrasts"):
            contrasts(examples, share, seed=seed)
        return
    with pytest.raises(SettingsError, match="no opinion word"):
        contrasts(examples, share, seed=seed)
    examples = Examples(
        texts + TEXTS, labels + [label.upper() if label == "negative" else "Positive" for label in LABELS]
    )
    found = contrasts(examples, share, seed=seed)
    assert found == contrasts(examples, share, seed=seed)
    assert set(found.labels) <= {"Positive", "NEGATIVE"}
    assert len(found) == 2 * math.ceil(math.ceil(share * len(examples)) / 2)


def test_a_word_leans_by_its_share_of_each_labels_texts() -> None:
    """Where four texts of five are positive, each neutral word stands in four times as many of these."""
    things = ["black", "large", "plastic", "wooden"]
    texts = [f"The case was {things[i % 4]} {i}." for i in range(100)]
    labels = ["negative" if i // 4 % 5 == 0 else "positive" for i in range(100)]
    assert opinion_words(Examples(texts, list(labels)), BESIDE) == []
    texts = [
        f"{text} It was {'bad' if label == 'negative' else 'good'}." for text, label in zip(texts, labels, strict=True)
    ]
    assert dict(opinion_words(Examples(texts, list(labels)), BESIDE)) == {"bad": "negative", "good": "positive"}


def test_other_labels_are_refused() -> None:
    with pytest.raises(SettingsError, match="got bug, wish"):
        contrasts(Examples(["a", "b"], ["bug", "wish"]), 1.0, seed=0)


def test_training_with_contrasts_learns_from_more_texts(quick: Settings) -> None:
    texts, labels = make_texts(80, seed=4)
    texts = [
        f"{text} it was {'good' if label == 'positive' else 'bad'}." for text, label in zip(texts, labels, strict=True)
    ]
    splits = Splits(Examples(texts[:60], labels[:60]), Examples(texts[60:], labels[60:]))
    with_them = change(quick, {"method": "frozen", "head_epochs": 1, "negation_contrasts": 1.0})
    steps = [
        train(splits, given).history[-1]["step"] for given in (change(with_them, {"negation_contrasts": 0}), with_them)
    ]
    assert steps[1] == 2 * steps[0]
