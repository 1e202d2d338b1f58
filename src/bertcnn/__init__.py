"""Classify text with a convolutional network on top of BERT.

===========================  ==========================================================
``BertCNNClassifier``        fit and predict, as in scikit-learn
``Predictor.load(folder)``   use a trained model
``embed(texts)``             BERT's states, one vector a word piece
``load_splits``, ``train``   from files to a trained model; ``save`` writes its folder
``Splits``, ``Examples``     texts and labels that are at hand, for ``train``
``BertCNN``, ``TextCNN``     the networks, for PyTorch
===========================  ==========================================================

Names are loaded when first used: ``import bertcnn`` loads no torch.
"""

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from bertcnn._register import register as _register
from bertcnn.errors import (
    BertCNNError,
    DataError,
    EncoderError,
    ModelError,
    SettingsError,
    StudyError,
    TrainingError,
)

if TYPE_CHECKING:
    from bertcnn.inference.explaining.explanation import Explanation as Explanation
    from bertcnn.inference.metrics import Evaluation as Evaluation
    from bertcnn.inference.metrics import evaluate as evaluate
    from bertcnn.inference.prediction import Prediction as Prediction
    from bertcnn.inference.predictor import Predictor as Predictor
    from bertcnn.network.cnn import TextCNN as TextCNN
    from bertcnn.network.config import BertCNNConfig as BertCNNConfig
    from bertcnn.network.model import BertCNN as BertCNN
    from bertcnn.network.states import embed as embed
    from bertcnn.settings import Settings as Settings
    from bertcnn.text.dataset import Examples as Examples
    from bertcnn.text.dataset import Splits as Splits
    from bertcnn.text.dataset import load_splits as load_splits
    from bertcnn.training.estimator import BertCNNClassifier as BertCNNClassifier
    from bertcnn.training.save import save as save
    from bertcnn.training.train import train as train

__version__ = _version("bertcnn")

_HOMES = {
    "BertCNN": "network.model",
    "BertCNNClassifier": "training.estimator",
    "BertCNNConfig": "network.config",
    "Evaluation": "inference.metrics",
    "Examples": "text.dataset",
    "Explanation": "inference.explaining.explanation",
    "Prediction": "inference.prediction",
    "Predictor": "inference.predictor",
    "Settings": "settings",
    "Splits": "text.dataset",
    "TextCNN": "network.cnn",
    "embed": "network.states",
    "evaluate": "inference.metrics",
    "load_splits": "text.dataset",
    "save": "training.save",
    "train": "training.train",
}

__all__ = [
    "BertCNN",
    "BertCNNClassifier",
    "BertCNNConfig",
    "BertCNNError",
    "DataError",
    "EncoderError",
    "Evaluation",
    "Examples",
    "Explanation",
    "ModelError",
    "Prediction",
    "Predictor",
    "Settings",
    "SettingsError",
    "Splits",
    "StudyError",
    "TextCNN",
    "TrainingError",
    "__version__",
    "embed",
    "evaluate",
    "load_splits",
    "save",
    "train",
]

_register()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bertcnn' has no attribute {name!r}")
    return getattr(import_module(f"bertcnn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
