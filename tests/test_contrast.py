"""Far negations made of training texts."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcnn import Settings, train
from bertcnn.errors import SettingsError
from bertcnn.settings import change
from bertcnn.text.dataset import Examples, Splits
from bertcnn.training.contrast import TEXT_FRAMES, WORD_FRAMES, contrasts, opinion_words
from tests.conftest import make_texts
from tests.test_behaviour import shared_runs

TEXTS = ["the food was awful.", "staff were rude, so rude", "it was lovely.", "a lovely room, very quiet!"] * 4
LABELS = ["negative", "negative", "positive", "positive"] * 4


def test_frames_come_in_pairs_that_share_their_slot() -> None:
    for frames, slot in ((TEXT_FRAMES, "{t}"), (WORD_FRAMES, "{w}")):
        assert len({frame for pair in frames for frame in pair}) == 2 * len(frames)
        assert all(frame.count(slot) == 1 for pair in frames for frame in pair)


def test_no_frame_is_in_the_behaviour_suite() -> None:
    assert not shared_runs([f.format(t="", w="") for frames in (TEXT_FRAMES, WORD_FRAMES) for p in frames for f in p])


def test_half_are_turned_round_and_half_are_kept() -> None:
    found = contrasts(Examples(TEXTS, list(LABELS), "reviews"), 10.0, seed=1)
    assert len(found) == 160
    assert found.source == "reviews (contrasts)"
    for turned, kept, label, same in zip(
        found.texts[::2], found.texts[1::2], found.labels[::2], found.labels[1::2], strict=True
    ):
        assert {label, same} == {"negative", "positive"}
        assert any(
            turned.startswith(a.split("{")[0]) and kept.startswith(b.split("{")[0])
            for frames in (TEXT_FRAMES, WORD_FRAMES)
            for a, b in frames
        )
        if any(word in kept for word in ("lovely", "quiet")):
            assert same == "positive"
        if any(word in kept for word in ("awful", "rude")):
            assert same == "negative"
    assert Counter(found.labels) == {"negative": 80, "positive": 80}


def test_opinion_words_stand_where_opinions_do() -> None:
    words = dict(opinion_words(Examples(TEXTS, list(LABELS))))
    assert words == {"awful": "negative", "rude": "negative", "lovely": "positive", "quiet": "positive"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(), st.booleans()), min_size=2, max_size=20), st.floats(0, 3), st.integers(0, 9))
def test_any_texts(rows: list[tuple[str, bool]], share: float, seed: int) -> None:
    texts, labels = [text for text, _ in rows], ["Positive" if good else "NEGATIVE" for _, good in rows]
    examples = Examples(texts, list(labels))
    if len(set(labels)) < 2:
        with pytest.raises(SettingsError, match="negation_contrasts"):
            contrasts(examples, share, seed=seed)
        return
    found = contrasts(examples, share, seed=seed)
    assert found == contrasts(examples, share, seed=seed)
    assert set(found.labels) <= {"Positive", "NEGATIVE"}
    usable = any(text.strip() for text in texts)
    assert len(found) == (0 if not usable else -(-share * len(rows) // 1) + (-(-share * len(rows) // 1)) % 2)


def test_other_labels_are_refused() -> None:
    with pytest.raises(SettingsError, match="got bug, wish"):
        contrasts(Examples(["a", "b"], ["bug", "wish"]), 1.0, seed=0)


def test_training_with_contrasts_learns_from_more_texts(quick: Settings) -> None:
    texts, labels = make_texts(80, seed=4)
    splits = Splits(Examples(texts[:60], labels[:60]), Examples(texts[60:], labels[60:]))
    with_them = change(quick, {"method": "frozen", "head_epochs": 1, "negation_contrasts": 1.0})
    steps = [
        train(splits, given).history[-1]["step"] for given in (change(with_them, {"negation_contrasts": 0}), with_them)
    ]
    assert steps[1] == 2 * steps[0]
