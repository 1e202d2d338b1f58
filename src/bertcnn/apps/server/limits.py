"""What a server is told at its start: what it serves, where, and how much of anything it takes."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from bertcnn.errors import SettingsError
from bertcnn.settings import BackendName


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a model is served.

    Attributes:
        model: Its folder.
        name: What clients call it; empty: the folder's name.
        backend: What runs it, as in :meth:`~bertcnn.inference.predictor.Predictor.load`.
        device: For torch; None: the GPU where there is one.
        host: Address to listen on; the default is reached from this machine only.
        port: 0: any that is free.
        workers: Processes, each with a model of its own.
        lanes: Batches that a process computes side by side, dividing its cores; None: one a core, or one on a GPU.
        max_wait_ms: How long a text waits for others to be computed with.
        max_batch_tokens: Word pieces computed in one go, about; nobody waits for more than that, and his own.
        queue_texts: Texts that may wait; beyond, requests are refused (503).
        queue_seconds: How long a request may have to wait for its turn, by the rate of late; beyond, 503.
        max_body_bytes: Of a request (413).
        max_upload_bytes: Of a file that is given to the web page.
        max_texts: Of a request (422).
        max_characters: Of a text (422).
        timeout_seconds: Of a request, from its first byte to the last of its answer (408, 504).
        api_key: What clients must give; None: nothing. Never shown.
        cors: Origins whose pages may call, as ``https://example.org``; ``*`` for all.
        web: Whether there is a web page, at ``/web/``.
        beside: Folder of a second model, which the page shows beside the first.

    Raises:
        SettingsError: Something is out of range; all faults at once.
    """

    model: Path
    name: str = ""
    backend: BackendName = "auto"
    device: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    lanes: int | None = None
    max_wait_ms: float = 3.0
    max_batch_tokens: int = 2048
    queue_texts: int = 512
    queue_seconds: float = 2.0
    max_body_bytes: int = 1 << 20
    max_upload_bytes: int = 10 << 20
    max_texts: int = 256
    max_characters: int = 100_000
    timeout_seconds: float = 30.0
    api_key: str | None = field(default=None, repr=False)
    cors: tuple[str, ...] = ()
    web: bool = False
    beside: Path | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value!r}, expected {expected}" for name, value, fine, expected in self._rules() if not fine
        ]
        if self.api_key is not None and (len(self.api_key) < 8 or not self.api_key.isascii()):
            faults.append("the API key must have at least 8 characters, ASCII only")
        if faults:
            raise SettingsError("; ".join(faults) + ".")

    def _rules(self) -> list[tuple[str, object, bool, str]]:
        positive = (
            "workers", "max_batch_tokens", "queue_texts", "max_body_bytes", "max_upload_bytes", "max_texts",
            "max_characters",
        )  # fmt: skip
        rules: list[tuple[str, object, bool, str]] = [
            (name, getattr(self, name), getattr(self, name) >= 1, "at least 1") for name in positive
        ]
        if self.lanes is not None:
            rules.append(("lanes", self.lanes, self.lanes >= 1, "at least 1"))
        origins = all(one == "*" or one.startswith(("http://", "https://")) for one in self.cors)
        return [
            *rules,
            ("port", self.port, 0 <= self.port < 1 << 16, "0 to 65535"),
            ("max_wait_ms", self.max_wait_ms, 0 <= self.max_wait_ms <= 1000, "0 to 1000"),
            ("queue_seconds", self.queue_seconds, self.queue_seconds > 0, "above 0"),
            ("timeout_seconds", self.timeout_seconds, 0 < self.timeout_seconds <= 3600, "above 0, to 3600"),
            ("cors", self.cors, origins, "origins as https://example.org, or *"),
            ("name", self.name, "/" not in self.name, "a name without '/'"),
            ("workers", self.workers, self.workers <= 1 or not self.web, "1 with --web: a page lives in one process"),
            ("beside", str(self.beside), self.beside is None or self.web, "none without --web: only the page shows it"),
        ]

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.name or self.model.resolve().name or "model"

    @property
    def is_local(self) -> bool:
        """True where only this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether an address is this machine's own.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
