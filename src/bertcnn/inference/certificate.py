"""Prove that a model gives a text one answer, whoever its neighbours are and whatever runs it."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np

from bertcnn.arrays import Floats32
from bertcnn.files import write_whole
from bertcnn.inference.backend import Backend, Pooled, WrappedBackend
from bertcnn.inference.golden import long_text
from bertcnn.inference.onnx.backend import FILES
from bertcnn.inference.predictor import Predictor
from bertcnn.machine import has_bf16
from bertcnn.network.folder import MADE_OF, read_config
from bertcnn.text.tokens import Batch

PADDING = 9
CARD = "README.md"
START, END = "<!-- certificate -->", "<!-- end of certificate -->"


@dataclass(frozen=True)
class Check:
    """How far one way to compute is from torch in batches of like length.

    Attributes:
        backend: What ran the network.
        way: How the texts were put to it.
        difference: Largest difference of a logit.
        flips: Texts with another answer.
        texts: How many there were.
    """

    backend: str
    way: str
    difference: float
    flips: int
    texts: int


def certify(folder: str | Path, texts: Sequence[str], *, seed: int = 0) -> list[Check]:
    """Run texts in every way and by every backend that the folder has; torch in batches of like length is the measure.

    Ways: ``batches`` of like length; each text ``alone``; ``random batches`` of 1 to 32 texts; ``padded`` by
    more columns than needed; ``segments``, long texts an encoder window at a time.

    Args:
        folder: The model's.
        texts: What to run.
        seed: Of the random batches.

    Raises:
        ModelError: The folder or a graph in it cannot be used.
    """
    measure = Predictor.load(folder, backend="torch", device="cpu")
    distinct = list(dict.fromkeys([*texts, long_text(measure.tokenizer, measure.backend.spec.windowing)]))
    wanted = measure.logits(distinct)
    checks = []
    graphs = [name for name, file in FILES.items() if (Path(folder) / file).is_file()]
    for name in ("torch", *(["torch-bf16"] if has_bf16() else []), *graphs):
        predictor = measure if name == "torch" else Predictor.load(folder, backend=name, device="cpu")  # type: ignore[arg-type]
        for way, found in _ways(predictor, distinct, seed):
            if (name, way) != ("torch", "batches"):
                checks.append(Check(name, way, *measure.difference(found, wanted), len(distinct)))
    return checks


def write_certificate(folder: str | Path, checks: Sequence[Check]) -> None:
    """Put the checks into the folder's model card, in place of earlier ones."""
    card = Path(folder) / CARD
    text = card.read_text("utf-8") if card.is_file() else f"# {Path(folder).name}\n"
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    # Of the module: its distribution may be onnxruntime-gpu.
    modules = [import_module(name) for name in ("bertcnn", "torch", "onnxruntime") if find_spec(name)]
    versions = [f"{module.__name__} {module.__version__}" for module in modules]
    rows = [f"| {c.backend} | {c.way} | {c.difference:.1e} | {c.flips} |" for c in checks]
    section = "\n".join(
        [
            START,
            "## Certificate",
            "",
            f"`bertcnn check` ran {checks[0].texts if checks else 0:,} texts in every way; differences are from torch",
            "in batches of texts of like length. The scales of int8 are fixed when it is exported; what a text's",
            "neighbours change there is rounding.",
            "",
            f"Of weights {str(read_config(folder).get(MADE_OF))[:16]}, on {date.today()}, with {', '.join(versions)}.",
            "",
            "| backend | texts put to it | largest difference of a logit | other answers |",
            "|---|---|---|---|",
            *rows,
            END,
        ]
    )
    write_whole(card, before.rstrip() + "\n\n" + section + after.rstrip() + "\n")


def _ways(predictor: Predictor, texts: list[str], seed: int) -> Iterator[tuple[str, Floats32]]:
    tokenizer, backend = predictor.tokenizer, predictor.backend
    yield "batches", predictor.logits(texts)
    yield "alone", Predictor(backend, tokenizer, max_tokens=1).logits(texts)
    yield "random batches", _in_random_batches(predictor, texts, seed)
    yield "padded", Predictor(_Repadded(backend), tokenizer, max_tokens=predictor.max_tokens).logits(texts)
    yield "segments", Predictor(_Repadded(backend, columns=0, windows=1), tokenizer).logits(texts)


def _in_random_batches(predictor: Predictor, texts: list[str], seed: int) -> Floats32:
    """Let each text stand among others of any length."""
    generator = random.Random(seed)  # noqa: S311  # no secret hangs on it
    order = generator.sample(range(len(texts)), len(texts))
    crowd = predictor.in_one_batch()
    logits = np.zeros((len(texts), len(predictor.label_names)), dtype=np.float32)
    rows = iter(order)
    while some := list(islice(rows, generator.randint(1, 32))):
        logits[some] = crowd.logits([texts[i] for i in some])
    return logits


class _Repadded(WrappedBackend):
    """A backend that is given more padding than needed, or long texts in shorter segments."""

    def __init__(self, inner: Backend, *, columns: int = PADDING, windows: int | None = None) -> None:
        super().__init__(inner)
        self.columns = columns
        self.segment_windows = windows or inner.segment_windows

    def run(self, batches: Iterable[Batch], *, with_states: bool = False) -> Iterator[Pooled]:
        return self.inner.run(map(self._pad, batches), with_states=with_states)

    def _pad(self, batch: Batch) -> Batch:
        length = batch.input_ids.shape[1]
        room = self.inner.spec.windowing.length - length
        more = max(0, min(self.columns, room))
        at_end = ((0, 0), (0, more))
        row, column = np.divmod(batch.source, max(length, 1))
        padded = replace(
            batch,
            input_ids=np.pad(batch.input_ids, at_end),
            attention_mask=np.pad(batch.attention_mask, at_end),
            source=row * (length + more) + column,
        )
        if not batch.is_plain:
            return padded
        return replace(
            padded,
            source=np.arange(padded.input_ids.size).reshape(padded.input_ids.shape),
            source_mask=np.pad(batch.source_mask, at_end),
        )
