"""Where a model may be written: never over what is none. Light, to be checked first."""

import json
from pathlib import Path

from bertcnn.errors import TrainingError
from bertcnn.network.folder import MODEL_TYPE


def check_output(folder: str | Path, *, overwrite: bool) -> Path:
    """Return the folder that a model is to be written to, with a name of its own.

    Args:
        folder: As it was given.
        overwrite: A model that is there, or an empty folder, may go.

    Raises:
        TrainingError: It is the current directory or one above it, something is there that must not be
            replaced, or something else than a model is there.
    """
    place = Path(folder).resolve()
    if place == Path.cwd() or place in Path.cwd().parents:
        raise TrainingError(
            f"{folder} is the current directory or one above it, but a model's folder is replaced as a whole. "
            "Give an --output of its own, such as models/mine."
        )
    if place.exists():
        if not overwrite:
            raise TrainingError(f"{folder} is there already. Give another --output, or --overwrite.")
        _check_replaced(place)
    return place if Path(folder).name in {"", ".."} else Path(folder)


def _check_replaced(place: Path) -> None:
    """Refuse to replace anything but a model or an empty folder."""
    if not place.is_dir():
        raise TrainingError(f"{place} is a file. --overwrite replaces model folders only: give another --output.")
    held = sorted(one.name for one in place.iterdir())
    if held and not _is_model(place):
        shown = ", ".join(map(repr, held[:3])) + (", ..." if len(held) > 3 else "")
        raise TrainingError(
            f"{place} is no bertcnn model (it holds {shown}), and --overwrite replaces model folders only. "
            "Give another --output, or remove the folder yourself."
        )


def _is_model(place: Path) -> bool:
    try:
        return bool(json.loads((place / "config.json").read_text("utf-8"))["model_type"] == MODEL_TYPE)
    except (OSError, ValueError, KeyError, TypeError):
        return False
