"""The data sets that results are measured on, in the folder BERTCNN_DATA; skipped where it is not."""

import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bertcnn import Predictor, Settings, save, train
from bertcnn.network.encoder import load_tokenizer
from bertcnn.network.model import BertCNN
from bertcnn.network.vectors import build_vectors, read_vectors
from bertcnn.settings import DataSettings, change
from bertcnn.text.dataset import Examples, Splits, find_leaks, load_examples, load_splits, look_at, normal_form
from bertcnn.text.labels import Labels
from bertcnn.text.write_table import write_rows
from bertcnn.training.train import Trained

pytestmark = pytest.mark.realdata

ONE = DataSettings()
MANY = DataSettings(label="labels", separator="|")
WHOLE = {  # name: rows and labels of all.csv
    "cr": (3771, 2),
    "mr": (10662, 2),
    "subj": (10000, 2),
    "mpqa": (10603, 2),
    "amazon_multidomain": (8000, 2),
    "sentiment_sentences": (3000, 2),
    "movie_reviews_v2": (2000, 2),
}
DIVIDED = {  # name: rows of train.csv, dev.csv (None: there is none) and test.csv, and labels
    "sst2": (6920, 872, 1821, 2),
    "sst5": (8544, 1101, 2210, 5),
    "trec6": (5452, None, 500, 6),
    "banking77": (10003, None, 3080, 77),
    "banking77_10shot": (770, 1540, 3080, 77),
    "imdb_cad_original": (1707, 245, 488, 2),
    "goemotions": (43410, 5426, 5427, 28),
}


def place_of(name: str) -> Path:
    """Return where a data set lies, or skip the test."""
    root = os.environ.get("BERTCNN_DATA", "")
    if not root:
        pytest.skip("BERTCNN_DATA is not set. Set it to the folder of the data sets.")
    place = Path(root) / name
    if not place.exists():
        pytest.skip(f"No {name} in BERTCNN_DATA={root}.")
    return place


def whole(name: str) -> Examples:
    return load_examples(str(place_of(name) / "all.csv"), ONE)["train"]


def divided(name: str) -> Splits:
    place = place_of(name)
    dev = place / "dev.csv"
    settings = MANY if name == "goemotions" else ONE
    return load_splits(
        str(place / "train.csv"), settings, dev=str(dev) if dev.exists() else None, test=str(place / "test.csv")
    )


def distinct(examples: Examples) -> Examples:
    """Return the first row of each text."""
    first: dict[str, int] = {}
    for row, text in enumerate(examples.texts):
        first.setdefault(normal_form(text), row)
    return examples.pick(first.values(), "distinct")


# ---- read


@pytest.mark.parametrize("name", WHOLE)
def test_whole_sets_load_and_are_divided(name: str) -> None:
    rows, labels = WHOLE[name]
    examples = whole(name)
    found = look_at(examples)
    assert (found.rows, found.blank, len(found.label_counts)) == (rows, 0, labels)
    splits = load_splits(str(place_of(name) / "all.csv"), ONE)
    assert splits.test is not None
    parts = (splits.train, splits.dev, splits.test)
    assert sum(map(len, parts)) == rows
    assert find_leaks(splits) == {}
    # Texts are drawn and not rows, so sizes and shares hold of texts without their duplicates.
    texts = look_at(distinct(examples))
    assert texts.rows == rows - found.duplicates
    assert len(distinct(splits.test)) == pytest.approx(texts.rows / 10, abs=1)
    for part in map(distinct, parts):
        counts = look_at(part).label_counts
        for label, count in texts.label_counts.items():
            assert counts[label] / len(part) == pytest.approx(count / texts.rows, abs=0.005)


