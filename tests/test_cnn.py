import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcnn import TextCNN
from bertcnn.network.cnn import strongest_windows


def by_the_paper(cnn: TextCNN, states: torch.Tensor) -> tuple[list[float], list[int]]:
    """Kim (2014), eq. 1 to 3, one filter and one window at a time; states (T, D) of one text."""
    features, positions = [], []
    place = 0
    for w, width in enumerate(cnn.kernel_sizes):
        for f in range(cnn.num_filters):
            # Filter f of this width: its weights for each place of the window, side by side.
            weights = torch.stack([cnn.weight[place + j * cnn.num_filters + f] for j in range(width)])
            bias = cnn.bias[w * cnn.num_filters + f]
            best, where = 0.0, -1
            strongest = -torch.inf
            for start in range(len(states) - width + 1):
                window = states[start : start + width]
                response = float(((weights * window).sum() + bias).detach())
                if response > strongest:
                    strongest, where = response, start
                    best = max(0.0, response)
            features.append(best)
            positions.append(where)
        place += width * cnn.num_filters
    return features, positions


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    extra=st.integers(0, 4),
    seed=st.integers(0, 1000),
)
def test_equals_a_plain_loop_written_from_the_paper(
    lengths: list[int], widths: list[int], extra: int, seed: int
) -> None:
    torch.manual_seed(seed)
    cnn = TextCNN(6, num_filters=3, kernel_sizes=widths).double()
    torch.nn.init.normal_(cnn.weight)
    torch.nn.init.normal_(cnn.bias)
    longest = max(1, max(lengths) + extra)
    states = torch.randn(len(lengths), longest, 6, dtype=torch.double) * 3  # garbage behind each text, too
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    features, positions = cnn(states, mask)
    for row, length in enumerate(lengths):
        wanted, where = by_the_paper(cnn, states[row, :length])
        torch.testing.assert_close(features[row], torch.tensor(wanted, dtype=torch.double))
        assert positions[row].tolist() == where


def test_agrees_with_conv1d_and_its_gradients() -> None:
    torch.manual_seed(0)
    cnn = TextCNN(8, num_filters=4, kernel_sizes=(3,)).double()
    torch.nn.init.normal_(cnn.weight)
    conv = torch.nn.Conv1d(8, 4, 3).double()
    conv.weight.data = cnn.weight.data.view(3, 4, 8).permute(1, 2, 0).contiguous()
    conv.bias.data = cnn.bias.data.clone()
    states = torch.randn(2, 7, 8, dtype=torch.double, requires_grad=True)
    ours = cnn(states, torch.ones(2, 7, dtype=torch.bool))[0]
    theirs = conv(states.transpose(1, 2)).relu().amax(dim=2)
    torch.testing.assert_close(ours, theirs)
    mine = torch.autograd.grad(ours.square().sum(), [states, cnn.weight])
    other = torch.autograd.grad(theirs.square().sum(), [states, conv.weight])
    torch.testing.assert_close(mine[0], other[0])
    torch.testing.assert_close(mine[1].view(3, 4, 8).permute(1, 2, 0), other[1])


def test_gradients_are_finite_where_no_window_fits() -> None:
    cnn = TextCNN(4, num_filters=2, kernel_sizes=(3,))
    states = torch.randn(1, 2, 4, requires_grad=True)
    features, positions = cnn(states, torch.ones(1, 2, dtype=torch.bool))
    assert features.tolist() == [[0.0, 0.0]]
    assert positions.tolist() == [[-1, -1]]
    features.sum().backward()
    assert torch.isfinite(cnn.weight.grad).all()


@pytest.mark.parametrize(("filters", "widths"), [(0, (3,)), (4, ()), (4, (0,))])
def test_refuses_sizes_that_make_no_filter(filters: int, widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        TextCNN(8, filters, widths)


def test_sizes() -> None:
    assert TextCNN(8, 5, (2, 3)).num_features == 10
    assert TextCNN(8).kernel_sizes == (3, 4, 5)


@pytest.mark.parametrize("lengths", [(7, 3, 1), (2, 2, 2)])
def test_the_backward_pass_over_winners_is_that_of_the_plain_operations(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    cnn = TextCNN(5, num_filters=4, kernel_sizes=(1, 3, 2)).double()
    torch.nn.init.normal_(cnn.weight)
    states = torch.randn(3, 7, 5, dtype=torch.double, requires_grad=True)
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    ours, where = cnn(states, mask)
    plain, same = strongest_windows(states, cnn.weight, mask, cnn.num_filters, cnn.kernel_sizes)
    plain = torch.relu(plain + cnn.bias)
    assert (where == same).all()
    share = torch.randn_like(ours)
    inputs = [states, cnn.weight, cnn.bias]
    for mine, other in zip(
        torch.autograd.grad((ours * share).sum(), inputs),
        torch.autograd.grad((plain * share).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def test_works_under_autocast() -> None:
    cnn = TextCNN(8, 4, (1, 2))
    states = torch.randn(2, 5, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        features, _ = cnn(states, torch.ones(2, 5, dtype=torch.bool))
    features.float().sum().backward()
    assert cnn.weight.grad.dtype == torch.float32
    assert torch.isfinite(states.grad).all()
