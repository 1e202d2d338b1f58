"""Settings, labels and texts to an untrained network and its tokenizer."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from bertcnn.errors import SettingsError
from bertcnn.inference.metrics import Truth
from bertcnn.network.encoder import check_pieces, load_tokenizer
from bertcnn.network.model import BertCNN
from bertcnn.network.vectors import build_pieces, build_vectors
from bertcnn.settings import Settings
from bertcnn.text.labels import Labels
from bertcnn.text.tokens import NO_WINDOWS, PieceTokenizer


def build_model(
    settings: Settings, labels: Labels, texts: Sequence[str], truth: Truth
) -> tuple[BertCNN, PieceTokenizer]:
    """Make an untrained model and its tokenizer.

    Args:
        settings: Of the model, and of the loss; where the depth is yet to be chosen, all layers are kept.
        labels: To tell apart.
        texts: Training texts, for the vocabulary of word vectors.
        truth: Of those texts, for balanced class weights.
    """
    model, training = settings.model, settings.training
    kind, _, file = model.encoder.partition(":")
    encoder: str | PreTrainedModel
    if kind == "words":
        encoder, tokenizer = build_vectors(
            list(texts),
            file=file or None,
            size=model.vector_size,
            seed=training.seed,
            padding=max(model.kernel_sizes) - 1 if model.features == "windows" else 0,
        )
        max_length, overlap = NO_WINDOWS, 0
    elif kind == "pieces":
        encoder, tokenizer = build_pieces(file or "minilm")
        max_length, overlap = NO_WINDOWS, 0
    else:
        encoder, tokenizer = model.encoder, load_tokenizer(model.encoder)
        max_length, overlap = model.max_length, model.overlap
    network = BertCNN.from_encoder(
        encoder,
        labels=labels.names,
        multi_label=labels.many,
        depth="all" if model.searches_depth else model.layers,
        states=model.states,
        num_filters=model.num_filters,
        kernel_sizes=model.kernel_sizes,
        features=model.features,
        dropout=model.dropout,
        freeze_encoder=training.method == "frozen",
        max_length=max_length,
        overlap=overlap,
        special_pieces=(len(tokenizer.prefix), len(tokenizer.suffix)),
        class_weights=_class_weights(training.class_weights, labels, truth),
        focal_gamma=training.focal_gamma,
        label_smoothing=training.label_smoothing,
    )
    if kind not in {"words", "pieces"}:
        check_pieces(model.encoder, tokenizer, network.encoder)
        if not training.train_word_embeddings:
            network.get_input_embeddings().requires_grad_(False)
    return network, tokenizer


def _class_weights(choice: str | tuple[float, ...], labels: Labels, truth: Truth) -> list[float] | None:
    if choice == "none":
        return None
    if isinstance(choice, tuple):
        if len(choice) != len(labels.names):
            raise SettingsError(
                f"class_weights has {len(choice)} numbers, but there are {len(labels.names)} labels: "
                f"{', '.join(labels.names)}."
            )
        return list(choice)
    if labels.many:
        positives = truth.sum(axis=0)
        return [float(w) for w in np.maximum(len(truth) - positives, 1) / np.maximum(positives, 1)]
    counts = np.bincount(truth, minlength=len(labels.names))
    return [float(w) for w in len(truth) / (len(counts) * counts)]