@pytest.mark.parametrize("name", DIVIDED)
def test_divided_sets_load_as_they_are(name: str) -> None:
    train_rows, dev_rows, test_rows, labels = DIVIDED[name]
    splits = divided(name)
    assert splits.test is not None
    assert len(splits.test) == test_rows
    if dev_rows is None:
        assert len(splits.train) + len(splits.dev) == train_rows
        assert len(splits.dev) == pytest.approx(train_rows / 10, rel=0.03)  # few duplicates here
    else:
        assert (len(splits.train), len(splits.dev)) == (train_rows, dev_rows)
    names = Labels.of(splits.train.labels)
    assert len(names.names) == labels
    assert names.many == (name == "goemotions")
    for part in (splits.train, splits.dev, splits.test):
        truth = names.encode(part.labels, where=part.source)
        assert truth.shape == ((len(part), labels) if names.many else (len(part),))
        assert all(text.strip() for text in part.texts)


def test_no_emotion_is_a_legal_answer(tmp_path: Path) -> None:
    """Texts of goemotions that are only neutral, written as texts without a label."""
    place = place_of("goemotions")
    rows = load_examples(str(place / "dev.csv"), MANY)["train"]
    assert all(isinstance(label, tuple) and label for label in rows.labels)
    assert max(map(len, rows.labels)) > 1
    emotions = [tuple(name for name in label if name != "neutral") for label in rows.labels]
    written = ({"text": text, "labels": "|".join(label)} for text, label in zip(rows.texts, emotions, strict=True))
    write_rows(tmp_path / "emotions.csv", written)
    splits = load_splits(str(tmp_path / "emotions.csv"), MANY)
    assert splits.test is not None
    parts = (splits.train, splits.dev, splits.test)
    empty = [sum(label == () for label in part.labels) for part in parts]
    assert sum(empty) == emotions.count(()) > 1000
    labels = Labels.of(splits.train.labels)
    assert len(labels.names) == 27
    for part, count in zip(parts, empty, strict=True):
        assert count / len(part) == pytest.approx(sum(empty) / len(rows), abs=0.02)
        truth = labels.encode(part.labels, where=part.source)
        assert (truth.sum(axis=1) == 0).sum() == count
        assert truth.sum() == sum(map(len, part.labels))


# ---- looked at


def test_the_questions_of_trec_that_leak_are_found() -> None:
    splits = divided("trec6")
    assert find_leaks(splits) == {"train and test": 11}
    assert look_at(splits.train).duplicates + look_at(splits.dev).duplicates == 72  # none straddles


def test_the_contradictions_and_duplicates_of_mpqa_are_counted() -> None:
    found = look_at(whole("mpqa"))
    assert found.duplicates == 2363
    assert found.contradictions == 98


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_duplicates_of_amazon_never_straddle(seed: int) -> None:
    file = place_of("amazon_multidomain") / "all.csv"
    examples = whole("amazon_multidomain")
    assert len(examples) - len(set(examples.texts)) == 147
    assert look_at(examples).duplicates == 148  # one pair differs in case or spacing
    splits = load_splits(str(file), replace(ONE, test_fraction=0.2), seed=seed)
    assert splits.test is not None
    assert find_leaks(splits) == {}
    homes: dict[str, set[int]] = defaultdict(set)
    for number, part in enumerate((splits.train, splits.dev, splits.test)):
        for text in part.texts:
            homes[normal_form(text)].add(number)
    assert max(map(len, homes.values())) == 1
    assert len(homes) == len(examples) - 148


# ---- read whole


def test_whole_film_reviews_are_read_to_their_end() -> None:
    """Texts of up to six windows, by a random head: alone, in a batch, and by hand from their states."""
    texts = sorted(whole("movie_reviews_v2").texts, key=len)
    chosen = [texts[-1], texts[0], texts[1000], texts[-2], texts[500]]
    torch.manual_seed(0)
    model = BertCNN.from_encoder("minilm", depth=1, num_filters=20, freeze_encoder=True)
    for weight in (model.head.cnn.weight, model.head.classifier.weight):
        torch.nn.init.normal_(weight, std=0.1)
    predictor = Predictor(model, load_tokenizer("minilm"))
    lengths = predictor.tokenizer(chosen).lengths.tolist()
    assert lengths[0] > 5 * model.config.window_length
    assert lengths[1] < model.config.window_length
    together = predictor.logits(chosen)
    assert np.ptp(together[:, 0]) > 0.1
    alone = np.concatenate([predictor.logits([text]) for text in chosen])
    np.testing.assert_allclose(together, alone, atol=5e-5)
    states, mask = predictor.embed(chosen)
    assert mask.sum(dim=1).tolist() == lengths
    assert (states.abs().amax(dim=2) > 0)[mask].all()
    with torch.inference_mode():
        features, places = model.head.features(states, mask)
        np.testing.assert_allclose(model.head.classifier(features).numpy(), together, atol=5e-5)
    assert places[0].max() > 0.9 * lengths[0]  # some filter found its best window near the end


