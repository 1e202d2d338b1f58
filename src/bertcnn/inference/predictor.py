"""Texts to predictions: the one batched loop behind every door, whatever runs the network."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from bertcnn.arrays import Floats32, Floats64, Ints
from bertcnn.errors import ModelError
from bertcnn.inference.backend import Backend, WrappedBackend
from bertcnn.inference.calibration import probabilities_of
from bertcnn.inference.explaining.winners import parts_of, places_of
from bertcnn.inference.golden import check_golden
from bertcnn.inference.metrics import Evaluation, decide, evaluate
from bertcnn.inference.onnx.backend import FILES, OnnxBackend
from bertcnn.inference.prediction import Prediction, predictions_of
from bertcnn.machine import has_gpu
from bertcnn.network.folder import check_folder, check_weights
from bertcnn.settings import BackendName
from bertcnn.text.dataset import Examples
from bertcnn.text.labels import Labels
from bertcnn.text.tokens import Pieces, PieceTokenizer, check_texts, one_by_one

if TYPE_CHECKING:
    from torch import Tensor

    from bertcnn.inference.explaining.explanation import Explanation
    from bertcnn.inference.refusal import Operation
    from bertcnn.network.model import BertCNN

TEXTS_AT_ONCE = 4096
"""Texts held while streaming: enough to find neighbours of like length."""


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter(one_by_one(texts))
    first = 0
    while chunk := check_texts(list(islice(waiting, TEXTS_AT_ONCE)), first=first):
        yield chunk
        first += len(chunk)


class Predictor:
    """A trained model, ready for texts.

    ===================  ==================================================
    ``predict(texts)``   one :class:`Prediction` a text
    ``stream(texts)``    the same, for any number of texts, as they come
    ``explain(texts)``   one :class:`~bertcnn.inference.explaining.explanation.Explanation` a text
    ``logits(texts)``    float ``(N, K)``
    ``embed(texts)``     contextual states ``(B, T, S)`` and a mask; torch only
    ===================  ==================================================

    Args:
        model: What runs the network: a :class:`~bertcnn.network.model.BertCNN`, or a backend.
        tokenizer: What cuts texts for it.
        max_tokens: Padded pieces of a batch. None: what suits the backend.
    """

    def __init__(self, model: "BertCNN | Backend", tokenizer: PieceTokenizer, *, max_tokens: int | None = None) -> None:
        self.backend = model if isinstance(model, Backend) else _torch_backend(model)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        backend: BackendName = "auto",
        device: str | None = None,
        max_tokens: int | None = None,
    ) -> Self:
        """Load a model folder.

        Args:
            folder: What ``bertcnn train`` wrote.
            backend: ``torch``; ``torch-bf16``, whose encoder multiplies bfloat16 numbers: twice as fast on a CPU with
                AVX512_BF16, made for a GPU too, slower where there are no such products; ``onnx`` or ``onnx-int8``,
                where ``bertcnn export`` wrote it, on the CPU and without torch; ``auto``: torch where there is a GPU,
                else the fastest that is there, in float32 or int8.
            device: For torch: ``cpu``, ``cuda``, ...; the GPU where there is one if None.
            max_tokens: Padded pieces of a batch. None: what suits the backend.

        Raises:
            ModelError: The folder is missing, broken, of another type, or of a newer format; the backend is
                not there; or the model answers its golden texts otherwise than when it was saved.
        """
        if not os.path.isdir(folder):
            raise ModelError(f"No model folder {str(folder)!r}. Expected what 'bertcnn train --output' wrote.")
        check_folder(folder)
        check_weights(folder)
        kind = _fastest(Path(folder), device) if backend == "auto" else backend
        if kind in FILES:
            if device not in {None, "cpu"}:
                raise ModelError(f"backend {kind!r} runs on the CPU, not on {device!r}. Give backend='torch'.")
            runner: Backend = OnnxBackend(folder, kind)
        elif kind in {"torch", "torch-bf16"}:
            runner = _load_torch(folder, device)
        else:
            raise ModelError(f"backend is {backend!r}, expected auto, torch, torch-bf16, {', '.join(FILES)}.")
        predictor = cls(runner, PieceTokenizer.load(folder), max_tokens=max_tokens)
        check_golden(Path(folder), runner.name, predictor.in_one_batch().logits)
        if kind == "torch-bf16":  # only now: it is the install that golden texts prove, and in float32
            predictor.backend = _torch_backend(predictor.model, bf16=True)
        return predictor

    def in_one_batch(self) -> "Predictor":
        """Return the same, but taking the texts of a call in one batch, however much is padded.

        In int8 a rounding that falls otherwise in another batch moves a text's logits a little, so what is kept to
        compare with must not depend on how batches are made.
        """
        backend = WrappedBackend(self.backend)
        backend.max_tokens = backend.overhead_tokens = 1 << 30
        return Predictor(backend, self.tokenizer)

    @property
    def model(self) -> "BertCNN":
        """The network itself.

        Raises:
            ModelError: It is not run by torch.
        """
        model: BertCNN | None = getattr(self.backend, "model", None)
        if model is None:
            raise ModelError(f"This needs the network itself, but it is run by {self.backend.name}: load it by torch.")
        return model

    @property
    def label_names(self) -> list[str]:
        """Names of the labels, in the order of the logits."""
        return list(self.backend.spec.labels)

    @property
    def is_multi_label(self) -> bool:
        """True where a text can have many labels, or none."""
        return self.backend.spec.is_multi_label

    def logits(self, texts: Sequence[str]) -> Floats32:
        """Return the model's logits, float32 ``(N, K)``, in the order of the texts.

        Texts of the same pieces, as those that only differ in case may be, are computed once. A text is read whole,
        however long.
        """
        return self._logits(*self._cut(check_texts(texts)))

    def probabilities(self, texts: Sequence[str]) -> Floats64:
        """Return probabilities, float64 ``(N, K)``: each row sums to 1, or with many labels each stands alone."""
        return probabilities_of(self.logits(texts), many=self.is_multi_label)

    def decide(self, logits: Floats32) -> Ints:
        """Return what logits ``(N, K)`` answer: label ids ``(N,)``, or for many labels 0 and 1 ``(N, K)``."""
        many = self.is_multi_label
        return decide(probabilities_of(logits, many=many), many=many, thresholds=self.backend.spec.thresholds)

    def difference(self, found: Floats32, wanted: Floats32) -> tuple[float, int]:
        """Return the largest difference between logits ``(N, K)``, and how many texts they answer otherwise."""
        others = (self.decide(found) != self.decide(wanted)).reshape(len(found), -1 if len(found) else 1)
        return float(np.abs(found - wanted).max(initial=0.0)), int(others.any(axis=1).sum())

    def pooled(self, pieces: Pieces) -> tuple[Floats32, Ints]:
        """Return what the convolution finds in texts.

        Args:
            pieces: The texts.

        Returns:
            Features, float32 ``(N, M)``, and the first piece of each one's window in its text, int64
            ``(N, M)``; -1 where there is none.
        """
        features, positions, _ = self._pool(pieces, with_parts=False)
        return features, positions

    def pooled_parts(self, pieces: Pieces) -> tuple[Floats32, Ints, Floats32]:
        """Return what :meth:`pooled` does, and in the same run what each place of each window gave to its feature.

        Returns:
            Features, positions, and parts, float32 ``(N, sum(kernel_sizes) * F)`` in the order of the filters'
            weights; with the filter's bias they add up to its feature, where that is above 0.

        Raises:
            ModelError: The model has a plain linear head and no filters.
        """
        return self._pool(pieces, with_parts=True)

    def _pool(self, pieces: Pieces, *, with_parts: bool) -> tuple[Floats32, Ints, Floats32]:
        spec, backend = self.backend.spec, self.backend
        count = backend.classifier[0].shape[1]
        weight = backend.filters[0] if with_parts else np.zeros((0, 0), dtype=np.float32)
        features = np.zeros((len(pieces), count), dtype=np.float32)
        positions = np.full((len(pieces), count), -1, dtype=np.int64)
        parts = np.zeros((len(pieces), len(weight)), dtype=np.float32)
        batches = backend.batches(pieces, pad_id=self.tokenizer.pad_id, max_tokens=self.max_tokens)
        for batch, found, where, states in backend.run(batches, with_states=with_parts):
            given = None if states is None else parts_of(states, where, weight, spec.kernel_sizes)
            first = batch.starts == 0
            features[batch.texts[first]] = found[first]
            positions[batch.texts[first]] = where[first]
            if given is not None:
                parts[batch.texts[first]] = given[first]
            # The strongest of a text is the strongest of its segments, which come in their order.
            for row in np.flatnonzero(~first):
                text = batch.texts[row]
                stronger = found[row] > features[text]
                features[text][stronger] = found[row][stronger]
                positions[text][stronger] = where[row][stronger] + batch.starts[row]
                if given is not None:
                    own = stronger[places_of(spec.kernel_sizes, count)[0]]
                    parts[text][own] = given[row][own]
        return features, positions, parts

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Classify texts.

        Args:
            texts: A list of strings, or a table with a single column; empty strings and an empty list are fine.

        Raises:
            TypeError: A single string, a dict or a wider table was given, or something that is no string.
        """
        return list(self.stream(texts))

    def stream(self, texts: Iterable[str]) -> Iterator[Prediction]:
        """Classify any number of texts in their order, holding a few thousand at a time.

        While some are computed, the next are cut into pieces.

        Raises:
            TypeError: As :meth:`predict`.
        """
        chunks = _chunks(texts)
        cut = self._cut(next(chunks, []))
        with ThreadPoolExecutor(max_workers=1) as cutter:  # starts no thread before there is a second chunk
            for chunk in chunks:
                ahead = cutter.submit(self._cut, chunk)
                yield from predictions_of(self._logits(*cut), self.backend.spec)
                cut = ahead.result()
        yield from predictions_of(self._logits(*cut), self.backend.spec)

    def _cut(self, texts: Sequence[str]) -> tuple[Ints, Pieces]:
        """Return for each text its row among those that differ in their pieces, and those."""
        place: dict[str, int] = {}  # equal texts need not be cut twice either
        rows = [place.setdefault(text, len(place)) for text in texts]
        among, pieces = self.tokenizer(list(place)).distinct()
        return among[rows], pieces

    def _logits(self, rows: Ints, pieces: Pieces) -> Floats32:
        weight, bias = self.backend.classifier
        features, _ = self.pooled(pieces)
        return np.asarray((features @ weight.T + bias)[rows], dtype=np.float32)

    def explain(
        self,
        texts: Sequence[str],
        *,
        audit: bool = False,
        counterfactual: bool = False,
        leave_one_out: bool = False,
        threshold: float | None = None,
    ) -> "list[Explanation]":
        """Say which n-grams decided, exactly; see :func:`bertcnn.inference.explaining.explain.explain`."""
        from bertcnn.inference.explaining.explain import explain

        return explain(
            self, texts, audit=audit, counterfactual=counterfactual, leave_one_out=leave_one_out, threshold=threshold
        )

    def evaluate(self, examples: Examples) -> Evaluation:
        """Score the model on labelled texts.

        Raises:
            DataError: A label the model does not know, or no texts.
        """
        truth = self._labels.encode(examples.labels, where=examples.source)
        table = self.probabilities(examples.texts)
        return evaluate(truth, table, self.label_names, thresholds=self.backend.spec.thresholds)

    def threshold_for(self, examples: Examples, risk: float) -> "Operation":
        """Return from which confidence on to answer, so that no more than a share of the answers is wrong.

        Args:
            examples: Labelled texts that the model was not trained on.
            risk: That share, 0 to 1.

        Raises:
            DataError: No confidence gives that risk, or a label the model does not know.
        """
        from bertcnn.inference.refusal import threshold_for

        truth = self._labels.encode(examples.labels, where=examples.source)
        return threshold_for(risk, self.probabilities(examples.texts), truth, thresholds=self.backend.spec.thresholds)

    @property
    def _labels(self) -> Labels:
        return Labels(tuple(self.label_names), self.is_multi_label)

    def embed(self, texts: Sequence[str]) -> "tuple[Tensor, Tensor]":
        """Return the states that the head reads, float32 ``(B, T, S)``, and a mask, bool ``(B, T)``.

        Of a model that mixes its layers, all of them side by side, as they are before the mix.

        Raises:
            ModelError: The network is not run by torch.
        """
        from bertcnn.network.states import embed_with

        bf16 = self.backend.name == "torch-bf16"
        return embed_with(self.model, self.tokenizer, check_texts(texts), bf16=bf16)


def _fastest(folder: Path, device: str | None) -> str:
    """Return the backend to take where nothing is said."""
    there = [name for name, file in FILES.items() if (folder / file).is_file()]
    if device is not None or not there or find_spec("onnxruntime") is None:
        return "torch"
    if has_gpu() and find_spec("torch") is not None:
        from torch import cuda

        if cuda.is_available():
            return "torch"
    return there[0]


def _load_torch(folder: str | Path, device: str | None) -> Backend:
    # Imported here, as below: what runs by ONNX needs no torch.
    if find_spec("torch") is None:
        raise ModelError(
            f"Running {folder} by torch needs torch: pip install torch. What needs none is a graph: where torch is, "
            f"bertcnn export {folder}."
        )
    from bertcnn.network.encoder import quiet_transformers
    from bertcnn.network.model import BertCNN, to_device

    with quiet_transformers():
        model = BertCNN.from_pretrained(folder)
    return _torch_backend(to_device(model, device))


def _torch_backend(model: "BertCNN", *, bf16: bool = False) -> Backend:
    from bertcnn.inference.torch_backend import TorchBackend

    return TorchBackend(model, bf16=bf16)
