"""The model that a server holds: loaded, put to work, and replaced while requests run."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import numpy as np

from bertcnn import __version__
from bertcnn.apps.server.limits import ServerSettings
from bertcnn.errors import BertCNNError, ModelError
from bertcnn.inference.backend import Backend, Pooled, WrappedBackend
from bertcnn.inference.explaining.leave_one_out import MOST_WORDS
from bertcnn.inference.predictor import Predictor
from bertcnn.network.folder import MADE_OF, read_config
from bertcnn.text.tokens import Batch

AUDIT_TOKENS = 500
"""What an audit costs a text: some 100 rows of a few pieces."""

COUNTERFACTUAL_READS = 3
"""How often a counterfactual reads a text: once more, and shortened."""

COUNTERFACTUAL_TOKENS = 1000
"""What its search of sets of phrases costs besides: about a dozen readings of a text of 80 pieces."""


def estimated_pieces(text: str) -> int:
    """Return about how many word pieces a text has, at least 1, without cutting it, which is the lanes' work.

    A quarter of its bytes in UTF-8: for most languages that is right within a factor of two, and a queue needs no more.
    """
    return 1 + len(text.encode("utf-8", "surrogatepass")) // 4


class BreathingBackend(WrappedBackend):
    """A backend that pauses between batches, so that a very long text holds up no short one.

    Args:
        backend: What runs the network.
        pause: Called after each batch, on the computing thread.
        max_tokens: Pieces between two pauses: a long text is read in segments of so many windows.
    """

    def __init__(self, backend: Backend, pause: Callable[[], None], *, max_tokens: int) -> None:
        super().__init__(backend)
        self.pause = pause
        self.max_tokens = min(backend.max_tokens, max_tokens)
        self.segment_windows = min(backend.segment_windows, max(1, max_tokens // backend.spec.windowing.length))

    def run(self, batches: Iterable[Batch], *, with_states: bool = False) -> Iterator[Pooled]:
        """Yield what is found in each batch, and pause."""
        for found in self.inner.run(batches, with_states=with_states):
            yield found
            self.pause()


@dataclass(frozen=True, eq=False)
class Hosted:
    """A loaded model, and what clients are told of it.

    Attributes:
        name: What clients call it.
        version: Twelve digits of its weights' sha256; ``unknown`` in folders that do not say.
        loaded_at: When, in UTC.
        predictor: It.
    """

    name: str
    version: str
    loaded_at: datetime
    predictor: Predictor

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "version": self.version,
            "labels": self.predictor.label_names,
            "is_multi_label": self.predictor.is_multi_label,
            "backend": self.predictor.backend.name,
            "loaded_at": self.loaded_at.isoformat(timespec="seconds"),
            "bertcnn": __version__,
        }


@dataclass(frozen=True)
class Classify:
    """The work of a prediction."""

    model: Hosted

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        """Return predictions in their JSON form."""
        return [one.to_dict() for one in self.model.predictor.predict(texts)]

    def cost(self, tokens: list[int]) -> list[int]:
        """Return what each text costs."""
        return tokens


@dataclass(frozen=True)
class Explain:
    """The work of an explanation.

    Attributes:
        model: Which explains.
        label: What ``why`` is about; None: the decision.
        audit, counterfactual, leave_one_out, threshold: See :func:`bertcnn.inference.explaining.explain.explain`.
    """

    model: Hosted
    label: str | None = None
    audit: bool = False
    counterfactual: bool = False
    leave_one_out: bool = False
    threshold: float | None = None

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        """Return explanations in their JSON form."""
        explanations = self.model.predictor.explain(
            texts,
            audit=self.audit,
            counterfactual=self.counterfactual,
            leave_one_out=self.leave_one_out,
            threshold=self.threshold,
        )
        return [one.to_dict(label=self.label) for one in explanations]

    def cost(self, tokens: list[int]) -> list[int]:
        """Return what each text costs, as if it were only classified."""
        times = 1 + COUNTERFACTUAL_READS * self.counterfactual
        more = AUDIT_TOKENS * self.audit + COUNTERFACTUAL_TOKENS * self.counterfactual
        return [(times + min(one, MOST_WORDS) * self.leave_one_out) * one + more for one in tokens]


class Host:
    """The place of the model: loads it, and loads it anew beside the one that serves.

    Args:
        settings: Which model, run by what.
        pause: See :class:`BreathingBackend`.
    """

    def __init__(self, settings: ServerSettings, *, pause: Callable[[], None] = lambda: None) -> None:
        self.settings, self.pause = settings, pause
        self.failure: BertCNNError | None = None
        self._model: Hosted | None = None

    @property
    def is_ready(self) -> bool:
        """True once a model is loaded."""
        return self._model is not None

    @property
    def model(self) -> Hosted:
        """The one that serves now. Who needs it twice keeps it: it may be replaced in between."""
        assert self._model is not None, "not loaded"
        return self._model

    async def read(self) -> Hosted:
        """Load the folder, and do not serve it yet.

        Raises:
            ModelError: It cannot be served.
        """
        try:
            return await asyncio.to_thread(load_hosted, self.settings, pause=self.pause)
        except BertCNNError as error:
            self.failure = error
            raise

    def serve(self, model: Hosted) -> None:
        """Serve a model that was read."""
        self._model = model


def load_hosted(settings: ServerSettings, *, pause: Callable[[], None]) -> Hosted:
    """Load a model folder, all of it, and try it.

    Nothing is left to be read later, when another model may lie in the folder.

    Raises:
        ModelError: It cannot be served.
    """
    folder = settings.model
    try:
        predictor = Predictor.load(folder, backend=settings.backend, device=settings.device)
        _detach(predictor.backend)
        predictor.backend = BreathingBackend(predictor.backend, pause, max_tokens=settings.max_batch_tokens)
        _ = predictor.backend.classifier
        if predictor.backend.spec.kernel_sizes:
            _ = predictor.backend.filters
        if not np.isfinite(predictor.logits(["", "Is it fit to serve?"])).all():
            raise ModelError(f"The model in {folder} gives no numbers. Train again.")
        sha = str(read_config(folder).get(MADE_OF) or "unknown")
    except BertCNNError:
        raise
    except Exception as error:  # a folder that is broken in a way nobody thought of
        kind = type(error).__name__
        raise ModelError(f"{folder} cannot be loaded: {kind}: {error}. Copy the whole folder again.") from error
    return Hosted(settings.model_name, sha[:12], datetime.now(UTC), predictor)


def _detach(backend: Backend) -> None:
    """Copy torch's weights into memory: they are mapped from the file, and who writes over that file kills us."""
    model = getattr(backend, "model", None)
    if model is not None:
        for tensor in chain(model.parameters(), model.buffers()):
            tensor.data = tensor.data.clone()
