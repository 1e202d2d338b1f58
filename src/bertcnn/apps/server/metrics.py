"""What a server counts, for Prometheus."""

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from bertcnn.apps.server.batching import ComputedBatch

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder in which several processes count together."""

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 32768)


class Metrics:
    """Counts of one server.

    ============================================  =========================================
    ``bertcnn_requests_total{route, status}``     answered requests
    ``bertcnn_request_seconds{route}``            from first byte to last
    ``bertcnn_texts_total{route}``                texts classified or explained
    ``bertcnn_rejected_total{reason}``            requests refused unread or unqueued
    ``bertcnn_batch_texts, _tokens, _seconds``    what was computed in one go
    ``bertcnn_queue_texts, _tokens``              what waits now
    ``bertcnn_reloads_total{outcome}``            done, failed
    ============================================  =========================================
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("bertcnn_requests", "Answered requests", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "bertcnn_request_seconds", "Time of a request", ["route"], buckets=SECONDS, registry=registry
        )
        self.texts = Counter("bertcnn_texts", "Texts computed for requests", ["route"], registry=registry)
        self.rejected = Counter("bertcnn_rejected", "Requests refused", ["reason"], registry=registry)
        self.reloads = Counter("bertcnn_reloads", "Loads of the model anew", ["outcome"], registry=registry)
        self.batch_texts = Histogram("bertcnn_batch_texts", "Texts of a batch", buckets=TEXTS, registry=registry)
        self.batch_tokens = Histogram("bertcnn_batch_tokens", "Tokens of a batch", buckets=TOKENS, registry=registry)
        self.batch_seconds = Histogram("bertcnn_batch_seconds", "Time of a batch", buckets=SECONDS, registry=registry)
        self.queue_texts = self._gauge("bertcnn_queue_texts", "Texts waiting")
        self.queue_tokens = self._gauge("bertcnn_queue_tokens", "Tokens waiting")

    def _gauge(self, name: str, help_: str) -> Gauge:
        return Gauge(name, help_, registry=self.registry, multiprocess_mode="livesum")

    def watch(self, waiting: Callable[[], tuple[int, int]]) -> None:
        """Read the queue's texts and tokens when somebody asks for them."""
        if SHARED not in os.environ:  # where processes count together, gauges are set in observe
            self.queue_texts.set_function(lambda: float(waiting()[0]))
            self.queue_tokens.set_function(lambda: float(waiting()[1]))
        self._waiting = waiting

    def observe(self, computed: ComputedBatch) -> None:
        """Count a batch."""
        self.batch_texts.observe(computed.texts)
        self.batch_tokens.observe(computed.tokens)
        self.batch_seconds.observe(computed.seconds)
        if SHARED in os.environ:
            texts, tokens = self._waiting()
            self.queue_texts.set(texts)
            self.queue_tokens.set(tokens)

    def page(self) -> tuple[bytes, str]:
        """Return what Prometheus reads, and its content type; of all processes that count together."""
        registry = self.registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
