"""What a user would pick instead of an explanation by shares: scores of words by captum, lime, shap and by hand.

Every function takes a predictor run by torch and a text, and returns one score a word of
:func:`bertcnn.inference.explaining.winners.words_of`; what speaks for the predicted label is positive. But for
LIME, which fits its probability, all explain the margin: its logit over that of the runner-up.
"""

from collections.abc import Callable

import numpy as np
import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients
from lime.lime_text import LimeTextExplainer
from shap import KernelExplainer
from torch import Tensor

from bertcnn import Predictor
from bertcnn.arrays import Bools, Floats32, Floats64, Ints
from bertcnn.inference.explaining.counterfactual import without
from bertcnn.inference.explaining.explanation import Phrase
from bertcnn.inference.explaining.winners import Span, words_of

Method = Callable[[Predictor, str], Floats64]

STEPS = 50
"""Of integrated gradients, captum's default."""

SAMPLES = 500
"""Texts that LIME and SHAP may ask the model about."""


def integrated_gradients(predictor: Predictor, text: str, *, baseline: str = "[PAD]") -> Floats64:
    """Return integrated gradients of the word embeddings, pieces summed to words.

    Args:
        predictor: Run by torch.
        text: Of at most as many pieces as the encoder reads at once.
        baseline: The piece that stands for nothing; special pieces keep their place in it.

    Source:
        Sundararajan, Taly, Yan (2017), "Axiomatic Attribution for Deep Networks", sec. 3; by captum.
    """
    ids, forward, direction = _differentiable(predictor, text)
    special = len(predictor.tokenizer.prefix), ids.shape[1] - len(predictor.tokenizer.suffix)
    nothing = ids.clone()
    nothing[:, special[0] : special[1]] = int(predictor.tokenizer.tokenizer.token_to_id(baseline) or 0)
    method = LayerIntegratedGradients(forward, predictor.model.get_input_embeddings())
    found = method.attribute(ids, nothing, additional_forward_args=(direction,), n_steps=STEPS)
    return _of_words(predictor, text, found)


def gradient_x_input(predictor: Predictor, text: str) -> Floats64:
    """Return gradient times word embedding, pieces summed to words, by captum."""
    ids, forward, direction = _differentiable(predictor, text)
    method = LayerGradientXActivation(forward, predictor.model.get_input_embeddings())
    return _of_words(predictor, text, method.attribute(ids, additional_forward_args=(direction,)))


def lime(predictor: Predictor, text: str, *, seed: int = 0) -> Floats64:
    """Return the weights of LIME's linear model, words deleted one by one.

    Source:
        Ribeiro, Singh, Guestrin (2016), "Why Should I Trust You?"; by its authors' package.
    """
    words = words_of(text)
    explainer = LimeTextExplainer(
        split_expression=lambda _: [word.text for word in words],
        bow=False,
        mask_string="",
        feature_selection="none",
        random_state=seed,
    )
    label = int(predictor.logits([text])[0].argmax())
    found = explainer.explain_instance(
        text, predictor.probabilities, labels=(label,), num_features=len(words), num_samples=SAMPLES
    )
    scores = np.zeros(len(words))
    for place, weight in found.as_map()[label]:
        scores[place] = weight
    return scores


def shap(predictor: Predictor, text: str, *, seed: int = 0) -> Floats64:
    """Return kernel SHAP's values of the margin; a word that is out is deleted.

    Source:
        Lundberg and Lee (2017), "A Unified Approach to Interpreting Model Predictions"; by shap.
    """
    words = words_of(text)
    direction = _direction(predictor, text)

    def margins(kept: Floats64) -> Floats64:
        found: Floats64 = predictor.logits([deleted(text, words, row < 0.5) for row in kept]) @ direction.astype(float)
        return found

    state = np.random.get_state()  # noqa: NPY002 - shap draws from it
    np.random.seed(seed)  # noqa: NPY002
    try:
        explainer = KernelExplainer(margins, np.zeros((1, len(words))))
        values = explainer.shap_values(np.ones((1, len(words))), nsamples=SAMPLES, l1_reg=False, silent=True)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return np.asarray(values, dtype=np.float64).reshape(-1)


