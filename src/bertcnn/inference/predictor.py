"""Texts to predictions: the one batched loop behind every door."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertcnn.errors import ModelError
from bertcnn.inference.calibration import probabilities_of
from bertcnn.inference.metrics import Evaluation, decide, evaluate
from bertcnn.network.encoder import quiet_transformers
from bertcnn.network.model import BertCNN, check_folder
from bertcnn.network.states import embed_with, stream_states
from bertcnn.text.dataset import Examples
from bertcnn.text.labels import Labels
from bertcnn.text.tokens import PieceTokenizer

TEXTS_AT_ONCE = 4096
"""Texts held while streaming: enough to find neighbours of like length."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one text.

    Attributes:
        label: The likeliest label; where a text can have many, those that hold, joined by ``|``.
        confidence: The probability of ``label``; where a text can have many, of the whole set, the
            labels taken as independent.
        probabilities: Of every label, by name, in the order of the model.
        labels: Where a text can have many, those that hold; else None.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    labels: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the one JSON form."""
        form: dict[str, Any] = {"label": self.label, "confidence": self.confidence}
        if self.labels is not None:
            form["labels"] = list(self.labels)
        return {**form, "probabilities": self.probabilities}


class Predictor:
    """A trained model, ready for texts.

    ===================  ==================================================
    ``predict(texts)``   one :class:`Prediction` a text
    ``stream(texts)``    the same, for any number of texts, as they come
    ``logits(texts)``    float ``(N, K)``
    ``embed(texts)``     contextual states ``(B, T, D)`` and a mask
    ===================  ==================================================

    Args:
        model: It is put into evaluation mode.
        tokenizer: What cuts texts for it.
        max_tokens: Padded pieces of a batch. None: what suits the device.
    """

    def __init__(self, model: BertCNN, tokenizer: PieceTokenizer, *, max_tokens: int | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @classmethod
    def load(cls, folder: str | Path, *, device: str | None = None, max_tokens: int | None = None) -> Self:
        """Load a model folder, onto a GPU where there is one unless ``device`` says otherwise.

        Raises:
            ModelError: The folder is missing, broken, of another type, or of a newer format.
        """
        if not Path(folder).is_dir():
            raise ModelError(f"No model folder {str(folder)!r}. Expected what 'bertcnn train --output' wrote.")
        check_folder(folder)
        tokenizer = PieceTokenizer.load(folder)
        with quiet_transformers():
            model = BertCNN.from_pretrained(folder)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(place), tokenizer, max_tokens=max_tokens)

    @property
    def label_names(self) -> list[str]:
        """Names of the labels, in the order of the logits."""
        return list(self.model.config.label_names)

    @property
    def is_multi_label(self) -> bool:
        """True where a text can have many labels, or none."""
        return bool(self.model.config.is_multi_label)

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the model's logits, float32 ``(N, K)``, in the order of the texts.

        Equal texts are computed once. A text is read whole, however long.
        """
        distinct = list(dict.fromkeys(texts))
        head = self.model.head
        pieces = self.tokenizer(distinct)
        features = head.classifier.weight.new_zeros(len(distinct), head.cnn.num_features)
        batches = stream_states(
            self.model, pieces, pad_id=self.tokenizer.pad_id, reach=head.reach, max_tokens=self.max_tokens
        )
        with torch.inference_mode():
            for batch, states in batches:
                mask = torch.from_numpy(batch.source_mask).to(states.device)
                found, _ = head.features(states, mask)
                rows = torch.from_numpy(batch.texts).to(states.device)
                if head.reach is None:
                    features[rows] = found.to(features)
                else:
                    # ReLU features are never negative, so a maximum over segments may start at 0.
                    features.scatter_reduce_(0, rows[:, None].expand_as(found), found.to(features), "amax")
            answers: npt.NDArray[np.float32] = head.classifier(features).float().cpu().numpy()
        if len(distinct) == len(texts):
            return answers
        place = {text: i for i, text in enumerate(distinct)}
        return answers[[place[text] for text in texts]]

    def probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return probabilities, float64 ``(N, K)``: each row sums to 1, or with many labels each stands alone."""
        return probabilities_of(self.logits(texts), many=self.is_multi_label)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Classify texts.

        Args:
            texts: A list of strings; empty strings and an empty list are fine.

        Raises:
            TypeError: A single string was given, or something that is no string.
        """
        return list(self.stream(_as_texts(texts)))

    def stream(self, texts: Iterable[str]) -> Iterator[Prediction]:
        """Classify any number of texts in their order, holding a few thousand at a time."""
        waiting = iter(texts)
        names, many = self.label_names, self.is_multi_label
        thresholds = self.model.config.thresholds
        while chunk := list(islice(waiting, TEXTS_AT_ONCE)):
            table = self.probabilities(chunk)
            answers = decide(table, many=many, thresholds=thresholds)
            for row, answer in zip(table.tolist(), answers, strict=True):
                by_name = dict(zip(names, row, strict=True))
                if many:
                    held = tuple(name for name, holds in zip(names, answer, strict=True) if holds)
                    sure = float(np.prod([p if on else 1 - p for p, on in zip(row, answer, strict=True)]))
                    yield Prediction("|".join(held), sure, by_name, held)
                else:
                    yield Prediction(names[answer], row[answer], by_name)

    def evaluate(self, examples: Examples) -> Evaluation:
        """Score the model on labelled texts.

        Raises:
            DataError: A label the model does not know.
        """
        labels = Labels(tuple(self.label_names), self.is_multi_label)
        truth = labels.encode(examples.labels, where=examples.source)
        table = self.probabilities(examples.texts)
        return evaluate(truth, table, self.label_names, thresholds=self.model.config.thresholds)

    def embed(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the states the convolution reads, float32 ``(B, T, S)``, and a mask, bool ``(B, T)``."""
        return embed_with(self.model, self.tokenizer, _as_texts(texts))


def _as_texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError(f'Expected a list of texts, got one string. Write ["{texts[:20]}..."] instead.')
    found = list(texts)
    wrong = next((i for i, text in enumerate(found) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(f"Text {wrong} is a {type(found[wrong]).__name__}, expected str.")
    return found
