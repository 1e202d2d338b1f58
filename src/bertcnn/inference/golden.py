"""A handful of texts whose logits are kept with a model, so that a broken install is found before it answers.

The texts are ours, not the user's: a model folder tells nothing of what it was trained on.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertcnn.arrays import Floats32
from bertcnn.errors import ModelError
from bertcnn.files import write_whole
from bertcnn.network.folder import MADE_OF, read_config
from bertcnn.text.tokens import NO_WINDOWS, PieceTokenizer, Windowing

FILE = "golden.json"
TOLERANCE = 1e-3
"""How far float32 logits may be from what they were when the model was saved, in parts of the largest, or of 1."""

SLACK = 2.0
"""How much farther than that they may be elsewhere: another processor or release rounds otherwise, in int8 visibly."""

LONG = 1024
"""Pieces of a long text where there are no windows."""

TEXTS = (
    "",
    "a",
    "Not bad at all.",
    "I was told it would last for years; it did not last for one week, and nobody answers the phone.",
    "¿Qué tal? Très bien — 很好 👍",
    "GREAT!!! 10/10, would buy again... said nobody, ever :-(",
)


def long_text(tokenizer: PieceTokenizer, windowing: Windowing) -> str:
    """Return the golden texts, over and over, until an encoder reads them in three windows; or long without any."""
    wanted = LONG if windowing.length == NO_WINDOWS else 2 * windowing.length
    once = " ".join(TEXTS).strip()
    special = len(tokenizer.prefix) + len(tokenizer.suffix)
    times = 1 + wanted // max(1, int(tokenizer([once]).lengths[0]) - special)
    return " ".join([once] * times)


Logits = Callable[[Sequence[str]], Floats32]


def write_golden(folder: Path, backend: str, logits: Logits, *, tolerance: float = TOLERANCE) -> None:
    """Keep what a backend answers now, beside what others answered.

    Args:
        folder: Of the model.
        backend: Its name.
        logits: Texts to logits ``(N, K)``.
        tolerance: See :data:`TOLERANCE`.
    """
    kept = _read(folder) or {"texts": list(TEXTS), MADE_OF: read_config(folder).get(MADE_OF), "backends": {}}
    found = [[float(f"{x:.7g}") for x in row] for row in logits(kept["texts"])]
    kept["backends"][backend] = {"tolerance": float(f"{tolerance:.3g}"), "logits": found}
    write_whole(folder / FILE, json.dumps(kept, indent=1) + "\n")


def check_golden(folder: Path, backend: str, logits: Logits) -> None:
    """Refuse a model that answers otherwise than when it was saved; one without golden texts of its weights passes.

    Raises:
        ModelError: It does, or the file cannot be read.
    """
    kept = _read(folder)
    if kept is None or backend not in kept.get("backends", {}):
        return
    try:
        wanted = np.array(kept["backends"][backend]["logits"], dtype=np.float64)
        tolerance = SLACK * float(kept["backends"][backend]["tolerance"]) * max(1.0, np.abs(wanted).max(initial=0.0))
        found = np.asarray(logits(kept["texts"]))
        difference = float(np.abs(found - wanted).max(initial=0.0))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / FILE} cannot be read: {error}. Copy the whole folder again.") from error
    if not difference <= tolerance:
        raise ModelError(
            f"The model in {folder} answers otherwise than when it was saved: logits of its golden texts differ by up "
            f"to {difference:.2g}, expected at most {tolerance:.2g} (backend {backend}). Something here computes "
            "wrongly: try another backend, or install bertcnn and what it needs again."
        )


def _read(folder: Path) -> dict[str, Any] | None:
    """Return what is kept; None where nothing is, or it is of weights that were others."""
    try:
        kept = json.loads((folder / FILE).read_text("utf-8"))
        if not (isinstance(kept, dict) and isinstance(kept.get("backends", {}), dict)):
            raise ValueError("expected an object with backends")  # noqa: TRY004  # of the file
        made_of = read_config(folder).get(MADE_OF)
        return kept if kept.get(MADE_OF, made_of) == made_of else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / FILE} cannot be read: {error}. Copy the whole folder again.") from error
