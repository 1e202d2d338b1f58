"""Linear layers by oneDNN (bertcnn.network.products)."""

import pytest
import torch
from torch import nn

from bertcnn import BertCNN, machine
from bertcnn.network import products, states
from bertcnn.network.products import OneDnnProducts
from bertcnn.network.states import stream_states
from bertcnn.text.tokens import PieceTokenizer

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Weights that were looked up for oneDNN."""
    seen: list[torch.Tensor] = []
    plain = products._packed_of

    def watched(weight: torch.Tensor) -> torch.Tensor:
        seen.append(weight)
        return plain(weight)

    monkeypatch.setattr(products, "_packed_of", watched)
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 48), (2, 3, 48), (1, 1, 48)])
def test_products_are_those_in_float64(shape: tuple[int, ...], bias: bool, calls: list[torch.Tensor]) -> None:
    torch.manual_seed(0)
    layer, values = nn.Linear(48, 20, bias=bias), torch.randn(shape)
    wanted = nn.Linear(48, 20, bias=bias).double()
    wanted.load_state_dict(layer.state_dict())
    with torch.no_grad(), OneDnnProducts():
        found = layer(values)
    assert len(calls) == 1
    torch.testing.assert_close(found.double(), wanted(values.double()), rtol=1e-5, atol=1e-5)


def test_changed_weights_are_seen() -> None:
    layer, values = nn.Linear(16, 4), torch.ones(2, 16)
    for change in (lambda: layer.weight.mul_(2), lambda: setattr(layer.weight, "data", layer.weight.data * 3)):
        with torch.no_grad(), OneDnnProducts():
            before = layer(values) - layer.bias
            change()
            after = layer(values) - layer.bias
        torch.testing.assert_close(after, nn.functional.linear(values, layer.weight))
        assert not torch.allclose(before, after)


def test_what_does_not_suit_is_left_to_torch(calls: list[torch.Tensor]) -> None:
    layer = nn.Linear(8, 3)
    with OneDnnProducts():
        layer(torch.ones(2, 8)).sum().backward()  # it needs a gradient
    assert layer.weight.grad is not None
    with torch.no_grad(), OneDnnProducts():
        nn.Linear(8, 3).double()(torch.ones(2, 8, dtype=torch.float64))
        assert layer(torch.ones(0, 8)).shape == (0, 3)
        assert layer(torch.ones(8)).shape == (3,)
    with torch.inference_mode():
        made = torch.ones(3, 8)
        with OneDnnProducts():
            nn.functional.linear(torch.ones(2, 8), made)  # has no count of its changes
    assert not calls


@pytest.mark.parametrize("slow", [True, False])
def test_an_encoder_is_run_so_where_torchs_own_are_slow(
    tiny: str, tokenizer: PieceTokenizer, monkeypatch: pytest.MonkeyPatch, calls: list[torch.Tensor], slow: bool
) -> None:
    model = BertCNN.from_encoder(tiny, depth=1)
    pieces = tokenizer(["the film was good", "so very dull, really", ""])
    wanted = [found.clone() for _, found in stream_states(model, pieces, pad_id=tokenizer.pad_id)]
    calls.clear()
    monkeypatch.setattr(states, "are_slow", lambda _: slow)
    found = [found.clone() for _, found in stream_states(model, pieces, pad_id=tokenizer.pad_id)]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert bool(calls) == slow
    calls.clear()
    list(stream_states(model, pieces, pad_id=tokenizer.pad_id, bf16=True))
    assert not calls


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
