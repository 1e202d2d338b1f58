"""How an encoder that is only run multiplies: in bfloat16, by torch, or by oneDNN where torch's own products are slow.

torch multiplies float32 matrices by MKL, which on AMD's processors uses half of the width of AVX-512. oneDNN, which
comes with torch and serves its compiler, uses all of it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bertcnn.machine import is_amd_with_avx512

FEWEST_ROWS = 256
"""For fewer, laying out the weights takes longer than the product gains."""


def products(device: torch.device, *, bf16: bool = False) -> AbstractContextManager[Any]:
    """Return what to enter while an encoder is run, again for each batch of a pass in which its weights stay the same.

    Args:
        device: Of the encoder.
        bf16: Multiply bfloat16 numbers. Sums and normalization are in float32.
    """
    if bf16:
        return torch.autocast(device.type, torch.bfloat16)
    return OneDnnProducts() if are_slow(device) else nullcontext()


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

    The sums are of the same numbers in another order. It keeps the weights as oneDNN lays them out, and cannot see
    when they change: fused optimizers tell nobody. So it serves for one pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._packed: dict[int, tuple[Tensor, Tensor]] = {}

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
            if _suit(values, weight):
                packed = self._packed_of(weight)
                return torch.ops.mkldnn._linear_pointwise(values, packed, bias[0] if bias else None, "none", [], "")
        return func(*args, **(kwargs or {}))

    def _packed_of(self, weight: Tensor) -> Tensor:
        if id(weight) not in self._packed:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
            self._packed[id(weight)] = weight, packed  # both: the number is another's once a tensor is gone
        return self._packed[id(weight)][1]


def operations() -> dict[Any, Callable[..., int]]:
    """Return what torch's counter of operations does not know, and how to count it from shapes."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return {}
    return {torch.ops.mkldnn._linear_pointwise: _linear_operations}


def _linear_operations(values: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(values) * out_shape[-1]


def _suit(values: Tensor, weight: Tensor) -> bool:
    are_float32 = all(one.dtype is torch.float32 and one.layout is torch.strided for one in (values, weight))
    # Weights that are no parameters may be computed anew for each call, and all of them would be kept.
    return are_float32 and isinstance(weight, nn.Parameter) and values.numel() >= FEWEST_ROWS * weight.shape[1]
