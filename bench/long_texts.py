"""Does reading the whole text beat cutting it at 512 pieces? Film reviews of 746 words on average.

    python bench/long_texts.py --data ../shared/data --folds 10

For each fold of movie_reviews_v2 (its own, the official ones) the same training runs twice, on
whole texts and on texts cut at 512 pieces; everything else is equal. One line a run goes to
``--output``; a run that stands there already is skipped.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from bertcnn.network.encoder import load_tokenizer
from bertcnn.settings import Settings, change
from bertcnn.text.dataset import Examples, Splits, stratified_rows
from bertcnn.text.read_table import read_rows

ROOT = Path(__file__).parent.parent
CUT = 512
SETTINGS = {
    "method": "frozen",
    "depth": "half",
    "num_filters": 50,
    "kernel_sizes": (1, 2, 3),
    "batch_size": 8,  # at 32 the loss was still falling after five epochs, dev 0.77 against 0.86
    "head_epochs": 8,
    "patience": 4,
    "max_train_pieces": 4096,
    "report_to": ("none",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTCNN_DATA", "../shared/data")))
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "long_texts.jsonl")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in options.output.open()] if options.output.exists() else []
    rows = list(read_rows(options.data / "movie_reviews_v2" / "all.csv"))
    texts = {"whole": [row["text"] for row in rows]}
    texts["cut"] = cut(texts["whole"])
    print(f"{sum(a != b for a, b in zip(*texts.values(), strict=True))} of {len(rows)} texts are longer than {CUT}")
    folds = sorted({row["fold"] for row in rows}, key=float)[: options.folds]
    for fold in folds:
        for arm in ("whole", "cut"):
            if not any((row["fold"], row["arm"]) == (fold, arm) for row in done):
                found = {"fold": fold, "arm": arm, **run(texts[arm], rows, fold)}
                done.append(found)
                with options.output.open("a") as stream:
                    stream.write(json.dumps(found) + "\n")
    scores = {arm: [r["accuracy"] for f in folds for r in done if (r["fold"], r["arm"]) == (f, arm)] for arm in texts}
    gains = np.subtract(scores["whole"], scores["cut"])
    draws = np.random.default_rng(0).choice(gains, (10_000, len(gains))).mean(axis=1)
    for arm, values in scores.items():
        print(f"{arm}: {statistics.mean(values):.4f} {[round(v, 3) for v in values]}")
    low, high = np.quantile(draws, [0.025, 0.975])
    print(f"gain of reading the whole: {gains.mean():+.4f} [{low:+.4f}, {high:+.4f}] over {len(folds)} folds")


def cut(texts: list[str]) -> list[str]:
    """Return texts without what stands behind their first 512 pieces, special ones counted."""
    pieces = load_tokenizer("minilm")(texts, with_spans=True)
    assert pieces.spans is not None
    long = np.flatnonzero(pieces.lengths > CUT)
    ends = pieces.spans[pieces.starts[long] + CUT - 2, 1]  # of the last piece before [SEP]
    kept = list(texts)
    for i, end in zip(long, ends, strict=True):
        kept[i] = texts[i][:end]
    return kept


def run(texts: list[str], rows: list[dict[str, str]], fold: str) -> dict[str, float]:
    from bertcnn.training.train import train

    labels = [row["label"] for row in rows]
    everything = Examples(texts, list(labels), "movie_reviews_v2")
    outside = everything.pick((i for i, row in enumerate(rows) if row["fold"] != fold), "train")
    dev = set(stratified_rows(outside, 0.1, seed=0))
    splits = Splits(
        outside.pick((i for i in range(len(outside)) if i not in dev), "train"),
        outside.pick(sorted(dev), "dev"),
        everything.pick((i for i, row in enumerate(rows) if row["fold"] == fold), "test"),
    )
    started = time.perf_counter()
    trained = train(splits, change(Settings(), dict(SETTINGS)), console=Console(file=sys.stderr))
    assert trained.test is not None
    return {
        "accuracy": trained.test.headlines["accuracy"].value,
        "dev": trained.dev.headlines["accuracy"].value,
        "seconds": round(time.perf_counter() - started, 1),
    }


if __name__ == "__main__":
    main()
