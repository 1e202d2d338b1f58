"""Models that the benches of explanations ask about: trained by the product once, kept under ``runs/explained``.

python bench/trained.py sst2-frozen     trains it, if it is not there
"""

import csv
import os
import random
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from bertcnn import Predictor
from bertcnn.settings import Settings, change
from bertcnn.text.dataset import Examples, Splits, load_splits
from bertcnn.text.read_table import read_rows

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "runs" / "explained"
DATA = Path(os.environ.get("BERTCNN_DATA", "../shared/data"))


@dataclass(frozen=True)
class Recipe:
    """How a model is made.

    Attributes:
        folder: Its data.
        rows: It learns from so many, drawn, and the others are test texts; None: as the folder divides them.
        changes: Settings that are not the default.
    """

    folder: str
    rows: int | None = None
    changes: dict[str, object] = field(default_factory=dict)


MODELS = {
    "sst2-frozen": Recipe("sst2", changes={"method": "frozen"}),
    "sst2-finetuned": Recipe("sst2", changes={"method": "finetune", "epochs": 3, "layer_decay": 1.0}),
    "amazon-frozen": Recipe("amazon_multidomain", rows=3000, changes={"method": "frozen"}),
    "cr-frozen": Recipe("cr", changes={"method": "frozen"}),
}


def prepared(name: str, data: Path = DATA) -> tuple[Predictor, Splits]:
    """Return a model, run by torch, and the division of its data; train it where it is not kept yet."""
    recipe = MODELS[name]
    settings = change(Settings(), {"depth": "half", **recipe.changes, "report_to": ("none",)})
    splits = divided(recipe, data / recipe.folder, settings)
    if not (KEPT / name).is_dir():
        from bertcnn import save, train

        save(train(splits, settings, console=Console(file=sys.stderr)), KEPT / name)
    return Predictor.load(KEPT / name, backend="torch"), splits


def divided(recipe: Recipe, place: Path, settings: Settings) -> Splits:
    """Return the division of a model's data."""
    if recipe.rows is None:
        official = {part: str(place / f"{part}.csv") for part in ("dev", "test") if (place / f"{part}.csv").exists()}
        return load_splits(
            str(place / ("train.csv" if official else "all.csv")),
            settings.data,
            dev=official.get("dev"),
            test=official.get("test"),
            seed=settings.training.seed,
        )
    rows = list(read_rows(place / "all.csv"))
    random.Random(0).shuffle(rows)
    KEPT.mkdir(parents=True, exist_ok=True)
    file = KEPT / f"{recipe.folder}.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[: recipe.rows])
    rest = rows[recipe.rows :]
    test = Examples([row["text"] for row in rest], [row["label"] for row in rest], recipe.folder)
    return replace(load_splits(str(file), settings.data, seed=settings.training.seed), test=test)


if __name__ == "__main__":
    for one in sys.argv[1:]:
        prepared(one)
