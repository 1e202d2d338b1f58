"""Weights rounded so that products stay near (bertcnn.inference.onnx.rounding)."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bertcnn import Predictor
from bertcnn.inference.onnx.backend import FILES, OnnxBackend
from bertcnn.inference.onnx.quantize import moments, quantize
from bertcnn.inference.onnx.rounding import round_weights
from tests.conftest import make_texts
from tests.test_onnx import exported  # noqa: F401  # a fixture

onnx = pytest.importorskip("onnx")


def rounded(weights: npt.NDArray[np.float32], inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the weights of a graph of one product, once they are rounded."""
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_model(
        onnx.helper.make_graph([node], "one", [], [], [onnx.numpy_helper.from_array(weights, "w")])
    )
    round_weights(graph, {"x": inputs.T @ inputs})
    return np.asarray(onnx.numpy_helper.to_array(graph.graph.initializer[0]))


def nearest(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    step = np.abs(weights).max(axis=0) / 127
    return np.asarray((weights / step).round() * step)


@pytest.fixture
def weights() -> npt.NDArray[np.float32]:
    # More rows than one block.
    return np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)


def test_where_inputs_do_not_go_together_each_weight_is_rounded_to_its_nearest(
    weights: npt.NDArray[np.float32],
) -> None:
    np.testing.assert_allclose(rounded(weights, np.eye(300, dtype=np.float32)), nearest(weights), rtol=1e-6)


def test_where_they_do_the_products_are_nearer(weights: npt.NDArray[np.float32]) -> None:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(30, 300))  # 30 things tell most of 300 channels
    seen, unseen = ((rng.normal(size=(2000, 30)) @ mixing + 0.3 * rng.normal(size=(2000, 300))) for _ in range(2))
    off = {
        name: np.square(unseen @ (found - weights)).mean()
        for name, found in {"rounded": rounded(weights, seen.astype(np.float32)), "nearest": nearest(weights)}.items()
    }
    assert off["rounded"] < 0.1 * off["nearest"]


def test_all_weights_are_whole_steps_of_the_scale_that_onnx_runtime_computes(
    weights: npt.NDArray[np.float32],
) -> None:
    inputs = np.random.default_rng(2).normal(size=(20, 300)).astype(np.float32)  # fewer than channels
    found = rounded(weights, inputs)
    steps = found / (np.abs(found).max(axis=0) / 127)
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)
    assert np.abs(found).max(axis=0) == pytest.approx(np.abs(weights).max(axis=0))


def test_what_is_zero_stays_so(weights: npt.NDArray[np.float32]) -> None:
    weights[:, 3] = 0
    found = rounded(weights, np.zeros((5, 300), dtype=np.float32))
    np.testing.assert_allclose(found[:, 4], nearest(weights[:, [4]])[:, 0], rtol=1e-6)
    assert not found[:, 3].any()


def test_moments_are_of_all_pieces_of_all_batches() -> None:
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "one",
            [onnx.helper.make_tensor_value_info("x", kind, ["texts", "pieces", 4])],
            [onnx.helper.make_tensor_value_info("y", kind, None)],
            [onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(1, 5, 4)).astype(np.float32)]
    pieces = np.concatenate([batch.reshape(-1, 4) for batch in batches])
    (found,) = moments(graph, [{"x": batch} for batch in batches]).values()
    np.testing.assert_allclose(found, pieces.T @ pieces, rtol=1e-5)


def weights_of(file: Path) -> dict[str, npt.NDArray[np.int8]]:
    """Return the 8-bit weights of a graph by name."""
    tables = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer}
    return {name: table for name, table in tables.items() if table.dtype == np.int8 and table.ndim == 2}


def test_an_exported_graph_is_rounded_so_and_is_nearer(exported: Path, tmp_path: Path) -> None:  # noqa: F811
    predictor = Predictor.load(exported, backend="onnx")
    texts = make_texts(60, seed=9)[0]
    batches = list(predictor.backend.batches(predictor.tokenizer(texts), pad_id=predictor.tokenizer.pad_id))
    off = {}
    for name in ("nearest", "rounded"):
        quantize(exported / FILES["onnx"], tmp_path / name, batches, to_nearest=name == "nearest")
        backend = OnnxBackend(exported, "onnx-int8", graph=tmp_path / name)
        found = Predictor(backend, predictor.tokenizer).logits(texts)
        off[name] = np.square(found - predictor.logits(texts)).mean()
    plain, moved = weights_of(tmp_path / "nearest"), weights_of(tmp_path / "rounded")
    assert plain
    assert plain.keys() == moved.keys()
    assert all((plain[name] != moved[name]).any() for name in plain)
    assert all(np.abs(plain[name].astype(int) - moved[name]).max() < 20 for name in plain)
    assert off["rounded"] < off["nearest"]
