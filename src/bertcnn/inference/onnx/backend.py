"""Run a network by ONNX Runtime, on the CPU. Needs no torch.

``bertcnn export`` writes the graphs (:mod:`bertcnn.inference.export`).
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bertcnn.arrays import Floats32
from bertcnn.errors import ModelError, reason
from bertcnn.inference.backend import NO_FILTERS, Backend, Pooled, Spec
from bertcnn.machine import has_vnni, threads
from bertcnn.network.folder import MADE_OF, WEIGHTS, read_config
from bertcnn.text.tokens import Batch

FILES = {"onnx-int8": "model.int8.onnx", "onnx": "model.onnx"}
"""Of each backend, in its model's folder; the fastest first."""

SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""What ONNX Runtime would do to a graph to its harm: sum and normalization apart are five times as quick on a CPU."""


class OnnxBackend(Backend):
    """An exported graph.

    Args:
        folder: The model's.
        name: ``onnx`` or ``onnx-int8``.
        graph: Its file, where it is not (yet) in the folder.

    Raises:
        ModelError: ONNX Runtime is not installed, or the graph is missing, broken, or of other weights.
    """

    max_tokens = 1024
    overhead_tokens = 20
    segment_windows = 8

    def __init__(self, folder: str | Path, name: str, *, graph: Path | None = None) -> None:
        self.name, self.folder = name, Path(folder)
        file = graph or self.folder / FILES[name]
        self.session = open_session(file)
        wanted = read_config(folder).get(MADE_OF)
        made_of = self.session.get_modelmeta().custom_metadata_map.get(MADE_OF)
        if made_of != wanted:
            raise ModelError(
                f"{file} was made of weights {str(made_of)[:16]}..., but the folder holds {str(wanted)[:16]}...: "
                f"export again, bertcnn export {folder}{' --int8' if name == 'onnx-int8' else ''}"
            )

    @cached_property
    def spec(self) -> Spec:
        """What the folder's configuration says."""
        return Spec.read(self.folder)

    @cached_property
    def classifier(self) -> tuple[Floats32, Floats32]:
        """The linear layer, read from the folder's weights; int8 leaves it as it is."""
        return self._weights("head.classifier")

    @cached_property
    def filters(self) -> tuple[Floats32, Floats32]:
        """The convolution, read from the folder's weights; int8 rounds its products a little."""
        if self.spec.reach is None:
            raise ModelError(NO_FILTERS)
        return self._weights("head.cnn")

    def run(self, batches: Iterable[Batch], *, with_states: bool = False) -> Iterator[Pooled]:
        """Yield what is found in each batch."""
        asked = ["features", "positions", *(["states"] if with_states else [])]
        for batch in batches:
            yield Pooled(batch, *self.session.run(asked, feed(batch)))

    def _weights(self, layer: str) -> tuple[Floats32, Floats32]:
        try:
            with safe_open(self.folder / WEIGHTS, framework="np") as weights:
                return weights.get_tensor(f"{layer}.weight"), weights.get_tensor(f"{layer}.bias")
        except (OSError, SafetensorError) as error:
            raise ModelError(f"Cannot read {self.folder / WEIGHTS}: {error}. Copy the whole folder again.") from error


def feed(batch: Batch) -> dict[str, Any]:
    """Return a batch as the inputs of a graph."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if not batch.is_plain:
        inputs |= {"source": batch.source, "source_mask": batch.source_mask}
    return inputs


def open_session(graph: Path) -> Any:
    """Open a graph with a thread a core that this process may use.

    Raises:
        ModelError: ONNX Runtime is not installed, or the graph is missing or broken.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("Running ONNX needs onnxruntime: pip install 'bertcnn[onnx]'") from error
    if not graph.is_file():
        raise ModelError(f"No {graph}. Write it first: bertcnn export {graph.parent}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3  # errors; it warns of what it optimises
    # Where a processor has no 8-bit products of its own, sums of two would be cut off at 16 bits. Where it has
    # AMX as well, the exact way of the others is 2.5 times as slow.
    if not has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_FUSIONS
        )
    except Exception as error:  # its errors have no common class
        raise ModelError(f"{graph} cannot be read by ONNX Runtime: {reason(error)} Export again.") from error
