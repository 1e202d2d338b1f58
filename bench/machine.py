"""The machine's own limit: how fast it multiplies matrices, and how many operations a text needs.

python bench/machine.py FOLDER gemm      a worker, asked by bench/inference.py
"""

import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from models import OURS
from worker import Answer, serve

SHAPES = (
    # rows, inner, columns: large ones, then those of a batch of 1,024 pieces in the encoder and the head
    (2048, 2048, 2048),
    (4096, 1024, 1024),
    (1024, 384, 384),
    (1024, 384, 1536),
    (1024, 1536, 384),
    (1024, 384, 1000),
)
PACKAGES = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "fasttext-numpy2-wheel")


def gemm(seconds: float = 0.15) -> dict[str, float]:
    """Return GFLOP a second of float32 products, by shape, each the best of what fits into the time.

    By torch or by ONNX Runtime, whichever is faster: on some processors torch's products are half as fast.
    """
    import torch

    rates = {}
    for rows, inner, columns in SHAPES:
        a, b = torch.rand(rows, inner), torch.rand(inner, columns)
        out = torch.empty(rows, columns)
        graph, feed = _product(b.numpy()), {"a": a.numpy()}
        best = min(
            _best_seconds(partial(torch.mm, a, b, out=out), seconds),
            _best_seconds(partial(graph.run, None, feed), seconds),
        )
        rates[f"{rows}x{inner}x{columns}"] = 2 * rows * inner * columns / best / 1e9
    return rates


def _best_seconds(run: Callable[[], Any], seconds: float) -> float:
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


def _product(weights: Any) -> Any:
    """Return a session of ONNX Runtime that multiplies by weights, which it may lay out as it likes."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from bertcnn.machine import threads

    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kind, ["rows", len(weights)])],
        [helper.make_tensor_value_info("c", kind, None)],
        [numpy_helper.from_array(weights, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def operations(folder: Path) -> dict[str, list[float]]:
    """Return MFLOP a piece as a line: a constant, and a factor of the pieces the encoder reads at once.

    Counted by torch's counter at two lengths. Attention is the only part that grows; the counter
    sees it only where it is made of plain products (``eager``).
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from bertcnn import BertCNN, Predictor

    found = {}
    models = {
        "depth 3, whole model": Predictor.load(folder / OURS, backend="torch").model,
        "6 layers, linear head": BertCNN.from_encoder("minilm", depth="all", features="mean"),
    }
    for name, model in models.items():
        model.encoder.set_attn_implementation("eager")
        counts = {}
        for pieces in (64, 512):
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                model(torch.ones(1, pieces, dtype=torch.long))
            counts[pieces] = counter.get_total_flops() / pieces / 1e6
        slope = (counts[512] - counts[64]) / (512 - 64)
        found[name] = [counts[64] - 64 * slope, slope]
    return found


def describe(threads: int) -> dict[str, Any]:
    """Return what ran: processor, memory, versions, commit."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "unknown")
    flags = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), "").split()
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "processor": model,
        "has": [one for one in ("avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if one in flags],
        "threads": threads,
        "memory_gib": round(int(memory) / 2**20),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "--short", "HEAD") + (" with changes" if _git("status", "--porcelain") else ""),
        "date": time.strftime("%Y-%m-%d"),
        "load": Path("/proc/loadavg").read_text().split()[0],
    }


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _git(*command: str) -> str:
    done = subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _answer(request: Answer) -> Answer:
    return {"gemm": gemm()} if request["do"] == "gemm" else {"mflop": operations(Path(sys.argv[1]))}


if __name__ == "__main__":
    serve(_answer)
