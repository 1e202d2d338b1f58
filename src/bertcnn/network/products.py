"""Products of an encoder that is only run, by oneDNN where torch's own are slow.

torch multiplies float32 matrices by MKL, which on AMD's processors uses half of the width of AVX-512. oneDNN, which
comes with torch and serves its compiler, uses all of it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from bertcnn.machine import is_amd_with_avx512

Packed = tuple[tuple[int, int], Tensor]
"""What tells whether weights were changed since, and the weights as oneDNN lays them out."""

_packed = WeakTensorKeyDictionary()


def are_slow(device: torch.device) -> bool:
    """Return whether torch's own float32 products on a device are known to be slower than oneDNN's."""
    return (
        device.type == "cpu"
        and is_amd_with_avx512()
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


class OneDnnProducts(TorchFunctionMode):
    """Within it, linear layers in float32 that need no gradient are multiplied by oneDNN.

    The sums are of the same numbers in another order. Weights are kept once more, as oneDNN lays them out.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],  # torch gives it
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute what torch is asked for."""
        if func is functional.linear and not kwargs and not torch.is_grad_enabled():
            values, weight, *bias = args
            if _suits(values) and _suits(weight) and not weight.is_inference():
                packed = _packed_of(weight)
                return torch.ops.mkldnn._linear_pointwise(values, packed, bias[0] if bias else None, "none", [], "")
        return func(*args, **(kwargs or {}))


def _suits(tensor: Tensor) -> bool:
    is_plain = tensor.dtype is torch.float32 and tensor.device.type == "cpu" and tensor.layout is torch.strided
    return is_plain and tensor.ndim >= 2 and tensor.numel() > 0  # rows and columns


def _packed_of(weight: Tensor) -> Tensor:
    now = (weight._version, weight.data_ptr())
    known: Packed | None = _packed.get(weight)  # type: ignore[no-untyped-call]
    if known is None or known[0] != now:
        known = now, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        _packed[weight] = known
    return known[1]
