"""int8 with scales that are fixed at the export, against scales taken from each batch: speed, and what company does.

    python bench/models.py --data ../shared/data --folder runs/bench
    python bench/scales.py --data ../shared/data --folder runs/bench

Rounds go over both in turn; ratios are within a round. Run it alone for the speed; the answers need no quiet.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from bertcnn import Predictor, Settings, load_splits
from bertcnn.inference.onnx.backend import FILES, OnnxBackend
from bertcnn.network.folder import MADE_OF
from corpora import write_corpora
from models import OURS, dynamic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    place = options.folder / OURS
    exact = Predictor.load(place, backend="torch")
    with TemporaryDirectory() as scratch:
        taken = Path(scratch) / "taken.onnx"
        dynamic(place / FILES["onnx"], taken)
        graph = onnx.load(taken)
        onnx.helper.set_model_props(graph, {MADE_OF: exact.model.config.weights_sha256})
        onnx.save(graph, taken)
        ways = {
            name: Predictor(OnnxBackend(place, "onnx-int8", graph=file), exact.tokenizer)
            for name, file in (("fixed", None), ("taken from the batch", taken))
        }
        corpora = write_corpora(options.data, options.folder / "texts.json", quick=False)
        for corpus in ("short", "medium", "long"):
            said = speed(list(ways.values()), corpora[corpus]["texts"], options.rounds)
            print(f"{corpus}: {said}", flush=True)
        splits = load_splits(str(options.data / "cr" / "all.csv"), Settings().data)
        assert splits.test is not None
        texts = [*splits.dev.texts, *splits.test.texts]
        for name, way in ways.items():
            print(f"scales {name}: {answers(exact, way, texts)}", flush=True)


def speed(ways: Sequence[Predictor], texts: Sequence[str], rounds: int) -> str:
    """Return how many times as fast the first is as the second."""
    ratios = []
    for _ in range(rounds + 1):
        seconds = []
        for way in ways:
            started = time.perf_counter()
            way.logits(texts)
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[1] / seconds[0])
    ratios = ratios[1:]  # the first one prepares
    return f"{median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f}) as fast with fixed scales"


def answers(exact: Predictor, way: Predictor, texts: Sequence[str]) -> str:
    """Return how far logits are from torch's, and from those of each text alone."""
    wanted, found = exact.logits(texts), way.logits(texts)
    alone = np.concatenate([way.logits([text]) for text in texts])
    said = []
    for name, other in (("torch", wanted), ("each text alone", alone)):
        off, flips = np.abs(found - other), int((found.argmax(axis=1) != other.argmax(axis=1)).sum())
        said.append(f"off {name} by {off.mean():.4f} in the mean, {off.max():.2f} at most, {flips} other answers")
    return f"{len(texts)} texts; " + "; ".join(said)


if __name__ == "__main__":
    main()
