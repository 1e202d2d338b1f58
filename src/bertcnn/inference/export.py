"""Export a model as ONNX graphs, in float32 and in int8, and prove that they answer as torch does."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from bertcnn.arrays import Floats32
from bertcnn.errors import ModelError, reason
from bertcnn.inference.golden import TEXTS, TOLERANCE, long_text, write_golden
from bertcnn.inference.metrics import Truth
from bertcnn.inference.onnx.backend import FILES, OnnxBackend
from bertcnn.inference.onnx.graph import silence, write_graph
from bertcnn.inference.onnx.quantize import quantize
from bertcnn.inference.predictor import Predictor
from bertcnn.network.encoder import reads_padding
from bertcnn.network.folder import MADE_OF
from bertcnn.text.dataset import Examples
from bertcnn.text.labels import Labels

LOGIT_TOLERANCE = 1e-4
"""Most that a float32 graph's logits may differ from torch's."""

ACCURACY_TOLERANCE = 0.5
"""Points of accuracy on dev that int8 may lose."""

CALIBRATION_TEXTS = 256
"""Texts by which the scales of int8 are set."""


@dataclass(frozen=True)
class Exported:
    """A graph that was written.

    Attributes:
        file: Where.
        megabytes: Its size.
        texts: On how many it was proved.
        difference: Largest difference of a logit from torch's, over these.
        flips: How many of those texts it answers otherwise than torch.
        accuracy, torch_accuracy: On the labelled texts, in percent; None where there were none.
    """

    file: Path
    megabytes: float
    texts: int
    difference: float
    flips: int
    accuracy: float | None
    torch_accuracy: float | None


def export_onnx(
    folder: str | Path, *, int8: bool = False, dev: Examples | None = None, texts: Sequence[str] = ()
) -> list[Exported]:
    """Write ``model.onnx`` into a model's folder, and with ``int8`` ``model.int8.onnx``.

    Args:
        folder: The model's.
        int8: Also with weights and activations of matrix products in 8 bits.
        dev: Labelled texts to prove it on; int8 needs them.
        texts: More texts to prove it on, without labels. Short, odd and long ones are always among them.

    Raises:
        ModelError: A package is missing, the encoder cannot be exported, or a graph answers otherwise
            than it may. Nothing is written then.
        DataError: ``dev`` has a label that the model does not know.
    """
    folder = Path(folder)
    predictor = Predictor.load(folder, backend="torch", device="cpu")
    if int8 and dev is None:
        raise ModelError("int8 is proved on labelled texts, and there are none. Give --dev FILE.")
    proof = _Proof.of(predictor, texts, dev)
    made_of = predictor.model.config.weights_sha256
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        drafts = {"onnx": Path(scratch) / FILES["onnx"]}
        write_graph(folder, drafts["onnx"], made_of)
        if int8:
            drafts["onnx-int8"] = Path(scratch) / FILES["onnx-int8"]
            exact = OnnxBackend(folder, "onnx", graph=drafts["onnx"])
            pieces = predictor.tokenizer(proof.some(CALIBRATION_TEXTS))
            with silence():
                batches = exact.batches(pieces, pad_id=predictor.tokenizer.pad_id)
                quantize(drafts["onnx"], drafts["onnx-int8"], batches)
        runners = {
            name: Predictor(OnnxBackend(folder, name, graph=draft), predictor.tokenizer)
            for name, draft in drafts.items()
        }
        written = [proof.check(runners[name], draft, folder) for name, draft in drafts.items()]
        _remove_stale({*FILES.values()} - {draft.name for draft in drafts.values()}, folder, made_of)
        for (name, draft), proved in zip(drafts.items(), written, strict=True):
            draft.replace(folder / draft.name)
            # Other processors round int8 otherwise, by about as much as int8 itself is off.
            off = proved.difference / max(1.0, float(np.abs(proof.logits).max(initial=0.0)))
            tolerance = TOLERANCE if name == "onnx" else max(0.05, off)
            write_golden(folder, name, runners[name].in_one_batch().logits, tolerance=tolerance)
    return written


def _remove_stale(names: Iterable[str], folder: Path, made_of: str | None) -> None:
    """Remove graphs of other weights, and damaged ones: nothing would load them, and they would seem the fastest."""
    import onnx
    from google.protobuf.message import DecodeError

    for file in (folder / name for name in names):
        if file.is_file():
            try:
                graph = onnx.load(file, load_external_data=False)
            except DecodeError:
                graph = onnx.ModelProto()
            if {one.key: one.value for one in graph.metadata_props}.get(MADE_OF) != (made_of or ""):
                file.unlink()


@dataclass(frozen=True)
class _Proof:
    """Texts, and how torch answers them: the last of them labelled, where there is a truth."""

    predictor: Predictor
    texts: list[str]
    logits: Floats32
    truth: Truth | None

    @classmethod
    def of(cls, predictor: Predictor, texts: Sequence[str], dev: Examples | None) -> Self:
        """Run the texts, and read the labels."""
        hard = [*TEXTS, long_text(predictor.tokenizer, predictor.backend.spec.windowing)]
        everything = [*hard, *texts, *(() if dev is None else dev.texts)]
        labels = Labels(tuple(predictor.label_names), predictor.is_multi_label)
        truth = None if dev is None else labels.encode(dev.labels, where=dev.source)
        return cls(predictor, everything, predictor.logits(everything), truth)

    def some(self, most: int) -> list[str]:
        """Return texts from all over, and the golden ones, which are short and odd."""
        return list(dict.fromkeys([*self.texts[:: max(1, -(-len(self.texts) // most))], *TEXTS]))

    def check(self, other: Predictor, draft: Path, folder: Path) -> Exported:
        """Compare another runner with torch.

        Raises:
            ModelError: It differs by more than it may.
        """
        try:
            found = other.logits(self.texts)
        except Exception as error:  # those of ONNX Runtime have no common class
            raise ModelError(
                f"The graph of this encoder cannot be run: {reason(error)} Nothing was written; use backend='torch'."
            ) from error
        difference, flips = self.predictor.difference(found, self.logits)
        ours, torchs = self._accuracy(found), self._accuracy(self.logits)
        if other.backend.name == "onnx" and not difference <= LOGIT_TOLERANCE:
            why = "The export does not follow something in this encoder"
            if reads_padding(self.predictor.model.encoder):
                why = "This encoder reads padding as text, so its answers hang on the other texts of a batch"
            raise ModelError(
                f"The graph's logits differ from torch's by up to {difference:.2g}, expected at most "
                f"{LOGIT_TOLERANCE:g}; nothing was written. {why}; use backend='torch'."
            )
        lost = 0.0 if ours is None or torchs is None else torchs - ours
        if other.backend.name == "onnx-int8" and lost > ACCURACY_TOLERANCE:
            labelled = 0 if self.truth is None else len(self.truth)
            raise ModelError(
                f"int8 has an accuracy of {ours:.1f} on {labelled:,} labelled texts, {lost:.1f} points less than "
                f"float32; expected at most {ACCURACY_TOLERANCE:g}. It answers {flips:,} of all texts otherwise. "
                "Nothing was written; export without int8, or give more labelled texts: of a few hundred, two answers "
                "can decide."
            )
        size = draft.stat().st_size / 1e6
        return Exported(folder / draft.name, size, len(self.texts), difference, flips, ours, torchs)

    def _accuracy(self, logits: Floats32) -> float | None:
        if self.truth is None:
            return None
        right = self.predictor.decide(logits[-len(self.truth) :]) == self.truth
        return 100 * float(right.reshape(len(self.truth), -1).all(axis=1).mean())
