"""How long should the encoder's windows be? Dev accuracy on long texts, the encoder frozen; no test text is read.

    OMP_NUM_THREADS=1 python bench/windows.py --data ../shared/data

Film reviews: the folds 5 to 8 of movie_reviews_v2, of which no other bench tests one; each is dev once. Amazon reviews:
800 of 4,000, twice. One line a run goes to ``--output``; a run that stands there already is skipped.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from bertcnn import Examples, Settings, Splits, load_splits, train
from bertcnn.settings import change
from bertcnn.text.read_table import read_rows

ROOT = Path(__file__).parent.parent
WINDOWS = ((512, 64), (256, 32))
FOLDS = ("5", "6", "7", "8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTCNN_DATA", "../shared/data")))
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "windows.jsonl")
    parser.add_argument("--precision", default="auto", help="bf16 takes half of the time where there is such a thing")
    parser.add_argument("--table", action="store_true", help="only show what is there")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in options.output.open()] if options.output.exists() else []
    for name, splits in () if options.table else divisions(options.data):
        for length, overlap in WINDOWS:
            if not any((one["data"], one["length"]) == (name, length) for one in done):
                told = {"max_length": length, "overlap": overlap, "precision": options.precision}
                done.append({"data": name, "length": length, "overlap": overlap, **run(splits, told)})
                with options.output.open("a") as stream:
                    stream.write(json.dumps(done[-1]) + "\n")
    show(done)


def divisions(data: Path) -> Iterator[tuple[str, Splits]]:
    """Yield what to learn from and what to choose on, by name."""
    films = list(read_rows(data / "movie_reviews_v2" / "all.csv"))
    for fold in FOLDS:
        some = {fold: [row for row in films if row["fold"] == fold] for fold in FOLDS}
        yield (
            f"films {fold}",
            Splits(
                examples(row for other, rows in some.items() if other != fold for row in rows), examples(some[fold])
            ),
        )
    # Without the fifth that bench/accuracy.py tests on.
    told = change(Settings(), {"test_fraction": 0.2}).data
    reviews = load_splits(str(data / "amazon_multidomain" / "all.csv"), told).train
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(reviews)).tolist()
        yield f"amazon {seed}", Splits(reviews.pick(order[800:4000], "train"), reviews.pick(order[:800], "dev"))


def examples(rows: object) -> Examples:
    """Return rows as texts and labels."""
    kept = list(rows)  # type: ignore[call-overload]
    return Examples([row["text"] for row in kept], [row["label"] for row in kept])


def run(splits: Splits, told: dict[str, object]) -> dict[str, object]:
    """Train once; return which dev texts were right."""
    usual = {"method": "frozen", "depth": "half", "max_train_pieces": 4096, "report_to": ("none",)}
    started = time.perf_counter()
    trained = train(splits, change(Settings(), {**usual, **told}), console=Console(file=sys.stderr))
    answers = [one.label for one in trained.predictor.predict(splits.dev.texts)]
    right = [int(a == b) for a, b in zip(answers, splits.dev.labels, strict=True)]
    return {"right": right, "seconds": round(time.perf_counter() - started, 1)}


def show(done: list[dict[str, object]]) -> None:
    """Print accuracies, and differences paired over texts."""
    for kind in ("films", "amazon"):
        names = sorted({str(one["data"]) for one in done if str(one["data"]).startswith(kind)})
        by = {(one["data"], one["length"]): np.array(one["right"]) for one in done}
        for length, _ in WINDOWS:
            both = [name for name in names if (name, length) in by and (name, WINDOWS[0][0]) in by]
            if both:
                right = np.concatenate([by[name, length] for name in both])
                off = right - np.concatenate([by[name, WINDOWS[0][0]] for name in both])
                error = 196 * off.std() / len(off) ** 0.5
                each = ", ".join(f"{100 * by[name, length].mean():.1f}" for name in both)
                print(
                    f"{kind}, windows of {length}: {100 * right.mean():.1f} ({each}), "
                    f"{100 * off.mean():+.1f} +- {error:.1f} points against {WINDOWS[0][0]}"
                )


if __name__ == "__main__":
    main()
