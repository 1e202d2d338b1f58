"""Accuracy on real data sets, by the product's own training.

    python bench/accuracy.py cr-frozen cr-finetune --data ../shared/data

Each name is a file ``configs/NAME.toml`` (settings chosen on dev) and a row of ``TASKS`` (which
files, how many splits). One line a run goes to ``--output``; a run that stands there already is
skipped. The test split is scored once, at the end of each training, and printed only with
``--show-test``, so that choices among ``--set`` are made on dev.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from rich.console import Console

from bertcnn.settings import Settings, change, read_settings
from bertcnn.text.dataset import load_splits

ROOT = Path(__file__).parent.parent
TASKS = {
    # name: (folder, dev and test files there, share to test on, seeds)
    "cr": ("cr", False, False, 0.1, 5),
    "sst2": ("sst2", True, True, 0.0, 1),
    "trec6": ("trec6", False, True, 0.0, 1),
    "banking77": ("banking77", False, True, 0.0, 1),
    "amazon": ("amazon_multidomain", False, False, 0.2, 1),
    "goemotions": ("goemotions", True, True, 0.0, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTCNN_DATA", "../shared/data")))
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--show-test", action="store_true", help="after the choice was made on dev")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "accuracy.jsonl")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in options.output.open()] if options.output.exists() else []
    for name in options.names:
        task = name.split("-")[0]
        folder, has_dev, has_test, test_fraction, seeds = TASKS[task]
        place = options.data / folder
        file = ROOT / "configs" / f"{name}.toml"
        base = read_settings(file) if file.exists() else Settings()
        changes = dict(pair.split("=", 1) for pair in options.set)
        scores = []
        for seed in range(options.seeds or seeds):
            settings = change(base, {"report_to": "none", "test_fraction": test_fraction, **changes, "seed": seed})
            key = {"name": name, "changes": changes, "seed": seed}
            row = next((r for r in done if {k: r[k] for k in key} == key), None)
            if row is None:
                row = {**key, **run(place, settings, has_dev, has_test)}
                with options.output.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
            scores.append(row)
        for split in ("dev", "test") if options.show_test else ("dev",):
            values = {m: [row[split][m] for row in scores] for m in ("accuracy", "macro_f1")}
            said = "  ".join(f"{m} {statistics.mean(v):.4f} {[round(x, 4) for x in v]}" for m, v in values.items())
            print(
                f"{name} {changes} {split}: {said}  {statistics.mean(r['seconds'] for r in scores):.0f} s", flush=True
            )


def run(place: Path, settings: Settings, has_dev: bool, has_test: bool) -> dict[str, object]:
    from bertcnn.training.train import train

    source = place / ("train.csv" if (place / "train.csv").exists() else "all.csv")
    splits = load_splits(
        str(source),
        settings.data,
        dev=str(place / "dev.csv") if has_dev else None,
        test=str(place / "test.csv") if has_test else None,
        seed=settings.training.seed,
    )
    started = time.perf_counter()
    trained = train(splits, settings, console=Console(file=sys.stderr))
    scores = {"dev": trained.dev, "test": trained.test}
    return {
        "seconds": round(time.perf_counter() - started, 1),
        **{n: {m: e.value for m, e in s.headlines.items()} for n, s in scores.items() if s is not None},
        "interval": None
        if trained.test is None
        else [trained.test.headlines["accuracy"].low, trained.test.headlines["accuracy"].high],
        "epochs": max((float(str(h.get("epoch", 0))) for h in trained.history), default=0),
        "warnings": trained.warnings,
    }


if __name__ == "__main__":
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    main()
