"""The ladder of systems: from the commonest label to a convolution over a fine-tuned BERT.

Each is a scikit-learn classifier; all networks are one network with other settings, so that a
step of the ladder changes one thing. A name may say how deep the encoder is: ``bert-cnn@half``,
``bert-cnn-frozen@3``, ``bert-cnn-frozen@mix``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from bertcnn.arrays import Floats32, Floats64
from bertcnn.errors import StudyError, nearest
from bertcnn.settings import Settings, change
from bertcnn.text.dataset import Examples

Values = dict[str, Any]


class Classifier(Protocol):
    """What every system is, once made."""

    classes_: npt.NDArray[Any]

    def predict_proba(self, X: Sequence[str]) -> Floats64:  # noqa: N803  # scikit-learn's name
        """Return probabilities ``(N, K)``, columns in the order of ``classes_``."""


@dataclass(frozen=True)
class System:
    """A rung of the ladder.

    Attributes:
        name: Of the ladder, with its depth.
        about: In a line.
        group: For the report.
        settings: Of the network; None: it is not one of ours.
        space: What may be tuned, and among which values; the first is the default.
        depth: Layers of its encoder: a number, ``half``, ``all``, or ``mix``; empty where it has none.
    """

    name: str
    about: str
    group: str
    settings: Values | None = None
    space: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    depth: str = ""

    @property
    def defaults(self) -> Values:
        """What stands for each of what may be tuned, where nothing is."""
        return {name: choices[0] for name, choices in self.space.items()}


_HEAD = {
    "dropout": (0.5, 0.3),
    "head_learning_rate": (1e-3, 5e-4, 2e-3),
    "num_filters": (100, 200),
}
_CNN = {**_HEAD, "kernel_sizes": ((3, 4, 5), (1, 2, 3), (1, 2, 3, 4))}
_FROZEN = {**_HEAD, "kernel_sizes": ((1, 2, 3, 4), (3, 4, 5), (1, 2, 3))}
_RATES = {"encoder_learning_rate": (5e-5, 1e-4, 3e-5), "layer_decay": (1.0, 0.9)}
_LINEAR = {"dropout": (0.1, 0.3), "head_learning_rate": (1e-3, 5e-4, 2e-3)} | _RATES
_KIM: Values = {"encoder": "words", "depth": "all", "kernel_sizes": (3, 4, 5), "batch_size": 50, "patience": 4}
_FINETUNE: Values = {"method": "finetune", "epochs": 3, "layer_decay": 1.0}

_LADDER: dict[str, tuple[str, str, Values | None, dict[str, tuple[Any, ...]]]] = {
    "majority": ("The commonest label", "baseline", None, {}),
    "tfidf": (
        "TF-IDF of words and pairs, logistic regression",
        "baseline",
        None,
        {"C": (10.0, 1.0, 3.0, 30.0), "min_df": (1, 2), "sublinear_tf": (True, False)},
    ),
    "cnn-random": (
        "CNN over random word vectors, trained (Kim 2014, CNN-rand)",
        "CNN alone",
        {**_KIM, "method": "finetune", "epochs": 15},
        _CNN,
    ),
    "cnn-static": (
        "CNN over given word vectors, fixed (Kim 2014, CNN-static)",
        "CNN alone",
        {**_KIM, "encoder": "words:VECTORS", "method": "frozen", "head_epochs": 15},
        _CNN,
    ),
    "cnn-tuned": (
        "CNN over given word vectors, trained (Kim 2014, CNN-non-static)",
        "CNN alone",
        {**_KIM, "encoder": "words:VECTORS", "method": "finetune", "epochs": 15},
        _CNN,
    ),
    "cnn-pieces": (
        "CNN over BERT's input table, fixed: no context",
        "CNN alone",
        {"encoder": "pieces:ENCODER", "depth": "all", "method": "frozen"},
        _FROZEN,
    ),
    "bert-mean-frozen": (
        "Frozen BERT, mean of states, logistic regression",
        "frozen BERT",
        None,
        {"C": (1.0, 0.1, 10.0, 100.0)},
    ),
    "bert-cnn-frozen": ("Frozen BERT, CNN", "frozen BERT", {"method": "frozen"}, _FROZEN),
    "bert-cls": ("Fine-tuned BERT, linear on [CLS]", "fine-tuned BERT", {**_FINETUNE, "features": "first"}, _LINEAR),
    "bert-mean": ("Fine-tuned BERT, linear on the mean", "fine-tuned BERT", {**_FINETUNE, "features": "mean"}, _LINEAR),
    "bert-cnn": ("Fine-tuned BERT, CNN", "fine-tuned BERT", _FINETUNE, _FROZEN | _RATES),
    "bert-cnn-lpft": (
        "BERT, CNN trained first, then both",
        "fine-tuned BERT",
        {"method": "head-then-finetune", "epochs": 3},
        _FROZEN | _RATES,
    ),
    "bert-cnn-contrasts": (
        "Fine-tuned BERT, CNN, with far negations made of the training texts",
        "fine-tuned BERT",
        {**_FINETUNE, "negation_contrasts": 0.5},
        _FROZEN | _RATES,
    ),
}

DEFAULTS = (
    *("majority", "tfidf", "cnn-random", "cnn-static", "cnn-tuned", "cnn-pieces"),
    *(
        "bert-mean-frozen@half",
        "bert-mean-frozen@all",
        "bert-cnn-frozen@half",
        "bert-cnn-frozen@all",
        "bert-cnn-frozen@mix",
    ),
    *("bert-cls@half", "bert-cls@all", "bert-mean@half", "bert-mean@all"),
    *("bert-cnn@half", "bert-cnn@all", "bert-cnn-lpft@half"),
)
"""Who is compared where nothing is said."""

FIXED = ("depth", "states", "features", "method", "seed", "report_to", "encoder")
"""Settings that a system's name decides, or the study."""


