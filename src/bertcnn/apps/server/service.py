"""Where all doors of a server hand in texts: checked against the limits, queued, and answered.

The web page and every protocol call this, so that none of them has limits or answers of its own.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from bertcnn.apps.server.batching import Batcher
from bertcnn.apps.server.hosting import Classify, Explain, Host, Hosted, estimated_pieces
from bertcnn.apps.server.limits import ServerSettings
from bertcnn.apps.server.metrics import Metrics
from bertcnn.errors import BertCNNError, DataError


class Service:
    """A model, its queue and its limits.

    ===========================  ==============================================
    ``predict(texts)``           JSON forms of predictions, and the model's
    ``explain(texts, ...)``      JSON forms of explanations, and the model's
    ``open()``, ``close()``      load the model and start; finish and stop
    ``reload(others)``           put what lies in the folder now in its place
    ===========================  ==============================================
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.batcher = Batcher(
            max_tokens=settings.max_batch_tokens,
            max_wait_seconds=settings.max_wait_ms / 1000,
            queue_texts=settings.queue_texts,
            queue_seconds=settings.queue_seconds,
            lanes=settings.lanes or 1,
            observe=self.metrics.observe,
        )
        self.host = Host(settings, pause=self.batcher.breathe)
        self._loading = asyncio.Lock()
        self.aside = asyncio.Lock()  # for whoever computes something large beside the lanes
        self.metrics.watch(lambda: (self.batcher.waiting_texts, self.batcher.waiting_tokens))

    async def open(self, others: Sequence[Host] = ()) -> Hosted:
        """Load the model, and others that are shown beside it, and begin to work.

        Raises:
            ModelError: One cannot be served.
        """
        async with self._loading:
            model = await _load((self.host, *others))
        self.batcher.start()
        return model

    async def close(self) -> None:
        """Finish what is being computed."""
        await self.batcher.close()

    async def reload(self, others: Sequence[Host] = ()) -> Hosted:
        """Load the folder anew, and serve that. Nobody who waits is sent away.

        Args:
            others: Models that are loaded anew with it: all of them, or none.

        Raises:
            ModelError: A folder cannot be served. What was loaded before serves on.
        """
        async with self._loading:
            try:
                model = await _load((self.host, *others))
            except BertCNNError as error:
                self.metrics.reloads.labels("failed").inc()
                raise type(error)(f"{error} The model loaded before goes on serving.") from error
        self.metrics.reloads.labels("done").inc()
        return model

    async def predict(self, texts: Sequence[str], *, route: str) -> tuple[list[dict[str, Any]], Hosted]:
        """Classify texts, and say which model did.

        Args:
            texts: Any strings.
            route: What they came by, for the metrics.

        Raises:
            DataError: Too many texts, or too long ones.
            Busy: The queue is full.
        """
        return await self._put(Classify(self.host.model), list(texts), route)

    async def explain(self, texts: Sequence[str], *, route: str, **options: Any) -> tuple[list[dict[str, Any]], Hosted]:
        """Explain predictions, and say which model made them.

        Args:
            texts: As in :meth:`predict`.
            route: As in :meth:`predict`.
            options: Of :class:`~bertcnn.apps.server.hosting.Explain`.

        Raises:
            DataError: Too many texts, too long ones, or a label that the model does not know.
            ModelError: The model has no filters to point at phrases.
            Busy: The queue is full.
        """
        return await self._put(Explain(self.host.model, **options), list(texts), route)

    async def _put(self, work: Classify | Explain, texts: list[str], route: str) -> tuple[list[dict[str, Any]], Hosted]:
        self._check(texts)
        answers = await self.batcher.submit(work, texts, work.cost(list(map(estimated_pieces, texts))))
        self.metrics.texts.labels(route).inc(len(texts))
        return answers, work.model

    def _check(self, texts: list[str]) -> None:
        most, longest = self.settings.max_texts, self.settings.max_characters
        if len(texts) > most:
            raise DataError(f"Got {len(texts):,} texts, expected at most {most:,} a request. Send several requests.")
        for i, text in enumerate(texts):
            if len(text) > longest:
                raise DataError(
                    f"Text {i} has {len(text):,} characters, expected at most {longest:,}. Shorten or divide it."
                )


async def _load(hosts: Sequence[Host]) -> Hosted:
    """Load all models, then serve them; return the first."""
    models = [await host.read() for host in hosts]
    for host, model in zip(hosts, models, strict=True):
        host.serve(model)
    return models[0]
