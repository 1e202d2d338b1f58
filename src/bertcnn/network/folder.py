"""A saved model's folder: what must be in it, and that it is whole. Loads neither torch nor transformers."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from bertcnn.errors import ModelError

MODEL_TYPE = "bertcnn"
FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
"""What ``problem_type`` of a configuration says. Nothing here trains a regression, but Hugging Face's Trainer can."""

MADE_OF = "weights_sha256"
"""Where a folder's configuration, its graphs and its golden texts say of which weights they are."""


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return ``config.json`` of a model folder.

    Raises:
        ModelError: It is missing, broken, of another type, or of a newer format.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        kind, version = config.get("model_type"), config.get("format_version", 1)
    except FileNotFoundError as error:
        inside = sorted(place.parent.name for place in folder.glob("*/config.json"))
        hint = f" Did you mean {str(folder / inside[0])!r}?" if inside else ""
        raise ModelError(f"{folder} is no model folder: it holds no config.json.{hint}") from error
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder} holds no readable config.json ({error}). Expected a bertcnn model.") from error
    if kind != MODEL_TYPE:
        raise ModelError(
            f"{folder} holds a model of type {kind!r}, expected 'bertcnn'. "
            "To put a new head on an encoder, use BertCNN.from_encoder or 'bertcnn train --encoder'."
        )
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ModelError(
            f"{folder} is of format {version!r}, this bertcnn reads up to {FORMAT_VERSION}. Upgrade bertcnn."
        )
    return dict(config)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse what is no model folder that this version can load. A hub name passes.

    Raises:
        ModelError: It is missing, broken, of another type, or of a newer format.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        if os.path.exists(folder) or len(folder.parts) != 2 or folder.is_absolute():
            raise ModelError(f"No model folder {str(folder)!r}. Expected what 'bertcnn train --output' wrote.")
        return
    if read_config(folder).get(MADE_OF) and not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder / WEIGHTS} is missing. Copy the whole folder again, or train again.")


def check_weights(folder: str | os.PathLike[str]) -> None:
    """Refuse weights that are not those that were saved with the configuration.

    Raises:
        ModelError: Their hash is another.
    """
    folder = Path(folder)
    wanted, weights = read_config(folder).get(MADE_OF), folder / WEIGHTS
    if wanted and (found := sha256_of(weights)) != wanted:
        raise ModelError(
            f"{weights} has sha256 {found[:16]}..., expected {wanted[:16]}...: it is truncated or was changed. "
            "Copy it again, or train again."
        )


def sha256_of(file: Path) -> str:
    """Return the hash of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
