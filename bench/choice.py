"""Half of the layers or all, with few texts: by dev, by a regression on all texts, and what would have been right.

    OMP_NUM_THREADS=1 python bench/choice.py --data ../shared/data --output runs/choice.jsonl
    python bench/choice.py --table runs/choice.jsonl

A head is trained on half and on all of the layers of frozen `minilm`, as `train --method frozen` does it, on some
hundred texts, a tenth of them for dev, and scored on 800 others. Test splits are never read. What is in the output
already is not trained again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from bertcnn.settings import Settings, change
from bertcnn.text.dataset import Examples, Splits
from bertcnn.text.read_table import read_rows
from bertcnn.training.depth import Gain, standard_error
from bertcnn.training.train import train
from recipes import FILES, read

SETS = ("banking77 (20)", "banking77", *(name for name in FILES if name != "banking77"))
SCORED = 800
SETTINGS = {"method": "frozen", "report_to": "none"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("runs/choice.jsonl"))
    parser.add_argument("--texts", nargs="*", type=int, default=[100, 200, 500])
    parser.add_argument("--draws", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--table", type=Path, help="only show what a file holds")
    options = parser.parse_args()
    if options.table:
        show(read(options.table))
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for texts, draw, name in ((t, d, n) for t in options.texts for d in options.draws for n in options.sets):
        if any((one["set"], one["texts"], one["draw"]) == (name, texts, draw) for one in read(options.output)):
            continue
        if name == "banking77" and texts < 500:
            continue  # fewer than ten texts a label
        record = {"set": name, "texts": texts, "draw": draw, **cell(options.data, name, texts, draw)}
        with options.output.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(record, flush=True)


def cell(data: Path, name: str, texts: int, draw: int) -> dict[str, Any]:
    """Return accuracies of both heads on other texts, their dev scores, and the gain by regression."""
    splits, scored = draws(data, name, texts, draw)
    settings = change(Settings(), {**SETTINGS, "seed": draw})
    curve = train(splits, settings).depth_curve
    assert curve is not None
    assert curve.gain is not None
    found: dict[str, Any] = {"gain": [curve.gain.texts, curve.gain.points, curve.gain.error], "dev": len(splits.dev)}
    for trial, part in zip(curve.trials, ("half", "all"), strict=True):
        predictor = train(splits, change(settings, {"depth": trial.depth})).predictor
        answers = predictor.predict(scored.texts)
        right = [one.label == truth for one, truth in zip(answers, scored.labels, strict=True)]
        found |= {part: 100 * float(np.mean(right)), f"dev_{part}": trial.score}
    return found


def draws(data: Path, name: str, texts: int, draw: int) -> tuple[Splits, Examples]:
    """Return texts to learn from and to choose on, and others to score on, of labels that are learned."""
    distinct: dict[str, dict[str, str]] = {}
    for row in read_rows(data / FILES[name.removesuffix(" (20)")]):
        distinct.setdefault(row["text"], row)
    rows = list(distinct.values())
    if name.endswith("(20)"):
        kept = sorted({row["label"] for row in rows})[:20]
        rows = [row for row in rows if row["label"] in kept]
    rows = [rows[i] for i in np.random.default_rng(7).permutation(len(rows))]
    rest = rows[SCORED:]
    some = [rest[i] for i in np.random.default_rng(100 + draw).permutation(len(rest))[:texts]]
    learned = some[texts // 10 :]
    known = {row["label"] for row in learned}
    parts = (learned, some[: texts // 10], rows[:SCORED])
    kinds = [[row for row in part if row["label"] in known] for part in parts]
    train_part, dev, scored = (
        Examples([row["text"] for row in part], [row["label"] for row in part], "the draw") for part in kinds
    )
    return Splits(train_part, dev), scored


def show(records: list[dict[str, Any]]) -> None:
    """Print each cell, and the mean accuracy by each way to choose."""
    means: dict[str, list[float]] = {}
    for one in records:
        gain = Gain(*one["gain"])
        error = standard_error(max(one["dev_half"], one["dev_all"]), texts=one["dev"])
        by_dev = "half" if one["dev_half"] >= one["dev_all"] - error - 1e-9 else "all"
        by_gain = "all" if gain.is_shown else "half"
        ways = {"half": "half", "all": "all", "by dev": by_dev, "by regression": by_gain}
        for way, part in ways.items():
            means.setdefault(way, []).append(one[part])
        print(
            f"{one['texts']:5} {one['set']:15} draw {one['draw']}: half {one['half']:.1f}, all {one['all']:.1f}; "
            f"dev {100 * one['dev_half']:.1f}, {100 * one['dev_all']:.1f}: {by_dev}; "
            f"regression {gain.points:+.1f} +- {gain.error:.1f}: {by_gain}"
        )
    best = [max(one["half"], one["all"]) for one in records]
    print(", ".join(f"{way} {np.mean(some):.2f}" for way, some in {**means, "the better one": best}.items()))


if __name__ == "__main__":
    main()
