"""Recipes against each other on dev: small parts of some sets, one training each, paired over texts.

    OMP_NUM_THREADS=1 python bench/recipes.py --data ../shared/data --output runs/recipes.jsonl
    OMP_NUM_THREADS=1 python bench/recipes.py --recipes frozen-32 frozen-8 --train 500 --seeds 0 1
    python bench/recipes.py --table runs/recipes.jsonl

What is in the output already is not trained again. The test splits, and of sets without one a tenth, are never read.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from bertcnn.settings import Settings, change
from bertcnn.text.dataset import Examples, Splits
from bertcnn.text.read_table import read_rows
from bertcnn.training.train import train

BASE: dict[str, Any] = {"method": "finetune", "depth": "half", "epochs": 4, "layer_decay": 1.0, "report_to": "none"}
LINEAR: dict[str, Any] = {"depth": "all", "features": "mean", "dropout": 0.1}
RECIPES: dict[str, dict[str, Any]] = {
    "base": {},
    "1e-4": {"encoder_learning_rate": 1e-4},
    "2e-4": {"encoder_learning_rate": 2e-4},
    "default": {"method": "head-then-finetune", "layer_decay": 0.9},
    "1e-4d4": {"encoder_learning_rate": 1e-4, "depth": 4},
    "mean6-5e-5": LINEAR,
    "mean6-1e-4": {**LINEAR, "encoder_learning_rate": 1e-4},
    "1e-4emb": {"encoder_learning_rate": 1e-4, "train_word_embeddings": True},
}
# Four layers at 1e-4, and one thing changed.
FOUR = RECIPES["1e-4d4"]
RECIPES |= {
    "four-pieces-trained": {**FOUR, "train_word_embeddings": True},
    "four-dropout-0.1": {**FOUR, "dropout": 0.1},
    "four-300-filters": {**FOUR, "num_filters": 300},
    "four-widths-3-4-5": {**FOUR, "kernel_sizes": (3, 4, 5)},
    "four-two-states": {**FOUR, "states": "concat-2"},
    "four-together": {**FOUR, "train_word_embeddings": True, "dropout": 0.1, "num_filters": 300},
}
# What `train` does by itself, in batches of other sizes.
for size in (4, 8, 16, 32):
    RECIPES[f"frozen-{size}"] = {"method": "frozen", "epochs": 4, "layer_decay": 0.9, "batch_size": size}
    RECIPES[f"default-{size}"] = {**RECIPES["default"], "batch_size": size}
RECIPES["default-8-epochs"] = {**RECIPES["default"], "epochs": 8}
# The head alone, as long as `train` trains it.
RECIPES["frozen-half"] = {"method": "frozen", "layer_decay": 0.9}
RECIPES["frozen-all"] = {**RECIPES["frozen-half"], "depth": "all"}
FILES = {
    "cr": "cr/all.csv",
    "trec6": "trec6/train.csv",
    "sst2": "sst2/train.csv",
    "mr": "mr/all.csv",
    "banking77": "banking77/train.csv",
    "subj": "subj/all.csv",
}
WITHOUT_TEST = ("cr", "mr", "subj")
DEV, TRAIN = 1000, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("runs/recipes.jsonl"))
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=list(RECIPES)[:8])
    parser.add_argument("--sets", nargs="*", choices=FILES, default=list(FILES)[:4])
    parser.add_argument("--train", type=int, default=TRAIN, help="texts to learn from")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--table", type=Path, help="only show what a file holds, against its first recipe")
    options = parser.parse_args()
    if options.table:
        show(read(options.table))
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    wanted = [(r, n, s) for r in options.recipes for s in options.seeds for n in options.sets]
    for recipe, name, seed in wanted:
        if any(key(one) == (recipe, name, seed, options.train) for one in read(options.output)):
            continue
        splits = parts_of(options.data, name, options.train)
        trained = train(splits, change(Settings(), {**BASE, **RECIPES[recipe], "seed": seed}))
        answers = trained.predictor.predict(list(splits.dev.texts))
        right = [int(one.label == truth) for one, truth in zip(answers, splits.dev.labels, strict=True)]
        record = {
            "recipe": recipe,
            "set": name,
            "seed": seed,
            "train": options.train,
            "seconds": trained.seconds,
            "ok": "".join(map(str, right)),
        }
        with options.output.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(recipe, name, seed, f"{100 * np.mean(right):.1f}", flush=True)


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["recipe"], record["set"], record["seed"], record.get("train", TRAIN)


def parts_of(data: Path, name: str, train: int = TRAIN) -> Splits:
    """Return the same texts to learn from and 1,000 for dev (of SST-2: its own) each time."""
    distinct: dict[str, dict[str, str]] = {}
    for row in read_rows(data / FILES[name]):
        distinct.setdefault(row["text"], row)
    rows = list(distinct.values())
    rows = [rows[i] for i in np.random.default_rng(7).permutation(len(rows))]
    if name in WITHOUT_TEST:
        rows = rows[: int(0.9 * len(rows))]
    if name == "sst2":
        dev, rest = list(read_rows(data / "sst2/dev.csv")), rows
    else:
        dev, rest = rows[:DEV], rows[DEV:]
    return Splits(_examples(rest[:train], "train"), _examples(dev, "dev"), None)


def _examples(rows: list[dict[str, str]], name: str) -> Examples:
    return Examples([row["text"] for row in rows], [row["label"] for row in rows], name)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def show(records: list[dict[str, Any]]) -> None:
    """Print accuracies in the mean over seeds, and differences from the first recipe over what both have."""
    right = {key(one): np.array([int(x) for x in one["ok"]]) for one in records}
    first = records[0]["recipe"]
    for size in sorted({one.get("train", TRAIN) for one in records}):
        print(f"{size:,} texts to learn from")
        for recipe in dict.fromkeys(one["recipe"] for one in records):
            both = [cell for cell in right if cell[0] == recipe and cell[3] == size and (first, *cell[1:]) in right]
            if not both:
                continue
            sets = list(dict.fromkeys(cell[1] for cell in both))
            # Seeds share their texts, so a text's change is its mean over seeds.
            changes = [
                np.mean([100.0 * (right[cell] - right[first, *cell[1:]]) for cell in both if cell[1] == name], axis=0)
                for name in sets
            ]
            mean = np.mean([one.mean() for one in changes])
            half = 1.96 * np.sqrt(sum(one.var() / len(one) for one in changes)) / len(sets)
            scores = {name: [right[cell].mean() for cell in both if cell[1] == name] for name in sets}
            said = ", ".join(f"{name} {100 * np.mean(some):.1f}" for name, some in scores.items())
            print(f"  {recipe}: {said}; {mean:+.2f} [{mean - half:.2f}, {mean + half:.2f}]")


if __name__ == "__main__":
    main()
