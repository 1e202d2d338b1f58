"""Weights in 8 bits, rounded so that products stay near, not each weight by itself.

Rounding each weight to its nearest step errs the same way on inputs that go together. What rounding one row of the
weights adds to a product can be taken back, for the greater part, by the rows that are not rounded yet.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bertcnn.arrays import Floats32

Floats64 = npt.NDArray[np.float64]

STEPS = 127
"""Greatest whole number that a weight becomes; ONNX Runtime's scale of a column is its greatest weight over it."""

DAMPING = 0.1
"""Added to each input's mean square, in shares of the mean of all: few texts tell little of how inputs go together."""

BLOCK = 128
"""Rows that are rounded one by one before the rest is moved by one product of matrices."""


def round_weights(graph: Any, moments: dict[str, Floats32]) -> None:
    """Put the weights of a graph's products onto the steps that 8 bits have.

    Args:
        graph: Float32; changed in place. ONNX Runtime's own rounding then finds nothing left to round.
        moments: By what goes into a product: the sums of its channels' products over many pieces, ``(inputs, inputs)``.
    """
    from onnx import numpy_helper

    weights = {one.name: one for one in graph.graph.initializer}
    readers: dict[str, list[str]] = {}
    for node in graph.graph.node:
        if node.op_type == "MatMul" and node.input[0] in moments and node.input[1] in weights:
            readers.setdefault(node.input[0], []).append(node.input[1])
    for source, names in readers.items():
        order, shares = _shares(moments[source])
        for name in names:
            rounded = _round(numpy_helper.to_array(weights[name]), order, shares)
            weights[name].CopyFrom(numpy_helper.from_array(rounded, name))


def _shares(moments: Floats32) -> tuple[npt.NDArray[np.intp], Floats64]:
    """Return the order to round rows in, and by how much each of them moves those after it, ``(inputs, inputs)``."""
    if not np.isfinite(moments).all():
        raise ValueError("what goes into a product is no number on some texts.")
    squares = np.diag(moments).astype(np.float64)
    order = np.argsort(-squares)  # what counts most is rounded while most rows are left to make up for it
    damped = moments[np.ix_(order, order)] + np.diag(np.full(len(order), DAMPING * squares.mean() or 1.0))
    return order, np.linalg.cholesky(np.linalg.inv(damped)).T


def _round(weights: Floats32, order: npt.NDArray[np.intp], shares: Floats64) -> Floats32:
    """Return weights ``(inputs, outputs)`` of whole steps.

    Source:
        Frantar et al. (2023), "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
        algorithm 1.
    """
    greatest = np.abs(weights).argmax(axis=0)
    top = np.take_along_axis(weights, greatest[None], axis=0)[0].astype(np.float64)
    step = np.where(top == 0, 1.0, np.abs(top) / STEPS)
    turn_of_greatest = np.argsort(order)[greatest]
    left = weights[order].astype(np.float64) / step
    rounded = np.empty_like(left)
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = np.empty((stop - start, left.shape[1]))
        for row in range(start, stop):
            nearest = left[row].round().clip(-STEPS, STEPS)
            # The greatest stays: ONNX Runtime computes a column's scale of it, and all others would be between steps.
            rounded[row] = np.where(turn_of_greatest == row, STEPS * np.sign(top), nearest)
            errors[row - start] = (left[row] - rounded[row]) / shares[row, row]
            left[row + 1 : stop] -= np.outer(shares[row, row + 1 : stop], errors[row - start])
        left[stop:] -= shares[start:stop, stop:].T @ errors
    whole = np.empty_like(rounded)
    whole[order] = rounded
    return np.asarray(whole * step, dtype=np.float32)
