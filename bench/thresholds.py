"""How far should the thresholds of many labels lean on the one that is best for all of them? On dev texts.

`BERTCNN_DATA=DATA python bench/thresholds.py`: trains heads on draws of GoEmotions, fits thresholds on draws of its dev
texts and scores them on the rest of these. Macro F1 / micro F1 in percent, a column a weight of the common threshold,
in texts of a label; 0: each label has its own alone.
"""

import argparse
import os
import random
from pathlib import Path
from typing import Any

import numpy as np

from bertcnn import Predictor, Settings, train
from bertcnn.inference.calibration import fit_thresholds
from bertcnn.inference.metrics import macro_f1, micro_f1
from bertcnn.settings import DataSettings, change
from bertcnn.text.dataset import Examples, Splits, load_examples
from bertcnn.text.labels import Labels

WEIGHTS = (0.0, 5.0, 10.0, 20.0, 40.0, 1e9)
SIZES = ((1500, 170), (1500, 400), (6000, 670))
"""Texts to learn from, and of dev to fit thresholds on."""


def main() -> None:
    """Print a row a training, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    folder = Path(os.environ["BERTCNN_DATA"]) / "goemotions"
    columns = DataSettings(label="labels", separator="|")
    whole, dev = (load_examples(str(folder / f"{part}.csv"), columns)["train"] for part in ("train", "dev"))
    print("texts, dev, seed", *(f"{weight:g}" for weight in WEIGHTS), sep="\t")
    scores = []
    for size, dev_size in SIZES:
        for seed in range(options.seeds):
            draw = random.Random(seed)
            learned = whole.pick(draw.sample(range(len(whole)), size), "train")
            rows = draw.sample(range(len(dev)), dev_size)
            chosen, rest = dev.pick(rows, "dev"), dev.pick(sorted({*range(len(dev))} - {*rows}), "rest")
            settings = change(Settings(), {"method": "frozen", "depth": 3, "head_epochs": 8, "seed": seed})
            predictor = train(Splits(learned, chosen), settings).predictor
            scores.append(scored(predictor, chosen, rest))
            print(f"{size}, {dev_size}, {seed}", *(f"{a:.1f}/{b:.1f}" for a, b in scores[-1]), sep="\t", flush=True)
    print("mean", *(f"{a:.1f}/{b:.1f}" for a, b in np.mean(scores, axis=0)), sep="\t")


def scored(predictor: Predictor, chosen: Examples, rest: Examples) -> list[tuple[float, float]]:
    """Return macro and micro F1 on the rest for each weight."""
    labels = Labels(tuple(predictor.label_names), many=True)

    def truth_of(examples: Examples) -> Any:  # without labels that no text to learn from had
        return labels.encode([tuple(name for name in label if name in labels.names) for label in examples.labels])

    fitted, own = predictor.probabilities(chosen.texts), truth_of(chosen)
    table, truth = predictor.probabilities(rest.texts), truth_of(rest)
    found = []
    for weight in WEIGHTS:
        answers = (table >= np.array(fit_thresholds(fitted, own, common_texts=weight))).astype(np.int64)
        found.append((100 * macro_f1(truth, answers, table), 100 * micro_f1(truth, answers, table)))
    return found


if __name__ == "__main__":
    main()