def leave_one_out(predictor: Predictor, text: str) -> Floats64:
    """Return what the margin loses when each word in turn is deleted and the rest read anew."""
    words = words_of(text)
    shortened = [deleted(text, words, np.arange(len(words)) == i) for i in range(len(words))]
    logits = predictor.logits([text, *shortened]) @ _direction(predictor, text)
    return np.asarray(logits[0] - logits[1:], dtype=np.float64)


def attention(predictor: Predictor, text: str) -> Floats64:
    """Return how much the first piece attends to each word in the last kept layer, in the mean over heads.

    The predictor's encoder must have eager attention, which alone gives weights.
    """
    weights = _attentions(predictor, text)[-1]
    return _by_word(predictor, text, weights[0])


def rollout(predictor: Predictor, text: str) -> Floats64:
    """Return attention rollout from all pieces to each word.

    Source:
        Abnar and Zuidema (2020), "Quantifying Attention Flow in Transformers", sec. 3.
    """
    layers = _attentions(predictor, text)
    flow = np.eye(len(layers[0]))
    for weights in layers:
        flow = (weights + np.eye(len(weights))) / 2 @ flow
    return _by_word(predictor, text, flow.mean(axis=0))


def chance(predictor: Predictor, text: str, *, seed: int = 0) -> Floats64:
    """Return random scores, equal for equal texts."""
    del predictor
    return np.random.default_rng([seed, *text.encode("utf-8", "replace")]).normal(size=len(words_of(text)))


def deleted(text: str, words: tuple[Span, ...], out: Bools) -> str:
    """Return a text without the words that are out, bool ``(words,)``."""
    gone = [words[i] for i in np.flatnonzero(out)]
    return without(text, [Phrase(word.start, word.end, word.text, ()) for word in gone])


def _direction(predictor: Predictor, text: str) -> Floats32:
    """Return the vector ``(K,)`` that makes logits the margin of the predicted label over the runner-up."""
    logits = predictor.logits([text])[0]
    second, first = np.argsort(logits, kind="stable")[-2:]
    direction = np.zeros(len(logits), dtype=np.float32)
    direction[[first, second]] = 1, -1
    return direction


def _differentiable(predictor: Predictor, text: str) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Return the pieces ``(1, T)``, the margin as a function of pieces, and its direction."""
    model = predictor.model

    def forward(ids: Tensor, direction: Tensor) -> Tensor:
        logits: Tensor = model(ids).logits @ direction[0]
        return logits

    ids = torch.from_numpy(predictor.tokenizer([text])[0])[None]
    return ids, forward, torch.from_numpy(_direction(predictor, text))[None]


def _attentions(predictor: Predictor, text: str) -> list[Floats64]:
    with torch.inference_mode():
        output = predictor.model(torch.from_numpy(predictor.tokenizer([text])[0])[None], output_attentions=True)
    return [layer[0].mean(0).double().numpy() for layer in output.attentions]


def _of_words(predictor: Predictor, text: str, found: Tensor) -> Floats64:
    return _by_word(predictor, text, found.detach()[0].sum(-1).double().numpy())


def _by_word(predictor: Predictor, text: str, values: Floats64) -> Floats64:
    """Sum a value of each piece, ``(T,)``, by word; those of special pieces are left out."""
    owner = owners(predictor, text)
    scores = np.zeros(len(words_of(text)))
    np.add.at(scores, owner[owner >= 0], values[owner >= 0])
    return scores


def owners(predictor: Predictor, text: str) -> Ints:
    """Return the word of each piece of a text, int64 ``(T,)``; -1 for special pieces."""
    spans = predictor.tokenizer([text], with_spans=True).spans
    assert spans is not None
    ends = np.array([word.end for word in words_of(text)])
    owner = np.minimum(np.searchsorted(ends, spans[:, 0], side="right"), len(ends) - 1)
    owner[: len(predictor.tokenizer.prefix)] = -1
    owner[len(owner) - len(predictor.tokenizer.suffix) :] = -1
    return owner