def ladder_place(name: str) -> tuple[int, str]:
    """Return where a system stands in the ladder, for sorting."""
    base, _, depth = name.partition("@")
    places = list(_LADDER)
    order = {"half": "50", "all": "98", "mix": "99"}
    return places.index(base) if base in places else len(places), order.get(depth, depth.zfill(2))


def system(name: str) -> System:
    """Return a rung of the ladder.

    Raises:
        StudyError: There is none of this name.
    """
    base, _, depth = name.partition("@")
    if base not in _LADDER:
        raise StudyError(f"Unknown system {name!r}. Known: {', '.join(_LADDER)}.{nearest(base, _LADDER)}")
    about, group, settings, space = _LADDER[base]
    takes_depth = group.endswith("BERT")
    if takes_depth and not depth:
        raise StudyError(f"System {name!r} does not say how deep the encoder is: {base}@half, {base}@all, {base}@4.")
    if depth and not (takes_depth and (depth in {"half", "all", "mix"} or re.fullmatch("[1-9][0-9]*", depth))):
        raise StudyError(
            f"System {name!r} has the depth {depth!r}, expected "
            + ("half, all, mix, or a number." if takes_depth else "none.")
        )
    if takes_depth:
        extra: Values = {"depth": "all", "states": "mix"} if depth == "mix" else {"depth": depth}
        said = {"half": "its lower half", "all": "all layers", "mix": "a learned mix of all layers"}
        about = f"{about}; {said.get(depth, f'{depth} layers')}"
        if settings is None:
            if depth == "mix":
                raise StudyError(
                    f"System {name!r}: logistic regression learns no mix of layers. Say half, all, a number."
                )
            return System(name, about, group, None, space, depth)
        settings = {**settings, **extra}
    if settings is None:
        return System(name, about, group, None, space)
    # The first value of the space is the default, so that trial 1 is the ladder's own setting.
    return System(name, about, group, {**{k: v[0] for k, v in space.items()}, **settings}, space, depth)


def network_settings(one: System, base: Settings, changes: Values, *, seed: int, vectors: str) -> Settings:
    """Return all settings of a system that is a network.

    Args:
        one: The system.
        base: What the study says of all networks.
        changes: What it says of this one, and what was chosen on dev.
        seed: Of everything.
        vectors: File of word vectors; may be empty where none are needed.

    Raises:
        StudyError: The system needs word vectors and there are none.
        SettingsError: A change is unknown or wrong.
    """
    own = dict(one.settings or {})
    encoder = str(own.get("encoder", base.model.encoder))
    if encoder == "words:VECTORS":
        if not vectors:
            raise StudyError(f"{one.name} needs word vectors: give --vectors FILE (.npz, .vec, .txt, .bin).")
        encoder = f"words:{vectors}"
    elif encoder == "pieces:ENCODER":
        encoder = f"pieces:{base.model.encoder}"
    return change(base, {**own, "encoder": encoder, "report_to": ("none",), **changes, "seed": seed})


