"""Linear layers by oneDNN (bertcnn.network.products)."""

import numpy as np
import pytest
import torch
from torch import nn

from bertcnn import BertCNN, Predictor, machine
from bertcnn.network import products
from bertcnn.network.products import OneDnnProducts
from bertcnn.network.states import stream_states
from bertcnn.study.cost import _flops
from bertcnn.text.tokens import PieceTokenizer

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Weights that were looked up for oneDNN."""
    seen: list[torch.Tensor] = []
    plain = OneDnnProducts._packed_of

    def watched(self: OneDnnProducts, weight: torch.Tensor) -> torch.Tensor:
        seen.append(weight)
        return plain(self, weight)

    monkeypatch.setattr(OneDnnProducts, "_packed_of", watched)
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(256, 48), (20, 30, 48)])
def test_products_are_those_in_float64(shape: tuple[int, ...], bias: bool, calls: list[torch.Tensor]) -> None:
    torch.manual_seed(0)
    layer, values = nn.Linear(48, 20, bias=bias), torch.randn(shape)
    wanted = nn.Linear(48, 20, bias=bias).double()
    wanted.load_state_dict(layer.state_dict())
    within = OneDnnProducts()
    for _ in range(2):
        with torch.no_grad(), within:
            found = layer(values)
        torch.testing.assert_close(found.double(), wanted(values.double()), rtol=1e-5, atol=1e-5)
    assert len(calls) == 2


def test_what_does_not_suit_is_left_to_torch(calls: list[torch.Tensor]) -> None:
    layer, many = nn.Linear(8, 3), torch.ones(300, 8)
    with OneDnnProducts():
        layer(many).sum().backward()  # it needs a gradient
    assert layer.weight.grad is not None
    with torch.no_grad(), OneDnnProducts():
        nn.Linear(8, 3).double()(many.double())
        for few in (torch.ones(255, 8), torch.ones(0, 8), torch.ones(8)):
            assert layer(few).shape == (*few.shape[:-1], 3)
        nn.functional.linear(many, layer.weight * 1)  # made for this call alone
    assert not calls


@pytest.mark.parametrize("slow", [True, False])
def test_an_encoder_is_run_so_where_torchs_own_are_slow(
    tiny: str, tokenizer: PieceTokenizer, monkeypatch: pytest.MonkeyPatch, calls: list[torch.Tensor], slow: bool
) -> None:
    model = BertCNN.from_encoder(tiny, depth=1)
    pieces = tokenizer(["so very dull, really " * 100, "the film was good", ""])
    wanted = [found.clone() for _, found in stream_states(model, pieces, pad_id=tokenizer.pad_id)]
    calls.clear()
    monkeypatch.setattr(products, "are_slow", lambda _: slow)
    found = [found.clone() for _, found in stream_states(model, pieces, pad_id=tokenizer.pad_id)]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert bool(calls) == slow
    calls.clear()
    list(stream_states(model, pieces, pad_id=tokenizer.pad_id, bf16=True))
    assert not calls


def test_weights_that_were_trained_in_between_are_seen(
    tiny: str, tokenizer: PieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fused optimizer does not count that it changed them."""
    monkeypatch.setattr(products, "are_slow", lambda _: True)
    predictor = Predictor(BertCNN.from_encoder(tiny, depth=1, num_labels=2), tokenizer)
    texts = ["so very dull, really " * 100]
    before = predictor.logits(texts)
    weights = [one for name, one in predictor.model.named_parameters() if "encoder.layer" in name]
    assert weights
    for one in weights:
        one.grad = torch.ones_like(one)
    torch.optim.AdamW(weights, lr=0.1, fused=True).step()
    after = predictor.logits(texts)
    assert np.abs(after - before).max() > 1e-3
    monkeypatch.setattr(products, "are_slow", lambda _: False)
    np.testing.assert_allclose(predictor.logits(texts), after, rtol=1e-4, atol=1e-4)


def test_their_operations_are_counted(
    tiny: str, tokenizer: PieceTokenizer, monkeypatch: pytest.MonkeyPatch, calls: list[torch.Tensor]
) -> None:
    class System:
        trained_ = None
        predict_proba = Predictor(BertCNN.from_encoder(tiny, depth=1, num_labels=2), tokenizer).logits

    counts = []
    for slow in (False, True):
        monkeypatch.setattr(products, "are_slow", lambda _, slow=slow: slow)
        counts.append(_flops(System(), ["so very dull, really " * 100]))
    assert calls
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("said", "slow"),
    [
        ("vendor_id : AuthenticAMD\nflags : avx2 avx512f", True),
        ("vendor_id : AuthenticAMD\nflags : avx2", False),
        ("vendor_id : GenuineIntel\nflags : avx512f", False),
        ("", False),
    ],
)
def test_whose_products_are_slow(monkeypatch: pytest.MonkeyPatch, said: str, slow: bool) -> None:
    monkeypatch.setattr(machine, "_processor", lambda: said)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert products.are_slow(torch.device("cpu")) == slow
    assert not products.are_slow(torch.device("meta"))
