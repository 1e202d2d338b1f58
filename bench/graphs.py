"""What an exported graph gains by two changes, and what a batch costs to begin. Run it alone; minutes.

    bertcnn export runs/depths/3 --int8 --dev ../shared/data/sst2/dev.csv
    python bench/graphs.py --model runs/depths/3

For each graph and size of batch: ONNX Runtime's fusion of sum and normalization on and off, and one piece of padding
(attention then has its bias) or none; medians of rounds that go over all ways in turn. Then, for each backend, the
milliseconds of a batch fitted by its pieces: the constant over the slope is what beginning one costs in pieces. Last,
where a graph's time goes.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from bertcnn import Predictor
from bertcnn.inference.onnx.backend import FILES, SLOW_FUSIONS
from bertcnn.machine import threads
from bertcnn.settings import BackendName
from bertcnn.text.tokens import Batch, Pieces

SHAPES = ((42, 24), (20, 24), (1, 24), (7, 130), (2, 512))
"""Texts, and pieces of each."""

FITTED = tuple((texts, length) for length in (8, 12, 16, 24, 32) for texts in (1, 2, 4, 8, 16, 32))
WARM_SECONDS = 0.1
"""A session runs so long unmeasured, while the threads of the one before spin beside it."""

OUTPUTS = ["features", "positions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    predictor = Predictor.load(options.model, backend="onnx")
    for graph, file in reversed(FILES.items()):
        ways = {"fused": open_graph(options.model / file, []), "apart": open_graph(options.model / file, SLOW_FUSIONS)}
        for shape in SHAPES:
            print(graph, *shape, compared(predictor, ways, shape, options.rounds), flush=True)
    backends: tuple[BackendName, ...] = ("torch", "onnx", "onnx-int8")
    for name in backends:
        constant, slope = fitted(Predictor.load(options.model, backend=name), options.rounds)
        print(f"{name}: {constant:.2f} ms + {slope:.4f} ms a piece; beginning costs {constant / slope:.0f} pieces")
    for (graph, file), shape in product(FILES.items(), (SHAPES[0], SHAPES[-1])):
        print(graph, *shape, profiled(options.model / file, batch_of(predictor, shape)), flush=True)


def open_graph(file: Path, disabled: list[str], *, profile: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads(), 3
    options.enable_profiling, options.profile_file_prefix = profile, str(file.parent / "profile")
    return onnxruntime.InferenceSession(
        str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


def batch_of(predictor: Predictor, shape: tuple[int, int], missing: int = 0) -> Batch:
    """Return texts of one length in one batch, the last of them so many pieces shorter."""
    texts, length = shape
    starts = np.append(np.arange(0, texts * length, length), texts * length - missing)
    pieces = Pieces(np.random.default_rng(0).integers(1000, 20_000, starts[-1]), starts)
    (batch,) = predictor.backend.batches(pieces, pad_id=predictor.tokenizer.pad_id, max_tokens=1 << 20)
    return batch


def fed(batch: Batch) -> dict[str, Any]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def compared(predictor: Predictor, ways: dict[str, Any], shape: tuple[int, int], rounds: int) -> str:
    """Return milliseconds of each way, and how much quicker no fusion, no bias, and both are."""
    feeds = {"padded": fed(batch_of(predictor, shape, 1)), "even": fed(batch_of(predictor, shape))}
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for (way, session), (kind, feed) in product(ways.items(), feeds.items()):
            if kind == "padded" and shape[0] == 1:
                continue  # a text alone has none
            warm = time.perf_counter() + WARM_SECONDS
            while time.perf_counter() < warm:
                session.run(OUTPUTS, feed)
            for _ in range(4):
                began = time.perf_counter()
                session.run(OUTPUTS, feed)
                took.setdefault((way, kind), []).append(1000 * (time.perf_counter() - began))
    ms = {key: median(values) for key, values in took.items()}
    shown = ", ".join(f"{way} {kind} {value:.2f}" for (way, kind), value in ms.items())
    gains = [f"no fusion x{ms['fused', 'even'] / ms['apart', 'even']:.2f}"]
    if shape[0] > 1:
        gains.append(f"no bias x{ms['apart', 'padded'] / ms['apart', 'even']:.2f}")
        gains.append(f"both x{ms['fused', 'padded'] / ms['apart', 'even']:.2f}")
    return f"{shown} ms; {', '.join(gains)}"


def fitted(predictor: Predictor, rounds: int) -> tuple[float, float]:
    """Return the constant and the slope of a batch's milliseconds by its pieces, relative errors least."""
    ms, pieces = zip(*_timed(predictor, FITTED, rounds), strict=True)
    weight = 1 / np.array(ms)
    table = np.stack([np.ones(len(pieces)), np.array(pieces)], axis=1) * weight[:, None]
    constant, slope = np.linalg.lstsq(table, np.array(ms) * weight, rcond=None)[0]
    return float(constant), float(slope)


def _timed(predictor: Predictor, shapes: Sequence[tuple[int, int]], rounds: int) -> Iterator[tuple[float, int]]:
    for shape in shapes:
        batch, took = batch_of(predictor, shape), []
        for _ in range(rounds):
            began = time.perf_counter()
            list(predictor.backend.run([batch]))
            took.append(1000 * (time.perf_counter() - began))
        yield median(took), batch.input_ids.size


def profiled(file: Path, batch: Batch) -> str:
    """Return the shares of a graph's time by operator, the fusion on."""
    session = open_graph(file, [], profile=True)
    for _ in range(10):
        session.run(OUTPUTS, fed(batch))
    notes = Path(session.end_profiling())
    spent: Counter[str] = Counter()
    for event in json.loads(notes.read_text("utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["args"]["op_name"] != "If":
            spent[event["args"]["op_name"]] += event["dur"]
    notes.unlink()
    return ", ".join(f"{name} {100 * each / spent.total():.0f} %" for name, each in spent.most_common(7))


if __name__ == "__main__":
    main()
