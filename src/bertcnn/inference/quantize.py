"""A float32 graph's matrix products in 8 bits, with scales that hang on no text.

The scale of what goes into a product is fixed when the graph is written, by what went into it on some texts. ONNX
Runtime can also take it from each batch as it comes; then a text's logits move with its neighbours.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertcnn.inference.onnx_backend import feed
from bertcnn.text.tokens import Batch


def quantize(source: Path, file: Path, batches: Iterable[Batch]) -> None:
    """Write a graph with the weights of its matrix products in 8 bits, a scale a column.

    Args:
        source: A float32 graph.
        file: Where to write; says of which weights it was made, if the source does.
        batches: Texts such as will be read. What goes beyond all of theirs is cut to the greatest of them.

    Source:
        Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", sec. 2.1.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with _only_errors():
        quantize_static(
            source,
            file,
            _Feeds(batches),
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
    graph = onnx.load(file)
    props = onnx.load(source, load_external_data=False).metadata_props
    onnx.helper.set_model_props(graph, {one.key: one.value for one in props})
    onnx.save(graph, file)


class _Feeds:
    """Batches as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._feeds = map(feed, batches)

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
