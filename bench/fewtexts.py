"""Some dozens to some hundred labelled texts: what `train` makes of them, against regression on the mean of states.

    OMP_NUM_THREADS=1 python bench/fewtexts.py --data ../shared/data --output runs/fewtexts.jsonl
    OMP_NUM_THREADS=1 python bench/fewtexts.py --sets sst2 --texts 6920 --pool 7000 --scored 872 --seeds 0 2
    python bench/fewtexts.py --table runs/fewtexts.jsonl

Each system gets the same texts and no others: ours take from among them those to choose on. Scored on the dev texts of
bench/recipes.py; the test splits are never read. What is in the output already is not trained again.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from bertcnn import BertCNNClassifier
from bertcnn.settings import Settings
from bertcnn.study.systems import MeanStates
from recipes import FILES, parts_of, read

Texts = Sequence[str]
Labels = Sequence[Any]
Make = Callable[[Texts, Labels, int], Any]


def mean(depth: str) -> Make:
    """Logistic regression, at scikit-learn's defaults, on the mean of the last states."""

    def make(texts: Texts, labels: Labels, seed: int) -> Any:
        regression = LogisticRegression(max_iter=2000, random_state=seed)
        return make_pipeline(MeanStates(Settings(), depth), regression).fit(list(texts), list(labels))

    return make


def ours(**changes: Any) -> Make:
    """What `train` does, with other settings."""

    def make(texts: Texts, labels: Labels, seed: int) -> Any:
        return BertCNNClassifier(seed=seed, report_to="none", **changes).fit(texts, labels)

    return make


WORDS: dict[str, Any] = {"encoder": "words", "depth": "all", "kernel_sizes": (3, 4, 5), "batch_size": 50, "epochs": 15}
HALF: dict[str, Any] = {"depth": "half", "epochs": 4}

SYSTEMS = {
    "mean, half": mean("half"),
    "mean, all": mean("all"),
    "frozen half, chosen": ours(method="frozen", depth="half", patience=3),
    "frozen half, chosen, without patience": ours(method="frozen", depth="half", patience=99),
    "frozen half, by log loss": ours(method="frozen", depth="half", patience=99, metric="log_loss"),
    "frozen half, last": ours(method="frozen", depth="half"),
    "frozen half, last of 6": ours(method="frozen", depth="half", head_epochs=6),
    "frozen half, last of 8": ours(method="frozen", depth="half", head_epochs=8),
    "words, chosen": ours(method="finetune", patience=4, **WORDS),
    "words, last": ours(method="finetune", **WORDS),
    "fine-tuned half, chosen": ours(method="finetune", patience=3, **HALF),
    "fine-tuned half, last": ours(method="finetune", **HALF),
    "train": ours(),
}
FEW = ["mean, half", "mean, all", "frozen half, chosen", "frozen half, last", "train"]
"""Those that are compared where texts are few; the others answer which epoch to keep."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("runs/fewtexts.jsonl"))
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=FEW)
    parser.add_argument("--sets", nargs="*", choices=FILES, default=["sst2", "trec6", "cr", "mr"])
    parser.add_argument("--texts", nargs="*", type=int, default=[64, 128, 256, 500, 1000])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3], help="other texts, other beginnings")
    parser.add_argument("--pool", type=int, default=2000, help="texts that these are drawn from")
    parser.add_argument("--scored", type=int, default=500, help="dev texts to answer")
    parser.add_argument("--table", type=Path, help="only show what a file holds, against its first system")
    options = parser.parse_args()
    if options.table:
        show(read(options.table))
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    cells = [
        (n, s, d, name) for n in options.texts for s in options.seeds for d in options.sets for name in options.systems
    ]
    for count, seed, data, name in cells:
        if any(key(one) == (count, seed, data, name) for one in read(options.output)):
            continue
        splits = parts_of(options.data, data, options.pool)
        rows = np.random.default_rng(100 + seed).permutation(len(splits.train))[:count]
        learned = splits.train.pick(map(int, rows), "train")
        started = time.perf_counter()
        made = SYSTEMS[name](learned.texts, learned.labels, seed)
        seconds = time.perf_counter() - started
        asked, truth = splits.dev.texts[: options.scored], splits.dev.labels[: options.scored]
        answers = made.predict(list(asked))
        right = float(np.mean([one == label for one, label in zip(answers, truth, strict=True)]))
        record = {"system": name, "set": data, "texts": count, "seed": seed, "accuracy": right, "seconds": seconds}
        with options.output.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(name, data, count, seed, f"{100 * right:.1f}", flush=True)


def key(record: dict[str, Any]) -> tuple[int, int, str, str]:
    return record["texts"], record["seed"], record["set"], record["system"]


def show(records: Sequence[dict[str, Any]]) -> None:
    """Print accuracies in the mean over seeds, and differences from the first with twice their standard error."""
    right = {key(one): 100 * one["accuracy"] for one in records}
    for count in sorted({one["texts"] for one in records}):
        names = list(dict.fromkeys(one["system"] for one in records if one["texts"] == count))
        cells = {cell[1:3] for cell in right if cell[0] == count}
        both = sorted(cell for cell in cells if all((count, *cell, name) in right for name in names))
        print(f"{count:,} texts, {len(both)} trainings each")
        for name in names if both else ():
            here = np.array([right[count, *cell, name] for cell in both])
            change = here - np.array([right[count, *cell, names[0]] for cell in both])
            by_set = {s: here[[i for i, cell in enumerate(both) if cell[1] == s]].mean() for _, s in both}
            error = 2 * change.std(ddof=1) / np.sqrt(len(both))
            said = ", ".join(f"{s} {value:.1f}" for s, value in by_set.items())
            print(f"  {name}: {here.mean():.1f}; {said}; {change.mean():+.1f} +- {error:.1f}")


if __name__ == "__main__":
    main()