def fit(
    one: System,
    base: Settings,
    changes: Values,
    train: Examples,
    dev: Examples,
    *,
    seed: int = 0,
    vectors: str = "",
    also_encode: Sequence[str] = (),
) -> Classifier:
    """Make a system.

    Args:
        one: Which.
        base: Settings of all networks.
        changes: Settings of this system.
        train: To learn from.
        dev: To choose the depth, the temperature and the like.
        seed: Of everything.
        vectors: File of word vectors.
        also_encode: Texts whose encoder states are kept together.
    """
    if one.settings is not None:
        # Imported here, for it loads torch and Trainer, which the other systems do without.
        from bertcnn.training.estimator import BertCNNClassifier

        settings = network_settings(one, base, changes, seed=seed, vectors=vectors)
        network = BertCNNClassifier(**vars(settings.model), **vars(settings.training))
        return cast(
            Classifier, network.fit(train.texts, train.labels, dev=(dev.texts, dev.labels), also_encode=also_encode)
        )
    values = {**one.defaults, **changes}
    return cast(Classifier, _plain(one, values, base, seed, also_encode).fit(train.texts, train.labels))


def _plain(one: System, values: Values, base: Settings, seed: int, also_encode: Sequence[str]) -> Any:
    """Return a system that is not a network of ours."""
    if one.name == "majority":
        return DummyClassifier(strategy="prior")
    regression = LogisticRegression(C=values["C"], max_iter=2000, random_state=seed)
    if one.name == "tfidf":
        words = TfidfVectorizer(
            ngram_range=(1, 2),
            min_df=values["min_df"],
            sublinear_tf=values["sublinear_tf"],
            token_pattern=r"(?u)\b\w+(?:['\u2019]\w+)?\b|[^\w\s.,;:'\"()\u2018-\u201f-]",  # noqa: S106  # a pattern, no password
        )
        return make_pipeline(words, regression)
    # Not scaled: some states hardly vary, and scaling them turns the cache's rounding into noise.
    return make_pipeline(MeanStates(base, one.depth, also_encode), regression)


class MeanStates(TransformerMixin, BaseEstimator):
    """Texts to the mean of a frozen encoder's last states, float32 ``(N, D)``; special pieces count.

    Args:
        base: Names the encoder and the cache.
        depth: Layers to run, from below.
        also_encode: Texts whose states are kept in the same cache entry.
    """

    def __init__(self, base: Settings, depth: str = "all", also_encode: Sequence[str] = ()) -> None:
        self.base = base
        self.depth = depth
        self.also_encode = also_encode

    def fit(self, X: Sequence[str], y: Any = None) -> Self:  # noqa: ARG002, N803  # scikit-learn's names
        """Load the encoder."""
        from bertcnn.network.states import load_for_embedding

        model = change(self.base, {"depth": self.depth}).model
        self.model_, self.tokenizer_ = load_for_embedding(
            model.encoder, model.layers, "last", model.max_length, model.overlap
        )
        return self

    def fit_transform(self, X: Sequence[str], y: Any = None, **_: Any) -> Floats32:  # noqa: N803
        """Encode the texts to learn from, or find their states in the cache."""
        from bertcnn.network.states import cache_folder, cached_states, mean_state, uses_bf16

        self.fit(X, y)
        started = perf_counter()
        texts = sorted({*X, *self.also_encode})
        pieces = self.tokenizer_(texts)
        told = self.base.training
        bf16, cache = uses_bf16(told.precision), cache_folder(told.cache)
        states = cached_states(self.model_, self.tokenizer_, pieces, cache, bf16=bf16)
        place = {text: i for i, text in enumerate(texts)}
        share = pieces.lengths[[place[text] for text in set(X)]].sum() / max(1, len(pieces.ids))
        self.cached_seconds_ = share * states.seconds - (perf_counter() - started)
        return np.stack([mean_state(states[place[text]]) for text in X])

    def transform(self, X: Sequence[str]) -> Floats32:  # noqa: N803  # scikit-learn's name
        """Encode texts; not from the cache, so that what it costs can be measured."""
        from bertcnn.network.states import stream_states, uses_bf16

        rows, pieces = self.tokenizer_(list(X)).distinct()
        sums = np.zeros((len(pieces), self.model_.config.hidden_size), dtype=np.float32)
        bf16 = uses_bf16(self.base.training.precision)
        for batch, states in stream_states(self.model_, pieces, pad_id=self.tokenizer_.pad_id, bf16=bf16):
            for text, one, mask in zip(batch.texts, states.float().cpu().numpy(), batch.source_mask, strict=True):
                sums[text] += one[mask].sum(axis=0)
        return np.asarray((sums / np.maximum(1, pieces.lengths)[:, None])[rows], dtype=np.float32)

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether the encoder is loaded."""
        return hasattr(self, "model_")
