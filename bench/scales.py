"""int8 as it is exported, against weights rounded each to its nearest, and scales taken from each batch.

    python bench/models.py --data ../shared/data --folder runs/bench
    python bench/scales.py --data ../shared/data --folder runs/bench

Speed, how far answers are off, and what company does. Rounds go over all in turn; ratios are within a round. Run it
alone for the speed; the answers need no quiet.
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import onnx

from bertcnn import Examples, Predictor, Settings, load_splits
from bertcnn.inference import export
from bertcnn.inference.onnx import quantize
from bertcnn.inference.onnx.backend import FILES, OnnxBackend
from bertcnn.network.folder import MADE_OF
from corpora import write_corpora
from models import OURS, dynamic

NEAREST = "nearest, fixed scales"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    place = options.folder / OURS
    exact = Predictor.load(place, backend="torch")
    splits = load_splits(str(options.data / "cr" / "all.csv"), Settings().data)
    with TemporaryDirectory() as scratch:
        taken = Path(scratch) / "taken.onnx"
        dynamic(place / FILES["onnx"], taken)
        graph = onnx.load(taken)
        onnx.helper.set_model_props(graph, {MADE_OF: exact.model.config.weights_sha256})
        onnx.save(graph, taken)
        graphs = {"now": None, NEAREST: nearest(place, Path(scratch), splits.dev), "taken from the batch": taken}
        ways = {
            name: Predictor(OnnxBackend(place, "onnx-int8", graph=file), exact.tokenizer)
            for name, file in graphs.items()
        }
        corpora = write_corpora(options.data, options.folder / "texts.json", quick=False)
        for corpus in ("short", "medium", "long"):
            for other in list(ways)[1:]:
                said = speed([ways["now"], ways[other]], corpora[corpus]["texts"], options.rounds)
                print(f"{corpus}: {said} as fast as {other}", flush=True)
        assert splits.test is not None
        texts = [*splits.dev.texts, *splits.test.texts]
        for name, way in ways.items():
            print(f"{name}: {answers(exact, way, texts)}", flush=True)


def nearest(place: Path, scratch: Path, dev: Examples) -> Path:
    """Return the graph as it was written before weights were rounded so that products stay near."""
    copy = shutil.copytree(place, scratch / "nearest")
    with (
        mock.patch.object(quantize, "OUTLYING", 4.0),
        mock.patch.object(quantize, "round_weights"),
        mock.patch.object(export, "ACCURACY_TOLERANCE", 100.0),
    ):
        export.export_onnx(copy, int8=True, dev=dev)
    return Path(copy / FILES["onnx-int8"])


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
    return f"{median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"


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
