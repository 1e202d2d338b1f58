"""The laws of the house that apply so far. Each is named by its number in docs/design/0001-house.md."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertcnn import BertCNN, BertCNNClassifier, Predictor, Settings, train
from bertcnn.errors import TrainingError
from bertcnn.network import states as states_module
from bertcnn.network.encoder import build_encoder
from bertcnn.network.states import batch_states, cached_states, stream_states
from bertcnn.settings import change
from bertcnn.text.dataset import Splits, load_splits
from bertcnn.text.tokens import SEGMENT_WINDOWS, PieceTokenizer, Windowing, make_batch, segments

TOLERANCE = 2e-5
reusing = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
some_text = st.text(alphabet=st.sampled_from("abgod .!'\u00e9\U0001f600 \u05d0\ud800"), max_size=60)


def logits_of_rows(model: BertCNN, tokenizer: PieceTokenizer, text: str, padding: int) -> torch.Tensor:
    ids = tokenizer([text]).ids
    row = torch.zeros(1, len(ids) + padding, dtype=torch.long)
    row[0, : len(ids)] = torch.from_numpy(ids)
    mask = (torch.arange(row.shape[1])[None] < len(ids)).long()
    with torch.inference_mode():
        return model(row, mask).logits


@reusing
@given(text=some_text, padding=st.integers(1, 20))
def test_1_padding_changes_nothing(model: BertCNN, tokenizer: PieceTokenizer, text: str, padding: int) -> None:
    alone = logits_of_rows(model, tokenizer, text, 0)
    torch.testing.assert_close(logits_of_rows(model, tokenizer, text, padding), alone, atol=TOLERANCE, rtol=0)


@reusing
@given(texts=st.lists(some_text, min_size=1, max_size=8), data=st.data(), budget=st.integers(8, 400))
def test_2_nor_do_the_other_texts_nor_their_order(
    predictor: Predictor, texts: list[str], data: st.DataObject, budget: int
) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    alone = np.concatenate([predictor.logits([text]) for text in texts])
    crowd = Predictor(predictor.model, predictor.tokenizer, max_tokens=budget)
    together = crowd.logits([texts[i] for i in order])
    np.testing.assert_allclose(together, alone[order], atol=TOLERANCE)


def test_2_texts_of_the_same_pieces_are_computed_once(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    batches = predictor.backend.batches
    monkeypatch.setattr(
        predictor.backend, "batches", lambda pieces, **how: asked.append(len(pieces)) or batches(pieces, **how)
    )
    found = predictor.logits(["a good film", "A  GOOD film", "so bad", "a good film"])
    assert asked == [2]
    assert (found[0] == found[1]).all()
    assert (found[0] == found[3]).all()
    assert (found[0] != found[2]).any()


def test_3_short_and_empty_texts_get_an_answer(predictor: Predictor) -> None:
    assert predictor.predict([]) == []
    for prediction in predictor.predict(["", " ", "ok", "\n", "\0"]):
        assert prediction.label in predictor.label_names
        assert sum(prediction.probabilities.values()) == pytest.approx(1)


# Law 4, TextCNN equals a plain loop written from the paper, is in test_cnn.py.


def test_5_save_and_load_gives_the_same_logits(folder: Path, tmp_path: Path) -> None:
    texts = ["a good film", "the staff was awful", ""]
    first = Predictor.load(folder)
    first.model.save_pretrained(tmp_path)
    first.tokenizer.save(tmp_path)
    assert (Predictor.load(tmp_path).logits(texts) == first.logits(texts)).all()


@pytest.mark.parametrize("states", ["last", "mix", "concat-2"])
def test_6_cached_states_give_the_logits_of_the_live_encoder(
    tiny: str, tokenizer: PieceTokenizer, tmp_path: Path, states: str
) -> None:
    torch.manual_seed(0)
    model = BertCNN.from_encoder(tiny, depth=2, states=states, num_filters=8, max_length=16, overlap=4)
    torch.nn.init.normal_(model.head.cnn.weight, std=0.3)
    texts = ["a good film", "", "the staff was so very bad and it is really not fine " * 6]
    pieces = tokenizer(texts)
    kept = cached_states(model, tokenizer, pieces, tmp_path)
    live = Predictor(model, tokenizer).logits(texts)
    for i in range(len(texts)):
        row = torch.from_numpy(np.asarray(kept[i], dtype=np.float32))[None]
        with torch.inference_mode():
            logits = model.head(row, torch.ones(1, row.shape[1], dtype=torch.bool)).logits
        np.testing.assert_allclose(logits[0].numpy(), live[i], atol=5e-3)  # float16 keeps 11 bits
    again = cached_states(model, tokenizer, pieces, tmp_path)
    assert (again.values == kept.values).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_6_the_same_weights_in_another_network_have_states_of_their_own(
    tiny: str, tokenizer: PieceTokenizer, tmp_path: Path
) -> None:
    pieces, found = tokenizer(["a good film"]), []
    for activation in ("gelu", "relu"):
        model = BertCNN.from_encoder(tiny, depth=1)
        model.config.encoder.hidden_act = activation
        model.encoder = build_encoder(model.config.encoder)
        torch.manual_seed(0)
        for weight in model.encoder.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        found.append(np.array(cached_states(model, tokenizer, pieces, tmp_path).values))
    assert np.abs(found[0] - found[1]).max() > 0
    assert {entry.stat().st_mode & 0o755 for entry in tmp_path.iterdir()} == {0o755}, "a cache may be shared"
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(TrainingError, match=r"Cannot keep .* another folder by the setting 'cache'"):
        cached_states(model, tokenizer, pieces, blocked)


def test_6_the_cache_is_kept_clean(
    tiny: str, tokenizer: PieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BertCNN.from_encoder(tiny, depth=1)
    for age, name in ((2 * 86_400, ".draft-old"), (0, ".draft-new"), (86_400, "0" * 32), (0, "1" * 32)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "states.npy").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    cached_states(model, tokenizer, tokenizer(["a good film"]), tmp_path)
    (made,) = {p.name for p in tmp_path.iterdir()} - {".draft-new", "0" * 32, "1" * 32}
    monkeypatch.setattr(states_module, "CACHE_BYTES", 150)
    kept = cached_states(model, tokenizer, tokenizer(["a bad film"]), tmp_path)
    assert len(kept) == 1
    assert {p.name for p in tmp_path.iterdir()} & {"0" * 32, "1" * 32, made} == set()
    # Where the system cannot give a file its blocks they are written, and another process may clean up meanwhile.
    monkeypatch.delattr(os, "posix_fallocate")
    stat = Path.stat

    def vanishing(path: Path, **options: bool) -> os.stat_result:
        if path.name == ".draft-new":
            raise FileNotFoundError(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", vanishing)
    again = cached_states(model, tokenizer, tokenizer(["a good film"]), tmp_path)
    assert np.isfinite(again[0]).all()
    assert np.abs(again[0]).max() > 0


@pytest.mark.parametrize("damage", ["states.npy", "starts.npy", "seconds.txt", "cut", "empty"])
def test_6_a_damaged_entry_is_written_anew(tiny: str, tokenizer: PieceTokenizer, tmp_path: Path, damage: str) -> None:
    model = BertCNN.from_encoder(tiny, depth=1)
    pieces = tokenizer(["a good film", "a bad film"])
    values = np.array(cached_states(model, tokenizer, pieces, tmp_path).values)
    (entry,) = tmp_path.iterdir()
    if damage in {"cut", "empty"}:
        whole = (entry / "states.npy").read_bytes()
        (entry / "states.npy").write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    else:
        (entry / damage).unlink()
    again = cached_states(model, tokenizer, pieces, tmp_path)
    assert (again.values == values).all()
    assert list(tmp_path.iterdir()) == [entry]
    entry.chmod(0o500)  # a cache that may only be read
    assert (cached_states(model, tokenizer, pieces, tmp_path).values == values).all()
    entry.chmod(0o700)


# Law 7, ONNX agrees with torch, waits for the ONNX runtime.


def weights(settings_: Settings, splits: Splits) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in train(splits, settings_).predictor.model.state_dict().items()}


@pytest.mark.parametrize("method", ["frozen", "head-then-finetune"])
def test_8_same_seed_same_weights_and_another_seed_others(quick: Settings, splits: Splits, method: str) -> None:
    one = change(quick, {"method": method, "epochs": 1, "head_epochs": 1, "seed": 1})
    first, second = weights(one, splits), weights(one, splits)
    other = weights(change(one, {"seed": 2}), splits)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.cnn.weight"], other["head.cnn.weight"])


def test_8_splits_hang_on_the_seed(csv_file: Path) -> None:
    data = change(Settings(), {"text": "review", "label": "sentiment"}).data
    a, b, c = (load_splits(str(csv_file), data, seed=seed) for seed in (1, 1, 2))
    assert a == b
    assert a.train.texts != c.train.texts


def test_9_label_order_survives_every_round_trip(tiny: str, tokenizer: PieceTokenizer, tmp_path: Path) -> None:
    names = ["zebra", "10", "2", "apple", "\u00fcber", "a|b"]
    model = BertCNN.from_encoder(tiny, labels=names, depth=1, num_filters=4)
    model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    predictor = Predictor.load(tmp_path)
    assert predictor.label_names == names
    assert list(predictor.predict(["good"])[0].probabilities) == names
    assert list(json.loads(json.dumps(predictor.predict(["good"])[0].to_dict()))["probabilities"]) == names


def test_10_all_doors_give_one_answer(folder: Path, csv_file: Path, tmp_path: Path) -> None:
    texts = ["the phone was good", "a weak film and very dull", "it is so very poor " * 30]
    predictions = Predictor.load(folder).predict(texts)
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = subprocess.run(
        [sys.executable, "-m", "bertcnn", "predict", str(folder), str(file), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    from transformers import pipeline

    scores = pipeline("text-classification", str(folder), top_k=None)(texts)
    for prediction, row, score in zip(predictions, rows, scores, strict=True):
        assert row["prediction"] == prediction.label == max(score, key=lambda s: s["score"])["label"]
        by_name = {s["label"]: s["score"] for s in score}
        for name, p in prediction.probabilities.items():
            assert row[f"probability_{name}"] == pytest.approx(p, abs=1e-5)
            assert by_name[name] == pytest.approx(p, abs=1e-5)


def test_10_the_estimator_answers_as_its_predictor(quick: Settings, splits: Splits, tiny: str) -> None:
    texts, labels = splits.train.texts, splits.train.labels
    classifier = BertCNNClassifier(encoder=tiny, depth=1, num_filters=4, overlap=4, method="frozen", head_epochs=1)
    classifier.fit(texts, labels)
    predictor = classifier.trained_.predictor
    table = classifier.predict_proba(texts[:5])
    ours = [list(p.probabilities.values()) for p in predictor.predict(texts[:5])]
    np.testing.assert_allclose(table, ours)


@reusing
@given(text=some_text)
def test_11_windowing_changes_nothing_where_a_text_fits(model: BertCNN, tokenizer: PieceTokenizer, text: str) -> None:
    pieces = tokenizer([text])
    plain = logits_of_rows(model, tokenizer, text, 0) if pieces.lengths[0] <= 16 else None
    if plain is not None:
        ((batch, states),) = stream_states(model, pieces, pad_id=0)
        with torch.inference_mode():
            logits = model.head(states, torch.from_numpy(batch.source_mask)).logits
        torch.testing.assert_close(logits, plain, atol=TOLERANCE, rtol=0)


def test_a_window_that_ends_a_long_text_keeps_its_place_beside_a_text_of_one_window(
    model: BertCNN, tokenizer: PieceTokenizer
) -> None:
    """Both are a row of as many pieces; but the first begins where the windows before it end."""
    windowing = model.config.windowing
    words = ["a", "good", "film"] * 100
    many = windowing.room + SEGMENT_WINDOWS * (windowing.room - windowing.overlap)
    pieces = tokenizer([" ".join(words[:many]), " ".join(words[: windowing.room])])
    assert windowing.starts(int(pieces.lengths[0])).size == SEGMENT_WINDOWS + 1
    assert int(pieces.lengths[1]) == windowing.length

    found = [np.full((n, 32), np.nan) for n in pieces.lengths]
    for batch, states in stream_states(model, pieces, pad_id=0):
        for row, (text, start) in enumerate(zip(batch.texts, batch.starts, strict=True)):
            count = int(batch.source_mask[row].sum())
            found[text][start : start + count] = states[row, :count].numpy()
    for text, together in enumerate(found):
        whole = make_batch(pieces, list(segments(text, int(pieces.lengths[text]), windowing, reach=0)), pad_id=0)
        with torch.inference_mode():
            np.testing.assert_allclose(together, batch_states(model, whole, 1024)[0], atol=TOLERANCE)


def test_who_may_read_follows_the_umask(tiny: str, tokenizer: PieceTokenizer, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        cached_states(BertCNN.from_encoder(tiny, depth=1), tokenizer, tokenizer(["a good film"]), tmp_path)
    finally:
        os.umask(before)
    (entry,) = tmp_path.iterdir()
    assert entry.stat().st_mode & 0o777 == 0o700


def test_states_of_any_precision_are_kept_as_finite_numbers(
    tiny: str, tokenizer: PieceTokenizer, tmp_path: Path
) -> None:
    model = BertCNN.from_encoder(tiny, depth=1).bfloat16()
    torch.nn.init.constant_(model.encoder.encoder.layer[0].output.LayerNorm.bias, 1e6)
    kept = cached_states(model, tokenizer, tokenizer(["a good film"]), tmp_path)
    assert (np.asarray(kept.values) == np.finfo(np.float16).max).all()


def test_segments_change_nothing(model: BertCNN, tokenizer: PieceTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the film was not so very good and it is a really weak phone " * 40
    whole = Predictor(model, tokenizer).logits([text])
    assert Windowing(16, 4).starts(int(tokenizer([text]).lengths[0])).size > 30
    for size in (1, 2, 5):
        monkeypatch.setattr("bertcnn.text.tokens.SEGMENT_WINDOWS", size)
        np.testing.assert_allclose(Predictor(model, tokenizer).logits([text]), whole, atol=TOLERANCE)
