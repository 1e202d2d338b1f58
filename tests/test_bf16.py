"""The encoder in bfloat16: ``--backend torch-bf16`` and ``--precision bf16``."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bertcnn import BertCNN, ModelError, Predictor, Settings, train
from bertcnn.inference.torch_backend import TorchBackend
from bertcnn.network.states import States, cached_states, stream_states, uses_bf16
from bertcnn.settings import change
from bertcnn.text.dataset import Splits
from bertcnn.text.tokens import PieceTokenizer
from tests.conftest import make_texts
from tests.test_cli import call

TEXTS = [*make_texts(20, seed=5)[0], "", "good", "the film was good and so is the phone " * 9]


def test_states_are_near_those_in_float64_and_no_others(tiny: str, tokenizer: PieceTokenizer) -> None:
    torch.manual_seed(0)
    model = BertCNN.from_encoder(tiny, depth=1, states="mix", max_length=32, overlap=8)
    exact = BertCNN(model.config).double()
    exact.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    pieces = tokenizer(TEXTS)
    ways = {"fp32": (model, False), "bf16": (model, True), "fp64": (exact, False)}
    found = {
        name: torch.cat(
            [
                states[torch.from_numpy(batch.source_mask)].double()
                for batch, states in stream_states(one, pieces, pad_id=tokenizer.pad_id, bf16=bf16)
            ]
        )
        for name, (one, bf16) in ways.items()
    }
    off = {name: float((found[name] - found["fp64"]).abs().max() / found["fp64"].std()) for name in ("fp32", "bf16")}
    assert off["fp32"] < 1e-5
    assert 1e-4 < off["bf16"] < 0.05  # of 8 bits, a rounding is up to 0.4 %


def test_it_answers_as_float32_does_and_computes_the_head_in_it(folder: Path) -> None:
    exact, half = Predictor.load(folder, backend="torch"), Predictor.load(folder, backend="torch-bf16")
    assert (exact.backend.name, half.backend.name) == ("torch", "torch-bf16")
    wanted, found = exact.logits(TEXTS), half.logits(TEXTS)
    assert 0 < np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    assert half.predict(TEXTS[:20]) != []
    assert [one.label for one in half.predict(TEXTS[:20])] == [one.label for one in exact.predict(TEXTS[:20])]
    # A text's shares sum up to its logits, which no rounding behind the encoder would leave so.
    assert np.abs(half.explain(TEXTS[:1])[0].residual).max() < 1e-4


def test_golden_texts_are_compared_in_float32(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[bool] = []
    plain = TorchBackend.run

    def watched(self, batches, **options):
        ran.append(self.bf16)
        return plain(self, batches, **options)

    monkeypatch.setattr(TorchBackend, "run", watched)
    predictor = Predictor.load(folder, backend="torch-bf16")
    assert ran == [False]
    predictor.logits(["good"])
    assert ran == [False, True]


def test_commands_take_it(folder: Path) -> None:
    done = call("predict", folder, "--backend", "torch-bf16", "--json", stdin=b"the film was good\n")
    assert done.code == 0
    assert json.loads(done.out)["prediction"]
    with pytest.raises(ModelError, match="expected auto, torch, torch-bf16, onnx"):
        Predictor.load(folder, backend="bf16")  # type: ignore[arg-type]


def test_frozen_states_follow_the_precision_and_are_kept_apart(
    tiny: str, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [uses_bf16(name) for name in ("auto", "fp32", "bf16")] == [False, False, True]
    told = {"encoder": tiny, "method": "frozen", "head_epochs": 2, "cache": str(tmp_path), "report_to": "none"}
    scores = {}
    for precision in ("fp32", "bf16"):
        result = train(splits, change(Settings(), {**told, "depth": "all", "precision": precision}))
        scores[precision] = result.dev.headlines["accuracy"].value
        assert len([one for one in tmp_path.iterdir() if not one.name.startswith(".")]) == len(scores)
    assert abs(scores["fp32"] - scores["bf16"]) < 0.1


def test_cached_states_of_both_differ_by_rounding(tiny: str, tokenizer: PieceTokenizer, tmp_path: Path) -> None:
    model = BertCNN.from_encoder(tiny, depth=1)
    pieces = tokenizer(TEXTS)
    exact, half = (cached_states(model, tokenizer, pieces, tmp_path, bf16=bf16) for bf16 in (False, True))
    assert isinstance(half, States)
    off = np.abs(np.asarray(exact.values, dtype=np.float32) - np.asarray(half.values, dtype=np.float32)).max()
    assert 1e-3 < off < 0.1