# ---- trained


@pytest.fixture(scope="module")
def reviews() -> Trained:
    """The head alone on cached states of CR, seed 0."""
    splits = load_splits(str(place_of("cr") / "all.csv"), ONE)
    values = {"method": "frozen", "head_epochs": 4, "report_to": "none"}
    return train(splits, change(Settings(), values))


def test_customer_reviews_are_learned(reviews: Trained) -> None:
    assert reviews.test is not None
    assert reviews.warnings == []
    assert reviews.test.headlines["accuracy"].value > 0.84
    assert reviews.dev.headlines["accuracy"].value > 0.84


def test_their_model_is_saved_and_loaded_bit_for_bit(reviews: Trained, tmp_path: Path) -> None:
    texts = [*whole("cr").texts[:64], "", "Works great, but the battery is awful!"]
    save(reviews, tmp_path / "model")
    loaded = Predictor.load(tmp_path / "model", device="cpu")
    assert loaded.label_names == ["negative", "positive"]
    assert (loaded.logits(texts) == reviews.predictor.logits(texts)).all()
    sure = loaded.predict(["I love this camera, it works perfectly.", "Terrible player, it broke after two days."])
    assert [p.label for p in sure] == ["positive", "negative"]


# ---- static vectors


def test_numberbatch_is_read_with_its_inflected_forms() -> None:
    file = place_of("wordvectors") / "numberbatch300_baseforms.npz"
    texts = whole("cr").texts
    encoder, tokenizer = build_vectors(texts, file=file)
    words = tokenizer.tokenizer.get_vocab()
    rows, vectors = read_vectors(file, set(words), 100_000)
    assert vectors.shape == (41353, 300)
    assert len(rows) > len(vectors)  # forms share the row of their base
    table = encoder.embeddings.weight.detach()
    assert table.shape == (len(words), 300)
    for word in ("camera", "cameras", "terrible"):
        assert torch.equal(table[words[word]], torch.from_numpy(vectors[rows[word]]))
    ids = tokenizer(texts).ids
    known = np.zeros(len(words), dtype=bool)
    known[[words[word] for word in rows]] = True
    spoken = np.array([any(c.isalnum() for c in word) for word in sorted(words, key=words.__getitem__)])
    assert known[ids][spoken[ids]].mean() > 0.9


@pytest.mark.parametrize("method", ["frozen", "finetune"])
def test_a_static_twin_takes_a_step(method: str, tmp_path: Path) -> None:
    file = place_of("wordvectors") / "numberbatch300_baseforms.npz"
    examples = whole("cr")
    splits = Splits(examples.pick(range(0, 3000, 30), "train"), examples.pick(range(10, 3000, 60), "dev"))
    values = {
        "encoder": f"words:{file}", "method": method, "epochs": 1, "head_epochs": 1, "batch_size": 100,
        "warmup": 0.0, "report_to": "none",
    }  # fmt: skip
    trained = train(splits, change(Settings(), values))
    assert trained.history[-1]["step"] == 1
    words = trained.predictor.tokenizer.tokenizer.get_vocab()
    table = trained.predictor.model.get_input_embeddings().weight.detach()
    rows, vectors = read_vectors(file, set(words), 100_000)
    kept = torch.equal(table[words["camera"]].cpu(), torch.from_numpy(vectors[rows["camera"]]))
    assert kept == (method == "frozen")
    save(trained, tmp_path / "model")
    texts = ["a terrible camera", "", "word " * 600]
    assert (Predictor.load(tmp_path / "model").logits(texts) == trained.predictor.logits(texts)).all()
