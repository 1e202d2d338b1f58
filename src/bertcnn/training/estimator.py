"""The classifier as scikit-learn wants it."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from rich.console import Console
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d

from bertcnn.arrays import Floats64
from bertcnn.errors import DataError, SettingsError, nearest
from bertcnn.inference.metrics import decide
from bertcnn.settings import DataSettings, ModelSettings, Settings, TrainingSettings, change
from bertcnn.text.cells import is_missing
from bertcnn.text.dataset import Examples, Splits, stratified_rows
from bertcnn.text.labels import Label, Labels, named
from bertcnn.text.tokens import check_texts
from bertcnn.training.train import train

DEFAULTS: dict[str, Any] = {
    **{one.name: one.default for kind in (ModelSettings, TrainingSettings) for one in fields(kind)},
    "report_to": ("none",),
    "dev_fraction": DataSettings().dev_fraction,
    "verbose": False,
}


class BertCNNClassifier(ClassifierMixin, BaseEstimator):
    """A convolution on top of BERT, for Pipeline, cross_val_score, GridSearchCV, clone and joblib.

    ``X`` is a sequence of texts. ``y`` is one label a text, of any type scikit-learn sorts, or for
    many labels a text an indicator matrix ``(N, K)`` of 0 and 1, as MultiLabelBinarizer makes.

    Parameters are the settings of the model and of training (:mod:`bertcnn.settings`), by their
    names, and ``dev_fraction``, the share of the texts that choices are made on; ``verbose`` shows
    progress. ``class_weights`` may be a dict, by label. Where training chooses the depth (``half-or-all``,
    ``auto``) it is ``trained_.settings.model.depth``, and what was tried is ``trained_.depth_curve``.

    Attributes:
        classes_: The labels, in the order of the columns of ``predict_proba``.
        trained_: What training made; ``trained_.predictor`` is its :class:`Predictor`.

    >>> from sklearn.model_selection import cross_val_score
    >>> cross_val_score(BertCNNClassifier(method="frozen"), texts, labels)  # doctest: +SKIP
    """

    def __init__(self, **parameters: Any) -> None:
        unknown = [name for name in parameters if name not in DEFAULTS]
        if unknown:
            hint = " Its name here is 'seed'." if unknown[0] == "random_state" else nearest(unknown[0], DEFAULTS)
            raise TypeError(f"Unexpected parameter {unknown[0]!r}.{hint}")
        for name, default in DEFAULTS.items():
            setattr(self, name, parameters.get(name, default))

    # scikit-learn reads the parameters from here; they are the settings, written once.
    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY),
            *(inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in DEFAULTS.items()),
        ]
    )

    def fit(
        self,
        X: Sequence[str],  # noqa: N803  # scikit-learn's name
        y: Any,
        *,
        dev: tuple[Sequence[str], Any] | None = None,
        also_encode: Sequence[str] = (),
        **unknown: Any,
    ) -> Self:
        """Train on texts and their labels.

        Args:
            X: Texts.
            y: Their labels.
            dev: Texts and labels to choose on. None: a share of the others, ``dev_fraction``.
            also_encode: See :func:`bertcnn.training.train.train`.
            unknown: Nothing; here to say what to give instead of ``sample_weight``.

        Raises:
            DataError: Labels that cannot be learned.
            SettingsError: A parameter of the wrong type or out of range.
            TypeError: Texts that are none, or an argument that there is not.
        """
        if unknown:
            hint = " Weigh labels by class_weights='balanced', or a dict." if "sample_weight" in unknown else ""
            raise TypeError(f"fit() takes no {', '.join(unknown)}.{hint}")
        texts, y = _pairs(X, y)
        before = self.__dict__.copy()
        try:
            self._fit(texts, y, dev, also_encode)
        except BaseException:
            self.__dict__ = before  # what was fitted before goes on answering as it did
            raise
        return self

    def _fit(self, texts: list[str], y: Any, dev: Any, also_encode: Sequence[str]) -> None:
        self._note_classes(y)
        examples = Examples(texts, self._labels(y), "X")
        settings = self._settings(examples.labels)
        if dev is not None:
            dev_texts, dev_y = _pairs(*dev)
            splits = Splits(examples, Examples(dev_texts, self._labels(dev_y), "dev"))
        else:
            kept = set(stratified_rows(examples, settings.data.dev_fraction, seed=settings.training.seed))
            if not kept:
                different = f": {len(set(texts))} are different" if len(set(texts)) < len(texts) else ""
                raise DataError(
                    f"{len(texts)} texts are too few to keep a share of {self.dev_fraction} to choose on{different}. "
                    "Give more texts, a greater dev_fraction, or dev=(texts, labels)."
                )
            rest = (i for i in range(len(texts)) if i not in kept)
            splits = Splits(examples.pick(rest, "train"), examples.pick(sorted(kept), "dev"))
        self._warn_of_single_texts(y)
        console = Console() if self.verbose else None
        self.trained_ = train(splits, settings, also_encode=also_encode, console=console)

    def _settings(self, labels: Sequence[Label]) -> Settings:
        """Return the parameters as settings; weights that are given by label in the order of the labels.

        Raises:
            SettingsError: A parameter of the wrong type or out of range, or a label without a weight.
        """
        given = {name: value for name, value in self.get_params().items() if name != "verbose"}
        if isinstance(given["class_weights"], Mapping):
            weights = {named(label): weight for label, weight in given["class_weights"].items()}
            names = Labels.of(labels).names
            if not set(names) <= set(weights):  # of others there may be, for a fold may lack a label
                raise SettingsError(
                    f"class_weights are of {', '.join(map(repr, weights))}, expected one for each label: "
                    f"{', '.join(map(repr, names))}."
                )
            given["class_weights"] = [weights[name] for name in names]
        return change(Settings(), {k: tuple(v) if isinstance(v, list | np.ndarray) else v for k, v in given.items()})

    def decision_function(self, X: Sequence[str]) -> Floats64:  # noqa: N803
        """Return logits ``(N, K)``; for two classes, as scikit-learn wants it, their difference ``(N,)``."""
        check_is_fitted(self, "trained_")
        logits = self.trained_.predictor.logits(_texts(X)).astype(np.float64)
        logits = self._in_order(logits, missing=logits.min(initial=0.0))
        if len(self.classes_) == 2 and not self._is_multi_label:
            return np.asarray(logits[:, 1] - logits[:, 0])
        return logits

    def predict_proba(self, X: Sequence[str]) -> Floats64:  # noqa: N803
        """Return probabilities ``(N, K)``, columns in the order of ``classes_``."""
        check_is_fitted(self, "trained_")
        return self._in_order(self.trained_.predictor.probabilities(_texts(X)), missing=0.0)

    def predict_log_proba(self, X: Sequence[str]) -> Floats64:  # noqa: N803
        """Return the natural logarithms of :meth:`predict_proba`."""
        with np.errstate(divide="ignore"):  # of a label that no text had when it was fitted
            return np.log(self.predict_proba(X))

    def predict(self, X: Sequence[str]) -> npt.NDArray[Any]:  # noqa: N803
        """Return the label of each text, or for many labels a text the indicator matrix ``(N, K)``."""
        table = self.predict_proba(X)
        thresholds = self.trained_.predictor.model.config.thresholds
        in_order = None if thresholds is None else self._in_order(np.array([thresholds]), missing=1.0)[0]
        answers = decide(table, many=self._is_multi_label, thresholds=in_order)
        return answers if self._is_multi_label else np.asarray(self.classes_[answers])

    def _note_classes(self, y: Any) -> None:
        """Note the classes and their names; where two look alike in print, the place is part of the name."""
        check_classification_targets(y)
        self._is_multi_label = type_of_target(y) == "multilabel-indicator"
        if self._is_multi_label:
            self.classes_ = np.arange(np.asarray(y).shape[1])
        else:
            self.classes_ = np.unique(column_or_1d(y, warn=True))
        names = [named(label) for label in self.classes_.tolist()]
        if len(set(names)) < len(names):
            names = [f"{name} ({k})" for k, name in enumerate(names)]
        self._places = {name: k for k, name in enumerate(names)}

    def _warn_of_single_texts(self, y: Any) -> None:
        """Warn of labels that can be learned from one text, and checked on none."""
        if self._is_multi_label:
            return
        names, counts = np.unique(column_or_1d(y), return_counts=True)
        if len(names) > 1 and (counts == 1).any():
            single = ", ".join(map(repr, names[counts == 1].tolist()[:10]))
            warnings.warn(f"Labels with a single text, which no split can check: {single}.", UserWarning, stacklevel=4)

    def _labels(self, y: Any) -> list[Label]:
        """Return the names of labels."""
        names = list(self._places)
        if self._is_multi_label:
            table = np.asarray(y)
            if table.ndim != 2 or table.shape[1] != len(names) or type_of_target(table) != "multilabel-indicator":
                raise DataError(
                    f"The labels of dev have shape {table.shape}, expected a matrix of 0 and 1 with {len(names)} "
                    "columns, as those of y."
                )
            return [tuple(names[k] for k in np.flatnonzero(row)) for row in table]
        place = {label: k for k, label in enumerate(self.classes_.tolist())}
        given = column_or_1d(y).tolist()
        unknown = next((label for label in given if label not in place), None)
        if unknown is not None:
            raise DataError(f"Label {unknown!r} of dev is not among those of y: {', '.join(names[:20])}.")
        return [names[place[label]] for label in given]

    def _in_order(self, table: Floats64, *, missing: float) -> Floats64:
        """Put columns in the order of ``classes_``, ``missing`` where no training text had a label."""
        full = np.full((len(table), len(self.classes_)), missing)
        full[:, [self._places[name] for name in self.trained_.predictor.label_names]] = table
        return full


def _pairs(texts: Any, y: Any) -> tuple[list[str], Any]:
    """Return texts and as many labels.

    Raises:
        DataError: The labels are none, or not as many as the texts.
        TypeError: What is given as texts is none.
    """
    found, y = _texts(texts), _labels_of(y)
    if len(found) != len(y):
        raise DataError(f"X has {len(found)} texts, but y has {len(y)} labels.")
    return found, y


def _texts(texts: Any) -> list[str]:
    """Return texts, those of a column ``(N, 1)`` too, as plain strings."""
    if isinstance(texts, np.ndarray) and texts.ndim == 2 and texts.shape[1] == 1:
        texts = texts.ravel()
    return [str(text) for text in check_texts(texts)]


def _labels_of(y: Any) -> Any:
    """Return labels with a length, none of them missing.

    Raises:
        DataError: They are no labels of a classifier.
    """
    if y is None or isinstance(y, str | Mapping):
        raise DataError(f"y is a {type(y).__name__}, expected a label for each text.")
    if issparse(y):
        return y.toarray()
    y = y if hasattr(y, "__len__") else list(y)
    if isinstance(y, list | tuple) and any(isinstance(one, list | tuple | set) for one in y) and not _is_matrix(y):
        raise DataError(
            "y holds a list of labels for a text. For many labels a text give a matrix of 0 and 1, as "
            "sklearn.preprocessing.MultiLabelBinarizer().fit_transform(y) makes."
        )
    if np.ndim(y) == 1 or np.shape(y)[1:] == (1,):
        given = np.asarray(y, dtype=object).ravel().tolist()
        missing = [row for row, label in enumerate(given) if is_missing(label)]
        if missing:
            shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            raise DataError(
                f"y has no label in row {shown} ({given[missing[0]]}). Label these texts, or leave them out."
            )
    return y


def _is_matrix(y: Any) -> bool:
    """Return whether lists are rows of numbers, all as long."""
    try:
        return np.asarray(y).dtype.kind in "biuf"
    except ValueError:  # ragged
        return False
