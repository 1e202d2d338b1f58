"""A float32 graph's matrix products in 8 bits, with scales that hang on no text.

The scale of what goes into a product is fixed when the graph is written, by what went into it on some texts. ONNX
Runtime can also take it from each batch as it comes; then a text's logits move with its neighbours.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bertcnn.arrays import Floats32
from bertcnn.errors import ModelError
from bertcnn.inference.onnx.backend import feed
from bertcnn.inference.onnx.rounding import round_weights
from bertcnn.machine import threads
from bertcnn.text.tokens import Batch

OUTLYING = 1.5
"""A channel is an outlier if it goes beyond so many times the median channel."""

_FIRST_AXIS = "first_axis"

Feeds = Sequence[dict[str, Any]]


def quantize(source: Path, file: Path, batches: Iterable[Batch], *, to_nearest: bool = False) -> None:
    """Write a graph with the weights of its matrix products in 8 bits, a scale a column.

    Args:
        source: A float32 graph.
        file: Where to write; says of which weights it was made, if the source does.
        batches: Texts such as will be read. What goes beyond all of theirs is cut to the greatest of them.
        to_nearest: Round each weight by itself, which takes no time and runs as fast: where only the speed is asked.

    Raises:
        ModelError: ONNX Runtime's tools cannot do it. The file is not there, or must not be used.

    Source:
        Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", sec. 2.1.
    """
    try:
        _quantize(source, file, [feed(batch) for batch in batches], to_nearest=to_nearest)
    except Exception as error:  # those of ONNX Runtime's tools have no common class
        raise ModelError(
            f"No int8 graph can be made of this encoder: {' '.join(str(error).split())[:300]} Nothing was "
            "written; export without int8."
        ) from error


def _quantize(source: Path, file: Path, feeds: Feeds, *, to_nearest: bool) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    graph = onnx.load(source)
    props = {one.key: one.value for one in graph.metadata_props}
    spread = file.with_suffix(".spread")
    with _only_errors():
        spread_outliers(graph, greatest(graph, feeds))
        part_shared(graph)
        if not to_nearest:
            round_weights(graph, moments(graph, feeds))
        onnx.save(graph, spread)
        quantize_static(
            spread,
            file,
            _Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
            extra_options={
                # Products come out in float32: ONNX Runtime then makes one operator of a product and its scales.
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
                "MatMulConstBOnly": True,
                "DefaultTensorType": onnx.TensorProto.FLOAT,
            },
        )
    spread.unlink()
    written = onnx.load(file)
    onnx.helper.set_model_props(written, props)
    onnx.save(written, file)


def greatest(graph: Any, feeds: Feeds) -> dict[str, Floats32]:
    """Return how far each channel of what goes into a product with constant weights goes from zero.

    Args:
        graph: Float32; it stays as it is.
        feeds: Inputs of some batches.

    Returns:
        By tensor, float32 ``(channels,)``.
    """
    from onnx import helper

    def measured(name: str) -> list[Any]:
        return [
            helper.make_node("Abs", [name], [f"{name}_abs"]),
            helper.make_node("Flatten", [f"{name}_abs"], [f"{name}_rows"], axis=-1),
            helper.make_node("ReduceMax", [f"{name}_rows", _FIRST_AXIS], [f"{name}_greatest"], keepdims=0),
        ]

    return _watch(graph, feeds, measured, np.maximum)


def moments(graph: Any, feeds: Feeds) -> dict[str, Floats32]:
    """Return how the channels of what goes into a product with constant weights go together.

    Args:
        graph: Float32; it stays as it is.
        feeds: Inputs of some batches.

    Returns:
        By tensor, the sum over pieces of each channel times each other, float32 ``(channels, channels)``.
    """
    from onnx import helper

    def measured(name: str) -> list[Any]:
        return [
            helper.make_node("Flatten", [name], [f"{name}_rows"], axis=-1),
            helper.make_node("Gemm", [f"{name}_rows", f"{name}_rows"], [f"{name}_moments"], transA=1),
        ]

    return _watch(graph, feeds, measured, np.add)


def _watch(graph: Any, feeds: Feeds, measured: Callable[[str], list[Any]], merge: np.ufunc) -> dict[str, Floats32]:
    """Return, by tensor that goes into a product with constant weights, what was measured of it in all batches.

    Args:
        graph: It stays as it is.
        feeds: Inputs of the batches.
        measured: Of a tensor's name, the nodes that measure it; the last one's output is what is wanted.
        merge: Puts the measures of two batches together; in place, for those of a large encoder are gigabytes.
    """
    import onnx
    import onnxruntime
    from onnx import helper

    wider = onnx.ModelProto()
    wider.CopyFrom(graph)
    weights = {one.name for one in graph.graph.initializer}
    names = list(dict.fromkeys(node.input[0] for node in graph.graph.node if _is_product(node, weights)))
    wanted = []
    for name in names:
        nodes = measured(name)
        wider.graph.node.extend(nodes)
        wanted.append(nodes[-1].output[0])
        wider.graph.output.append(helper.make_tensor_value_info(wanted[-1], onnx.TensorProto.FLOAT, None))
    wider.graph.initializer.append(helper.make_tensor(_FIRST_AXIS, onnx.TensorProto.INT64, [1], [0]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(wider.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Floats32] = []
    for one in feeds:
        values = session.run(wanted, one)
        found = [merge(a, b, out=a) for a, b in zip(found, values, strict=True)] if found else values
    return dict(zip(names, found, strict=True))


def spread_outliers(graph: Any, reach: dict[str, Floats32]) -> None:
    """Divide the channels that go far beyond the others, and multiply their weights, which changes no product.

    One scale for all channels is set by the greatest: in BERT a channel or two after each attention, and in each
    feed-forward layer, go 10 times as far as the rest, which then have a tenth of the 256 steps.

    Args:
        graph: Float32; changed in place.
        reach: Of :func:`greatest`.

    Source:
        Xiao et al. (2023), "SmoothQuant", eq. 3, for the outliers alone.
    """
    from onnx import helper, numpy_helper

    weights = {one.name: one for one in graph.graph.initializer}
    factors = {name: np.maximum(1, far / (OUTLYING * max(float(np.median(far)), 1e-9))) for name, far in reach.items()}
    nodes: list[Any] = []
    spread: set[str] = set()
    replaced: set[str] = set()
    for node in graph.graph.node:
        name = node.input[0] if _is_product(node, weights) else ""
        if name in factors and (factors[name] > 1).any():
            if name not in spread:
                spread.add(name)
                shares = numpy_helper.from_array(np.float32(1 / factors[name]), f"{name}_shares")
                graph.graph.initializer.append(shares)
                nodes.append(helper.make_node("Mul", [name, shares.name], [f"{name}_spread"]))
            # A copy: layers can share their weights, as ALBERT's do.
            table = numpy_helper.to_array(weights[node.input[1]]) * factors[name][:, None]
            own = numpy_helper.from_array(table.astype(np.float32), f"{node.input[1]}_of_{name}")
            graph.graph.initializer.append(own)
            replaced.add(node.input[1])
            node.input[:] = [f"{name}_spread", own.name]
        nodes.append(node)
    unused = replaced - {name for node in nodes for name in node.input}
    kept = [one for one in graph.graph.initializer if one.name not in unused]
    del graph.graph.node[:], graph.graph.initializer[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(kept)


def part_shared(graph: Any) -> None:
    """Give each product weights of its own: ONNX Runtime cannot quantize a table that several read, as ALBERT's are.

    Args:
        graph: Changed in place.
    """
    from onnx import numpy_helper

    weights = {one.name: one for one in graph.graph.initializer}
    uses: Counter[str] = Counter()
    for node in graph.graph.node:
        if _is_product(node, weights):
            name = node.input[1]
            uses[name] += 1
            if uses[name] > 1:
                own = numpy_helper.from_array(numpy_helper.to_array(weights[name]), f"{name}_use_{uses[name]}")
                graph.graph.initializer.append(own)
                node.input[1] = own.name


def _is_product(node: Any, weights: Iterable[str]) -> bool:
    return node.op_type == "MatMul" and node.input[1] in weights


class _Feeds:
    """Batches as ONNX Runtime's calibration asks for them."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next batch; None at the end."""
        return next(self._feeds, None)


@contextmanager
def _only_errors() -> Iterator[None]:
    """Keep ONNX Runtime from warning of inputs with defaults in the sessions that it opens by itself."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)  # its own default; it cannot be asked
