"""Speed against what a user would pick instead, on the same texts, machine and run. Run it alone.

    python bench/speed.py --data ../shared/data                  everything, then docs/benchmarks.md
    python bench/speed.py inference --data ../shared/data        one part; the others keep what was measured
    python bench/speed.py page                                   the page and the picture from what was measured

``prepare`` trains our model once and writes the rivals' graphs (kept in the folder); ``inference``
measures texts a second, latency, memory and size; ``training`` measures it against ``Trainer``;
``memory`` a million rows, and starts. ``--quick`` tries whether everything runs: its figures mean
nothing, and its page stays in the folder.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import inference
import memory
import page
import training
from corpora import write_corpora
from machine import describe
from rivals import SYSTEMS
from worker import environment

ROOT = Path(__file__).parent.parent
PARTS = ("prepare", "inference", "training", "memory", "page")


def main() -> None:
    options = _parser().parse_args()
    folder: Path = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / ("quick.json" if options.quick else "speed.json")
    for part in options.parts or PARTS:
        started = time.perf_counter()
        print(part, flush=True)
        if part == "prepare":
            _prepare(options, folder)
        elif part == "page":
            _page(results, folder, quick=options.quick)
        else:
            found = MEASURES[part](options, folder)
            found["machine"] = describe(options.threads)
            found["took_seconds"] = time.perf_counter() - started
            _keep(results, part, found)
        print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all, in this order")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTCNN_DATA", "../shared/data")))
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "bench")
    parser.add_argument("--rounds", type=int, default=3, help="more where parts run one by one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="some of them, by name, between commas")
    parser.add_argument("--distinct", type=int, default=memory.DISTINCT, help="different texts among a million rows")
    parser.add_argument("--quick", action="store_true", help="only see whether everything runs")
    return parser


def _prepare(options: argparse.Namespace, folder: Path) -> None:
    script = str(Path(__file__).with_name("models.py"))
    command = [sys.executable, script, "--data", str(options.data), "--folder", str(folder)]
    with (folder / "prepare.log").open("w") as log:
        # Its exporters log at length; what failed is in faults.json, and in the rows of the systems it hits.
        subprocess.run(command, env=environment(options.threads), stdout=log, stderr=log, check=True)


def _inference(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    corpora = write_corpora(options.data, folder / "texts.json", quick=options.quick)
    names = [name for name in SYSTEMS if name in options.systems.split(",")]
    bench = inference.Bench(folder, corpora, names, threads=options.threads, quick=options.quick)
    found = bench.run(1 if options.quick else options.rounds)
    for name in ("accuracy", "faults"):
        file = folder / f"{name}.json"
        found[name] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return found


def _training(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    rounds = 1 if options.quick else min(3, options.rounds)
    return training.measure(options.data, folder, rounds=rounds, threads=options.threads, quick=options.quick)


def _memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    return memory.measure(options.data, folder, threads=options.threads, quick=options.quick, distinct=options.distinct)


MEASURES = {"inference": _inference, "training": _training, "memory": _memory}


def _keep(results: Path, part: str, found: dict[str, Any]) -> None:
    """Put a part's figures into the file, the others as they were."""
    everything = json.loads(results.read_text("utf-8")) if results.exists() else {}
    everything[part] = found
    results.write_text(json.dumps(everything, indent=1) + "\n", "utf-8")


def _page(results: Path, folder: Path, *, quick: bool) -> None:
    measured = json.loads(results.read_text("utf-8"))
    place = folder / "quick.md" if quick else ROOT / "docs" / "benchmarks.md"
    page.write_page(measured, place)
    page.write_picture(measured, place.with_suffix(".png"))


if __name__ == "__main__":
    main()
